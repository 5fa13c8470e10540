"""What every engine promises about save and load: exact, complete or absent, and clear about what is wrong."""

import json
from shutil import copy

import pytest
import torch

from contract.engine_cases import ADAM, LOSSES, PPO, SEQUENCES, assert_equal, ppo_data, step, text_data
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig
from thumbs.engine.base import AdamStep
from thumbs.engine.checkpoints import MANIFEST, OPTIMIZER, SHARDS
from thumbs.errors import CheckpointError, ConfigError, WorkerLost
from thumbs.rollout.sampler import DecodingParams
from tiny_models import LLAMA, save_random

WEIGHTS = {"adapter_model.safetensors", "model.safetensors"}


def weights_file(path):
    return next(file for file in path.iterdir() if file.name in WEIGHTS)


@pytest.mark.parametrize("where", ["the same engine", "another engine"])
def test_training_goes_on_bit_for_bit_after_save_and_load(case, tmp_path, where):
    """Weights, moments and step count: two more steps give the same numbers with and without the reload."""
    handle, data = case.warm(), ppo_data(SEQUENCES)
    case.engine.save(handle, tmp_path / "saved", optimizer=True)
    saved = case.weights(handle)
    went_on = [step(case.engine, handle, data, PPO) for _ in range(2)]
    wanted = case.weights(handle)

    if where == "another engine":
        case.engine = case.new_engine()
        handle = case.engine.create(case.spec())
    case.engine.load(handle, tmp_path / "saved")
    assert_equal(case.weights(handle), saved)
    assert [step(case.engine, handle, data, PPO) for _ in range(2)] == went_on
    assert went_on[-1][1].step == 4
    assert_equal(case.weights(handle), wanted)


@pytest.mark.parametrize("saved", [False, True])
def test_without_its_optimizer_a_checkpoint_starts_adam_afresh(case, tmp_path, saved):
    """Not saved or not wanted; also in a model that has moments of its own: they belong to weights that are gone."""
    handle, data = case.warm(), ppo_data(SEQUENCES)
    case.engine.save(handle, tmp_path / "saved", optimizer=saved)
    fresh = case.engine.create(case.spec(start=tmp_path / "saved"))
    step(case.engine, handle, data, PPO)
    case.engine.load(handle, tmp_path / "saved", optimizer=False)
    for _ in range(2):
        step(case.engine, handle, data, PPO)
        step(case.engine, fresh, data, PPO)
    assert_equal(case.weights(handle), case.weights(fresh))


def test_what_a_load_interrupts_is_forgotten(case, tmp_path):
    """Gradients of before the load do not enter the first step after it."""
    handle, data = case.warm(), ppo_data(SEQUENCES)
    case.engine.save(handle, tmp_path / "saved", optimizer=True)
    twin = case.engine.create(case.spec())
    case.engine.load(twin, tmp_path / "saved")
    case.engine.forward_backward(handle, text_data(SEQUENCES), [CROSS_ENTROPY])
    case.engine.load(handle, tmp_path / "saved")
    for model in (handle, twin):
        step(case.engine, model, data, PPO)
    assert_equal(case.weights(handle), case.weights(twin))


def test_the_scalar_head_is_saved_and_comes_back(case, tmp_path):
    handle, data = case.warm(), LOSSES["pairs"][0]
    case.engine.save(handle, tmp_path / "saved")
    again = case.engine.create(case.spec(start=tmp_path / "saved", trainable=False))
    for ours, theirs in zip(case.engine.forward(again, data), case.engine.forward(handle, data), strict=True):
        assert ours.values.tolist() == theirs.values.tolist()
        assert abs(theirs.values[-1]) > 1e-3


def test_a_head_that_the_checkpoint_lacks_starts_at_zero(case, tmp_path):
    policy = case.engine.create(case.spec(heads=("lm",)))
    step(case.engine, policy, text_data(SEQUENCES), [CROSS_ENTROPY])
    case.engine.save(policy, tmp_path / "policy")
    critic = case.engine.create(case.spec(start=tmp_path / "policy"))
    outputs = [case.engine.forward(handle, text_data(SEQUENCES)) for handle in (critic, policy)]
    for ours, theirs in zip(*outputs, strict=True):
        assert ours.logprobs.tolist() == theirs.logprobs.tolist()
        assert not ours.values.any()


def test_a_model_starts_where_another_stands_and_goes_its_own_way(case):
    source, data = case.warm(), ppo_data(SEQUENCES)
    before = case.weights(source)
    copy = case.engine.create(case.spec(start=source))
    assert_equal(case.weights(copy), before)
    step(case.engine, copy, data, PPO)
    assert_equal(case.weights(source), before)


@pytest.mark.parametrize("moment", ["write_tensors", "load_file", "sync", "first rename", "second rename"])
def test_a_crash_while_writing_leaves_the_checkpoint_of_before(case, tmp_path, moment):
    handle, path = case.warm(), tmp_path / "saved"
    case.engine.save(handle, path, optimizer=True)
    before = case.weights(handle)
    step(case.engine, handle, ppo_data(SEQUENCES), PPO)
    case.at_writer("crash_at", moment)
    with pytest.raises((KeyboardInterrupt, WorkerLost)):
        case.engine.save(handle, path, optimizer=True)
    case.at_writer("mend")
    handle = case.after_crash(handle)
    case.engine.load(handle, path)
    assert_equal(case.weights(handle), before)
    case.engine.save(handle, path, optimizer=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("saved")) == ["saved"]


