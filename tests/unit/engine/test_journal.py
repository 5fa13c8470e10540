"""Ranks that are killed at any moment: the models end as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from contract.engine_cases import ADAM, PPO, SEQUENCES, ppo_data, text_data
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine import journal, open_engine
from thumbs.engine.base import ModelSpec
from thumbs.engine.journal import JournalEngine
from thumbs.engine.local import finish
from thumbs.errors import NonFiniteError, WorkerLost
from thumbs.rollout.sampler import DecodingParams

TEXT, ROLLOUTS = text_data(SEQUENCES), ppo_data(SEQUENCES)


def lost(_: JournalEngine) -> None:
    """Nobody."""


def killed(engine: JournalEngine) -> None:
    """One rank, between two verbs."""
    os.kill(engine.inner.ranks[1].process.pid, signal.SIGKILL)  # type: ignore[attr-defined]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[JournalEngine]:
    config = EngineConfig(kind="cluster", launcher="pipes", workers=2, logs=str(tmp_path / "logs"), patience_s=60)
    engine = open_engine(config, None, RolloutConfig())
    assert isinstance(engine, JournalEngine)
    engine.inner.token_budget = 24
    yield engine
    engine.stop()


def work(
    engine: JournalEngine, model: ModelConfig, folder: Path, event: Callable[[JournalEngine], None], at: int
) -> dict[str, Any]:
    """A life of two models, one of which starts from the other, with an event before its verb number `at`."""
    verbs, said = iter(range(100)), []

    def now() -> None:
        if next(verbs) == at:
            event(engine)

    now()
    one = engine.create(ModelSpec("policy", model, ("lm", "scalar")))
    for step in range(3):
        now()
        said.append(engine.forward_backward(one, TEXT, [CROSS_ENTROPY]).loss)
        now()
        said.append(finish(engine.in_parts(one, ROLLOUTS, PPO)).loss)
        now()
        said.append(engine.optim_step(one, ADAM).grad_norm)
        if step == 0:
            now()
            engine.save(one, folder / "saved", optimizer=True)
            shutil.rmtree(folder / "saved")  # the journal has its own
    now()
    engine.forward_backward(one, TEXT, [CROSS_ENTROPY])
    now()
    other = engine.create(ModelSpec("other", model, ("lm", "scalar"), start=one))
    now()
    engine.optim_step(one, ADAM)
    now()
    engine.forward_backward(other, TEXT[:2], [CROSS_ENTROPY])
    now()
    said.append(engine.optim_step(other, ADAM).step)
    now()
    said.append([o.logprobs.tolist() for o in engine.forward(other, TEXT)])
    now()
    drawn = engine.snapshot(one).sample([[5, 6]], DecodingParams(8, (1,)), [3])
    said.append(drawn[0].tokens.tolist())
    found: dict[str, Any] = {"said": said, "verbs": next(verbs)}
    for name, handle in {"one": one, "other": other}.items():
        engine.save(handle, folder / name, optimizer=True)
        for file in sorted((folder / name).glob("*.safetensors")):
            found |= {f"{name} {file.name} {key}": tensor for key, tensor in load_file(file).items()}
    return found


@pytest.mark.parametrize("lora", [AdapterConfig(rank=4, alpha=8.0), None], ids=["adapters", "full"])
def test_a_rank_killed_before_any_verb_changes_no_bit(engine, tiny_llama, tmp_path, lora):
    model = ModelConfig(name=str(tiny_llama), lora=lora, dtype="float32")
    wanted = work(engine, model, tmp_path / "wanted", lost, -1)
    for at in np.random.default_rng(0).permutation(wanted["verbs"])[:3].tolist():
        found = work(engine, model, tmp_path / f"at-{at}", killed, at)
        assert found.keys() == wanted.keys()
        assert (found["said"], found["verbs"]) == (wanted["said"], wanted["verbs"])
        tensors = {name for name, value in wanted.items() if isinstance(value, torch.Tensor)}
        assert [name for name in tensors if not torch.equal(found[name], wanted[name])] == []


def test_gradients_that_were_forgotten_are_not_done_again(engine, tiny_llama):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = engine.create(ModelSpec("policy", model))
    engine.forward_backward(handle, TEXT, [CROSS_ENTROPY])
    with pytest.raises(NonFiniteError):
        engine.forward_backward(handle, text_data(SEQUENCES, float("nan")), [CROSS_ENTROPY])
    killed(engine)
    assert engine.optim_step(handle, ADAM).grad_norm == 0


def test_a_journal_that_grows_long_becomes_a_checkpoint(engine, tiny_llama, monkeypatch):
    monkeypatch.setattr(journal, "MAX_TOKENS", 100)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = engine.create(ModelSpec("policy", model))
    for _ in range(4):
        engine.forward_backward(handle, TEXT, [CROSS_ENTROPY])
        engine.optim_step(handle, ADAM)
        assert len(engine._models[handle.id].verbs) <= 2
    killed(engine)
    engine.forward_backward(handle, TEXT, [CROSS_ENTROPY])
    assert engine.optim_step(handle, ADAM).step == 5


def test_ranks_that_die_again_and_again_are_an_error(engine, tiny_llama, monkeypatch):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = engine.create(ModelSpec("policy", model))
    started: list[int] = []
    start = engine._start

    def doomed() -> Any:
        started.append(1)
        ranks = start()
        os.kill(ranks[0].process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        return ranks

    monkeypatch.setattr(engine, "_start", doomed)
    killed(engine)
    with pytest.raises(WorkerLost, match=r"rank 0 on .* signal 9"):
        engine.forward(handle, TEXT)
    assert len(started) == journal.RESTARTS
