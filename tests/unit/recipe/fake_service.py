"""A service with the Tinker surface whose model is a table of bigram logits: exact, and it learns in seconds."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from thumbs.clients import types
from thumbs.data.tokenizers import ByteTokenizer

VOCABULARY = 260


class FakeFuture:
    """A future as the SDK's: result, result_async."""

    def __init__(self, future: Future) -> None:
        self._future = future

    def result(self, timeout: float | None = None):
        return self._future.result(timeout)

    async def result_async(self, timeout: float | None = None):
        return await asyncio.wrap_future(self._future)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


class FakeServiceClient:
    """Runs calls of all its clients one after the other in one thread; `calls` lists them."""

    def __init__(self) -> None:
        self.checkpoints: dict[str, tuple] = {}
        self.calls: list[str] = []
        self.runs = itertools.count()
        self._thread = ThreadPoolExecutor(1)

    def submit(self, name: str, function, *args) -> FakeFuture:
        def run():
            self.calls.append(name)
            return function(*args)

        return FakeFuture(self._thread.submit(run))

    def create_lora_training_client(self, base_model, rank=32, seed=None, user_metadata=None):
        assert isinstance(base_model, str)
        return FakeTrainingClient(self, np.zeros((VOCABULARY, VOCABULARY)), None)

    def create_training_client_from_state(self, path, user_metadata=None):
        return FakeTrainingClient(self, self.checkpoints[path][0].copy(), None)

    def create_training_client_from_state_with_optimizer(self, path, user_metadata=None):
        table, moments = self.checkpoints[path]
        return FakeTrainingClient(self, table.copy(), [np.copy(m) for m in moments])

    def create_sampling_client(self, model_path=None, base_model=None):
        table = self.checkpoints[model_path][0] if model_path else np.zeros((VOCABULARY, VOCABULARY))
        return FakeSamplingClient(self, table.copy())


