"""What every engine promises about forward, gradients and optimizer steps, whatever it runs on."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.engine_cases import (
    ADAM,
    GRADIENT,
    LOSSES,
    PPO,
    SEQUENCES,
    AdamStep,
    Case,
    assert_close,
    assert_equal,
    norm,
    pair_data,
    ppo_data,
    several_targets,
    step,
    text_data,
    with_column,
)
from thumbs.config.losses import CROSS_ENTROPY, ScoreLoss, TokenLoss
from thumbs.errors import ConfigError, DataError, NonFiniteError
from thumbs.records import Example
from tiny_models import load_reference, logits_of_each


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_forward_gives_the_logprobs_of_transformers_in_the_order_of_the_data(case, temperature):
    handle = case.engine.create(case.spec())
    outputs = case.engine.forward(handle, [Example.next_token(s) for s in SEQUENCES], temperature=temperature)
    for sequence, output, logits in zip(
        SEQUENCES, outputs, logits_of_each(load_reference(Path(case.model.name)), SEQUENCES), strict=True
    ):
        logprobs = (logits[:-1] / temperature).log_softmax(-1)
        wanted = logprobs.gather(1, torch.tensor(sequence[1:])[:, None])[:, 0].numpy()
        np.testing.assert_allclose(output.logprobs, wanted, atol=1e-5)
        assert output.values.tolist() == [0.0] * (len(sequence) - 1)  # a fresh head says nothing


def test_forward_leaves_out_what_has_no_weight(case):
    handle, data = case.warm(), ppo_data(SEQUENCES)
    whole = case.engine.forward(handle, [Example.next_token(s) for s in SEQUENCES])
    for datum, some, all_ in zip(data, case.engine.forward(handle, data), whole, strict=True):
        counts = datum.columns["weights"] != 0
        np.testing.assert_allclose(some.logprobs, np.where(counts, all_.logprobs, 0), atol=1e-5)
        np.testing.assert_allclose(some.values, all_.values, atol=1e-5)
        assert np.abs(all_.values).max() > 1e-3


def test_logprobs_are_given_everywhere_if_asked_for_and_change_no_gradient(case):
    handle, data = case.warm(), ppo_data(SEQUENCES)
    whole = case.engine.forward(handle, [Example.next_token(s) for s in SEQUENCES], temperature=0.7)
    given = case.engine.forward_backward(handle, data, PPO[:1], logprobs_everywhere=True)
    for ours, theirs in zip(given.outputs, whole, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)
    case.engine.optim_step(handle, AdamStep(0.0, 0.0))  # clears
    found = []
    for everywhere in (False, True):
        case.engine.forward_backward(handle, data, PPO[:1], logprobs_everywhere=everywhere)
        copy = case.engine.create(case.spec(start=handle))
        case.engine.optim_step(handle, GRADIENT)
        found.append({name: case.weights(copy)[name] - weight for name, weight in case.weights(handle).items()})
        handle = copy
    assert_close(found[1], found[0], 1e-6)


def test_several_targets_at_a_place_are_several_sequences(case):
    """Each of K targets against a call of its own, with the weights of that target."""
    handle, data = case.warm(), several_targets(SEQUENCES)
    given = case.engine.forward(handle, data)
    calls = []
    for k in range(3):
        one = [Example(d.inputs, d.targets[:, k], {"weights": d.columns["weights"][:, k]}) for d in data]
        calls.append((one, [CROSS_ENTROPY]))
        everywhere = [Example(d.inputs, d.targets) for d in one]
        for ours, theirs, datum in zip(given, case.engine.forward(handle, everywhere), data, strict=True):
            asked = datum.columns["weights"].any(1)
            np.testing.assert_allclose(ours.logprobs[:, k], np.where(asked, theirs.logprobs, 0), atol=1e-5)
    assert_close(case.gradients(handle, (data, [CROSS_ENTROPY])), case.gradients(handle, *calls), 1e-5)


def test_training_sees_the_numbers_that_forward_gives(case):
    """The first ratio of a PPO step is exactly 1: same weights, same batch, same code."""
    handle = case.warm()
    data = ppo_data(SEQUENCES)
    old = case.engine.forward(handle, data, temperature=0.7)
    for i, output in enumerate(old):
        data = with_column(data, i, "logprobs", output.logprobs)
    output = case.engine.forward_backward(handle, data, PPO)
    for ours, theirs in zip(output.outputs, old, strict=True):
        assert np.array_equal(ours.logprobs, theirs.logprobs)
        assert np.array_equal(ours.values, theirs.values)
    assert output.metrics["ppo_clip/ratio"] == pytest.approx(1, abs=1e-7)
    assert output.metrics["ppo_clip/ratio_max"] == 1
    assert (output.metrics["ppo_clip/approx_kl"], output.metrics["ppo_clip/clip_fraction"]) == (0, 0)


@pytest.mark.parametrize("kind", LOSSES)
def test_micro_batches_change_nothing(case, kind):
    """Token by token or all at once: same loss, outputs, metrics and gradients. Pairs stay together."""
    data, losses = LOSSES[kind]
    handle, found = case.warm(), []
    for budget in (1, 40, 100_000):
        case.set_budget(budget)
        output = case.engine.forward_backward(handle, data, losses)
        report = case.engine.optim_step(handle, AdamStep(0.0, 0.0))  # clears
        assert report.grad_norm == 0
        found.append((output, case.gradients(handle, (data, losses))))
    (whole, gradients) = found.pop()
    for output, other in found:
        assert output.loss == pytest.approx(whole.loss, rel=1e-5)
        assert norm(other) == pytest.approx(norm(gradients), rel=1e-5)
        assert_close(other, gradients, 1e-5)
        for a, b in zip(output.outputs, whole.outputs, strict=True):
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            np.testing.assert_allclose(a.values, b.values, atol=1e-5)
        for name in set(whole.metrics) - {"value_clip/explained_variance"}:  # no mean of parts
            assert output.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-4, abs=1e-6), name


def test_gradients_accumulate_over_calls(case):
    handle, data = case.warm(), ppo_data(SEQUENCES)
    whole = case.gradients(handle, (data, PPO))
    assert_close(case.gradients(handle, (data[:2], PPO), (data[2:], PPO)), whole, 1e-5)


def test_two_losses_in_one_pass_are_the_sum_of_two_passes(case):
    handle, data = case.warm(), ppo_data(SEQUENCES)
    together = case.gradients(handle, (data, PPO))
    first, second = (case.gradients(handle, (data, [loss])) for loss in PPO)
    assert min(norm(first), norm(second)) > 1e-3
    assert_close({name: first[name] + second[name] for name in first}, together, 1e-5)
    losses = [case.engine.forward_backward(handle, data, chosen).loss for chosen in (PPO, PPO[:1], PPO[1:])]
    assert losses[0] == pytest.approx(losses[1] + losses[2], rel=1e-5)


def test_the_order_of_the_two_sides_of_a_pair_is_immaterial(case):
    handle, losses = case.warm(), [ScoreLoss.of("bradley_terry")]
    data = pair_data(SEQUENCES)
    flipped = [
        Example(d.inputs, d.targets, {**d.columns, "preferred": 1 - d.columns["preferred"]})
        for d in data[3:] + data[:3]
    ]
    one, other = case.gradients(handle, (data, losses)), case.gradients(handle, (flipped, losses))
    assert_close(other, one, 1e-5)


def test_a_pair_that_lacks_a_side_is_refused(case):
    handle = case.engine.create(case.spec())
    with pytest.raises(DataError, match="exactly two"):
        case.engine.forward_backward(handle, pair_data(SEQUENCES)[:5], [ScoreLoss.of("bradley_terry")])


@pytest.mark.parametrize("limit", [1e9, 0.05])
def test_optim_step_is_adamw_after_clipping(case, limit):
    """Against torch's own clipping and AdamW on plain copies of the weights, two steps, two rates."""
    handle, data = case.warm(), ppo_data(SEQUENCES)
    handle = case.engine.create(case.spec(start=handle))
    adam = AdamStep(0.01, 0.002, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.1, max_grad_norm=limit)
    plain = {name: torch.nn.Parameter(w) for name, w in case.weights(handle).items()}
    head = [plain.pop("weight"), plain.pop("bias")]
    oracle = torch.optim.AdamW(
        [{"params": list(plain.values()), "lr": 0.01}, {"params": head, "lr": 0.002}],
        betas=(0.8, 0.95),
        eps=1e-3,
        weight_decay=0.1,
    )
    plain |= {"weight": head[0], "bias": head[1]}
    for number in (1, 2):
        gradients = case.gradients(handle, (data, PPO))
        for name, parameter in plain.items():
            parameter.grad = gradients[name]
        wanted_norm = torch.nn.utils.clip_grad_norm_(list(plain.values()), limit)
        oracle.step()
        _, report = step(case.engine, handle, data, PPO, adam)
        assert report.step == number
        assert report.grad_norm == pytest.approx(float(wanted_norm), rel=1e-4)
        for name, weight in case.weights(handle).items():
            torch.testing.assert_close(weight, plain[name].detach(), atol=2e-5, rtol=0, msg=name)


