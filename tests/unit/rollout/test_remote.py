"""Sampler workers draw what a sampler in this process draws, whoever draws it and whoever dies over it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config

from contract.engine_cases import PPO, SEQUENCES, ppo_data, step
from contract.sampler_cases import letters
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine import open_engine
from thumbs.engine.base import Handle, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, DataError, WorkerError, WorkerLost
from thumbs.models import kernels
from thumbs.models.trunk import named_module
from thumbs.rollout.native import native_samplers
from thumbs.rollout.native_worker import NativeWorker
from thumbs.rollout.publish import Published, Shelf
from thumbs.rollout.remote import RemoteSampler, RemoteSamplers
from thumbs.rollout.sampler import DecodingParams, PromptQuery, Sampler, SampleReply, SampleRequest
from thumbs.workers.base import WorkerSpec
from thumbs.workers.pipes import PipeCrew, PipeWorker
from tiny_models import load_reference, random_sequences, save_random

BYTES = ModelConfig(name="byte-tiny", lora=None, dtype="float32")
PARAMS = DecodingParams(max_new_tokens=12, stop_tokens=())
PROMPTS = random_sequences(5, [4, 1, 9, 4, 7, 3])
REQUESTS = [
    SampleRequest(prompt, DecodingParams(4 + 3 * i, (5, 6), temperature=0.5 + 0.2 * i), range(i, i + 3), top=i % 2)
    for i, prompt in enumerate(PROMPTS)
]
LORA = {"adapters": AdapterConfig(rank=4, alpha=8.0), "full": None}


def remote(workers: int, patience_s: float = 30.0) -> RemoteSamplers:
    specs = [WorkerSpec(f"sampler {n}", "thumbs.rollout.native_worker:NativeWorker") for n in range(workers)]
    crew = PipeCrew(patience_s=patience_s)
    return RemoteSamplers(specs, crew)


@pytest.fixture(scope="module")
def pool() -> Iterator[RemoteSamplers]:
    made = remote(2)
    yield made
    made.close()


class Both:
    """An engine whose snapshots are sampled from here and, of the same weights, by workers."""

    def __init__(self, pool: RemoteSamplers, model: ModelConfig, seed: int = 0) -> None:
        self.far: list[RemoteSampler] = []

        def opened(published: Published) -> Sampler:
            self.far.append(pool(published))
            return native_samplers(RolloutConfig())(published)

        self.engine = LocalEngine(letters, sampler=opened)
        self.policy = self.engine.create(ModelSpec("policy", model, heads=("lm", "scalar"), seed=seed))

    def train(self) -> Handle:
        step(self.engine, self.policy, ppo_data(SEQUENCES), PPO)
        return self.policy

    def snapshot(self) -> tuple[Sampler, RemoteSampler]:
        here = self.engine.snapshot(self.policy)
        return here, self.far.pop()


def said(reply: SampleReply) -> list[tuple[list[int], bytes, str, int, list[object]]]:
    """A reply in values that can be compared bit for bit."""
    return [
        (sample.tokens.tolist(), sample.logprobs.tobytes(), sample.stop_reason, sample.policy_version, list(top))
        for sample, top in zip(reply.samples, reply.top, strict=True)
    ]


def ask(sampler: Sampler, requests=REQUESTS):
    return [said(future.result()) for future in sampler.submit(requests)]


@pytest.fixture(params=LORA)
def model(request) -> ModelConfig:
    """A model whose products are our kernels': a reply has the same bits in any company."""
    if kernels.library() is None:
        pytest.skip("without our kernels a reply's last bits depend on what is decoded next to it")
    return ModelConfig(name="byte-tiny", lora=LORA[request.param], dtype="float32")


def test_replies_are_those_of_this_process(pool, model):
    both = Both(pool, model)
    both.train()
    here, far = both.snapshot()
    assert ask(far) == ask(here)
    assert far.policy_version == 1


