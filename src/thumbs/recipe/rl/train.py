"""Reinforcement learning through any training client: synchronous, streaming or asynchronous."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from thumbs.clients.types import Datum
from thumbs.errors import ConfigError, RunError
from thumbs.recipe import any_client
from thumbs.recipe.checkpoints import CheckpointManager
from thumbs.recipe.completers import TinkerTokenCompleter
from thumbs.recipe.configs import RunConfig, check, config_class
from thumbs.recipe.eval.evaluators import SamplingClientEvaluator, SamplingClientEvaluatorBuilder, is_due
from thumbs.recipe.futures import call, resolved
from thumbs.recipe.rl import data_processing as processing
from thumbs.recipe.rl.evaluation import RLTestSetEvaluator
from thumbs.recipe.rl.metrics import compute_kl_sample_train, compute_trajectory_metrics
from thumbs.recipe.rl.rollout_limits import TerminationRewardPolicy
from thumbs.recipe.rl.rollout_strategy import FailFast, RetryOnFailure, RolloutStrategy
from thumbs.recipe.rl.rollouts import do_group_rollout, episodes
from thumbs.recipe.rl.schedule import AsyncConfig, RolledGroup, RolloutSchedule, StreamMinibatchConfig
from thumbs.recipe.rl.types import EnvGroupBuilder, RLDataset, RLDatasetBuilder, TrajectoryGroup
from thumbs.recipe.run_log import RunLog, checkpoint_manager, reference_path

log = logging.getLogger(__name__)


@config_class
class KLReferenceConfig:
    """The policy that the KL penalty pulls to: a base model, or a sampler_path of it."""

    base_model: str
    load_checkpoint_path: str | None = None


@config_class
class Config(RunConfig):
    """Settings of a run.

    max_tokens: longest reply. temperature: of sampling; losses and KL compare with logprobs at temperature 1.
    eval_every: steps between evaluations, 0 is never; otherwise also after the last step.
    loss_fn, loss_fn_config: the loss at the service and its settings. num_substeps: updates in a step.
    kl_penalty_coef, kl_discount_factor: see incorporate_kl_penalty. kl_reference_config: None is the policy as it was
    when the run began.
    remove_constant_reward_groups: leave out groups without a gradient. compute_post_kl: KL after each update as well.
    rollout_error_tolerance: True is RetryOnFailure(); None or False is FailFast().
    termination: what rewards become of episodes that a budget has cut; None leaves them alone.
    async_config, stream_minibatch_config: at most one; neither is synchronous training.
    num_groups_to_log: groups a step in rollouts.jsonl, if rollout_json_export.
    """

    learning_rate: float
    dataset_builder: RLDatasetBuilder
    max_tokens: int
    eval_every: int = 20
    evaluator_builders: Sequence[SamplingClientEvaluatorBuilder] = ()
    kl_penalty_coef: float = 0.0
    kl_discount_factor: float = 0.0
    kl_reference_config: KLReferenceConfig | None = None
    loss_fn: str = "importance_sampling"
    loss_fn_config: Mapping[str, Any] | None = None
    num_substeps: int = 1
    temperature: float = 1.0
    compute_post_kl: bool = False
    remove_constant_reward_groups: bool = False
    rollout_error_tolerance: bool | RolloutStrategy | None = None
    termination: TerminationRewardPolicy | None = None
    async_config: AsyncConfig | None = None
    stream_minibatch_config: StreamMinibatchConfig | None = None
    num_groups_to_log: int = 4
    rollout_json_export: bool = True


async def main(config: Config, service_client: Any = None, *, rollout_executor: None = None) -> None:
    """Train; go on from the last checkpoint in `log_path` if there is one.

    service_client: any client with the Tinker surface; None is ours in process, or `base_url`'s over HTTP.
    rollout_executor: refused unless None; all rollouts are coroutines of this process.
    """
    if rollout_executor is not None:
        raise ConfigError("rollout_executor is not supported: rollouts are coroutines of this process; leave it out")
    _check(config)
    run = RunLog(config.log_path)
    built = config.dataset_builder()
    dataset, test = await built if inspect.isawaitable(built) else built
    end = len(dataset) if config.max_steps is None else min(len(dataset), config.max_steps)
    if run.first_step >= end:
        log.info("%s: all %d steps were done before", config.log_path, end)
        return
    evaluators = [build() for build in config.evaluator_builders]
    if test is not None:
        evaluators.append(
            RLTestSetEvaluator(test, config.max_tokens, strategy=_strategy(config), termination=config.termination)
        )
    async with any_client.connected(service_client, config.base_url) as services:
        client = await any_client.training_client(services, config, run.last)
        run.start(config)
        reference, extra = await _reference(services, client, config, run)
        trainer, schedule = _Trainer(config, client, reference), _schedule(config, dataset, end)
        try:
            saves = checkpoint_manager(client, services, config, extra)
            await _train(config, run, trainer, schedule, evaluators, end, saves)
        finally:
            await schedule.close()


async def _train(
    config: Config,
    run: RunLog,
    trainer: _Trainer,
    schedule: RolloutSchedule,
    evaluators: list[SamplingClientEvaluator],
    end: int,
    saves: CheckpointManager,
) -> None:
    sampler = await trainer.sampler()
    for step in range(run.first_step, end):
        started_s = time.monotonic()
        schedule.begin(step, sampler)
        metrics = await _evaluate(evaluators, sampler) if is_due(step, config.eval_every) else {}
        groups, update = await trainer.train(schedule, step)
        sampler = await trainer.sampler()
        metrics |= update | await trainer.after_update(sampler) | _progress(groups, step, end)
        run.log_metrics(step, {**metrics, "time/total": time.monotonic() - started_s})
        if config.rollout_json_export:
            run.log_rollouts(step, episodes([one.group for one in groups if one.group][: config.num_groups_to_log]))
        await saves.maybe_save_async(step + 1, {"step": step + 1, "batch": step + 1, "final": False})
    if config.eval_every and (metrics := await _evaluate(evaluators, sampler)):
        run.log_metrics(end, metrics)
    await saves.save_final_async({"step": end, "batch": end})


async def _evaluate(evaluators: Sequence[SamplingClientEvaluator], sampler: Any) -> dict[str, float]:
    return {name: value for evaluator in evaluators for name, value in (await evaluator(sampler)).items()}


class _Trainer:
    """Trains on groups as they come in."""

    def __init__(self, config: Config, client: Any, reference: Any) -> None:
        self._config, self._client, self._reference = config, client, reference
        stream = config.stream_minibatch_config
        self._minibatches = stream.num_minibatches if stream else 1
        # A whole batch is cut into the data of each update; minibatches collect the gradients of an update.
        self._parts = 1 if stream else config.num_substeps
        self._update_every = self._minibatches // config.num_substeps if stream else 1
        self._data: list[Datum] = []
        self._passes: list[Any] = []
        self._updates: list[Any] = []
        self._gradient = False

    async def train(self, schedule: RolloutSchedule, step: int) -> tuple[list[RolledGroup], dict[str, float]]:
        """Run a step; its groups, and the metrics of its updates."""
        rolled: list[RolledGroup] = []
        penalties: list[dict[str, float]] = []
        self._data, self._passes, self._updates = [], [], []
        async for minibatch in schedule.groups(step, self._minibatches):
            rolled += minibatch
            data, penalty = await self._prepare([item.group for item in minibatch if item.group])
            penalties.append(penalty)
            for part in _cut(data, self._parts):
                self._submit(part)
                if len(penalties) % self._update_every == 0:
                    self._update()
        if not any(item.group for item in rolled):
            raise RunError(f"all {len(rolled)} groups of step {step} have failed; see the warnings in the log")
        self._update()
        outputs = [output for future in self._passes for output in (await resolved(future)).loss_fn_outputs]
        answers = [await resolved(future) for future in self._updates]
        metrics = compute_kl_sample_train(self._data, [any_client.as_array(output["logprobs"]) for output in outputs])
        metrics |= _mean_of(penalties) | _mean_of([any_client.optimizer_metrics(answer) for answer in answers])
        return rolled, metrics | {"optim/lr": self._config.learning_rate}

    async def sampler(self) -> Any:
        """A sampling client with the weights as they are now."""
        return await call(self._client.save_weights_and_get_sampling_client)

    async def after_update(self, sampler: Any) -> dict[str, float]:
        """How far the updates of the last step have moved the policy, if the config asks for it."""
        if not (self._config.compute_post_kl and self._data):
            return {}
        logprobs = await processing.sequence_logprobs(sampler, self._data)
        metrics = compute_kl_sample_train(self._data, logprobs, "kl_pre_post")
        return {name: value for name, value in metrics.items() if name.startswith("kl_pre_post")}

    async def _prepare(self, groups: list[TrajectoryGroup]) -> tuple[list[Datum], dict[str, float]]:
        """The datums of these groups, and the size of the KL penalty in them."""
        if self._config.remove_constant_reward_groups:
            groups = processing.remove_constant_reward_groups(groups)
        data = processing.assemble_training_data(groups, processing.compute_advantages(groups))
        if self._reference is None or not data:
            return data, {}
        return await processing.incorporate_kl_penalty(
            data, self._reference, self._config.kl_penalty_coef, self._config.kl_discount_factor
        )

    def _submit(self, data: list[Datum]) -> None:
        """Hand datums to the client, without the mask, which no loss takes."""
        sent = [
            Datum(datum.model_input, {name: v for name, v in datum.loss_fn_inputs.items() if name != "mask"})
            for datum in data
        ]
        sent = any_client.to_data(sent, any_client.types_of(self._client))
        config = self._config
        self._passes.append(
            self._client.forward_backward(sent, config.loss_fn, dict(config.loss_fn_config or {}) or None)
        )
        self._data += data
        self._gradient = True

    def _update(self) -> None:
        """An optimizer step, if there is a gradient: Adam would move the weights without one as well."""
        if self._gradient:
            self._updates.append(
                self._client.optim_step(any_client.adam(self._client, self._config.learning_rate, self._config))
            )
            self._gradient = False


def _cut(data: list[Datum], parts: int) -> list[list[Datum]]:
    """At most `parts` parts of about the same size, none of them empty."""
    cuts = np.linspace(0, len(data), parts + 1).astype(int)
    return [data[a:b] for a, b in pairwise(cuts) if a < b]


def _mean_of(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for record in records for name in record}
    return {name: float(np.mean([record[name] for record in records if name in record])) for name in sorted(names)}


def _progress(groups: list[RolledGroup], step: int, end: int) -> dict[str, float]:
    """Metrics of the rollouts, and how many updates their weights were behind."""
    behind = [step - rolled.version for rolled in groups]
    done = [(rolled.group, rolled.builder.logging_tags()) for rolled in groups if rolled.group]
    failed = {"rollout_errors/groups_left_out": len(groups) - len(done)} if len(done) < len(groups) else {}
    return {
        **compute_trajectory_metrics([group for group, _ in done], [tags for _, tags in done]),
        **failed,
        "progress/batch": step,
        "progress/done_frac": (step + 1) / end,
        "sampling_client/steps_behind_mean": float(np.mean(behind)),
        "sampling_client/steps_behind_max": float(max(behind)),
    }


def _schedule(config: Config, dataset: RLDataset, end: int) -> RolloutSchedule:
    """Rollouts as the config asks for them."""
    strategy = _strategy(config)

    async def roll(builder: EnvGroupBuilder, sampler: Any) -> TrajectoryGroup | None:
        policy = TinkerTokenCompleter(sampler, config.max_tokens, config.temperature)
        try:
            return await do_group_rollout(builder, policy, strategy, config.termination)
        except Exception as error:
            if not strategy.catches_group_errors:
                raise
            log.warning("a group has failed and is left out: %r", error)
            return None

    if config.async_config is not None:
        at_once, ahead = config.async_config.groups_per_batch, config.async_config.max_steps_off_policy
        return RolloutSchedule(dataset, end, roll, ahead=ahead, at_once=at_once)
    stream = config.stream_minibatch_config
    return RolloutSchedule(dataset, end, roll, at_once=stream.groups_per_batch if stream else None)


def _strategy(config: Config) -> RolloutStrategy:
    given = config.rollout_error_tolerance
    if isinstance(given, RolloutStrategy):
        return given
    return RetryOnFailure() if given else FailFast()


async def _reference(services: Any, client: Any, config: Config, run: RunLog) -> tuple[Any, dict[str, str]]:
    """The client of the KL reference, None without a penalty, and what checkpoints must say of it.

    A resumed run keeps the reference of its beginning, not the policy that it goes on from.
    """
    if config.kl_penalty_coef == 0:
        return None, {}
    if given := config.kl_reference_config:
        path = given.load_checkpoint_path
        source = {"model_path": path} if path else {"base_model": given.base_model}
        return await call(services.create_sampling_client, **source), {}
    extra = await reference_path(client, run)
    return await call(services.create_sampling_client, model_path=extra["reference_path"]), extra


def _check(config: Config) -> None:
    check(config, max_tokens=1, num_substeps=1, eval_every=0, kl_penalty_coef=0, num_groups_to_log=0)
    stream = config.stream_minibatch_config
    if stream and config.async_config:
        raise ConfigError("async_config and stream_minibatch_config exclude each other; set one of them")
    if stream and stream.num_minibatches % config.num_substeps:
        raise ConfigError(
            f"num_minibatches={stream.num_minibatches} and num_substeps={config.num_substeps}; the first must be a "
            "multiple of the second, so that each update has the same number of minibatches"
        )
    if config.kl_penalty_coef and config.temperature != 1:
        log.warning(
            "temperature=%s and a KL penalty: the reference's logprobs are at temperature 1, so part of the KL is the "
            "temperature's; sample at 1 to measure the policy alone",
            config.temperature,
        )
