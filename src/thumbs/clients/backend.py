"""What stands behind every client, in process or over HTTP: the engine, its models, samplers and checkpoints.

Methods may be called from any thread and return futures for what takes long; one worker thread computes. Errors that
are the caller's are `ThumbsError`s; anything else is ours.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from thumbs.clients import translate, types
from thumbs.clients.bases import Base, Bases
from thumbs.clients.checkpoint_folders import readable, writable
from thumbs.clients.checkpoint_store import SaveOptions
from thumbs.clients.custom_loss import CustomLoss, custom_loss_pass
from thumbs.clients.drawing import DrawingElsewhere, DrawingHere
from thumbs.clients.lanes import Work, patiently
from thumbs.clients.prompt_scoring import PromptScoring
from thumbs.clients.reverse_kl import ReverseKlDatum, ReverseKlOutput, completions, reverse_kl_pass
from thumbs.clients.sampling import Quota, Samplers
from thumbs.clients.served_weights import ServedWeights
from thumbs.clients.store import Store
from thumbs.clients.worker import Worker
from thumbs.config.losses import CROSS_ENTROPY, LossSpec
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine import open_engine
from thumbs.engine.base import Handle, ModelSpec, OpenEngine
from thumbs.errors import DataError, ThumbsError
from thumbs.records import Example
from thumbs.rollout.publish import OpenSampler

ALPHA = 32.0
"""Numerator of the scale of every adapter: the protocol does not carry it."""

MAX_QUEUED_TOKENS = 2**23
"""Targets of passes that may wait, some 300 MB; a single pass is taken at any size."""

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(eq=False)
class _Model:
    """A model under training. handle: None while it is on disk; dirty: it holds gradients that no step has used."""

    base: Base
    spec: ModelSpec
    handle: Handle | None = None
    dirty: bool = False


class Backend:
    """See the module. models: the bases by the names that clients use; closed: no others can be asked for.

    Adapters beyond `max_models` under training, and as many samplers, wait on disk until they are used again.
    elsewhere: what makes samplers whose replies are drawn apart from the thread that trains, such as the engine's
    `open_sampler` where `rollout` asks for workers; None: this process samples. scratch: a folder for what waits on
    disk, which is emptied first, and which an engine's ranks on other machines must see; None: a temporary one.
    """

    def __init__(
        self,
        store: Store,
        models: Mapping[str, ModelConfig],
        *,
        closed: bool = True,
        max_models: int = 64,
        max_queued_samples: int = 4096,
        gap_grace_s: float = 30.0,
        engine: OpenEngine | None = None,
        elsewhere: OpenSampler | None = None,
        scratch: Path | None = None,
    ) -> None:
        bases, worker = Bases(models, closed=closed), Worker(gap_grace_s)
        self._engine = engine or open_engine()
        self.store, self.bases = store, bases
        self.max_models = max_models
        self._worker, self._lock = worker, threading.Lock()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        self._spilled = tempfile.TemporaryDirectory(prefix="thumbs-", dir=scratch)
        drawing = (
            DrawingHere(worker, self._engine)
            if elsewhere is None
            else DrawingElsewhere(elsewhere, PromptScoring(self._engine, worker))
        )
        self.samplers = Samplers(store, bases, drawing, Path(self._spilled.name), max_models, max_queued_samples)
        self._quota = Quota(MAX_QUEUED_TOKENS, "passes")
        self._models: OrderedDict[str, _Model] = OrderedDict()

    def waiting(self) -> dict[str, Any]:
        """For a status page: operations by lane, samples, models and samplers in memory, tokens sampled so far."""
        with self._lock:
            models = list(self._models.values())
        return {
            "operations": self._worker.waiting(),
            "samples": self.samplers.drawing.waiting,
            "models": sum(model.handle is not None for model in models),
            "samplers": self.samplers.loaded,
            "sampled_tokens": self.samplers.drawing.sampled_tokens,
        }

    # training

    def create_model(
        self,
        run_id: str,
        session_id: str,
        owner: str,
        base_model: str,
        lora: types.LoraConfig,
        user_metadata: Mapping[str, str] | None = None,
    ) -> Future[None]:
        """A fresh adapter: its logprobs are the base model's."""
        base = self.bases[base_model]
        targets = (ATTENTION if lora.train_attn else ()) + (MLP if lora.train_mlp else ())
        if not targets or lora.rank < 1:
            raise DataError("lora_config: needed are a rank of 1 or more, and train_attn or train_mlp")
        config = base.config.model_copy(update={"lora": AdapterConfig(rank=lora.rank, alpha=ALPHA, targets=targets)})
        seed = lora.seed or 0  # none given: the same start each time, as everywhere here
        model = _Model(base, ModelSpec(run_id, config, adapter_seed=seed))
        self.store.add_run(run_id, session_id, owner, base_model, lora, user_metadata)
        with self._lock:
            self._models[run_id] = model
        return self._submit(run_id, None, lambda: self._create(model))

    def create_from(
        self,
        run_id: str,
        session_id: str,
        owner: str,
        path: str,
        optimizer: bool,
        user_metadata: Mapping[str, str] | None = None,
    ) -> Future[None]:
        """A model like the one that a checkpoint is of, with its weights."""
        run = self.store.run(self.store.checkpoints.find(path).run_id)
        if not (run.train_attn or run.train_mlp):
            raise DataError(
                f"{path} adapts a part of the attention or feed-forward projections; it can be sampled from, and a "
                "training client adapts all of a group (train_attn, train_mlp)"
            )
        self.create_model(run_id, session_id, owner, run.base_model, run.lora, user_metadata)
        return self.load(run_id, None, path, optimizer)

    def forward_backward(
        self,
        run_id: str,
        seq_id: int | None,
        data: list[types.Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
        forward_only: bool = False,
    ) -> Future[types.ForwardBackwardOutput]:
        """Loss and logprobs; adds gradients unless it is forward only. Nothing of a failed pass stays.

        Raises FullError if too much waits already; the number has not been taken then.
        """

        shape = self._known(run_id).base.shape
        try:  # here, since the caller may go on to use its arrays for something else
            spec = translate.loss_spec(loss_fn, loss_fn_config or {})
            records = translate.engine_data(data, loss_fn, shape.vocab_size, shape.context)
        except ThumbsError as error:
            return self._submit(run_id, seq_id, lambda bad=error: _failing(bad))
        return self._queue(
            run_id, seq_id, translate.cells(records), lambda: self._pass(run_id, records, spec, forward_only)
        )

    def forward_backward_reverse_kl(
        self, run_id: str, seq_id: int | None, data: list[ReverseKlDatum], reference_path: str, temperature: float
    ) -> Future[ReverseKlOutput]:
        """Adds the gradients of the divergence from a checkpoint of the same base: see reverse_kl.py."""

        base, record = self._known(run_id).base, self.store.checkpoints.find(reference_path)
        if record.base_model != base.name:
            raise DataError(f"{reference_path} is not of this model's base {base.name}, as a reference must be")
        found = completions(data, temperature, base.shape.vocab_size, base.shape.context)

        def work() -> Work:
            model, handle = self._in_memory(run_id)
            model.dirty = True
            with readable(reference_path):
                reference = self._engine.read_adapter(record.folder)
            frozen, run = self._engine.frozen_base(base.config), partial(self._engine.in_parts, handle)
            return (yield from reverse_kl_pass(found, temperature, frozen, reference, run))

        return self._queue(run_id, seq_id, sum(len(each.student) for each in found), work)

    def forward_backward_custom(
        self, run_id: str, data: list[types.Datum], loss_fn: CustomLoss
    ) -> Future[types.ForwardBackwardOutput]:
        """The same with a function of the logprobs; for clients of this process, whose code it runs."""

        shape = self._known(run_id).base.shape

        def run(data: list[types.Datum], forward_only: bool) -> Work:
            records = translate.engine_data(data, "cross_entropy", shape.vocab_size, shape.context)
            return self._pass(run_id, records, CROSS_ENTROPY, forward_only)

        return self._submit(run_id, None, lambda: custom_loss_pass(data, loss_fn, run))

    def optim_step(self, run_id: str, seq_id: int | None, adam: types.AdamParams) -> Future[types.OptimStepResponse]:
        """One AdamW step with what has been added up; without gradients nothing moves."""

        def work() -> Work:
            model, handle = self._in_memory(run_id)
            yield
            report = self._engine.optim_step(handle, translate.adam_step(adam))
            model.dirty = False
            # No "step": loops put these next to their own metrics, where it is their step's number.
            metrics = {"grad_norm": report.grad_norm, "optimizer_step": float(report.step)}
            return types.OptimStepResponse(metrics=metrics)

        return self._submit(run_id, seq_id, work)

    def save(
        self, run_id: str, seq_id: int | None, kind: str, name: str, **options: Unpack[SaveOptions]
    ) -> Future[str]:
        """The tinker:// path of what was saved: weights, with the optimizer's state where the kind is `weights`."""

        def work() -> Work:
            _, handle = self._in_memory(run_id)
            yield
            path, written = f"tinker://{run_id}/{kind}/{name}", set[str]()

            def write() -> str:
                known = self.store.checkpoints.get(path) if written else None
                if known is None or known.id not in written:  # else it came through, and only the answer was lost
                    with (
                        self.store.checkpoints.writing(run_id, kind, name, **options) as folder,
                        writable(path, folder),
                    ):
                        written.add(folder.name)
                        self._engine.save(handle, folder, optimizer=kind == "weights")
                return path

            return (yield from patiently(write))

        return self._submit(run_id, seq_id, work)

    def load(self, run_id: str, seq_id: int | None, path: str, optimizer: bool) -> Future[None]:
        """Weights of a checkpoint, with the optimizer's state if asked for; pending gradients are dropped."""

        def work() -> Work:
            model, handle = self._in_memory(run_id)
            yield
            yield from patiently(lambda: self._read(model, handle, path, optimizer=optimizer))
            model.dirty = False

        return self._submit(run_id, seq_id, work)

    def skip(self, run_id: str, seq_id: int, error: Exception) -> Future[Any]:
        """Takes the number of a submission that could not be used, which fails with `error` when its turn comes."""
        return self._submit(run_id, seq_id, lambda: _failing(error))

    def snapshot(self, run_id: str, seq_id: int | None, sampler_id: str) -> Future[str]:
        """A sampler of the weights as they are when its turn comes; returns its id."""

        def work() -> Work:
            model, handle = self._in_memory(run_id)
            yield
            folder = self.samplers.folder(sampler_id)
            with writable(sampler_id, folder):
                self._engine.save(handle, folder)  # from where it comes back after others have taken its place
            self.samplers.add(sampler_id, ServedWeights(model.base, run_id.partition(":train:")[0], folder))
            return sampler_id

        return self._submit(run_id, seq_id, work)

    def unload(self, run_id: str) -> None:
        """Forgets a model after what has been asked of it; its checkpoints stay."""

        def work() -> Work:
            yield
            with self._lock:
                model = self._models.pop(run_id, None)
            if model is not None and model.handle is not None:
                self._engine.close(model.handle)
            shutil.rmtree(self._spill(run_id), ignore_errors=True)

        if run_id in self._models:
            self._submit(run_id, None, work).add_done_callback(lambda _: self._worker.forget(run_id))

    def end_session(self, session_id: str, reason: str) -> None:
        """Marks a session as over and gives its memory back, after what it has asked for; its checkpoints stay."""
        samplers, runs = self.store.samplers_of(session_id), self.store.runs_of(session_id)
        self.store.finish_session(session_id, reason)  # the last word of a database that may fail
        for sampler in samplers:
            self.samplers.close(sampler.id)
        for run in runs:
            self.unload(run.id)

    def close(self) -> None:
        """Ends the worker, and what the engine runs on; what waits fails."""
        self._worker.close()
        self.samplers.drawing.end()
        self._engine.stop()
        self._spilled.cleanup()

    # on the threads of callers

    def _known(self, run_id: str) -> _Model:
        model = self._models.get(run_id)
        if model is None:
            raise DataError(
                f"model {run_id!r} is not loaded: the server was restarted or its session ended. Resume with "
                "create_training_client_from_state_with_optimizer and the path of a checkpoint"
            )
        return model

    def _queue(self, run_id: str, seq_id: int | None, tokens: int, work: Callable[[], Work]) -> Future[Any]:
        """A pass over so many tokens; raises FullError if too many wait already."""
        return self._quota.hold(tokens, lambda: self._submit(run_id, seq_id, work))

    def _submit(self, run_id: str, seq_id: int | None, work: Callable[[], Work]) -> Future[Any]:
        self._known(run_id)
        return self._worker.submit(run_id, work, seq_id)

    def _spill(self, run_id: str) -> Path:
        return Path(self._spilled.name) / run_id.replace(":", "_")

    # on the worker's thread

    def _pass(self, run_id: str, records: list[Example], spec: LossSpec, forward_only: bool) -> Work:
        model, handle = self._in_memory(run_id)
        model.dirty = model.dirty or not forward_only
        output = yield from self._engine.in_parts(handle, records, [spec], backward=not forward_only)
        return translate.train_output(output, records)

    def _read(self, model: _Model, handle: Handle, path: str, *, optimizer: bool) -> None:
        record = self.store.checkpoints.find(path)
        runs = map(self.store.run, (record.run_id, handle.name))
        kinds = [(run.base_model, run.rank, run.train_attn, run.train_mlp) for run in runs]
        if kinds[0] != kinds[1]:
            told = "base model {}, rank {}, train_attn {}, train_mlp {}"
            raise DataError(
                f"{path} is of another kind ({told.format(*kinds[0])}) than this model ({told.format(*kinds[1])}); "
                "create_training_client_from_state makes one that fits"
            )
        with readable(path):
            self._engine.load(handle, record.folder, optimizer=optimizer)

    def _create(self, model: _Model) -> Work:
        yield
        model.handle = self._engine.create(model.spec)
        self._make_room()

    def _in_memory(self, run_id: str) -> tuple[_Model, Handle]:
        """The model, brought back from disk if need be."""
        with self._lock:
            model = self._models[run_id]
            self._models.move_to_end(run_id)
        if model.handle is None:
            model.handle = self._engine.create(model.spec)
            self._engine.load(model.handle, self._spill(run_id))
            self._make_room()
        return model, model.handle

    def _make_room(self) -> None:
        """Moves what has not been used for longest to disk."""
        with self._lock:  # other threads add models
            loaded = [(run_id, model) for run_id, model in self._models.items() if model.handle is not None]
        busy = self._worker.waiting()
        for run_id, model in loaded[: max(len(loaded) - self.max_models, 0)]:
            if model.handle is not None and not model.dirty and run_id not in busy:
                self._engine.save(model.handle, self._spill(run_id), optimizer=True)
                self._engine.close(model.handle)
                model.handle = None


def _failing(error: Exception) -> Work:
    yield
    raise error