def test_a_config_asks_for_workers():
    engine = open_engine(EngineConfig(), None, RolloutConfig(workers=2))
    handle = engine.create(ModelSpec("policy", BYTES))
    far = engine.snapshot(handle)
    assert isinstance(far, RemoteSampler)
    assert [worker.name.partition(" on ")[0] for worker in far.pool.workers] == ["sampler 0", "sampler 1"]
    here = LocalEngine()
    assert ask(far) == ask(here.snapshot(here.create(ModelSpec("policy", BYTES))))
    far.pool.close()


def test_three_workers_draw_what_one_does():
    told = []
    for workers in (1, 3):
        pool = remote(workers)
        try:
            both = Both(pool, BYTES)
            both.train()
            told.append(ask(both.snapshot()[1]))
        finally:
            pool.close()
    assert told[0] == told[1]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(97, 12), nn.GRU(12, 12, batch_first=True), nn.Linear(12, 97)

    def forward(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.mix(self.embed(tokens))[0])


def small_module() -> nn.Module:
    torch.manual_seed(0)
    return Recurrent()


def gpt2(folder: Path) -> Path:
    shape = GPT2Config(vocab_size=97, n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1)
    return save_random(shape, folder)


@pytest.mark.parametrize("lora", LORA)
@pytest.mark.parametrize("kind", ["ours", "transformers", "a module"])
def test_other_kinds_of_models_agree_but_for_the_last_bits(kind, lora, pool, tiny_llama, tmp_path):
    name = str(gpt2(tmp_path / "gpt2") if kind == "transformers" else tiny_llama)
    model = ModelConfig(name=name, lora=LORA[lora], dtype="float32")
    if kind == "a module":
        if lora == "adapters":
            pytest.skip("modules take no adapters")
        model = ModelConfig(name="small-module", lora=None, dtype="float32")
    with named_module("small-module", small_module):
        both = Both(pool, model)
        both.train()
        here, far = both.snapshot()
        for ours, theirs in zip(here.submit(REQUESTS), far.submit(REQUESTS), strict=True):
            for one, other in zip(ours.result().samples, theirs.result().samples, strict=True):
                assert one.tokens.tolist() == other.tokens.tolist()
                np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
                assert (one.stop_reason, one.policy_version) == (other.stop_reason, other.policy_version)


def test_a_module_of_this_program_alone_is_refused(pool, tiny_llama):
    with named_module("mine", lambda: load_reference(tiny_llama)):
        both = Both(pool, ModelConfig(name="mine", lora=None, dtype="float32"))
        with pytest.raises(ConfigError, match="known to this process alone"):
            both.snapshot()


def test_each_sampler_draws_from_its_own_version_and_holds_it_as_long_as_it_lives(pool, model):
    both = Both(pool, model)
    both.train()
    first, far_first = both.snapshot()
    both.train()
    second, far_second = both.snapshot()
    for _ in range(2):  # to and fro
        assert ask(far_first) == ask(first)
        assert ask(far_second) == ask(second)
    assert ask(first) != ask(second)
    assert (far_first.policy_version, far_second.policy_version) == (1, 2)
    for far in (far_first, far_second):
        for worker in pool.workers:
            assert worker.call("checksums", far.weights).result() == far.checksums
    assert far_first.checksums != far_second.checksums
    old, kept = far_first.weights.folder, far_second.weights.folder
    del far_first
    until = time.monotonic() + 60
    while old.exists():  # a thread that read the last reply may still hold it
        assert time.monotonic() < until
        both.snapshot()
    assert kept.exists()


