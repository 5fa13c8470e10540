"""One vLLM engine as a sampler worker. vLLM is imported when the first weights are drawn from."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thumbs.config.model import ModelConfig
from thumbs.errors import ConfigError, ThumbsError, WorkerError, needs
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.models.precision import compute_dtype
from thumbs.models.tensor_files import write_tensors
from thumbs.models.trunk import open_trunk
from thumbs.records import Sample
from thumbs.rollout.orders import Drawn, Order, PublishedWeights, WorkerNews
from thumbs.rollout.publish import receive_files
from thumbs.rollout.sampler import SampleReply, Top
from thumbs.tracking.files import write_json
from thumbs.workers.base import progress

SLICE_S = 0.05
"""Seconds that an exchange waits for something to say."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM makes room for."""

FIRST_RANK = 32
"""For which there is room where the base itself is drawn from first: the rank that clients take who name none."""


ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # engines share the cores with the trainer
}
"""What vLLM reads when it is imported, unless the user has set it."""


@dataclass(frozen=True)
class VllmSettings:
    """versions: adapters that are drawn from at a time; tensor_parallel: GPUs of the engine; context: its longest
    sequence, tokens (None: the model's); cache_gib: of keys and values (None: 1 on a CPU, else as vLLM likes).
    """

    versions: int = 1
    tensor_parallel: int = 1
    context: int | None = None
    cache_gib: float | None = None


