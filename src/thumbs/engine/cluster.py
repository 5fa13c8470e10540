"""The engine on many ranks: whole micro-batches are dealt to workers, and joined in the order of the plan.

A pass needs no word between ranks, so an error on one of them is an error of the call and leaves the others as they
were. Numbers do not depend on how many ranks there are: the plan does not, and `sums.ExactSums` do not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from thumbs.config.engine import EngineConfig
from thumbs.config.losses import LossSpec
from thumbs.config.model import ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSize, ModelSpec, OptimReport
from thumbs.engine.checkpoints import ADAPTER, naming, read_manifest, read_tensors
from thumbs.engine.compute import Model
from thumbs.engine.local import LocalEngine, finish
from thumbs.engine.objectives import OBJECTIVES
from thumbs.engine.optimizers import ADAMW, OPTIMIZERS
from thumbs.engine.plan import BatchResult, Cut, deal, join_outputs, join_results, plan_batches
from thumbs.errors import ConfigError, NonFiniteError
from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.models.sampled_bases import SampledBases
from thumbs.models.trunk import MODULES
from thumbs.records import Example, ForwardOutput, TrainOutput
from thumbs.rollout.publish import OpenSampler, Published
from thumbs.rollout.sampler import DecodeText, Sampler
from thumbs.workers.base import Crew, RemoteWorker, WorkerSpec, results

RANK, SHARDED_RANK = "thumbs.engine.rank:Rank", "thumbs.engine.sharded_rank:ShardedRank"


def start_ranks(crew: Crew, config: EngineConfig, factory: str | None = None) -> list[RemoteWorker]:
    """Workers that have met. factory: what makes a rank, if not what the config says."""
    factory = factory or (RANK if config.shard == "none" else SHARDED_RANK)
    layout = () if config.shard == "none" else (config.ranks_per_copy, config.offload, config.recompute)
    specs = [
        WorkerSpec(
            f"rank {number}",
            factory,
            (number, config.workers, *layout),
            config.threads_per_worker,
            config.gpus_per_worker,
        )
        for number in range(config.workers)
    ]
    ranks, patience = crew.start(specs), config.patience_s
    try:
        address = ranks[0].address
        port = ranks[0].call("meeting_point", address, patience_s=patience).result()
        results(rank.call("join", address, port, patience, patience_s=patience) for rank in ranks)
    except BaseException:
        for rank in ranks:
            rank.close()
        raise
    return ranks


class ClusterEngine:
    """Models on ranks that have met. What samplers in this process need of a model is made here, of rank 0's weights.

    patience_s: seconds that a micro-batch, or any other verb, may take before its rank counts as stuck. After the loss
    of a rank every call raises WorkerLost. in_step: the ranks share weights, so each turn is one of all of them.
    """

    token_budget: int | None = None
    """Tokens of one micro-batch; None: as many as suit the smallest device of a rank. A rank has a device for itself,
    or is on a processor, where this number is fixed, so it does not depend on how many ranks there are.
    """

    def __init__(
        self,
        ranks: Sequence[RemoteWorker],
        decode_text: DecodeText | None = None,
        *,
        device: str | None = None,
        optimizer: str = ADAMW,
        sampler: OpenSampler | None = None,
        patience_s: float | None = None,
        in_step: bool = False,
    ) -> None:
        self.decode_text, self._patience_s = decode_text, patience_s
        self._in_step = in_step
        here = None if device is None else torch.device(device)
        self._here, self._sampled = LocalEngine(decode_text, device=here, sampler=sampler), SampledBases(here)
        self.open_sampler = self._here.open_sampler
        self._specs: dict[int, ModelSpec] = {}
        self._cuts: dict[int, Cut] = {}
        self._next = 0
        self._settings = (device, optimizer, OPTIMIZERS.reference(optimizer))
        self.renew(ranks)

    def renew(self, ranks: Sequence[RemoteWorker]) -> None:
        """Goes on with other ranks, without models. What samples in this process stays as it is."""
        self.ranks = list(ranks)
        self._specs.clear()
        self._all("open", *self._settings)

    def create(self, spec: ModelSpec) -> Handle:
        self._next += 1
        number, name = self._next, spec.model.name
        module = MODULES.reference(name) if name in MODULES else None
        try:
            cuts: list[Cut] = self._all("create", number, spec, module)
        except BaseException:
            self._tell("close", number)
            raise
        self._specs[number], self._cuts[number] = spec, min(cuts)
        return Handle(number, spec.name)

    def forward(self, handle: Handle, data: Sequence[Example], *, temperature: float = 1.0) -> list[ForwardOutput]:
        work = self._passes(handle, data, None, temperature=temperature)
        return list(join_outputs(finish(work)))

    def forward_backward(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, logprobs_everywhere: bool = False
    ) -> TrainOutput:
        try:
            return finish(self._trial(handle, data, losses, everywhere=logprobs_everywhere, backward=True))
        except NonFiniteError:
            self._all("clear", handle.id)
            raise

    def in_parts(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, backward: bool = True
    ) -> Generator[None, None, TrainOutput]:
        return (yield from self._trial(handle, data, losses, everywhere=True, backward=backward, by_turns=True))

    def _trial(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], **options: Any
    ) -> Generator[None, None, TrainOutput]:
        """Passes whose gradients count if all of them succeed."""
        self._spec(handle)
        try:
            found = yield from self._passes(handle, data, losses, **options)
            output = join_results(handle.name, found)
        except BaseException:
            self._tell("drop", handle.id)
            raise
        self._all("keep", handle.id)
        return output

    def _passes(
        self,
        handle: Handle,
        data: Sequence[Example],
        losses: Sequence[LossSpec] | None,
        *,
        by_turns: bool = False,
        **options: Any,
    ) -> Generator[None, None, list[BatchResult]]:
        """The results of all micro-batches, in the plan's order; by_turns: gives way after one on each rank."""
        self._spec(handle)
        cut = self._cuts[handle.id]
        groups = plan_batches(data, self.token_budget or cut.budget, cut.worth)
        dealt = deal([sum(len(data[i]) for i in group) for group in groups], len(self.ranks), in_step=self._in_step)
        objectives = {x.formula: OBJECTIVES.reference(x.formula) for x in losses or () if x.formula in OBJECTIVES}
        turns = max(map(len, dealt)) if by_turns else 1
        found: dict[int, BatchResult] = {}
        for turn in range(turns):
            own = [share[turn : turn + 1] if by_turns else share for share in dealt]
            most = max(map(len, own))
            calls = [
                rank.call(
                    "compute",
                    handle.id,
                    [{i: data[i] for i in groups[group]} for group in share] + [{}] * (most - len(share)),
                    losses,
                    objectives,
                    patience_s=self._patience_s,
                    **options,
                )
                for rank, share in zip(self.ranks, own, strict=True)
            ]
            for share, computed in zip(own, results(calls), strict=True):
                found |= zip(share, computed, strict=True)
            yield
        return [found[group] for group in range(len(groups))]

    def optim_step(self, handle: Handle, adam: AdamStep) -> OptimReport:
        self._spec(handle)
        return self._all("optim_step", handle.id, adam)[0]

    def snapshot(self, handle: Handle) -> Sampler:
        return self.open_sampler(PublishedByRanks(self, handle))

    def save(self, handle: Handle, path: Path, *, optimizer: bool = False) -> None:
        self._spec(handle)
        self._all("save", handle.id, path, optimizer=optimizer)

    def load(self, handle: Handle, path: Path, *, optimizer: bool = True) -> None:
        self._spec(handle)
        self._all("load", handle.id, path, optimizer=optimizer)

    def close(self, handle: Handle) -> None:
        del self._specs[handle.id]
        self._all("close", handle.id)

    def frozen_base(self, model: ModelConfig) -> Trunk:
        return self._sampled.base(model)

    def read_adapter(self, path: Path) -> FrozenAdapter:
        with naming(path):
            model = ModelConfig.model_validate(read_manifest(path)["model"])
            if model.lora is None:
                raise ConfigError(f"{path} holds a whole model, no adapter")
            return self._sampled.adapter(model, read_tensors(path / ADAPTER))

    def size(self, handle: Handle) -> ModelSize:
        self._spec(handle)
        return self._first("size", handle.id)

    def stop(self) -> None:
        """Ends the ranks."""
        for rank in self.ranks:
            rank.close()

    def twin(self, handle: Handle, use: Callable[[Model], Any]) -> Any:
        """What `use` makes of a frozen model in this process that has the weights of a model on the ranks."""
        spec = replace(self._spec(handle), heads=("lm",), start=None, trainable=False)
        weights = self._all("weights", handle.id)[0]
        twin = self._here.create(spec)
        try:
            model = self._here.model(twin)
            model.put(weights, self.ranks[0].name)
            return use(model)
        finally:
            self._here.close(twin)

    def published(self, handle: Handle) -> tuple[ModelSpec, int]:
        """What a model is, and how many optimizer steps it has taken."""
        return self._spec(handle), self._first("steps", handle.id)

    def write(self, handle: Handle, folder: Path) -> dict[str, str]:
        """Writes a folder to sample from; returns SHA-256 of each tensor."""
        return self._all("publish", handle.id, folder)[0]

    def _spec(self, handle: Handle) -> ModelSpec:
        """What the model is; raises KeyError for one that was closed."""
        return self._specs[handle.id]

    def _first(self, method: str, *args: Any, **options: Any) -> Any:
        return self.ranks[0].call(method, *args, patience_s=self._patience_s, **options).result()

    def _all(self, method: str, *args: Any, **options: Any) -> list[Any]:
        return results([rank.call(method, *args, patience_s=self._patience_s, **options) for rank in self.ranks])

    def _tell(self, method: str, *args: Any) -> None:
        """Calls a method on all ranks when an error is on its way already, which does not wait for those at work."""
        for rank in self.ranks:
            rank.call(method, *args, patience_s=self._patience_s)


class PublishedByRanks(Published):
    """A model on ranks, as it is when it is asked."""

    def __init__(self, engine: ClusterEngine, handle: Handle) -> None:
        spec, self.version = engine.published(handle)
        self._engine, self._handle = engine, handle
        self.model, self.seed, self.decode_text = spec.model, spec.seed, engine.decode_text
        self.context = engine.size(handle).context

    def trunk(self) -> Trunk:
        return self._engine.twin(self._handle, lambda twin: twin.trunk.frozen(twin.adapter))

    def write(self, folder: Path) -> dict[str, str]:
        return self._engine.write(self._handle, folder)