def test_a_dead_worker_changes_no_reply_and_is_replaced(model):
    pool = remote(2)
    try:
        both = Both(pool, model)
        both.train()
        here, far = both.snapshot()
        begun, victims = threading.Event(), [worker for worker in pool.workers if isinstance(worker, PipeWorker)]
        long = [
            SampleRequest(p, DecodingParams(80, ()), [i], on_token=lambda *_: begun.set())
            for i, p in enumerate(PROMPTS)
        ]
        futures = far.submit(long)
        assert begun.wait(60)
        os.kill(victims[0].process.pid, signal.SIGKILL)
        replies = [said(future.result()) for future in futures]
        assert replies == ask(here, [SampleRequest(r.prompt, r.params, r.seeds) for r in long])
        victims[1].process.kill()  # the new one and its own successor do the rest
        assert ask(far) == ask(here)
        assert not {worker.name for worker in pool.workers} - {worker.name for worker in victims}
        assert not set(map(id, victims)) & set(map(id, pool.workers))
    finally:
        pool.close()


def test_tokens_are_told_once_although_a_worker_died_over_them():
    pool = remote(1)
    try:
        here, far = Both(pool, BYTES).snapshot()
        told: list[tuple[int, int]] = []
        killed: list[int] = []

        def hear(number: int, token: int, logprob: float, top: object) -> None:
            told.append((number, token))
            if len(told) == 5:
                killed.append(pool.workers[0].process.pid)  # type: ignore[attr-defined]
                os.kill(killed[0], signal.SIGKILL)

        request = SampleRequest(PROMPTS[0], DecodingParams(90, ()), [7, 8], on_token=hear)
        (reply,) = (future.result() for future in far.submit([request]))
        assert killed
        for number, sample in enumerate(reply.samples):
            assert [token for which, token in told if which == number] == sample.tokens.tolist()
        assert said(reply) == ask(here, [SampleRequest(PROMPTS[0], request.params, [7, 8])])[0]
    finally:
        pool.close()


