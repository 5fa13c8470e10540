"""Our own sampler in a process of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from thumbs.errors import ThumbsError, WorkerError
from thumbs.models.base import Adapter, FrozenAdapter, Trunk
from thumbs.models.peft_folder import WEIGHTS
from thumbs.models.sampled_bases import SampledBases
from thumbs.models.tensor_files import checksum
from thumbs.models.trunk import MODULES, open_trunk
from thumbs.rollout.native import DecodingLoop, NativeSampler
from thumbs.rollout.orders import Drawn, Order, PublishedWeights, WorkerNews
from thumbs.rollout.publish import receive_files
from thumbs.rollout.sampler import SampleReply, Top

SLICE_S = 0.05
"""Seconds that an exchange computes before it says what there is to say; new requests wait as long."""

MODEL = "model.safetensors"


class NativeWorker:
    """A `SamplingWorker` with a decoding loop for each version of the weights, or each base that they share."""

    def __init__(self) -> None:
        self._models, self._samplers = PublishedModels(), dict[int, NativeSampler]()
        self._futures: dict[int, Future[SampleReply]] = {}
        self._drawn: list[Drawn] = []

    def exchange(self, orders: Sequence[Order], cancelled: Sequence[int]) -> WorkerNews:
        news = WorkerNews()
        for number in cancelled:
            if (future := self._futures.pop(number, None)) is not None:
                future.cancel()
        for order in orders:
            try:
                self._begin(order)
            except FileNotFoundError:
                news.missing.append(order.number)
            except ThumbsError as error:
                news.replies[order.number] = error
        self._decode()
        for number in [number for number, future in self._futures.items() if future.done()]:
            news.replies[number] = _result(self._futures.pop(number))
        news.drawn, self._drawn = self._drawn, []
        return news

    def receive(self, key: int, files: dict[str, bytes]) -> None:
        self._models.receive(key, files)

    def forget(self, keys: Sequence[int]) -> None:
        for key in keys:
            self._samplers.pop(key, None)
            self._models.forget(key)

    def checksums(self, weights: PublishedWeights) -> dict[str, str]:
        return {name: checksum(tensor) for name, tensor in self._models.tensors(weights).items()}

    def _begin(self, order: Order) -> None:
        key = order.weights.key
        if key not in self._samplers:
            self._samplers[key] = self._opened(order.weights)
        hear = partial(self._hear, order.number) if order.hears else None
        (self._futures[order.number],) = self._samplers[key].submit([replace(order.request, on_token=hear)])

    def _opened(self, weights: PublishedWeights) -> NativeSampler:
        if not weights.shared:
            return NativeSampler(DecodingLoop(self._models.frozen(weights)), weights.version)
        base, adapter = self._models.on_base(weights)
        loop = next((loop for loop in self._loops if loop.model is base), None) or DecodingLoop(base)
        return NativeSampler(loop, weights.version, adapter, weights.client)

    @property
    def _loops(self) -> list[DecodingLoop]:
        return list({id(sampler.loop): sampler.loop for sampler in self._samplers.values()}.values())

    def _decode(self) -> None:
        until, loops = time.monotonic() + SLICE_S, self._loops
        while busy := [loop for loop in loops if not loop.idle]:
            for loop in busy:
                loop.step()
            if time.monotonic() >= until:
                return

    def _hear(self, order: int, sample: int, token: int, logprob: float, top: Top) -> None:
        self._drawn.append(Drawn(order, sample, token, logprob, top))


class PublishedModels:
    """Models of published weights: adapters on bases that are opened once, or whole models."""

    def __init__(self) -> None:
        self._trunks: dict[tuple[str, bool, bool, int], Trunk] = {}
        self._sampled = SampledBases()
        self._received: dict[int, Path] = {}

    def frozen(self, weights: PublishedWeights) -> Trunk:
        """The model, frozen as its engine would freeze it. Raises FileNotFoundError if its files are not here."""
        trunk, adapter = self._filled(weights)
        return trunk.frozen(adapter)

    def on_base(self, weights: PublishedWeights) -> tuple[Trunk, FrozenAdapter | None]:
        """The base that shared adapters have in common, and the adapter. Raises as `frozen`."""
        model, folder = weights.model, self._folder(weights)
        state = {} if model.lora is None else load_file(folder / WEIGHTS)
        return self._sampled.base(model, weights.seed), self._sampled.adapter(model, state, weights.seed)

    def tensors(self, weights: PublishedWeights) -> dict[str, Tensor]:
        """The published tensors, as the model holds them."""
        trunk, adapter = self._filled(weights)
        return trunk.tensors() if adapter is None else adapter.peft_state()

    def receive(self, key: int, files: dict[str, bytes]) -> None:
        """Writes the files of a folder that is on another machine."""
        self._received[key] = receive_files(files)

    def forget(self, key: int) -> None:
        """Removes received files."""
        if (folder := self._received.pop(key, None)) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _filled(self, weights: PublishedWeights) -> tuple[Trunk, Adapter | None]:
        lora, folder = weights.model.lora, self._folder(weights)
        state = load_file(folder / (MODEL if lora is None else WEIGHTS))
        trunk = self._trunk(weights, state)
        if lora is None:
            trunk.load_tensors(state, str(folder))
            return trunk, None
        adapter = trunk.new_adapter(lora, 0)
        adapter.load_peft_state(state)
        return trunk, adapter

    def _folder(self, weights: PublishedWeights) -> Path:
        return self._received.get(weights.key, weights.folder)

    def _trunk(self, weights: PublishedWeights, state: dict[str, Tensor]) -> Trunk:
        """What the tensors go into. One that trains all its weights computes as wide as they were published."""
        model = weights.model
        if weights.module is not None and model.name not in MODULES:
            MODULES.register(model.name, weights.module)
        wide = model.lora is None and next(iter(state.values())).dtype == torch.float32
        seed = weights.seed if model.name.startswith("byte-") else 0
        key = f"{model.name} {model.dtype}", model.lora is None, wide, seed
        if key not in self._trunks:
            trunk = open_trunk(model, seed=weights.seed, trained=wide)
            self._trunks[key] = trunk.requires_grad_(model.lora is None)  # what may change is copied when it is frozen
        return self._trunks[key]


def _result(future: Future[SampleReply]) -> SampleReply | Exception:
    error = future.exception()
    if error is None:
        return future.result()
    return error if isinstance(error, ThumbsError) else WorkerError(f"decoding failed: {type(error).__name__}: {error}")
