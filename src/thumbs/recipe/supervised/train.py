"""Supervised fine-tuning through any training client."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from thumbs.errors import DataError
from thumbs.recipe import any_client
from thumbs.recipe.configs import check, config_class
from thumbs.recipe.eval.evaluators import TrainingClientEvaluator
from thumbs.recipe.futures import resolved
from thumbs.recipe.supervised.datums import compute_mean_nll
from thumbs.recipe.supervised.epochs import Answers, EpochConfig, EpochRun
from thumbs.recipe.supervised.types import SupervisedDataset


@config_class
class Config(EpochConfig):
    """Settings of a run.

    submit_ahead: how many batches are sent before the answer to the one before. save_every_tokens, save_every_seconds:
    more checkpoints, 0 is none. async_periodic_saves: for scripts that set it; refused unless it is off.
    """

    submit_ahead: int = 1
    save_every_tokens: int = 0
    save_every_seconds: float = 0.0
    async_periodic_saves: bool = False


async def main(config: Config, service_client: Any = None) -> None:
    """Train; go on from the last checkpoint in `log_path` if there is one.

    service_client: any client with the Tinker surface; None is ours in process, or `base_url`'s over HTTP.
    """
    check(config, submit_ahead=0, save_every_tokens=0, save_every_seconds=0)
    run = EpochRun.prepare(config)
    if run is None:
        return
    async with any_client.connected(service_client, config.base_url) as services:
        client = await any_client.training_client(services, config, run.log.last)

        def submit(step: int, batch: Sequence[Any], rate: float) -> Answers:
            data = any_client.to_data(_checked(step, batch), any_client.types_of(client))
            forward_backward = client.forward_backward(data, "cross_entropy")
            optim = client.optim_step(any_client.adam(client, rate, config))
            return partial(_answers, data, forward_backward, optim)

        evaluators = [NLLEvaluator.from_dataset(run.test)] if run.test else []
        await run.train(services, client, submit, evaluators, ahead=config.submit_ahead)


class NLLEvaluator(TrainingClientEvaluator):
    """Mean negative logprob on a dataset, nats a weighted token, as `{name}/nll`."""

    def __init__(self, data: Sequence[Any], name: str = "test") -> None:
        self.name = name
        self.data = list(data)

    @classmethod
    def from_dataset(cls, dataset: SupervisedDataset, name: str = "test") -> NLLEvaluator:
        """Over all batches of a dataset."""
        return cls([datum for index in range(len(dataset)) for datum in dataset.get_batch(index)], name)

    async def __call__(self, training_client: Any) -> dict[str, float]:
        """One forward pass over the data."""
        data = any_client.to_data(self.data, any_client.types_of(training_client))
        output = await resolved(training_client.forward(data, "cross_entropy"))
        return {f"{self.name}/nll": _mean_nll(output, data)}


def _checked(step: int, batch: Sequence[Any]) -> Sequence[Any]:
    if not batch:
        raise DataError(f"the batch of step {step} is empty; get_batch must return at least one datum")
    for index, datum in enumerate(batch):
        if not {"target_tokens", "weights"} <= datum.loss_fn_inputs.keys():
            raise DataError(
                f"datum {index} of step {step} has the loss inputs {sorted(datum.loss_fn_inputs)}; cross_entropy needs "
                "'target_tokens' and 'weights', as datum_from_model_input_weights makes them"
            )
    return batch


async def _answers(data: list[Any], forward_backward: Any, optim: Any) -> dict[str, float]:
    """The metrics of a step, once the client has run it."""
    output, answer = await resolved(forward_backward), await resolved(optim)
    weights = [any_client.as_array(datum.loss_fn_inputs["weights"]) for datum in data]
    return {
        "num_sequences": len(data),
        "num_loss_tokens": int(sum(np.count_nonzero(row) for row in weights)),
        "train_mean_nll": _mean_nll(output, data),
        **any_client.optimizer_metrics(answer),
    }


def _mean_nll(output: Any, data: Sequence[Any]) -> float:
    logprobs = [any_client.as_array(outputs["logprobs"]) for outputs in output.loss_fn_outputs]
    return compute_mean_nll(logprobs, [datum.loss_fn_inputs["weights"] for datum in data])
