"""Direct preference optimization through any training client (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from thumbs.errors import DataError
from thumbs.recipe import any_client
from thumbs.recipe.configs import check, config_class
from thumbs.recipe.eval.evaluators import TrainingClientEvaluator
from thumbs.recipe.futures import call, resolved
from thumbs.recipe.rl.data_processing import sequence_logprobs
from thumbs.recipe.run_log import reference_path
from thumbs.recipe.supervised.epochs import EpochConfig, EpochRun
from thumbs.recipe.supervised.types import SupervisedDataset


@config_class
class Config(EpochConfig):
    """Settings of a run.

    dataset_builder: its batches hold pairs of datums, the preferred one first, with weights that are not normalised.
    dpo_beta: how strongly the policy is held to the reference, which is the policy as it was when the run began.
    reference_model_name, num_replicas: for scripts that set them; they change nothing.
    """

    learning_rate: float = 1e-5
    dpo_beta: float = 0.1
    num_replicas: int = 8
    reference_model_name: str | None = None


def compute_dpo_loss(
    chosen_logprobs: Sequence[torch.Tensor],
    rejected_logprobs: Sequence[torch.Tensor],
    chosen_ref_logprobs: Sequence[torch.Tensor],
    rejected_ref_logprobs: Sequence[torch.Tensor],
    dpo_beta: float,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean over pairs of −log σ(r_chosen − r_rejected), with r = beta · (logprob − reference logprob) of a completion.

    Inputs are one number a completion, nats. Metrics: dpo_loss, accuracy (share of pairs with r_chosen > r_rejected),
    margin (mean of r_chosen − r_rejected), chosen_reward, rejected_reward.
    """
    chosen = dpo_beta * (torch.stack(list(chosen_logprobs)) - torch.stack(list(chosen_ref_logprobs)))
    rejected = dpo_beta * (torch.stack(list(rejected_logprobs)) - torch.stack(list(rejected_ref_logprobs)))
    margin = chosen - rejected
    loss = -logsigmoid(margin).mean()
    metrics = {
        "dpo_loss": loss,
        "accuracy": (margin > 0).double().mean(),
        "margin": margin.mean(),
        "chosen_reward": chosen.mean(),
        "rejected_reward": rejected.mean(),
    }
    return loss, {name: float(value.detach()) for name, value in metrics.items()}


def main(config: Config, service_client: Any = None) -> None:
    """Train, and return when it is done; `train` is the same for callers in an event loop."""
    asyncio.run(train(config, service_client))


async def train(config: Config, service_client: Any = None) -> None:
    """Train; go on from the last checkpoint in `log_path` if there is one.

    service_client: any client with the Tinker surface; None is ours in process, or `base_url`'s over HTTP.
    """
    check(config, dpo_beta=0)
    run = EpochRun.prepare(config)
    if run is None:
        return
    async with any_client.connected(service_client, config.base_url) as services:
        client = await any_client.training_client(services, config, run.log.last)
        extra = await reference_path(client, run.log)
        sampler = await call(services.create_sampling_client, model_path=extra["reference_path"])
        reference = _Reference(sampler, config.dpo_beta)

        async def step_on(step: int, batch: Sequence[Any], rate: float) -> dict[str, float]:
            data = _pairs(batch, f"the batch of step {step}")
            metrics = await reference.forward_backward(client, data)
            answer = await resolved(client.optim_step(any_client.adam(client, rate, config)))
            return {**metrics, "num_pairs": len(data) // 2, **any_client.optimizer_metrics(answer)}

        evaluators = [_HeldOut(run.test, reference)] if run.test else []
        await run.train(services, client, lambda *step: partial(step_on, *step), evaluators, extra=extra)


class _Reference:
    """The frozen reference and the loss against it; its logprob of each completion is asked for once."""

    def __init__(self, sampling_client: Any, beta: float) -> None:
        self._client, self._beta = sampling_client, beta
        self._known: dict[bytes, torch.Tensor] = {}

    async def forward_backward(self, client: Any, data: list[Any]) -> dict[str, float]:
        """Adds the gradient of the loss; its metrics."""
        reference = await self._logprobs(data)
        metrics: dict[str, float] = {}

        def loss_fn(_: Any, logprobs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
            loss, found = self._loss(data, logprobs, reference)
            metrics.update(found)
            return loss, {}

        await call(client.forward_backward_custom, any_client.to_data(data, any_client.types_of(client)), loss_fn)
        return metrics

    async def evaluate(self, client: Any, data: list[Any]) -> dict[str, float]:
        """Metrics of the loss without gradients."""
        reference = await self._logprobs(data)
        output = await resolved(client.forward(any_client.to_data(data, any_client.types_of(client)), "cross_entropy"))
        logprobs = [torch.tensor(any_client.as_array(outputs["logprobs"])) for outputs in output.loss_fn_outputs]
        return self._loss(data, logprobs, reference)[1]

    def _loss(
        self, data: list[Any], logprobs: Sequence[torch.Tensor], reference: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        sums = [(_weights(datum) * row).sum() for datum, row in zip(data, logprobs, strict=True)]
        return compute_dpo_loss(sums[::2], sums[1::2], reference[::2], reference[1::2], self._beta)

    async def _logprobs(self, data: list[Any]) -> list[torch.Tensor]:
        keys = [_key(datum) for datum in data]
        unknown = {key: datum for key, datum in zip(keys, data, strict=True) if key not in self._known}
        rows = await sequence_logprobs(self._client, list(unknown.values()))
        for (key, datum), row in zip(unknown.items(), rows, strict=True):
            self._known[key] = (_weights(datum) * torch.from_numpy(row)).sum()
        return [self._known[key] for key in keys]


class _HeldOut(TrainingClientEvaluator):
    """The metrics of the loss on pairs that are not trained on, as test/…"""

    def __init__(self, dataset: SupervisedDataset, reference: _Reference) -> None:
        batches = [dataset.get_batch(index) for index in range(len(dataset))]
        self._data = _pairs([datum for batch in batches for datum in batch], "the test set")
        self._reference = reference

    async def __call__(self, training_client: Any) -> dict[str, float]:
        """Metrics by name."""
        metrics = await self._reference.evaluate(training_client, self._data)
        return {f"test/{name}": value for name, value in metrics.items()}


def _weights(datum: Any) -> torch.Tensor:
    return torch.tensor(any_client.as_array(datum.loss_fn_inputs["weights"]))


def _key(datum: Any) -> bytes:
    inputs = [any_client.as_array(datum.loss_fn_inputs[name]) for name in ("target_tokens", "weights")]
    return b"|".join(part.tobytes() for part in [np.array(datum.model_input.to_ints()), *inputs])


def _pairs(data: Sequence[Any], where: str) -> list[Any]:
    if not data or len(data) % 2:
        raise DataError(f"{where} has {len(data)} datums; it needs pairs, the preferred completion before the other")
    return list(data)
