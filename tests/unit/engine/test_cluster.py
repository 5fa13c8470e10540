"""A cluster engine beyond the contract: numbers that do not depend on the ranks, and ranks that fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from contract.engine_cases import ADAM, PPO, SEQUENCES, pair_data, ppo_data, text_data
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.losses import CROSS_ENTROPY, ScoreLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine import open_engine
from thumbs.engine.base import Handle, ModelSpec, OpenEngine
from thumbs.engine.cluster import ClusterEngine, start_ranks
from thumbs.engine.journal import JournalEngine
from thumbs.engine.local import LocalEngine
from thumbs.engine.objectives import OBJECTIVES, register_reward_objective
from thumbs.engine.optimizers import OPTIMIZERS, adamw, register_optimizer
from thumbs.engine.plan import TOKEN_BUDGET, deal
from thumbs.errors import ConfigError, NonFiniteError, WorkerError, WorkerLost
from thumbs.functional.reward_losses import bradley_terry
from thumbs.workers.base import results
from thumbs.workers.pipes import PipeCrew

KINDS = {"adapters": AdapterConfig(rank=4, alpha=8.0), "full": None}


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[PipeCrew]:
    crew = PipeCrew(tmp_path / "logs")
    yield crew
    crew.close()


def cluster(crew: PipeCrew, workers: int) -> ClusterEngine:
    engine = ClusterEngine(start_ranks(crew, EngineConfig(kind="cluster", workers=workers)), patience_s=120)
    engine.token_budget = 24
    return engine


def spec(model: Path, lora: AdapterConfig | None) -> ModelSpec:
    return ModelSpec("policy", ModelConfig(name=str(model), lora=lora, dtype="float32"), ("lm", "scalar"))


def trained(engine: OpenEngine, handle: Handle, path: Path) -> dict[str, torch.Tensor]:
    """Weights and moments after some steps, of which one trains no head and one is of two calls."""
    for _ in range(2):
        engine.forward_backward(handle, text_data(SEQUENCES), [CROSS_ENTROPY])
        engine.optim_step(handle, ADAM)
        engine.forward_backward(handle, ppo_data(SEQUENCES), PPO)
        engine.forward_backward(handle, text_data(SEQUENCES[:3]), [CROSS_ENTROPY])
        engine.optim_step(handle, ADAM)
    engine.save(handle, path, optimizer=True)
    return {f"{file.name} {k}": v for file in sorted(path.glob("*.safetensors")) for k, v in load_file(file).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_one_two_and_three_ranks_give_the_same_bits_and_local_the_same_numbers(crew, tiny_llama, tmp_path, kind):
    found = []
    for workers in (1, 2, 3):
        engine = cluster(crew, workers)
        handle = engine.create(spec(tiny_llama, KINDS[kind]))
        found.append(trained(engine, handle, tmp_path / f"of-{workers}"))
        crew.close()
    assert len(found[0]) > 20
    for other in found[1:]:
        assert [name for name, tensor in found[0].items() if not torch.equal(other[name], tensor)] == []
    local = LocalEngine()
    local.token_budget = 24
    for name, tensor in trained(local, local.create(spec(tiny_llama, KINDS[kind])), tmp_path / "local").items():
        torch.testing.assert_close(found[0][name], tensor, atol=1e-6, rtol=1e-4, msg=name)


def test_micro_batches_fit_the_smallest_device_of_a_rank(crew, tiny_llama):
    """Inputs of 8, 22, 3, 13, 1 and 16 tokens, 24 at a time, the longest first: 22, 16, 13 + 8 + 3, 1."""
    ranks = start_ranks(crew, EngineConfig(kind="cluster", workers=2), "unit.engine.failing_ranks:SmallRank")
    engine = ClusterEngine(ranks, patience_s=120)
    engine.forward(engine.create(spec(tiny_llama, None)), text_data(SEQUENCES))
    computed = results(rank.call("so_far") for rank in ranks)
    assert sorted(computed[0] + computed[1]) == [[0, 2, 3], [1], [4], [5]]


def test_ranks_on_a_processor_have_the_budget_of_the_local_engine(crew, tiny_llama):
    engine, local = ClusterEngine(start_ranks(crew, EngineConfig(kind="cluster")), patience_s=120), LocalEngine()
    handle = local.create(spec(tiny_llama, None))
    assert engine.ranks[0].call("create", 1, spec(tiny_llama, None), None).result() == local.cut(handle)
    assert local.cut(handle).budget == TOKEN_BUDGET


def test_a_head_that_no_loss_reads_keeps_no_moments(crew, tiny_llama, tmp_path):
    engine = cluster(crew, 2)
    handle = engine.create(spec(tiny_llama, KINDS["adapters"]))
    engine.forward_backward(handle, text_data(SEQUENCES), [CROSS_ENTROPY])
    engine.optim_step(handle, ADAM)
    engine.save(handle, tmp_path / "saved", optimizer=True)
    assert not [name for name in load_file(tmp_path / "saved" / "optimizer.safetensors") if name.startswith("scalar.")]


def test_a_checkpoint_of_two_ranks_goes_on_with_one_and_three(crew, tiny_llama, tmp_path):
    lora = KINDS["adapters"]
    engine = cluster(crew, 2)
    handle = engine.create(spec(tiny_llama, lora))
    trained(engine, handle, tmp_path / "half")
    wanted = trained(engine, handle, tmp_path / "whole")
    for workers in (1, 3):
        again = cluster(crew, workers)
        handle = again.create(spec(tiny_llama, lora))
        again.load(handle, tmp_path / "half")
        for name, tensor in trained(again, handle, tmp_path / f"on-{workers}").items():
            assert torch.equal(tensor, wanted[name]), name


def test_an_error_on_one_rank_leaves_the_gradients_of_before(crew, tiny_llama, tmp_path):
    """A pair that lacks a side is seen by the rank that has it alone, when others have added theirs."""
    engine, lora = cluster(crew, 2), KINDS["adapters"]
    broken, clean = (engine.create(spec(tiny_llama, lora)) for _ in range(2))
    good, losses = pair_data(SEQUENCES), [ScoreLoss.of("bradley_terry")]
    for handle in (broken, clean):
        engine.forward_backward(handle, good, losses)
    with pytest.raises(ValueError, match="exactly two"):
        engine.forward_backward(broken, good[:5], losses)
    norms = [engine.optim_step(handle, ADAM).grad_norm for handle in (broken, clean)]
    assert norms[0] == norms[1] > 0


def test_a_killed_rank_is_named_and_ends_the_engine(crew, tiny_llama):
    engine = cluster(crew, 2)
    handle = engine.create(spec(tiny_llama, KINDS["adapters"]))
    engine.forward_backward(handle, text_data(SEQUENCES), [CROSS_ENTROPY])
    os.kill(engine.ranks[1].process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(WorkerLost, match=r"rank 1 on .* ended with signal 9"):
        engine.optim_step(handle, ADAM)
    with pytest.raises(WorkerLost, match="rank 1"):
        engine.forward(handle, text_data(SEQUENCES))


def test_an_error_of_a_rank_says_where(crew, tiny_llama):
    engine = cluster(crew, 2)
    handle = engine.create(spec(tiny_llama, KINDS["adapters"]))
    with pytest.raises(WorkerError, match=r"rank \d on .* failed in compute at micro-batch 1 of \d, datum \d"):
        engine.forward(handle, text_data([[5, 10**6, 7, 8]]))


def test_what_a_program_registered_is_known_to_the_ranks(crew, tiny_llama, tmp_path):
    register_optimizer("ours", adamw)
    register_reward_objective("logistic", bradley_terry_of_scores)
    try:
        engine = ClusterEngine(start_ranks(crew, EngineConfig(kind="cluster", workers=1)), optimizer="ours")
        losses = []
        for each in (engine, LocalEngine()):
            handle = each.create(spec(tiny_llama, None))
            losses.append(each.forward_backward(handle, pair_data(SEQUENCES), [ScoreLoss.of("logistic")]).loss)
        assert losses[0] == losses[1] > 0
        OBJECTIVES.register("mine", lambda chosen, rejected: rejected - chosen)
        with pytest.raises(ConfigError, match="known to this process alone"):
            engine.forward_backward(Handle(1, "policy"), pair_data(SEQUENCES), [ScoreLoss.of("mine")])
    finally:
        OPTIMIZERS.forget("ours")
        for name in ("logistic", "mine"):
            if name in OBJECTIVES:
                OBJECTIVES.forget(name)


def bradley_terry_of_scores(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    return bradley_terry(chosen, rejected, torch.zeros(()))


def test_a_loss_that_is_not_finite_forgets_all_gradients(crew, tiny_llama):
    engine = cluster(crew, 2)
    handle = engine.create(spec(tiny_llama, KINDS["adapters"]))
    engine.forward_backward(handle, text_data(SEQUENCES), [CROSS_ENTROPY])
    with pytest.raises(NonFiniteError):
        engine.forward_backward(handle, text_data(SEQUENCES, float("nan")), [CROSS_ENTROPY])
    assert engine.optim_step(handle, ADAM).grad_norm == 0


def test_a_config_opens_it(tiny_llama, tmp_path):
    config = EngineConfig(kind="cluster", workers=1, launcher="pipes", logs=str(tmp_path / "logs"))
    engine = open_engine(config, None, RolloutConfig())
    assert isinstance(engine, JournalEngine)
    engine.create(spec(tiny_llama, None))
    assert [file.name for file in (tmp_path / "logs").glob("*.log")] == ["rank-0.log"]
    engine.stop()
    assert not any(rank.alive() for rank in engine.inner.ranks)


def test_micro_batches_are_dealt_by_cost():
    assert deal([5, 9, 2, 4, 8], 2) == [[1, 2, 3], [0, 4]]
    assert deal([1, 1], 3) == [[0], [1], []]
    for ranks in (1, 2, 5):
        assert sorted(place for own in deal(list(range(17)), ranks) for place in own) == list(range(17))
