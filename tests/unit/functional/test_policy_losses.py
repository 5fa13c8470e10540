"""The policy losses against loops, numbers by hand, and the direction that their gradient must have."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor

import oracles.losses
from thumbs.functional.formulas import inputs_of
from thumbs.functional.policy_losses import FORMULAS, cispo, cross_entropy, gspo, ppo_clip


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    old = -torch.rand(40, generator=rng, dtype=torch.float64) - 0.5
    new = old + 0.3 * torch.randn(40, generator=rng, dtype=torch.float64)
    advantages = torch.randn(40, generator=rng, dtype=torch.float64)
    weights = torch.rand(40, generator=rng, dtype=torch.float64)
    weights[::4] = 0
    return new, old, advantages, weights


def test_the_same_policy_has_ratio_one() -> None:
    _, old, advantages, weights = batch()
    loss, metrics = ppo_clip(old, old, advantages, weights, clip_range=0.2)
    assert loss.item() == pytest.approx(-(weights * advantages).sum().item())
    assert metrics["ratio"].item() == pytest.approx(1.0, abs=1e-15)
    assert metrics["ratio_max"].item() == 1.0
    assert metrics["approx_kl"].item() == metrics["clip_fraction"].item() == 0.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.0, 2.0, -2.0),  # a good token becomes likelier
        (1.0, -2.0, 2.0),  # a bad one rarer
        (1.5, 2.0, 0.0),  # good, but already likelier than trusted
        (1.5, -2.0, 3.0),  # bad and likelier: pulled back however far
        (0.5, 2.0, -1.0),
        (0.5, -2.0, 0.0),
    ],
)
def test_gradient_of_each_case(ratio: float, advantage: float, slope: float) -> None:
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, _ = ppo_clip(new, torch.zeros(1), torch.tensor([advantage]), torch.ones(1), clip_range=0.2)
    loss.backward()
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(slope, abs=1e-6)


def test_the_upper_bound_may_differ_from_the_lower_one() -> None:
    new = torch.log(torch.tensor([1.25, 1.35, 0.75]))
    loss, metrics = ppo_clip(new, torch.zeros(3), torch.ones(3), torch.ones(3), clip_range=0.2, clip_range_high=0.3)
    assert loss.item() == pytest.approx(-(1.25 + 1.3 + 0.75))
    assert metrics["clip_fraction"].item() == pytest.approx(2 / 3)


SETTINGS = {"ppo_clip": {"clip_range": 0.2}, "cispo": {"clip_range": 0.2, "clip_range_high": 0.2}, "dro": {"beta": 0.3}}
RATIO = ("logprobs", "old_logprobs", "advantages", "weights")
BY_TOKEN = [name for name, formula in FORMULAS.items() if inputs_of(formula)[:4] == RATIO and name != "gspo"]
"""Losses of a token against the logprobs of its sampler; GSPO looks at whole sequences."""


@pytest.mark.parametrize("name", BY_TOKEN)
@pytest.mark.parametrize("seed", range(3))
def test_losses_by_token_match_their_formulas(name: str, seed: int) -> None:
    data, settings = batch(seed), SETTINGS.get(name, {})
    loss, metrics = FORMULAS[name](*data, **settings)
    oracle = getattr(oracles.losses, name)
    assert loss.item() == pytest.approx(oracle(*(x.tolist() for x in data), **settings), abs=1e-12)
    assert set(metrics) == {"approx_kl", "clip_fraction", "ratio", "ratio_max"}


@pytest.mark.parametrize("name", BY_TOKEN)
def test_what_has_no_weight_does_not_count(name: str) -> None:
    """Not even if it is not a number; and halves of a batch add up."""
    data, settings = batch(), SETTINGS.get(name, {})
    whole = FORMULAS[name](*data, **settings)[0]
    halves = [FORMULAS[name](*(x[rows] for x in data), **settings)[0] for rows in (slice(0, 19), slice(19, 40))]
    assert sum(halves).item() == pytest.approx(whole.item(), abs=1e-12)
    broken = [torch.where(data[3] == 0, torch.nan, x) for x in data[:3]]
    assert FORMULAS[name](*broken, data[3], **settings)[0].item() == whole.item()


@pytest.mark.parametrize("name", ["importance_sampling", "dro"])
def test_gradients_by_token_are_the_differences(name: str) -> None:
    new, *rest = batch()
    formula = partial(FORMULAS[name], **SETTINGS.get(name, {}))
    assert torch.autograd.gradcheck(lambda x: formula(x, *rest)[0], new.requires_grad_())


def test_cispo_holds_its_weight_fixed() -> None:
    """d loss / d logprob = -w · clip(r) · A, for tokens outside of the bounds too."""
    new, old, advantages, weights = batch()
    new.requires_grad_()
    cispo(new, old, advantages, weights, clip_range=0.2, clip_range_high=0.2)[0].backward()
    ratios = (new.detach() - old).exp()
    assert (weights * (ratios > 1.2)).sum() > 0
    expected = -weights * torch.tensor([min(max(r, 0.8), 1.2) for r in ratios.tolist()]).double() * advantages
    assert new.grad is not None
    torch.testing.assert_close(new.grad, expected, atol=1e-6, rtol=1e-6)


def test_gspo_has_one_ratio_a_sequence() -> None:
    new, old, advantages, weights = batch()
    mask, ends = (torch.arange(40) % 3 != 0).double(), [0, 7, 8, 30, 40]
    spans = list(itertools.pairwise(ends))
    sequence = torch.cat([torch.full((b - a,), i) for i, (a, b) in enumerate(spans)])
    rows = [tuple(x[a:b].tolist() for x in (new, old, advantages, weights, mask)) for a, b in spans]
    new.requires_grad_()
    loss, _ = gspo(new, old, advantages, weights, mask, sequence, clip_range=0.05, clip_range_high=0.1)
    assert loss.item() == pytest.approx(oracles.losses.gspo(rows, 0.95, 1.1), abs=1e-12)
    loss.backward()
    assert new.grad is not None
    frozen, step = [row[0] for row in rows], 1e-6
    for place in (1, 10, 33):  # of different sequences
        number = int(sequence[place])
        moved = [(list(row[0]), *row[1:]) for row in rows]
        moved[number][0][place - ends[number]] += step
        slope = (oracles.losses.gspo(moved, 0.95, 1.1, frozen) - loss.item()) / step
        assert new.grad[place].item() == pytest.approx(slope, abs=1e-4)


def test_metrics_by_hand() -> None:
    new, weights = torch.log(torch.tensor([0.5, 1.1, 9.0])), torch.tensor([3.0, 1.0, 0.0])
    entropy = torch.tensor([2.0, 6.0, float("nan")])
    _, metrics = ppo_clip(new, torch.zeros(3), torch.ones(3), weights, entropy, clip_range=0.2)
    assert metrics["ratio"].item() == pytest.approx((3 * 0.5 + 1.1) / 4)
    assert metrics["ratio_max"].item() == pytest.approx(1.1)
    assert metrics["clip_fraction"].item() == pytest.approx(0.75)
    expected = (3 * (0.5 - 1 - math.log(0.5)) + (1.1 - 1 - math.log(1.1))) / 4
    assert metrics["approx_kl"].item() == pytest.approx(expected, abs=1e-6)
    assert metrics["entropy"].item() == pytest.approx(3.0)
    assert not any(metric.requires_grad for metric in metrics.values())


def test_entropy_is_rewarded_and_not_differentiated_for_nothing() -> None:
    new, old, advantages, weights = batch()
    entropy = torch.rand(40, dtype=torch.float64, requires_grad=True)
    plain, _ = ppo_clip(new, old, advantages, weights, clip_range=0.2)
    with_bonus, _ = ppo_clip(new, old, advantages, weights, entropy, clip_range=0.2, entropy_coef=0.5)
    assert (plain - with_bonus).item() == pytest.approx(0.5 * (weights * entropy).sum().item())
    only_measured, _ = ppo_clip(new, old, advantages, weights, entropy, clip_range=0.2)
    assert only_measured.item() == plain.item()
    assert not only_measured.requires_grad


def test_a_token_gone_astray_stays_finite() -> None:
    new = torch.tensor([500.0, -500.0], requires_grad=True)
    loss, metrics = ppo_clip(new, torch.zeros(2), -torch.ones(2), torch.ones(2), clip_range=0.2)
    loss.backward()
    assert loss.isfinite()
    assert metrics["ratio_max"].item() == pytest.approx(math.exp(20))
    assert new.grad is not None
    assert new.grad.isfinite().all()


def test_weight_zero_has_no_influence_even_on_nan() -> None:
    nan, weights = torch.full((3,), float("nan"), requires_grad=True), torch.zeros(3)
    loss, metrics = ppo_clip(nan, nan, nan, weights, nan, clip_range=0.2, entropy_coef=0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert all(metric.item() == 0.0 for metric in metrics.values())
    assert cross_entropy(torch.tensor([-1.0, float("nan")]), torch.tensor([2.0, 0.0]))[0].item() == 2.0
    assert cross_entropy(nan, weights)[1]["nll"].item() == 0.0


def test_cross_entropy_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    loss, metrics = cross_entropy(logprobs, torch.tensor([0.5, 0.25, 0.0]))
    loss.backward()
    assert loss.item() == 1.0
    assert metrics["nll"].item() == pytest.approx(4 / 3)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-0.5, -0.25, 0.0]


def test_losses_of_parts_add_up() -> None:
    data = batch()
    whole, _ = ppo_clip(*data, clip_range=0.2)
    parts = [ppo_clip(*(x[rows] for x in data), clip_range=0.2)[0] for rows in (slice(0, 7), slice(7, 40))]
    assert whole.item() == pytest.approx(sum(p.item() for p in parts))