class VllmWorker:
    """A `SamplingWorker`. The engine starts with the first weights, and serves their base from then on.

    Adapters have an id of their own each, since vLLM takes weights of an id it knows from memory, whatever lies in the
    folder. One of a larger rank than there is room for starts the engine again, and a whole model of another version is
    read into the place of the one before, each when no request runs.
    """

    def __init__(self, settings: VllmSettings) -> None:
        watch_over_children()
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        self._engine: Any = None
        self._base: ModelConfig | None = None
        self._version = self._running = self._rank = 0
        self._turn, self._idle = asyncio.Lock(), asyncio.Event()
        self._idle.set()
        self._received: dict[int, Path] = {}
        self._asked: dict[int, Future[None]] = {}
        self._news, self._lock, self._said = WorkerNews(), threading.Lock(), threading.Event()

    def exchange(self, orders: Sequence[Order], cancelled: Sequence[int]) -> WorkerNews:
        for number in cancelled:
            if (asked := self._asked.pop(number, None)) is not None:
                asked.cancel()
        for order in orders:
            if self._folder(order.weights).is_dir():
                self._asked[order.number] = self._submit(self._answer(order))
            else:
                with self._lock:
                    self._news.missing.append(order.number)
        until = time.monotonic() + SLICE_S
        while self._asked and not self._said.wait(max(until - time.monotonic(), 0)) and time.monotonic() < until:
            pass
        with self._lock:
            news, self._news = self._news, WorkerNews()
            self._said.clear()
        for number in news.replies:
            self._asked.pop(number, None)
        return news

    def receive(self, key: int, files: dict[str, bytes]) -> None:
        self._received[key] = receive_files(files)

    def forget(self, keys: Sequence[int]) -> None:
        for key in keys:
            self._submit(self._forget(key)).result()

    def checksums(self, weights: PublishedWeights) -> dict[str, str]:
        """SHA-256 of what vLLM multiplies by with these weights, see `WeightsInPlace.held_checksums`."""
        return self._submit(self._checksums(weights)).result()

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _folder(self, weights: PublishedWeights) -> Path:
        return self._received.get(weights.key, weights.folder)

    # on the event loop

    async def _answer(self, order: Order) -> None:
        reply: SampleReply | Exception
        try:
            async with self._holding(order.weights) as lora:
                drawn = await asyncio.gather(*(self._draw(order, i, lora) for i in range(len(order.request.seeds))))
            reply = SampleReply([sample for sample, _ in drawn], [top for _, top in drawn])
        except ThumbsError as error:
            reply = error
        except Exception as error:
            if type(error).__name__ == "EngineDeadError":
                os._exit(70)  # nothing can be drawn here any more; another worker takes over
            reply = WorkerError(f"vLLM failed: {type(error).__name__}: {error}")
        with self._lock:
            self._news.replies[order.number] = reply
        self._said.set()

    async def _draw(self, order: Order, number: int, lora: Any) -> tuple[Sample, list[Top]]:
        vllm, request, asked = vllm_parts(), order.request, order.request.params
        params = vllm.params(
            temperature=asked.temperature,
            max_tokens=asked.max_new_tokens,
            seed=request.seeds[number],
            stop_token_ids=list(asked.stop_tokens),
            ignore_eos=True,  # what ends a reply is in stop_tokens
            logprobs=request.top,
            detokenize=False,
            output_kind=vllm.outputs.DELTA if order.hears else vllm.outputs.FINAL_ONLY,
        )
        tokens, logprobs, top = list[int](), list[float](), list[Top]()
        prompt = {"prompt_token_ids": list(request.prompt)}
        name = f"{order.number}-{number}"
        async for output in self._engine.generate(prompt, params, request_id=name, lora_request=lora):
            for token, places in zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True):
                tokens.append(token)
                logprobs.append(places[token].logprob)
                best = sorted(((i, x.logprob) for i, x in places.items()), key=lambda each: -each[1])[: request.top]
                top += [best] if request.top else []
                if order.hears:
                    with self._lock:
                        self._news.drawn.append(Drawn(order.number, number, token, logprobs[-1], best))
                    self._said.set()
        stopped = tokens[-1] in asked.stop_tokens
        sample = Sample(
            np.array(tokens, dtype=np.int64),
            np.array(logprobs, dtype=np.float32),
            "stop" if stopped else "length",
            order.weights.version,
        )
        return sample, top

    @asynccontextmanager
    async def _holding(self, weights: PublishedWeights) -> AsyncIterator[Any]:
        """Within it the engine draws from these weights; gives the request for their adapter, None without one.

        Turns are taken in the order of arrival: one version is not read as long as another one is drawn from.
        """
        async with self._turn:
            await self._start(weights)
            if weights.whole and self._version != weights.key:
                await self._idle.wait()
                await self._reload(weights)
            self._running += 1
            self._idle.clear()
        try:
            yield self._adapter(weights)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    def _adapter(self, weights: PublishedWeights) -> Any:
        if weights.model.lora is None:
            return None
        return vllm_parts().adapter(f"weights {weights.key}", weights.key, str(self._folder(weights)))

    async def _reload(self, weights: PublishedWeights) -> None:
        """Puts other weights into the engine, which forgets what it has read with those before."""
        self._version = -1  # neither these nor those, should it fail
        await self._engine.collective_rpc("read_folder", args=(str(self._folder(weights)),))
        if not await self._engine.reset_prefix_cache():
            raise WorkerError("vLLM keeps what it has read with other weights, although no request of them runs")
        await self._engine.update_weight_version(str(weights.version))
        self._version = weights.key

    async def _start(self, weights: PublishedWeights) -> None:
        """Starts the engine; raises ConfigError if it serves another base already."""
        model = weights.model
        base = model if model.lora is None else model.model_copy(update={"lora": None})
        rank = 0 if model.lora is None else model.lora.rank
        if rank > RANKS[-1]:
            raise ConfigError(f"model.lora.rank is {rank}; vLLM takes up to {RANKS[-1]}")
        if self._engine is not None and not self._version and rank > self._rank:
            await self._idle.wait()
            await asyncio.to_thread(self._engine.shutdown)
            self._engine = None
        if self._engine is not None:
            if (self._base, weights.whole) != (base, self._version != 0):
                raise ConfigError(
                    f"a vLLM worker serves one base in one way; it has {self._base}, and was asked for {model}. Use "
                    "rollout.kind native for runs that sample from several"
                )
            return
        progress(f"starting vLLM for {model.name}")
        folder = self._folder(weights) if weights.whole else base_folder(model, weights.seed)
        vllm = vllm_parts()
        settings, adapters = self._settings, dict[str, Any]()
        cache_gib = settings.cache_gib or (1.0 if vllm.platform.is_cpu() else None)
        if not weights.whole:
            self._rank = next(room for room in RANKS if room >= (rank or FIRST_RANK))
            adapters = {
                "enable_lora": True,
                "max_lora_rank": self._rank,
                "max_loras": settings.versions,
                "max_cpu_loras": settings.versions + 1,
            }
        arguments = vllm.arguments(
            model=str(folder),
            dtype=str(compute_dtype(model)).removeprefix("torch."),
            max_model_len=settings.context,
            tensor_parallel_size=settings.tensor_parallel,
            kv_cache_memory_bytes=None if cache_gib is None else int(cache_gib * 2**30),
            enforce_eager=vllm.platform.is_cpu(),
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",  # at the temperature
            max_logprobs=-1,
            skip_tokenizer_init=True,
            generation_config="vllm",  # no settings of the model's folder
            seed=0,
            disable_log_stats=True,
            worker_extension_cls="thumbs.rollout.vllm_extension.WeightsInPlace",
            **adapters,
        )
        self._engine = await asyncio.to_thread(partial(vllm.engine.from_engine_args, arguments))
        self._base, self._version = base, 0 if adapters else weights.key
        await self._engine.update_weight_version(str(weights.version))

    async def _forget(self, key: int) -> None:
        if self._engine is not None and key in await self._engine.list_loras():
            await self._engine.remove_lora(key)

    async def _checksums(self, weights: PublishedWeights) -> dict[str, str]:
        async with self._holding(weights) as adapter:
            if adapter is not None:
                await self._engine.add_lora(adapter)
            number = None if adapter is None else weights.key
            return (await self._engine.collective_rpc("held_checksums", args=(number,)))[0]