def test_a_step_clears_the_gradients(case):
    handle, data = case.warm(), ppo_data(SEQUENCES)
    once, twice = (case.engine.create(case.spec(start=handle)) for _ in range(2))
    step(case.engine, once, data, PPO, GRADIENT)
    step(case.engine, twice, text_data(SEQUENCES), [CROSS_ENTROPY], AdamStep(0.0, 0.0))
    step(case.engine, twice, data, PPO, GRADIENT)
    assert_equal(case.weights(twice), case.weights(once))


@pytest.mark.parametrize("group", ["trunk", "head"])
def test_a_zero_rate_leaves_its_group_untouched(case, group):
    handle, data = case.warm(), ppo_data(SEQUENCES)
    before = case.weights(handle)
    rates = (0.0, 0.03) if group == "trunk" else (0.01, 0.0)
    step(case.engine, handle, data, PPO, AdamStep(*rates, weight_decay=0.5))
    moved = {name for name, weight in case.weights(handle).items() if not torch.equal(weight, before[name])}
    head = {"weight", "bias"}
    assert moved <= head if group == "trunk" else moved.isdisjoint(head)
    assert moved


def test_a_zero_rate_leaves_the_moments_untouched(case):
    handle, data = case.warm(), text_data(SEQUENCES)
    plain, paused = (case.engine.create(case.spec(start=handle)) for _ in range(2))
    for model, adam in ((plain, ADAM), (paused, ADAM), (paused, AdamStep(0.0, 0.0)), (plain, ADAM), (paused, ADAM)):
        step(case.engine, model, data, [CROSS_ENTROPY], adam)
    assert_equal(case.weights(paused), case.weights(plain))