class FakeTrainingClient:
    def __init__(self, service: FakeServiceClient, table: np.ndarray, moments: list | None) -> None:
        self.service, self.table = service, table
        self.run = f"run-{next(service.runs)}"
        self.gradient = np.zeros_like(table)
        self.moments = moments or [np.zeros_like(table), np.zeros_like(table), np.zeros(())]

    def forward(self, data, loss_fn, loss_fn_config=None):
        return self.service.submit("forward", self._pass, data, loss_fn, False)

    def forward_backward(self, data, loss_fn, loss_fn_config=None):
        return self.service.submit("forward_backward", self._pass, data, loss_fn, True)

    def forward_backward_custom(self, data, loss_fn):
        return self.service.submit("forward_backward_custom", self._custom, data, loss_fn)

    def optim_step(self, params):
        assert isinstance(params, types.AdamParams)
        return self.service.submit("optim_step", self._step, params)

    def save_state(self, name, ttl_seconds=None):
        return self.service.submit("save_state", self._save, f"tinker://{self.run}/weights/{name}")

    def save_weights_for_sampler(self, name, ttl_seconds=None):
        path = f"tinker://{self.run}/sampler_weights/{name}"
        return self.service.submit("save_weights_for_sampler", self._save, path)

    def save_weights_and_get_sampling_client(self):
        self.service.calls.append("snapshot")
        table = self.service.submit("copy", lambda: self.table.copy()).result()
        return FakeSamplingClient(self.service, table)

    def _save(self, path):
        assert path not in self.service.checkpoints
        self.service.checkpoints[path] = (self.table.copy(), [np.copy(m) for m in self.moments])
        return types.SaveWeightsResponse(path=path)

    def _logprobs(self, datum) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert isinstance(datum, types.Datum)
        inputs = datum.model_input.to_numpy()
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        assert len(inputs) == len(targets)
        return inputs, targets, log_softmax(self.table[inputs])

    def _pass(self, data, loss_fn, backward):
        outputs, total = [], 0.0
        for datum in data:
            inputs, targets, rows = self._logprobs(datum)
            logprobs = rows[np.arange(len(targets)), targets]
            if loss_fn == "cross_entropy":
                weights = datum.loss_fn_inputs["weights"].to_numpy()
                total, slope = total - (weights * logprobs).sum(), -weights
            else:
                assert loss_fn == "importance_sampling"
                assert set(datum.loss_fn_inputs) == {"target_tokens", "logprobs", "advantages"}
                old, advantages = (datum.loss_fn_inputs[key].to_numpy() for key in ("logprobs", "advantages"))
                ratio = np.exp(logprobs - old)
                total, slope = total - (ratio * advantages).sum(), -ratio * advantages
            if backward:
                picked = np.zeros_like(rows)
                picked[np.arange(len(targets)), targets] = 1
                np.add.at(self.gradient, inputs, slope[:, None] * (picked - np.exp(rows)))
            outputs.append({"logprobs": types.TensorData.from_numpy(logprobs)})
        return types.ForwardBackwardOutput("fake", outputs, {"loss:sum": float(total)})

    def _custom(self, data, loss_fn):
        lists = []
        for datum in data:
            _, targets, rows = self._logprobs(datum)
            lists.append(torch.tensor(rows[np.arange(len(targets)), targets], requires_grad=True))
        loss, metrics = loss_fn(data, lists)
        loss.backward()
        linear = [
            types.Datum(
                datum.model_input,
                {"target_tokens": datum.loss_fn_inputs["target_tokens"], "weights": -logprobs.grad.numpy()},
            )
            for datum, logprobs in zip(data, lists, strict=True)
        ]
        output = self._pass(linear, "cross_entropy", True)
        return types.ForwardBackwardOutput("fake", output.loss_fn_outputs, {**output.metrics, **metrics})

    def _step(self, params):
        first, second, count = self.moments
        count = count + 1
        first = params.beta1 * first + (1 - params.beta1) * self.gradient
        second = params.beta2 * second + (1 - params.beta2) * self.gradient**2
        self.moments = [first, second, count]
        scale = np.sqrt(second / (1 - params.beta2**count)) + params.eps
        self.table -= params.learning_rate * (first / (1 - params.beta1**count)) / scale
        self.gradient[:] = 0
        return types.OptimStepResponse(metrics={"step": 77.0, "grad_norm:mean": 1.0})


class FakeSamplingClient:
    def __init__(self, service: FakeServiceClient, table: np.ndarray) -> None:
        self.service, self.logprobs = service, log_softmax(table)
        self.seeds = itertools.count()

    def sample(self, prompt, num_samples, sampling_params, include_prompt_logprobs=False):
        assert isinstance(prompt, types.ModelInput)
        return self.service.submit("sample", self._sample, prompt, num_samples, sampling_params, next(self.seeds))

    def compute_logprobs(self, prompt):
        assert isinstance(prompt, types.ModelInput)
        tokens = prompt.to_numpy()
        values = [None, *self.logprobs[tokens[:-1], tokens[1:]].tolist()]
        return self.service.submit("compute_logprobs", lambda: values)

    def _sample(self, prompt, num_samples, params, seed):
        random = np.random.default_rng([seed, params.seed or 0])
        return types.SampleResponse(sequences=[self._one(prompt, params, random) for _ in range(num_samples)])

    def _one(self, prompt, params, random):
        tokens, logprobs, reason = [], [], "length"
        last = prompt.to_ints()[-1]
        for _ in range(params.max_tokens):
            row = self.logprobs[last]
            last = int(random.choice(VOCABULARY, p=np.exp(row)))
            tokens.append(last)
            logprobs.append(row[last])
            if _ends(tokens, params.stop):
                reason = "stop"
                break
        return types.SampledSequence(
            stop_reason=reason,
            tokens_np=np.array(tokens, np.int32),
            logprobs_np=np.array(logprobs, np.float32),
        )


def _ends(tokens: list[int], stop) -> bool:
    return any(
        tokens[-1] == item if isinstance(item, int) else ByteTokenizer().decode(tokens).endswith(item)
        for item in stop or ()
    )
