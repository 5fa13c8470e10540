"""Engines, kinds of models and data for the contract suite. A further engine joins by one entry of ENGINES."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file

from contract import writer
from recording_engine import RecordingEngine
from thumbs.config.engine import EngineConfig
from thumbs.config.losses import CROSS_ENTROPY, LossSpec, ScoreLoss, TokenLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, Engine, Handle, ModelSpec, OpenEngine
from thumbs.engine.cluster import ClusterEngine, start_ranks
from thumbs.engine.local import LocalEngine
from thumbs.records import Example
from thumbs.workers import CREWS
from thumbs.workers.base import RemoteWorker
from tiny_models import random_sequences

CREWS_RANKS: dict[str, list[RemoteWorker]] = {}
"""The ranks of each kind of crew, which many engines use one after the other."""


def on_crew(launcher: str, shard: Literal["none", "full"] = "none") -> OpenEngine:
    """A cluster engine of two ranks with some work for both."""
    ranks = CREWS_RANKS.get(launcher + shard, [])
    if not ranks or not all(rank.alive() for rank in ranks):
        config = EngineConfig(kind="cluster", workers=2, shard=shard, patience_s=120)
        factory = "contract.writer:PatchedRank" if shard == "none" else "contract.writer:PatchedShardedRank"
        ranks = CREWS_RANKS[launcher + shard] = start_ranks(CREWS[launcher](None), config, factory)
    engine = ClusterEngine(ranks, patience_s=120, in_step=shard != "none")
    engine.token_budget = 40
    return engine


ENGINES: dict[str, Callable[[], OpenEngine]] = {
    "local": LocalEngine,
    "recorded": RecordingEngine,
    "crew": partial(on_crew, "pipes"),
    "ray": partial(on_crew, "ray"),
    "sharded crew": partial(on_crew, "pipes", "full"),
    "sharded ray": partial(on_crew, "ray", "full"),
}
KINDS: dict[str, AdapterConfig | None] = {
    "adapters": AdapterConfig(rank=4, alpha=8.0),
    "adapters above": AdapterConfig(rank=4, alpha=8.0, layers=1),
    "full": None,
    "gemma, adapters": AdapterConfig(rank=4, alpha=8.0),
    "gemma, full": None,
}
"""Of a base that our decoder computes, and of one that runs through transformers."""

ADAM = AdamStep(0.01, 0.03)
# Adam without memory and with an eps far above every gradient moves each weight by minus its gradient (to 1e-5).
GRADIENT = AdamStep(1e5, 1e5, beta1=0.0, beta2=0.0, eps=1e5, max_grad_norm=1e9)

SEQUENCES = random_sequences(8, [9, 23, 4, 14, 2, 17])
PPO: list[LossSpec] = [
    TokenLoss.of("ppo_clip", entropy_coef=0.02, temperature=0.7),
    TokenLoss.of("value_clip", coef=0.3),
]


@dataclass
class Case:
    """One engine with one kind of model; reads weights by saving them, so it works for every engine."""

    engine: OpenEngine
    new_engine: Callable[[], OpenEngine]
    model: ModelConfig
    folder: Path
    saved: int = field(default=0)

    def spec(self, **settings: Any) -> ModelSpec:
        return ModelSpec(**{"name": "policy", "model": self.model, "heads": ("lm", "scalar"), **settings})

    def set_budget(self, tokens: int) -> None:
        """Of one micro-batch."""
        engine: Any = getattr(self.engine, "inner", self.engine)
        engine.token_budget = tokens

    def at_writer(self, function: str, *args: Any) -> None:
        """Calls a function of `writer.py` in the process that writes checkpoints."""
        ranks: list[RemoteWorker] | None = getattr(self.engine, "ranks", None)
        if ranks is None:
            getattr(writer, function)(*args)
        elif ranks[0].alive():
            ranks[0].call("patch", function, *args).result()

    def after_crash(self, handle: Handle) -> Handle:
        """The handle, or if the engine went with the crash another model of a new one."""
        if all(rank.alive() for rank in getattr(self.engine, "ranks", [])):
            return handle
        for rank in getattr(self.engine, "ranks", []):
            if process := getattr(rank, "process", None):
                process.kill()  # it waits for the one that is gone, and would wait to the end of the tests
        self.engine.stop()
        self.engine = self.new_engine()
        return self.engine.create(self.spec())

    def warm(self) -> Handle:
        """A model that has left its start: B and the scalar head are no longer zero."""
        handle = self.engine.create(self.spec())
        for _ in range(2):
            step(self.engine, handle, ppo_data(SEQUENCES), PPO)
        return handle

    def weights(self, handle: Handle) -> dict[str, torch.Tensor]:
        """All trained weights of a model, by their names on disk."""
        self.saved += 1
        path = self.folder / f"weights-{self.saved}"
        self.engine.save(handle, path)
        return {k: v for file in sorted(path.glob("*.safetensors")) for k, v in load_file(file).items()}

    def gradients(
        self, handle: Handle, *calls: tuple[Sequence[Example], Sequence[LossSpec]]
    ) -> dict[str, torch.Tensor]:
        """What the forward_backward calls add up to; the model itself stays as it is."""
        copy = self.engine.create(self.spec(start=handle))
        for data, losses in calls:
            self.engine.forward_backward(copy, data, losses)
        self.engine.optim_step(copy, GRADIENT)
        before, after = self.weights(handle), self.weights(copy)
        self.engine.close(copy)
        return {name: before[name] - after[name] for name in before}


def step(engine: Engine, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], adam: AdamStep = ADAM):
    """forward_backward and optim_step: (loss, report)."""
    output = engine.forward_backward(handle, data, losses)
    return output.loss, engine.optim_step(handle, adam)


def ppo_data(sequences: Sequence[Sequence[int]], seed: int = 0) -> list[Example]:
    """Datums with everything that PPO needs; the first third of every sequence is a prompt (weight 0)."""
    rng = np.random.default_rng(seed)
    data = []
    for tokens in sequences:
        targets = len(tokens) - 1
        columns = {name: rng.normal(size=targets) for name in ("advantages", "values", "returns")}
        columns["logprobs"] = rng.normal(-6, 1, size=targets)
        columns["weights"] = np.where(np.arange(targets) < targets // 3, 0.0, 0.05)
        columns["reference_logprobs"] = columns["logprobs"] - 0.3 * columns["advantages"]
        columns["ratio_mask"] = np.arange(targets) >= targets // 3
        data.append(Example.next_token(tokens, **columns))
    return data


def text_data(sequences: Sequence[Sequence[int]], weight: float = 0.05) -> list[Example]:
    """Datums for cross-entropy, every target with one weight."""
    return [Example.next_token(tokens, weights=np.full(len(tokens) - 1, weight)) for tokens in sequences]


def several_targets(sequences: Sequence[Sequence[int]], seed: int = 0) -> list[Example]:
    """Datums for cross-entropy with three targets at each place, some weights 0 and some negative."""
    rng = np.random.default_rng(seed)
    data = []
    for tokens in sequences:
        targets = rng.integers(0, 90, (len(tokens) - 1, 3))
        weights = rng.normal(size=targets.shape) * (rng.random(targets.shape) < 0.5)
        data.append(Example(np.array(tokens[:-1]), targets, {"weights": weights.astype(np.float32)}))
    return data


def pair_data(sequences: Sequence[Sequence[int]]) -> list[Example]:
    """Three pairs whose two sides are far apart in the list and differ in length; scored at the last token."""
    data = []
    for i, tokens in enumerate(sequences):
        weights = np.zeros(len(tokens))
        weights[-1] = 1
        pair, preferred = i % 3, (1.0, 0.0, 0.5)[i % 3]
        columns = {"unit": pair, "preferred": preferred, "margin": 0.1 * pair, "unit_weight": 1 / 3}
        data.append(Example.whole_sequence(tokens, weights=weights, **columns))
    return data


LOSSES: dict[str, tuple[list[Example], list[LossSpec]]] = {
    "cross entropy": (text_data(SEQUENCES), [CROSS_ENTROPY]),
    "ppo": (ppo_data(SEQUENCES), PPO),
    "importance sampling": (ppo_data(SEQUENCES), [TokenLoss.of("importance_sampling")]),
    "cispo": (ppo_data(SEQUENCES), [TokenLoss.of("cispo", clip_range=0.5, clip_range_high=0.5)]),
    "dro": (ppo_data(SEQUENCES), [TokenLoss.of("dro")]),
    "gspo": (ppo_data(SEQUENCES), [TokenLoss.of("gspo", clip_range_high=0.4)]),
    "a price of kl": (ppo_data(SEQUENCES), [TokenLoss.of("ppo_clip"), TokenLoss.of("kl_penalty", coef=0.2)]),
    "several targets": (several_targets(SEQUENCES), [CROSS_ENTROPY]),
    "pairs": (pair_data(SEQUENCES), [ScoreLoss.of("bradley_terry", center_coef=0.05)]),
}


def assert_equal(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert got.keys() == wanted.keys()
    different = [name for name in wanted if not torch.equal(got[name], wanted[name])]
    assert different == []


def assert_close(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every tensor within `tolerance` times the largest entry of all."""
    assert got.keys() == wanted.keys()
    largest = max(float(t.abs().max()) for t in wanted.values())
    assert largest > 1e-3  # otherwise nothing would be compared
    worst = {name: float((got[name] - wanted[name]).abs().max()) / largest for name in wanted}
    assert {name: w for name, w in worst.items() if w > tolerance} == {}


def norm(tensors: dict[str, torch.Tensor]) -> float:
    """L2 norm of all entries together."""
    return float(torch.stack([t.double().pow(2).sum() for t in tensors.values()]).sum().sqrt())


def with_column(data: Sequence[Example], index: int, name: str, value: np.ndarray) -> list[Example]:
    """The same data with one column of one datum exchanged."""
    return [replace(d, columns={**d.columns, name: value}) if i == index else d for i, d in enumerate(data)]
