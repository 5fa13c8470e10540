"""A backend of toy numbers, so that the routes can be tested without a model.

Logprobs of a target t are -t / 100; a sampler says the prompt's last token again. `hold` keeps operations pending.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.reverse_kl import ReverseKlDatum, ReverseKlOutput
from thumbs.clients.sample_call import SampleCall
from thumbs.clients.sampling import FullError
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import DataError, ModelError
from thumbs.models.byte_lm import byte_shape
from thumbs.models.causal_lm import CausalLM
from thumbs.rollout.sampler import OnToken

MODEL = "org/toy"


class _Base:
    tokenizer = ByteTokenizer()
    name = MODEL
    config = ModelConfig(name=MODEL)
    with torch.device("meta"):
        shape = CausalLM(replace(byte_shape("byte-tiny"), context=64), torch.float32)

    def __init__(self, tokenizer_folder: Path) -> None:
        self.tokenizer_folder = tokenizer_folder


class _Bases(dict[str, _Base]):
    def __missing__(self, name: str) -> _Base:
        raise ModelError(f"unknown base model {name!r}; supported: {MODEL}")

    names = (MODEL,)

    def supported(self) -> list[types.SupportedModel]:
        return [types.SupportedModel(model_name=MODEL, max_context_length=64, trainable=True, sampleable=True)]


class FakeBackend:
    """Notes what was asked of it in `calls`."""

    def __init__(self, store: Store, tokenizer: Path | None = None) -> None:
        self.store = store
        self.bases = _Bases({MODEL: _Base(tokenizer or Path("/folder/of/tokenizer"))})
        self.calls: list[tuple[Any, ...]] = []
        self.held: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.hold = False
        self.full = False
        self.samplers = self  # its own part, too

    def as_backend(self) -> Backend:
        """Itself, for the type checker."""
        return cast(Backend, self)

    def release(self) -> None:
        """Ends every operation that is held."""
        held, self.held = self.held, []
        for future, work in held:
            _finish(future, work)

    def waiting(self) -> dict[str, Any]:
        return {"operations": {"a": len(self.held)}, "samples": 0, "sampled_tokens": 5}

    def create_model(
        self, run_id: str, session_id: str, owner: str, base_model: str, lora: Any, user_metadata: Any
    ) -> Future[None]:
        _ = self.bases[base_model]
        self.store.add_run(run_id, session_id, owner, base_model, lora, user_metadata)
        return self._do(("create_model", run_id), lambda: None)

    def create_from(
        self, run_id: str, session_id: str, owner: str, path: str, optimizer: bool, user_metadata: Any
    ) -> Future[None]:
        self.create_model(run_id, session_id, owner, MODEL, types.LoraConfig(rank=8), user_metadata)
        return self._do(("create_from", run_id, path, optimizer), lambda: None)

    def forward_backward(
        self, run_id: str, seq_id: int, data: list[types.Datum], loss_fn: str, config: Any, forward_only: bool
    ) -> Future[Any]:
        def work() -> types.ForwardBackwardOutput:
            logprobs = [-np.asarray(d.loss_fn_inputs["target_tokens"].to_numpy(), np.float32) / 100 for d in data]
            outputs = [{"logprobs": types.TensorData.from_numpy(values)} for values in logprobs]
            return types.ForwardBackwardOutput(
                "toy", outputs, {"loss:sum": float(-sum(values.sum() for values in logprobs))}
            )

        return self._do(("forward_backward", run_id, seq_id, len(data), loss_fn, dict(config), forward_only), work)

    def forward_backward_reverse_kl(
        self, run_id: str, seq_id: int | None, data: list[ReverseKlDatum], path: str, temperature: float
    ) -> Future[Any]:
        call = ("forward_backward_reverse_kl", run_id, seq_id, len(data), path, temperature)
        return self._do(call, lambda: ReverseKlOutput([0.5] * len(data), {"loss:mean": 0.5}))

    def optim_step(self, run_id: str, seq_id: int, adam: types.AdamParams) -> Future[Any]:
        return self._do(
            ("optim_step", run_id, seq_id, adam.learning_rate), lambda: types.OptimStepResponse(metrics={"step": 1.0})
        )

    def save(self, run_id: str, seq_id: int, kind: str, name: str, **options: Any) -> Future[str]:
        def work() -> str:
            with self.store.checkpoints.writing(run_id, kind, name, **options) as folder:
                (folder / "adapter_config.json").write_text('{"r": 8}')
                (folder / "adapter_model.safetensors").write_bytes(b"weights")
            return f"tinker://{run_id}/{kind}/{name}"

        return self._do(("save", run_id, seq_id, kind, name), work)

    def load(self, run_id: str, seq_id: int, path: str, optimizer: bool) -> Future[None]:
        return self._do(("load", run_id, seq_id, path, optimizer), lambda: None)

    def snapshot(self, run_id: str, seq_id: int, sampler_id: str) -> Future[str]:
        return self._do(("snapshot", run_id, seq_id, sampler_id), lambda: sampler_id)

    def skip(self, run_id: str, seq_id: int, error: Exception) -> Future[Any]:
        def work() -> None:
            raise error

        return self._do(("skip", run_id, seq_id), work)

    def open(
        self, sampler_id: str, session_id: str, owner: str, *, base_model: str | None = None, path: str | None = None
    ) -> None:
        _ = self.bases[base_model or MODEL]
        self.store.add_sampler(sampler_id, session_id, owner, base_model or MODEL, path)
        self.calls.append(("open_sampler", sampler_id, path))

    def sample(self, sampler_id: str, call: SampleCall, on_token: OnToken | None = None) -> Future[Any]:
        if self.full:
            raise FullError("3 requests for samples wait already")
        tokens = call.prompt.to_ints()
        if len(tokens) > 64:
            raise DataError("the prompt is too long")
        drawn = np.array([tokens[-1]] * (call.sampling_params.max_tokens or 1), np.int32)
        sequence = types.SampledSequence(
            "length", tokens_np=drawn, logprobs_np=np.full(len(drawn), -0.5, np.float32), topk_logprobs_np=None
        )
        self.calls.append(("sample", sampler_id, tokens, call.sampling_params, call))
        for number in range(call.num_samples if on_token else 0):
            for token in drawn.tolist():
                on_token(number, token, -0.5, [])
        return self._do(("sampled",), lambda: types.SampleResponse([sequence] * call.num_samples))

    def unload(self, run_id: str) -> None:
        self.calls.append(("unload", run_id))

    def close(self, sampler_id: str) -> None:
        self.calls.append(("close_sampler", sampler_id))

    def end_session(self, session_id: str, reason: str) -> None:
        Backend.end_session(self.as_backend(), session_id, reason)

    def _do(self, call: tuple[Any, ...], work: Callable[[], Any]) -> Future[Any]:
        self.calls.append(call)
        future: Future[Any] = Future()
        if self.hold:
            self.held.append((future, work))
        else:
            _finish(future, work)
        return future


def _finish(future: Future[Any], work: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
