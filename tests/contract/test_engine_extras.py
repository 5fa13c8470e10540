"""What every engine promises beyond the eight verbs: work in parts, sizes, and adapters to sample with."""

import numpy as np
import pytest

from contract.engine_cases import PPO, SEQUENCES, Case, assert_equal, norm, ppo_data, text_data, with_column
from recording_engine import RecordingEngine
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import ModelConfig
from thumbs.engine import open_engine
from thumbs.engine.base import AdamStep
from thumbs.errors import CheckpointError, NonFiniteError
from thumbs.rollout.native import DecodingLoop, NativeSampler
from thumbs.rollout.sampler import DecodingParams

PARAMS = DecodingParams(6, stop_tokens=(1,))


def moved(case: Case, handle) -> float:
    """By how much the gradients that a model holds would move it."""
    return case.engine.optim_step(handle, AdamStep(1e-9, 1e-9)).grad_norm


def finish(work):
    """(how often it gave way, its result)"""
    parts = 0
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return parts, stop.value
        parts += 1


def test_work_in_parts_gives_what_one_call_gives(case):
    case.set_budget(10)
    handle, data = case.warm(), ppo_data(SEQUENCES)
    one, other = (case.engine.create(case.spec(start=handle)) for _ in range(2))
    whole = case.engine.forward_backward(one, data, PPO, logprobs_everywhere=True)
    parts, output = finish(case.engine.in_parts(other, data, PPO))
    assert parts > 2
    assert (output.loss, output.metrics) == (whole.loss, whole.metrics)
    for ours, theirs in zip(output.outputs, whole.outputs, strict=True):
        assert np.array_equal(ours.logprobs, theirs.logprobs)
        assert np.array_equal(ours.losses, theirs.losses)
    for model in (one, other):
        case.engine.optim_step(model, AdamStep(0.01, 0.03))
    assert_equal(case.weights(other), case.weights(one))


@pytest.mark.parametrize("end", ["fails", "is closed", "only looks"])
def test_gradients_of_before_stay_when_work_in_parts_adds_none(case, end):
    case.set_budget(10)
    handle, data = case.warm(), ppo_data(SEQUENCES)
    one, other = (case.engine.create(case.spec(start=handle)) for _ in range(2))
    for model in (one, other):
        case.engine.forward_backward(model, text_data(SEQUENCES), [CROSS_ENTROPY])
    if end == "fails":
        broken = with_column(data, 3, "advantages", np.full(len(data[3]), np.nan))
        with pytest.raises(NonFiniteError, match="policy: the loss became nan"):
            finish(case.engine.in_parts(other, broken, PPO))
    elif end == "is closed":
        work = case.engine.in_parts(other, data, PPO)
        next(work)
        next(work)
        work.close()
    else:
        finish(case.engine.in_parts(other, data, PPO, backward=False))
    norms = [moved(case, model) for model in (one, other)]
    assert norms[0] == norms[1] > 1e-3


def test_the_size_is_that_of_the_weights(case):
    """Of what is trained, as many numbers as a checkpoint holds."""
    handle = case.engine.create(case.spec())
    size, weights = case.engine.size(handle), case.weights(handle)
    assert size.trained == sum(tensor.numel() for tensor in weights.values())
    assert size.parameters == size.trained if case.model.lora is None else size.parameters > size.trained
    assert (size.width, size.dtype) == (32, "float32")
    assert size.context >= max(map(len, SEQUENCES))
    frozen = case.engine.create(case.spec(freeze_trunk=True))
    assert case.engine.size(frozen).trained == 33  # the head's weight and bias


def test_adapters_on_the_shared_base_draw_what_a_snapshot_draws(case, tmp_path):
    handle = case.warm()
    case.engine.save(handle, tmp_path / "saved")
    if case.model.lora is None:
        with pytest.raises(CheckpointError, match="holds a whole model, no adapter"):
            case.engine.read_adapter(tmp_path / "saved")
        return
    base = case.engine.frozen_base(case.model)
    assert case.engine.frozen_base(case.model) is base
    prompts, seeds = [[5, 6, 7], [8, 9]], [1, 2]
    wanted = [s.tokens.tolist() for s in case.engine.snapshot(handle).sample(prompts, PARAMS, seeds)]
    adapter = case.engine.read_adapter(tmp_path / "saved")
    sampler = NativeSampler(DecodingLoop(base), 0, adapter)
    assert [s.tokens.tolist() for s in sampler.sample(prompts, PARAMS, seeds)] == wanted
    case.engine.save(case.engine.create(case.spec()), tmp_path / "fresh")
    assert norm_of_difference(base, adapter, case.engine.read_adapter(tmp_path / "fresh")) > 1e-3


def norm_of_difference(base, *adapters) -> float:
    """Of the last states of a prompt under two adapters."""
    states = [base.prefill([[5, 6, 7]], base.new_cache(1, 8), adapter) for adapter in adapters]
    return norm({"difference": states[0] - states[1]})


def test_verbs_reach_the_engine_in_the_order_of_the_calls(tiny_llama, tmp_path):
    engine, model = RecordingEngine(open_engine()), ModelConfig(name=str(tiny_llama), lora=None, dtype="float32")
    case = Case(engine, RecordingEngine, model, tmp_path)
    handle = case.warm()
    engine.snapshot(handle)
    case.weights(handle)
    engine.close(handle)
    step = ["forward_backward", "optim_step"]
    assert [verb for verb, _ in engine.calls] == ["create", *step, *step, "snapshot", "save", "close"]