def test_a_full_disk_is_an_error_that_keeps_the_checkpoint_of_before(case, tmp_path):
    handle, path = case.warm(), tmp_path / "saved"
    case.engine.save(handle, path)
    before = case.weights(handle)
    step(case.engine, handle, ppo_data(SEQUENCES), PPO)
    case.at_writer("fill_disk")
    with pytest.raises(CheckpointError, match=r"saved: .*No space left.*GiB free.*previous checkpoint is untouched"):
        case.engine.save(handle, path)
    case.at_writer("mend")
    assert not (tmp_path / "saved.new").exists()
    case.engine.load(handle, path)
    assert_equal(case.weights(handle), before)


def cut(file):
    file.write_bytes(file.read_bytes()[:-50])


def empty(file):
    file.write_bytes(b"")


def moments_file(path):
    """One of the files with what an optimizer remembers; an engine may write several."""
    return next((path / SHARDS).glob("*.safetensors"), path / OPTIMIZER)


HEAD = "scalar_head.safetensors"
DAMAGE = {
    "weights cut short": lambda path: cut(weights_file(path)),
    "weights gone": lambda path: weights_file(path).unlink(),
    "weights empty": lambda path: empty(weights_file(path)),
    "weights of something else": lambda path: copy(path / HEAD, weights_file(path)),
    "head gone": lambda path: (path / HEAD).unlink(),
    "head of something else": lambda path: copy(moments_file(path), path / HEAD),
    "optimizer cut short": lambda path: cut(moments_file(path)),
    "optimizer of something else": lambda path: copy(path / HEAD, moments_file(path)),
    "manifest cut short": lambda path: cut(path / MANIFEST),
    "manifest of something else": lambda path: (path / MANIFEST).write_text(json.dumps({"model": {"nome": 1}})),
    "manifest no object": lambda path: (path / MANIFEST).write_text("[]"),
    "manifest gone": lambda path: (path / MANIFEST).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_by_name(case, tmp_path, damage):
    handle, path = case.warm(), tmp_path / "saved"
    case.engine.save(handle, path, optimizer=True)
    DAMAGE[damage](path)
    with pytest.raises(CheckpointError, match=str(path)):
        case.engine.load(handle, path)


def test_a_checkpoint_of_another_model_is_refused(case, tmp_path):
    handle, path = case.warm(), tmp_path / "saved"
    case.engine.save(handle, path)
    base, lora = case.model.name, AdapterConfig(rank=2)
    for other in (
        case.model.model_copy(update={"name": str(save_random(LLAMA, tmp_path / "other"))}),
        case.model.model_copy(update={"lora": lora}),
    ):
        with pytest.raises(CheckpointError, match=f"{path} was written for {base}.*Use the same model settings"):
            case.engine.create(case.spec(model=other, start=path))


def test_a_checkpoint_that_is_not_there(case, tmp_path):
    handle = case.engine.create(case.spec())
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere; run the stage that writes it first"):
        case.engine.load(handle, tmp_path / "nowhere")


def test_nothing_to_train_is_an_error(case):
    handle = case.engine.create(case.spec(heads=("lm",), freeze_trunk=True))
    with pytest.raises(ConfigError, match="nothing to train"):
        case.engine.optim_step(handle, ADAM)


def test_a_snapshot_is_frozen_and_says_which_version_it_is(case):
    def replies(sampler):
        drawn = DecodingParams(max_new_tokens=12, stop_tokens=(1,))
        return [s.tokens.tolist() for s in sampler.sample(SEQUENCES, drawn, list(range(len(SEQUENCES))))]

    handle = case.warm()
    sampler = case.engine.snapshot(handle)
    before = replies(sampler)
    for _ in range(3):
        step(case.engine, handle, ppo_data(SEQUENCES), PPO, AdamStep(0.1, 0.1))
    assert replies(sampler) == before
    later = case.engine.snapshot(handle)
    assert replies(later) != before
    assert (sampler.policy_version, later.policy_version) == (2, 5)
    assert later.sample([[5, 6]], DecodingParams(2, ()), [0])[0].policy_version == 5


def test_numbers_on_disk_are_those_in_memory(case, tmp_path):
    """A checkpoint holds float32 weights, whatever they are computed in."""
    case.model = case.model.model_copy(update={"dtype": "bfloat16"})
    handle = case.warm()
    assert {tensor.dtype for tensor in case.weights(handle).values()} == {torch.float32}
    case.engine.save(handle, tmp_path / "saved", optimizer=True)
    again = case.engine.create(case.spec())
    case.engine.load(again, tmp_path / "saved")
    data = ppo_data(SEQUENCES)
    assert step(case.engine, again, data, PPO) == step(case.engine, handle, data, PPO)
    assert_equal(case.weights(again), case.weights(handle))
