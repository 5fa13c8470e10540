"""A cluster engine whose ranks have a part of each weight, beyond the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, Qwen3MoeConfig

from contract.engine_cases import PPO, SEQUENCES, ppo_data, text_data
from thumbs.config.engine import EngineConfig
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSpec, OpenEngine
from thumbs.engine.checkpoints import read_moments
from thumbs.engine.cluster import ClusterEngine, start_ranks
from thumbs.engine.local import LocalEngine, PublishedModel
from thumbs.errors import WorkerLost
from thumbs.models.trunk import named_module
from thumbs.rollout.sampler import DecodingParams
from thumbs.workers.pipes import PipeCrew
from tiny_models import FAMILIES, SHAPE, save_random
from unit.engine.sharded_far import expert_module

LORA = AdapterConfig(rank=4, alpha=8.0)
ADAM = AdamStep(0.001, 0.003)
# A bias that a softmax does not see has gradients of nothing but rounding, which Adam would make steps of.
WITHOUT_NOISE = AdamStep(0.001, 0.003, eps=1e-4)
BUDGET = 24


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[PipeCrew]:
    crew = PipeCrew(tmp_path / "logs")
    yield crew
    crew.close()


def sharded(crew: PipeCrew, workers: int, **settings: Any) -> ClusterEngine:
    config = EngineConfig(kind="cluster", workers=workers, **{"shard": "full", "patience_s": 60, **settings})
    engine = ClusterEngine(start_ranks(crew, config), patience_s=120, in_step=config.shard != "none")
    engine.token_budget = BUDGET
    return engine


def local() -> LocalEngine:
    engine = LocalEngine()
    engine.token_budget = BUDGET
    return engine


def config_of(model: Path | str, lora: AdapterConfig | None) -> ModelConfig:
    return ModelConfig(name=str(model), lora=lora, dtype="float32")


def new(engine: OpenEngine, model: Path | str, lora: AdapterConfig | None = None) -> Handle:
    return engine.create(ModelSpec("policy", config_of(model, lora), ("lm", "scalar")))


def train(engine: OpenEngine, handle: Handle, adam: AdamStep = ADAM) -> list[float]:
    """Losses and norms of two steps, of which one trains no head and the other is of two calls."""
    found = [engine.forward_backward(handle, text_data(SEQUENCES), [CROSS_ENTROPY]).loss]
    found.append(engine.optim_step(handle, adam).grad_norm)
    found.append(engine.forward_backward(handle, ppo_data(SEQUENCES), PPO).loss)
    found.append(engine.forward_backward(handle, text_data(SEQUENCES[:3]), [CROSS_ENTROPY]).loss)
    found.append(engine.optim_step(handle, adam).grad_norm)
    return found


def saved(engine: OpenEngine, handle: Handle, path: Path) -> dict[str, torch.Tensor]:
    """All that a checkpoint holds: weights, and moments."""
    engine.save(handle, path, optimizer=True)
    weights = {k: v for file in sorted(path.glob("*.safetensors")) for k, v in load_file(file).items()}
    return weights | (read_moments(path) or {})


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5, msg=name)


KINDS = {"full": None, "adapters": LORA}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_weights_and_moments_are_those_of_one_process(crew, tiny_llama, tmp_path, kind):
    found = []
    for name, engine in {"local": local(), "one": sharded(crew, 2), "other": sharded(crew, 2)}.items():
        handle = new(engine, tiny_llama, KINDS[kind])
        found.append((train(engine, handle), saved(engine, handle, tmp_path / name)))
    (wanted, tensors), (one, of_one), (other, of_other) = found
    assert one == pytest.approx(wanted, rel=1e-6)
    assert_close(of_one, tensors)
    assert len([name for name in tensors if name.endswith(":exp_avg")]) > 10
    assert one == other
    assert all(torch.equal(of_one[name], of_other[name]) for name in of_one)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_two_ranks_goes_on_with_one_and_three_and_in_one_process(crew, tiny_llama, tmp_path, kind):
    engine = sharded(crew, 2)
    handle = new(engine, tiny_llama, KINDS[kind])
    train(engine, handle)
    half = saved(engine, handle, tmp_path / "half")
    wanted = train(engine, handle)
    tensors = saved(engine, handle, tmp_path / "whole")
    others = {
        "one": sharded(crew, 1),
        "three": sharded(crew, 3),
        "whole": sharded(crew, 2, shard="none"),
        "local": local(),
    }
    for name, other in others.items():
        again = new(other, tiny_llama, KINDS[kind])
        other.load(again, tmp_path / "half")
        copied = saved(other, again, tmp_path / f"copy-{name}")
        assert all(torch.equal(copied[key], tensor) for key, tensor in half.items()), name
        assert train(other, again) == pytest.approx(wanted, rel=1e-6), name
        assert_close(saved(other, again, tmp_path / name), tensors)


def test_a_checkpoint_of_one_process_goes_on_with_two_ranks(crew, tiny_llama, tmp_path):
    engine = local()
    handle = new(engine, tiny_llama)
    train(engine, handle)
    saved(engine, handle, tmp_path / "half")
    wanted = train(engine, handle)
    other = sharded(crew, 2)
    again = new(other, tiny_llama)
    other.load(again, tmp_path / "half")
    assert train(other, again) == pytest.approx(wanted, rel=1e-6)


OTHERS = {
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "qwen3": FAMILIES["qwen3, query and key norms"],
    "experts": Qwen3MoeConfig(**SHAPE, head_dim=16, num_experts=8, num_experts_per_tok=1, moe_intermediate_size=16),
}


@pytest.mark.parametrize("model", ["byte-tiny", *OTHERS, "module of experts"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_models_are_spread_too(crew, tmp_path, kind, model):
    if model == "module of experts" and kind == "adapters":
        pytest.skip("modules take no adapters")
    name = save_random(OTHERS[model], tmp_path / "base") if model in OTHERS else model
    found = []
    with named_module("module of experts", expert_module):
        for engine in (local(), sharded(crew, 2)):
            handle = new(engine, name, KINDS[kind])
            losses = train(engine, handle, WITHOUT_NOISE)
            found.append((losses, saved(engine, handle, tmp_path / type(engine).__name__)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6, abs=1e-6)
    assert_close(found[1][1], found[0][1])


@pytest.mark.parametrize("kind", ["full", "adapters", "adapters above"])
def test_what_reads_weights_outside_of_a_pass_reads_all_of_them(crew, tiny_llama, tmp_path, kind):
    """Samplers, published folders and frozen adapters, against a local engine with the same checkpoint."""
    lora = None if kind == "full" else LORA.model_copy(update={"layers": 1 if kind == "adapters above" else None})
    engine, other = sharded(crew, 2), local()
    handle = new(engine, tiny_llama, lora)
    for _ in range(2):  # also after a pass without gradients, which leaves the root gathered
        train(engine, handle)
        engine.forward(handle, text_data(SEQUENCES))
    kept = saved(engine, handle, tmp_path / "saved")
    trained = engine.size(handle).trained
    assert sum(tensor.numel() for name, tensor in kept.items() if name.endswith(":exp_avg")) == trained
    again = new(other, tiny_llama, lora)
    other.load(again, tmp_path / "saved")
    params = DecodingParams(8, stop_tokens=())
    ours, theirs = (
        [(s.tokens.tolist(), s.logprobs.tolist()) for s in each.snapshot(h).sample([[5, 6, 7], [8, 9]], params, [1, 2])]
        for each, h in ((engine, handle), (other, again))
    )
    assert ours == theirs
    published = PublishedModel(other.model(again), None).write(tmp_path / "local")
    assert engine.write(handle, tmp_path / "published") == published
    if lora is not None:
        states = [
            base.prefill([[5, 6, 7]], base.new_cache(1, 8), adapter)
            for base, adapter in (
                (each.frozen_base(config_of(tiny_llama, lora)), each.read_adapter(tmp_path / "saved"))
                for each in (engine, other)
            )
        ]
        assert torch.equal(*states)


def test_two_groups_of_two_ranks_with_offload_and_recomputing(crew, tiny_llama, tmp_path):
    found = []
    for engine in (local(), sharded(crew, 4, shard="hybrid", shard_group=2, offload=True, recompute=True)):
        handle = new(engine, tiny_llama)
        found.append((train(engine, handle), saved(engine, handle, tmp_path / type(engine).__name__)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    assert_close(found[1][1], found[0][1])


def test_a_rank_that_fails_between_blocks_ends_and_says_why(crew, tiny_llama):
    config = EngineConfig(kind="cluster", workers=2, shard="full", patience_s=60)
    ranks = start_ranks(crew, config, "unit.engine.sharded_far:FailingRank")
    engine = ClusterEngine(ranks, patience_s=120, in_step=True)
    handle = new(engine, tiny_llama)
    with pytest.raises(WorkerLost, match=r"(?s)rank 1 on .* during compute at micro-batch 1 of 1.*ZeroDivisionError"):
        engine.forward_backward(handle, text_data(SEQUENCES), [CROSS_ENTROPY])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard": "full"}, "set kind to cluster"),
        ({"kind": "cluster", "offload": True}, "set shard to full or hybrid"),
        ({"kind": "cluster", "shard": "hybrid"}, "shard_group says how many"),
        ({"kind": "cluster", "shard": "full", "shard_group": 1}, "only there"),
        ({"kind": "cluster", "shard": "hybrid", "workers": 4, "shard_group": 3}, "does not divide the 4 workers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EngineConfig(**settings)


def test_weights_in_float32_are_gathered_in_bfloat16(crew, tiny_llama, tmp_path):
    """The same rounding as in one process, where each product casts its weight."""
    found = []
    for engine in (local(), sharded(crew, 2)):
        model = ModelConfig(name=str(tiny_llama), lora=None, dtype="bfloat16")
        handle = engine.create(ModelSpec("policy", model, ("lm", "scalar")))
        losses = train(engine, handle, WITHOUT_NOISE)
        found.append((losses, saved(engine, handle, tmp_path / type(engine).__name__)))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-2)
    assert {tensor.dtype for tensor in found[1][1].values()} == {torch.float32}
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], tensor, atol=2e-3, rtol=1e-2, msg=name)