@pytest.mark.parametrize("column", ["advantages", "returns", "logprobs"])
def test_a_number_that_is_none_stops_the_step_and_nothing_else(case, column):
    handle, data = case.warm(), ppo_data(SEQUENCES)
    twin = case.engine.create(case.spec(start=handle))
    handle = case.engine.create(case.spec(start=handle))
    before = case.weights(handle)
    broken = data[3].columns[column].copy()
    broken[-1] = np.nan
    case.engine.forward_backward(handle, text_data(SEQUENCES), [CROSS_ENTROPY])  # goes with the step that fails
    with pytest.raises(NonFiniteError, match="policy: the loss became nan"):
        step(case.engine, handle, with_column(data, 3, column, broken), PPO)
    assert_equal(case.weights(handle), before)
    step(case.engine, handle, data, PPO)
    step(case.engine, twin, data, PPO)
    assert_equal(case.weights(handle), case.weights(twin))


def test_a_gradient_that_is_infinite_stops_the_step(case):
    handle = case.warm()
    handle, twin = (case.engine.create(case.spec(start=handle)) for _ in range(2))
    before = case.weights(handle)
    for _ in range(60):  # every loss is finite, their gradients add up to more than float32 holds
        case.engine.forward_backward(handle, text_data(SEQUENCES[4:5], 2e37), [CROSS_ENTROPY])
    with pytest.raises(NonFiniteError, match="gradient norm became"):
        case.engine.optim_step(handle, ADAM)
    assert_equal(case.weights(handle), before)
    for model in (handle, twin):
        step(case.engine, model, text_data(SEQUENCES), [CROSS_ENTROPY])
    assert_equal(case.weights(handle), case.weights(twin))


