"""target_logprobs against plain log_softmax and autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import oracles.logprobs
from thumbs.functional.logprobs import NarrowVocabulary, Vocabulary, measured_logprobs, target_logprobs

M, D, V = 13, 6, 29


def inputs(dtype: torch.dtype = torch.float32, *, train_weight: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, D, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=rng, dtype=torch.float64).to(dtype).requires_grad_(train_weight)
    return hidden, weight, torch.randint(V, (M,), generator=rng)


def test_uniform_distribution_by_hand() -> None:
    logprobs, entropy = target_logprobs(torch.zeros(2, D), torch.randn(V, D), torch.tensor([0, 5]))
    assert logprobs.tolist() == pytest.approx([-math.log(V)] * 2, abs=1e-6)
    assert entropy.tolist() == pytest.approx([math.log(V)] * 2, abs=1e-6)


def test_two_words_at_a_temperature_by_hand() -> None:
    # Logits 2 and 0 at temperature 2: p = (e, 1) / (e + 1).
    logprobs, _ = target_logprobs(
        torch.tensor([[2.0], [2.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0, 1]), temperature=2.0
    )
    assert logprobs.tolist() == pytest.approx([1 - math.log(math.e + 1), -math.log(math.e + 1)], abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_match_log_softmax(chunk: int, temperature: float) -> None:
    hidden, weight, targets = inputs()
    logprobs, entropy = target_logprobs(hidden, weight, targets, temperature, Vocabulary(chunk))
    expected, expected_entropy = oracles.logprobs.target_logprobs(hidden, weight, targets, temperature)
    torch.testing.assert_close(logprobs, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy, expected_entropy, atol=2e-6, rtol=1e-6)
    measured = measured_logprobs(hidden, weight, targets, temperature, Vocabulary(chunk))
    assert not measured.requires_grad
    torch.testing.assert_close(measured, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("train_weight", [False, True])
@pytest.mark.parametrize("entropy_in_loss", [False, True])
def test_gradients_match_autograd(train_weight: bool, entropy_in_loss: bool) -> None:
    upstream = torch.randn(2, M, generator=torch.Generator().manual_seed(1))
    gradients = []
    for of in (lambda *a: target_logprobs(*a, Vocabulary(4)), oracles.logprobs.target_logprobs):
        hidden, weight, targets = inputs(train_weight=train_weight)
        logprobs, entropy = of(hidden, weight, targets, 0.7)
        loss = (upstream[0] * logprobs).sum()
        if entropy_in_loss:
            loss = loss + (upstream[1] * entropy).sum()
        loss.backward()
        gradients.append((hidden.grad, weight.grad))
    (ours, ours_weight), (expected, expected_weight) = gradients
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=1e-5)
    assert (ours_weight is None) == (not train_weight)
    if train_weight:
        torch.testing.assert_close(ours_weight, expected_weight, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("train_weight", [False, True])
def test_gradcheck_in_double_precision(train_weight: bool) -> None:
    hidden, weight, targets = inputs(torch.float64, train_weight=train_weight)

    def outputs(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return target_logprobs(h, w, targets, 0.7, Vocabulary(5))

    assert torch.autograd.gradcheck(outputs, (hidden, weight))


def test_weight_alone_may_be_trained() -> None:
    hidden, weight, targets = inputs(train_weight=True)
    target_logprobs(hidden.detach(), weight, targets)[0].sum().backward()
    ours, weight.grad = weight.grad, None
    oracles.logprobs.target_logprobs(hidden.detach(), weight, targets, 1.0)[0].sum().backward()
    torch.testing.assert_close(ours, weight.grad, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("train_weight", [False, True])
def test_bf16_inputs_lose_little_after_the_inputs(train_weight: bool) -> None:
    # Logits that were rounded to bf16 would be 1e-2 off.
    hidden, weight, targets = inputs(torch.bfloat16, train_weight=train_weight)
    logprobs, entropy = target_logprobs(hidden, weight, targets)
    wide, wide_weight = (x.detach().double().requires_grad_(x.requires_grad) for x in (hidden, weight))
    expected, expected_entropy = oracles.logprobs.target_logprobs(wide, wide_weight, targets, 1.0)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(entropy.double(), expected_entropy, atol=1e-2, rtol=0)
    logprobs.sum().backward()
    expected.sum().backward()
    for ours, theirs in ((hidden.grad, wide.grad), (weight.grad, wide_weight.grad)):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.dtype == torch.bfloat16
            torch.testing.assert_close(ours.double(), theirs, atol=2e-2, rtol=1e-2)


def test_a_weight_kept_in_fp32_beside_bf16_states_is_taken_as_the_products_take_it() -> None:
    hidden, weight, targets = inputs(torch.bfloat16)
    kept = (weight.float() + 1e-4).detach().requires_grad_()
    rounded = kept.detach().bfloat16()
    logprobs, _ = target_logprobs(hidden, kept, targets)
    expected, _ = oracles.logprobs.target_logprobs(hidden.double(), rounded.double(), targets, 1.0)
    torch.testing.assert_close(logprobs.double(), expected, atol=1e-4, rtol=0)
    logprobs.sum().backward()
    assert kept.grad is not None
    assert kept.grad.dtype == torch.float32


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_come_out_as_such(bad: float) -> None:
    hidden, weight, targets = inputs()
    with torch.no_grad():
        hidden[3, 0] = bad
    logprobs, _ = target_logprobs(hidden, weight, targets)
    assert logprobs.isfinite().tolist() == [row != 3 for row in range(M)]


def test_huge_logits_stay_finite() -> None:
    hidden = torch.full((1, 1), 1e4, requires_grad=True)
    logprobs, entropy = target_logprobs(hidden, torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    assert logprobs.item() == -2e4
    assert entropy.item() == 0.0
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert hidden.grad.item() == -2.0


def test_no_rows_and_no_gradient() -> None:
    _, weight, targets = inputs()
    logprobs, entropy = target_logprobs(torch.zeros(0, D), weight, targets[:0])
    assert logprobs.shape == entropy.shape == (0,)
    hidden, weight, targets = inputs(train_weight=True)
    with torch.no_grad():
        logprobs, entropy = target_logprobs(hidden, weight, targets)
    assert not logprobs.requires_grad


def test_the_whole_table_of_logits_is_never_alive() -> None:
    rows, vocabulary, chunk = 64, 5000, 4
    hidden = torch.randn(rows, D, requires_grad=True)
    weight = torch.randn(vocabulary, D, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,))
    in_chunks = Vocabulary(chunk)
    largest = _largest_tensor(lambda: target_logprobs(hidden, weight, targets, 1.0, in_chunks)[0].sum().backward())
    assert chunk * vocabulary <= largest < 2 * vocabulary * D  # and V * D is what the weight itself takes


def test_backward_builds_no_logits_when_the_weight_is_frozen_and_the_entropy_only_measured() -> None:
    hidden, weight, targets = inputs()
    logprobs, _ = target_logprobs(hidden, weight, targets, 1.0, Vocabulary(M))
    assert _largest_tensor(lambda: logprobs.sum().backward()) == M * D < M * V


def _largest_tensor(work: object) -> int:
    """Elements of the largest tensor that any operation made inside `work`."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, Tensor)]
            self.largest = max([self.largest, *sizes])
            return out

    with Watch() as watch:
        work()  # type: ignore[operator]
    return watch.largest


