"""Two ranks that hold a half of each weight compute what one process computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

import pytest
import torch

from contract.engine_cases import LOSSES
from thumbs.engine.batch import micro_batches
from unit.engine.sharded_far import BUDGET, CPU, LORA, fresh, ranks, with_experts

KINDS = {"full": None, "adapters": LORA, "adapters above": LORA.model_copy(update={"layers": 1})}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Any]]]:
    """Calls a function of `sharded_far` on two ranks."""
    with ranks(tmp_path_factory.mktemp("two"), 2) as call:
        yield call


def in_order(of_ranks: list[list[Any]]) -> list[Any]:
    """What ranks found in their turns, in the order of the plan."""
    return [found for turn in zip_longest(*of_ranks) for found in turn if found is not None]


def alone(folder: Any, kind: str, data: str, **settings: Any) -> tuple[list[float], dict[str, torch.Tensor | None]]:
    """Losses and gradients of the same micro-batches in one process."""
    model, losses = fresh(str(folder), KINDS[kind], **settings), []
    for batch in micro_batches(LOSSES[data][0], CPU, BUDGET):
        computed = model(batch, LOSSES[data][1])
        if computed.loss.requires_grad:
            computed.loss.backward()
        losses.append(float(computed.loss.detach()))
    return losses, {name: parameter.grad for name, parameter in model.trained().items()}


def assert_same(found: dict[str, torch.Tensor | None], wanted: dict[str, torch.Tensor | None]) -> None:
    """None where None is wanted, and otherwise close."""
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        if gradient is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("data", ["ppo", "cross entropy", "pairs"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_one_process(both, tiny_llama, kind, data):
    wanted, gradients = alone(tiny_llama, kind, data)
    assert len(wanted) % 2 or data == "pairs"  # so that a rank is idle in one of the turns
    found = both("gradients", str(tiny_llama), KINDS[kind], data, {})
    assert in_order([losses for losses, *_ in found]) == pytest.approx(wanted, rel=1e-6)
    for _, summed, sharded, _ in found:
        assert_same(summed, gradients)
        of_trunk = {name for name in gradients if name.startswith("trunk.")}
        assert sharded == (of_trunk if kind == "full" else set())
    assert max(float(g.abs().max()) for g in gradients.values() if g is not None) > 1e-3


@pytest.mark.parametrize("recomputed", [False, True])
def test_an_expert_without_tokens_on_one_rank_keeps_step_and_one_without_any_gets_no_gradient(
    both, tiny_llama, recomputed
):
    wanted, losses, gradients = with_experts(fresh(str(tiny_llama), None)), [], {}
    for batch in micro_batches(LOSSES["ppo"][0], CPU, BUDGET):
        loss = wanted(batch, LOSSES["ppo"][1]).loss
        loss.backward()
        losses.append(float(loss.detach()))
    gradients = {name: parameter.grad for name, parameter in wanted.trained().items()}
    assert [name for name, gradient in gradients.items() if gradient is None]
    (first, *one), (second, *other) = both("expert_gradients", str(tiny_llama), recomputed)
    assert first - second
    assert second - first
    assert in_order([one[0], other[0]]) == pytest.approx(losses, rel=1e-6)
    for summed in (one[1], other[1]):
        assert_same(summed, gradients)


def test_the_norm_of_sharded_gradients_is_that_of_the_whole(both, tiny_llama):
    _, gradients = alone(tiny_llama, "full", "ppo")
    of_trunk = [g for name, g in gradients.items() if name.startswith("trunk.") and g is not None]
    wanted = float(torch.stack([g.double().pow(2).sum() for g in of_trunk]).sum().sqrt())
    for *_, norm in both("gradients", str(tiny_llama), None, "ppo", {}):
        assert norm == pytest.approx(wanted, rel=1e-6)


def test_the_same_ranks_find_the_same_bits(both, tiny_llama):
    one, other = (both("gradients", str(tiny_llama), None, "ppo", {})[0][1] for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one if one[name] is not None)


def test_predictions_are_those_of_one_process(both, tiny_llama):
    model = fresh(str(tiny_llama), None)
    with torch.no_grad():
        batches = micro_batches(LOSSES["ppo"][0], CPU, BUDGET)
        wanted = [model(batch, None, temperature=0.7).logprobs for batch in batches]
    found = in_order(both("predictions", str(tiny_llama), "ppo"))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_which_nothing_counts_keeps_step(both, tiny_llama, kind):
    model = fresh(str(tiny_llama), KINDS[kind])
    batch = micro_batches(LOSSES["cross entropy"][0][:1], CPU)[0]
    batch.columns["weights"].zero_()
    model(batch, LOSSES["cross entropy"][1]).loss.backward()
    wanted = {name: parameter.grad is None for name, parameter in model.trained().items()}
    for which in ([1], [0, 1]):
        assert both("weightless", str(tiny_llama), KINDS[kind], which) == [wanted, wanted]


def test_a_loss_that_reaches_no_weight_keeps_step(both, tiny_llama):
    """Of a model without an output over the vocabulary no graph leads to its weights."""
    for none in both("headless", str(tiny_llama)):
        assert all(none.values())


@pytest.mark.parametrize("freeze", [True, False])
def test_a_gradient_that_no_rank_has_stays_none(both, tiny_llama, freeze):
    for none in both("value_alone", str(tiny_llama), freeze):
        assert not none["scalar.weight"]
        assert all(nothing == freeze for name, nothing in none.items() if name.startswith("trunk."))


@pytest.mark.parametrize("where", ["embedding", "loss"])
def test_an_error_ends_the_turn_on_all_ranks_and_nothing_else(both, tiny_llama, where):
    (none, *first), (error, *second) = both("failing", str(tiny_llama), where)
    assert none == "None"
    assert ("index" in error) if where == "embedding" else ("unit" in error)
    for failed, nothing, untouched, gradients in (first, second):
        assert failed
        assert nothing
        assert untouched
        assert gradients["trunk.norm"] is not None


def test_an_error_between_blocks_says_that_ranks_are_out_of_step(tiny_llama, tmp_path):
    with ranks(tmp_path, 2) as call, pytest.raises(Exception, match="OutOfStepError: ZeroDivisionError"):
        call("broken", str(tiny_llama))


@pytest.mark.parametrize("what", ["a frozen copy", "a merged copy", "merged weights", "layers below"])
def test_reading_parts_of_weights_outside_of_a_pass_is_an_error(both, tiny_llama, what):
    for error in both("read_outside", str(tiny_llama), what):
        assert "DTensor" in error