def test_what_has_no_weight_may_be_anything(case):
    handle, data = case.warm(), ppo_data(SEQUENCES)
    clean = case.gradients(handle, (data, PPO))
    for column in ("advantages", "returns", "values", "logprobs"):
        broken = data[1].columns[column].copy()
        broken[0] = np.nan
        data = with_column(data, 1, column, broken)
    assert_equal(case.gradients(handle, (data, PPO)), clean)


def test_a_sequence_in_several_pairs_gets_the_sum_of_their_gradients(case):
    handle, apart = case.warm(), []
    for pair in itertools.combinations(SEQUENCES[:3], 2):
        data = pair_data([pair[0], [1], [2], pair[1]])  # of pair_data's three pairs, the first has both its sides
        apart.append([data[0], data[3]])
    together = [
        replace(datum, columns={**datum.columns, "unit": np.float32(number)})
        for number, data in enumerate(apart)
        for datum in data
    ]
    wanted = case.gradients(handle, *((data, [ScoreLoss.of("bradley_terry")]) for data in apart))
    assert_close(case.gradients(handle, (together, [ScoreLoss.of("bradley_terry")])), wanted, 1e-4)


def test_freeze_trunk_trains_the_head_alone(case):
    start = case.warm()
    handle = case.engine.create(case.spec(start=start, freeze_trunk=True))
    before = case.weights(handle)
    for _ in range(2):
        step(case.engine, handle, pair_data(SEQUENCES), [ScoreLoss.of("bradley_terry")])
    moved = {name for name, weight in case.weights(handle).items() if not torch.equal(weight, before[name])}
    assert moved == {"weight"}  # a bias cancels in the difference of two scores


def test_a_frozen_model_takes_no_steps(case):
    handle = case.engine.create(case.spec(trainable=False))
    with pytest.raises(ConfigError, match="policy was created with trainable=False"):
        case.engine.optim_step(handle, ADAM)


def test_bad_data_is_named(case):
    handle = case.engine.create(case.spec())
    for data, losses, complaint in (
        ([], [CROSS_ENTROPY], "got no data"),
        ([Example.next_token([5])], [CROSS_ENTROPY], "datum 0: 0 inputs"),
        (
            text_data(SEQUENCES),
            [TokenLoss.of("ppo_clip")],
            r"'ppo_clip' needs the columns \['logprobs', 'advantages'\]",
        ),
        (
            text_data(SEQUENCES),
            [ScoreLoss.of("bradley_terry")],
            r"needs the columns \['unit', 'preferred', 'margin', 'unit_weight'\]",
        ),
        (
            with_column(ppo_data(SEQUENCES), 2, "returns", np.zeros(9)),
            [TokenLoss.of("value_clip")],
            "datum 2: column 'returns'",
        ),
        ([*ppo_data(SEQUENCES), *text_data(SEQUENCES)], [TokenLoss.of("value_clip")], "datum 6: columns"),
    ):
        with pytest.raises(DataError, match=complaint):
            case.engine.forward_backward(handle, data, losses)


def test_closed_models_are_gone(case: Case):
    handle = case.engine.create(case.spec())
    case.engine.close(handle)
    with pytest.raises(KeyError):
        case.engine.forward(handle, text_data(SEQUENCES))