class VllmParts(NamedTuple):
    """What is used of vLLM."""

    arguments: Any
    engine: Any
    platform: Any
    params: Any
    outputs: Any
    adapter: Any


def vllm_parts() -> VllmParts:
    """Imports vLLM, where it knows what a user has not set; raises MissingExtra without it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with needs("vllm", "rollout.kind vllm"):
        args, platforms, llm, sampling, lora = (
            importlib.import_module(f"vllm.{name}")
            for name in ("engine.arg_utils", "platforms", "v1.engine.async_llm", "sampling_params", "lora.request")
        )
    return VllmParts(
        args.AsyncEngineArgs,
        llm.AsyncLLM,
        platforms.current_platform,
        sampling.SamplingParams,
        sampling.RequestOutputKind,
        lora.LoRARequest,
    )


def watch_over_children() -> None:
    """Ends what this process has started once it is gone: engines of vLLM live on otherwise."""
    os.setpgid(0, 0)
    program = (
        "import os, signal, sys, time\nparent = int(sys.argv[1])\nwhile os.getppid() == parent:\n    time.sleep(0.5)\n"
        "os.killpg(parent, signal.SIGKILL)"
    )
    subprocess.Popen([sys.executable, "-c", program, str(os.getpid())], start_new_session=True)  # noqa: S603


def base_folder(model: ModelConfig, seed: int) -> Path:
    """A folder with the base of adapters; that of a byte model, which is made of its seed, is written first."""
    if not is_builtin_byte(model.name):
        return resolve(model.name)
    trunk = open_trunk(model, seed=seed)
    folder = Path(tempfile.mkdtemp(prefix="thumbs-base-"))
    write_tensors(folder / "model.safetensors", trunk.tensors())
    for name, content in trunk.files().items():
        write_json(folder / name, content)
    return folder
