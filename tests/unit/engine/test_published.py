"""What an engine hands to samplers: a frozen model here, or a folder with the same weights for other processes."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file

from contract.engine_cases import PPO, SEQUENCES, ppo_data, step
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine import open_engine
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.rollout.native import native_samplers
from thumbs.rollout.publish import SAMPLERS, Published
from thumbs.rollout.sampler import DecodingParams, Sampler
from thumbs.workers.base import Crew

LORA = {"adapters": AdapterConfig(rank=4, alpha=8.0), "full": None}
NATIVE = native_samplers(RolloutConfig())


@pytest.fixture(params=LORA)
def model(request, tiny_llama) -> ModelConfig:
    return ModelConfig(name=str(tiny_llama), lora=LORA[request.param], dtype="float32")


def draw(sampler: Sampler) -> list[tuple[list[int], list[float]]]:
    samples = sampler.sample(SEQUENCES, DecodingParams(8, ()), range(len(SEQUENCES)))
    return [(sample.tokens.tolist(), sample.logprobs.tolist()) for sample in samples]


def by_hand(tensor: torch.Tensor) -> str:
    """The sum as its docstring says it."""
    values = bytes(tensor.contiguous().untyped_storage())
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + values).hexdigest()


def test_a_published_folder_holds_the_weights_of_its_moment_and_their_sums(model, tmp_path):
    seen: list[tuple[Published, dict[str, str]]] = []

    def writing(published: Published) -> Sampler:
        seen.append((published, published.write(tmp_path / f"{published.version}")))
        return NATIVE(published)

    engine = LocalEngine(sampler=writing)
    handle = engine.create(ModelSpec("policy", model, heads=("lm", "scalar"), seed=3))
    samplers = []
    for _ in range(2):
        step(engine, handle, ppo_data(SEQUENCES), PPO)
        samplers.append(engine.snapshot(handle))
    assert [(p.version, p.model, p.seed) for p, _ in seen] == [(1, model, 3), (2, model, 3)]
    assert [sampler.policy_version for sampler in samplers] == [1, 2]
    for number, (sampler, (_, sums)) in enumerate(zip(samplers, seen, strict=True), 1):
        folder = tmp_path / f"{number}"
        written = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
        assert sums == {name: by_hand(tensor) for name, tensor in written.items()}
        copy = LocalEngine()
        again = copy.snapshot(copy.create(ModelSpec("copy", model, start=folder)))
        assert draw(again) == draw(sampler)
    assert draw(samplers[0]) != draw(samplers[1])


def test_an_engine_opens_its_samplers_once(tiny_llama):
    asked: list[RolloutConfig] = []

    def mine(config: RolloutConfig, crew: Crew | None):
        asked.append(config)
        return NATIVE

    rollout = RolloutConfig(kind="mine")
    SAMPLERS.register("mine", mine)
    try:
        engine = open_engine(EngineConfig(), None, rollout)
    finally:
        SAMPLERS.forget("mine")
    handle = engine.create(ModelSpec("policy", ModelConfig(name=str(tiny_llama), lora=None)))
    engine.snapshot(handle)
    assert engine.snapshot(handle).policy_version == 0
    assert asked == [rollout]
