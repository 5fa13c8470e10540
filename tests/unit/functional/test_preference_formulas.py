"""Every loss of pairs of logprobs against its paper's formula in a loop; ties, order, slopes and extremes."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

import oracles.preferences
from thumbs.config.direct_methods import DIRECT_METHODS
from thumbs.functional.preference_losses import FORMULAS, Side, kto, preference_loss

P = 12
BASELINE = 0.3
SETTINGS = {
    "robust": {"label_smoothing": 0.2},
    "exo": {"label_smoothing": 0.05},
    "discopop": {"tau": 0.4},
    "simpo": {"gamma": 0.7},
}
CASES = {name: (name, {"beta": 0.6, **SETTINGS.get(name, {})}) for name in FORMULAS}
CASES |= {f"dpo {kind}": ("dpo", {"beta": 0.6, "divergence": kind}) for kind in ("forward_kl", "js", "alpha")}
CASES |= {"dpo smooth": ("dpo", {"beta": 0.6, "label_smoothing": 0.2, "divergence": "alpha", "alpha": 0.8})}
CASES |= {"dpo_norm 5": ("dpo_norm", {"beta": 5.0}), "nca 0.01": ("nca", {"beta": 0.01})}


def side(seed: int) -> Side:
    rng = torch.Generator().manual_seed(seed)
    length = torch.randint(1, 6, (P,), generator=rng).double()
    logprob, reference = (-length * (0.2 + torch.rand(P, generator=rng, dtype=torch.float64)) for _ in range(2))
    return Side(logprob, reference, length, torch.full((P,), BASELINE, dtype=torch.float64))


def weights_and_labels() -> tuple[Tensor, Tensor]:
    preferred = torch.tensor([1.0, 0.0, 0.5, 0.8], dtype=torch.float64).repeat(3)
    return torch.rand(P, generator=torch.Generator().manual_seed(9), dtype=torch.float64), preferred


def by_loop(name: str, settings: dict, first: Side, second: Side, sft_coef: float) -> float:
    weights, preferred = weights_and_labels()
    formula = getattr(oracles.preferences, name)
    if "baseline" in inspect.signature(formula).parameters:
        settings = settings | {"baseline": BASELINE}
    total = 0.0
    for i in range(P):
        a, b = (tuple(float(x[i]) for x in (s.logprob, s.reference, s.length)) for s in (first, second))
        p, w = float(preferred[i]), float(weights[i])
        total += w * p * (formula(a, b, **settings) - sft_coef * a[0] / a[2])
        total += w * (1 - p) * (formula(b, a, **settings) - sft_coef * b[0] / b[2])
    return total


@pytest.mark.parametrize("sft_coef", [0.0, 0.7])
@pytest.mark.parametrize("case", CASES)
def test_matches_the_paper(case: str, sft_coef: float):
    name, settings = CASES[case]
    first, second = side(1), side(2)
    weights, preferred = weights_and_labels()
    formula = partial(FORMULAS[name], **settings)
    loss = preference_loss(formula, first, second, preferred, weights, sft_coef)
    assert loss.item() == pytest.approx(by_loop(name, settings, first, second, sft_coef), rel=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_slopes_are_those_of_differences(case: str):
    name, settings = CASES[case]
    fixed, (weights, preferred) = [side(1), side(2)], weights_and_labels()

    def loss(*logprobs: Tensor) -> Tensor:
        sides = [Side(x, s.reference, s.length, s.baseline) for x, s in zip(logprobs, fixed, strict=True)]
        return preference_loss(partial(FORMULAS[name], **settings), sides[0], sides[1], preferred, weights, 0.3)

    assert torch.autograd.gradcheck(loss, tuple(s.logprob.clone().requires_grad_() for s in fixed))


@pytest.mark.parametrize("case", CASES)
def test_which_reply_stands_first_does_not_matter(case: str):
    name, settings = CASES[case]
    first, second, (weights, preferred) = side(1), side(2), weights_and_labels()
    formula = partial(FORMULAS[name], **settings)
    one = preference_loss(formula, first, second, preferred, weights, 0.2)
    two = preference_loss(formula, second, first, 1 - preferred, weights, 0.2)
    assert one.item() == pytest.approx(two.item(), rel=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_tie_prefers_neither_reply(case: str):
    """Two replies that the model cannot tell apart stay equal: a tie moves both by the same."""
    name, settings = CASES[case]
    one = side(1)
    logprobs = [one.logprob.clone().requires_grad_() for _ in range(2)]
    sides = [Side(x, one.reference, one.length, one.baseline) for x in logprobs]
    half = torch.full((P,), 0.5, dtype=torch.float64)
    preference_loss(partial(FORMULAS[name], **settings), sides[0], sides[1], half, torch.ones(P), 0.2).backward()
    assert logprobs[0].grad is not None
    assert logprobs[1].grad is not None
    torch.testing.assert_close(logprobs[0].grad, logprobs[1].grad)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("far", [-3e3, 3e3])
def test_extremes_stay_finite(case: str, far: float):
    """In float32, and with every kind of label: a pair of no weight or of certain labels must not make 0 · ∞."""
    name, settings = CASES[case]
    length, zero = torch.full((3,), 100.0), torch.zeros(3)
    logprob = torch.full((3,), -5e3, requires_grad=True)
    first, second = Side(logprob, logprob.detach() - far, length, zero), Side(zero - 10, zero - 10, length, zero)
    labels = torch.tensor([1.0, 0.0, 0.5])
    loss = preference_loss(partial(FORMULAS[name], **settings), first, second, labels, torch.ones(3), 0.1)
    loss.backward()
    assert logprob.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(logprob.grad).all()
    assert torch.isfinite(logprob.grad.norm())


def test_certain_replies_have_finite_odds():
    certain = Side(torch.zeros(1, requires_grad=True), torch.zeros(1), torch.ones(1), torch.zeros(1))
    other = Side(torch.full((1,), -3.0), torch.zeros(1), torch.ones(1), torch.zeros(1))
    for pair in ((certain, other), (other, certain)):
        assert torch.isfinite(FORMULAS["orpo"](*pair, beta=0.1)).all()


@pytest.mark.parametrize("z0", [0.0, 1.5])
def test_kto_matches_the_paper(z0: float):
    one, (weights, _) = side(3), weights_and_labels()
    desirable = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).repeat(4)
    settings = {"beta": 0.4, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    baseline = torch.full((P,), z0, dtype=torch.float64)
    loss = (weights * kto(replace(one, baseline=baseline), desirable, **settings)).sum()
    wanted = 0.0
    for i in range(P):
        reply = (float(one.logprob[i]), float(one.reference[i]), float(one.length[i]))
        wanted += float(weights[i]) * oracles.preferences.kto(reply, z0, bool(desirable[i]), 0.4, 1.3, 0.7)
    assert loss.item() == pytest.approx(wanted, rel=1e-12)


def test_kto_slopes_are_those_of_differences():
    one, (weights, _) = side(3), weights_and_labels()
    desirable = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(6)

    def loss(logprob: Tensor) -> Tensor:
        settings = {"beta": 0.4, "desirable_weight": 1.3, "undesirable_weight": 0.7}
        return (weights * kto(replace(one, logprob=logprob), desirable, **settings)).sum()

    assert torch.autograd.gradcheck(loss, (one.logprob.clone().requires_grad_(),))


def test_every_preset_gives_its_formula_what_that_takes():
    """Settings are keywords of the formula, all of those that have no default, and beta is always one."""
    used = set()
    for method in DIRECT_METHODS.values():
        assert "beta" in method.reads
        if method.data == "replies":
            continue
        used.add(method.formula)
        parameters = inspect.signature(FORMULAS[method.formula]).parameters.values()
        keywords = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        given = set(method.reads) - {"sft_coef"}
        assert given <= set(keywords), method.name
        assert {name for name, default in keywords.items() if default is inspect.Parameter.empty} <= given, method.name
    assert used == set(FORMULAS)