def test_a_worker_that_stands_still_is_ended_and_its_work_done_by_others():
    pool = remote(2, patience_s=4.0)
    try:
        here, far = Both(pool, BYTES).snapshot()
        assert ask(far) == ask(here)
        (stopped, _) = pool.workers
        os.kill(stopped.process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
        assert ask(far) == ask(here)
        assert not stopped.alive()
    finally:
        pool.close()


class Fatal(NativeWorker):
    """A worker that does not survive one of the prompts."""

    def exchange(self, orders, cancelled):
        if any(list(order.request.prompt) == [13] for order in orders):
            os._exit(3)
        return super().exchange(orders, cancelled)


def test_a_request_that_kills_every_worker_fails_alone(monkeypatch):
    monkeypatch.setattr("thumbs.rollout.remote.LOSSES", 1)
    pool = RemoteSamplers([WorkerSpec("sampler 0", f"{__name__}:Fatal")])
    try:
        here, far = Both(pool, BYTES).snapshot()
        doomed, *futures = far.submit([SampleRequest([13], PARAMS, [0]), *REQUESTS])
        with pytest.raises(WorkerLost, match=r"sampler 0 .* exit status 3"):
            doomed.result()
        assert len([future for future in futures if not future.exception()]) in (0, len(REQUESTS))
        assert ask(far) == ask(here)
    finally:
        pool.close()


def test_stop_strings_end_each_sample_on_its_own(pool, model):
    here, far = Both(pool, model).snapshot()
    (whole,) = here.submit([SampleRequest(PROMPTS[0], PARAMS, range(4))])
    stops = tuple(letters(sample.tokens[3:5].tolist()) for sample in whole.result().samples[:3])
    request = SampleRequest(PROMPTS[0], DecodingParams(40, (9,), stop_strings=stops), range(6), top=2)
    expected = ask(here, [request])
    assert {reason for _, _, reason, _, _ in expected[0]} >= {"stop"}
    assert len({len(tokens) for tokens, *_ in expected[0]}) > 1
    assert ask(far, [request]) == expected


def test_a_cancelled_request_ends_and_the_others_go_on(pool, model):
    here, far = Both(pool, model).snapshot()
    drawn: list[int] = []
    begun = threading.Event()

    def hear(*_: object) -> None:
        drawn.append(1)
        begun.set()

    long, kept = far.submit([SampleRequest([5, 6], DecodingParams(100, ()), range(3), on_token=hear), *REQUESTS[:1]])
    assert begun.wait(60)
    if long.cancel():
        with pytest.raises(CancelledError):
            long.result()
    assert said(kept.result()) == ask(here, REQUESTS[:1])[0]
    assert ask(far) == ask(here)


def test_what_is_asked_about_a_prompt(pool, model):
    here, far = Both(pool, model).snapshot()
    query = PromptQuery(logprobs=True, top=3, draws=2)
    request = SampleRequest(PROMPTS[2], PARAMS, [1, 2], about_prompt=query)
    ours, theirs = (sampler.submit([request])[0].result().prompt for sampler in (here, far))
    assert ours is not None
    assert theirs is not None
    assert ours.logprobs is not None
    assert theirs.logprobs is not None
    assert ours.logprobs.tolist() == theirs.logprobs.tolist()
    assert ours.top == theirs.top
    assert [x.tolist() for x in ours.drawn] == [x.tolist() for x in theirs.drawn]


def test_what_cannot_be_is_refused_before_anything_runs(pool):
    both = Both(pool, BYTES)
    _, far = both.snapshot()
    with pytest.raises(DataError, match="an empty prompt"):
        far.submit([SampleRequest([], PARAMS, [0])])
    with pytest.raises(ConfigError, match="model's context"):
        far.submit([SampleRequest([5] * 4000, PARAMS, [0])])
    assert far.sample([], PARAMS, []) == []


def test_files_travel_where_the_folder_is_not(pool, model, tmp_path, monkeypatch):
    both = Both(pool, model)
    both.train()
    here, far = both.snapshot()
    elsewhere = tmp_path / "elsewhere"
    shutil.move(far.weights.folder, elsewhere)
    reading = threading.Event()
    plain = Path.iterdir
    monkeypatch.setattr(
        Path, "iterdir", lambda self: reading.set() or plain(elsewhere if self == far.weights.folder else self)
    )
    assert ask(far) == ask(here)
    assert reading.is_set()


def test_an_error_of_the_weights_reaches_whoever_asked(pool):
    _, far = Both(pool, BYTES).snapshot()
    (far.weights.folder / "model.safetensors").write_bytes(b"nothing")
    (future,) = far.submit([SampleRequest(PROMPTS[0], PARAMS, [0])])
    with pytest.raises(WorkerError, match="exchange"):
        future.result()


def test_after_close_whoever_waits_gets_an_error():
    pool = remote(1)
    _, far = Both(pool, BYTES).snapshot()
    begun = threading.Event()
    futures = far.submit([SampleRequest([3], DecodingParams(120, ()), [0], on_token=lambda *_: begun.set())])
    assert begun.wait(60)
    pool.close()
    wait(futures)
    assert isinstance(futures[0].exception(), WorkerLost) or futures[0].result()
    assert not far.weights.folder.exists()


def test_what_a_killed_process_left_in_shared_memory_is_swept_away(tmp_path, monkeypatch):
    monkeypatch.setattr("thumbs.rollout.publish.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "thumbs-weights-left"
    left.mkdir()
    one = Shelf()
    assert not left.exists()
    other = Shelf()
    assert len(list(tmp_path.iterdir())) >= 2
    one.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_lost_while_it_starts_is_started_once_more(monkeypatch):
    pool = remote(1)
    try:
        here, far = Both(pool, BYTES).snapshot()
        assert ask(far) == ask(here)
        crew, tries = pool._crew, list[int]()
        plain = crew.start

        def start(specs):
            tries.append(1)
            if len(tries) == 1:
                raise WorkerLost("sampler 0 was not started: its node has gone")
            return plain(specs)

        monkeypatch.setattr(crew, "start", start)
        os.kill(pool.workers[0].process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
        assert ask(far) == ask(here)
        assert len(tries) == 2
    finally:
        pool.close()