@pytest.mark.parametrize("train_weight", [False, True])
def test_several_targets_at_a_place_are_that_many_places(train_weight: bool) -> None:
    upstream = torch.randn(M, 3, generator=torch.Generator().manual_seed(1))
    several = torch.randint(V, (M, 3), generator=torch.Generator().manual_seed(2))
    several[0, 1] = several[0, 0]  # the same token twice
    gradients = []
    for of, spread in ((lambda *a: target_logprobs(*a, Vocabulary(4)), 1), (oracles.logprobs.target_logprobs, 3)):
        hidden, weight, _ = inputs(train_weight=train_weight)
        logprobs, _ = of(hidden.repeat_interleave(spread, 0), weight, several.view(-1) if spread == 3 else several, 0.7)
        (upstream * logprobs.view(M, 3)).sum().backward()
        gradients.append([logprobs.detach().view(M, 3), hidden.grad, *([weight.grad] if train_weight else [])])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    hidden, weight, _ = inputs()
    torch.testing.assert_close(measured_logprobs(hidden, weight, several, 0.7), gradients[1][0], atol=1e-5, rtol=1e-5)


class CardInEmulation(NarrowVocabulary):
    """A card's product of 16-bit factors, which a processor has not: exact products, sums in fp32."""

    def product(self, x: Tensor, factor: Tensor) -> Tensor:
        assert factor.dtype == torch.bfloat16
        return x.to(factor.dtype).float() @ factor.float()


@pytest.mark.parametrize("train_weight", [False, True])
def test_narrow_products_give_the_numbers_of_wide_ones_within_bf16(train_weight: bool) -> None:
    upstream = torch.randn(2, M, generator=torch.Generator().manual_seed(1))
    found = []
    for vocabulary in (CardInEmulation(4), Vocabulary(4)):
        hidden, weight, targets = inputs(torch.bfloat16, train_weight=train_weight)
        logprobs, entropy = target_logprobs(hidden, weight, targets, 0.7, vocabulary)
        assert logprobs.dtype == torch.float32
        ((upstream[0] * logprobs).sum() + (upstream[1] * entropy).sum()).backward()
        found.append([logprobs.detach(), entropy.detach(), hidden.grad, *([weight.grad] if train_weight else [])])
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=1e-6)  # no rounding enters a logprob
    for mine, theirs in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(mine, theirs, atol=3e-2, rtol=2**-7)
