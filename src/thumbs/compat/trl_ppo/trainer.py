"""`PPOTrainer` as people knew it: `generate`, `step`, `log_stats`, on our engine and our PPO."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thumbs.compat.trl_ppo.accelerator import Accelerator
from thumbs.compat.trl_ppo.config import ADAPTIVE_TARGET, PPOConfig
from thumbs.compat.trl_ppo.core import AdaptiveKLController, FixedKLController, RunningMoments, set_seed
from thumbs.compat.trl_ppo.engine import trained
from thumbs.compat.trl_ppo.experience import experience_of, predict, trained_scores
from thumbs.compat.trl_ppo.generation import Generation, read_keywords
from thumbs.compat.trl_ppo.inputs import (
    check_batch,
    check_temperature,
    numbers_of,
    pad_token_of,
    rows_of,
    sort_arguments,
    without_queries,
)
from thumbs.compat.trl_ppo.model import AutoModelForCausalLMWithValueHead, base_reference, create_reference_model
from thumbs.compat.trl_ppo.statistics import deviation, step_statistics
from thumbs.compat.trl_ppo.update import update
from thumbs.errors import ConfigError, DataError
from thumbs.rewards.shaping import token_rewards

LOGGED_COLUMNS = ("label", "query", "response")
"""Columns of a data set that are kept in addition to the inputs of the model."""


class PPOTrainer:
    """Proximal policy optimization by the step: you generate, you reward, `step` learns.

    Arguments by keyword in any order, or positional in any order, told apart by their types: config, model,
    ref_model (None: a frozen copy of the model, or with adapters the model without them), tokenizer, dataset,
    data_collator, optimizer (None: AdamW at config.learning_rate, no decay), lr_scheduler of that optimizer,
    num_shared_layers (see `create_reference_model`).
    Seeds Python, numpy and torch with config.seed. Raises ConfigError for arguments that do not fit.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        given = sort_arguments(arguments, named)
        self.config: PPOConfig = _of_type(given, "config", PPOConfig)
        self.model: AutoModelForCausalLMWithValueHead = _of_type(given, "model", AutoModelForCausalLMWithValueHead)
        self.tokenizer, self.dataset = given.get("tokenizer"), given.get("dataset")
        if not hasattr(self.tokenizer, "decode"):
            raise ConfigError(f"tokenizer must be a tokenizer of transformers or of ours, got {type(self.tokenizer)}")
        set_seed(self.config.seed)
        self.is_peft_model = self.config.is_peft_model = self.model.is_peft_model
        self.ref_model = self._reference(given.get("ref_model"), given.get("num_shared_layers"))
        self.accelerator = Accelerator(self.model.device, self.config)
        self.optimizer, self.lr_scheduler = self._optimizer(given.get("optimizer"), given.get("lr_scheduler"))
        self.dataloader: Any = None
        if self.dataset is not None:
            self.dataloader = self.prepare_dataloader(self.dataset, given.get("data_collator"))
        if "training_data_collator" in given:
            warnings.warn("training_data_collator does nothing here: sequences are packed, not padded", stacklevel=2)
        self.kl_ctl = _controller(self.config)
        self.running, self.current_step, self._temperature = RunningMoments(), 0, 1.0
        self.stopped = False

    @property
    def current_device(self) -> torch.device:
        """Where the model is."""
        return self.accelerator.device

    def prepare_dataloader(self, dataset: Any, data_collator: Callable[..., Any] | None = None) -> Any:
        """Shuffled batches of config.batch_size rows, the incomplete last one left out; columns that nothing reads go.

        Raises ConfigError for what is not a data set, and for one with fewer rows than a batch.
        """
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise ConfigError(f"dataset must be a torch.utils.data.Dataset or datasets.Dataset, got {type(dataset)}")
        if len(dataset) < self.config.batch_size:
            raise ConfigError(f"the dataset has {len(dataset)} rows, fewer than a batch of {self.config.batch_size}")
        if self.config.remove_unused_columns and hasattr(dataset, "remove_columns"):
            read = {*inspect.signature(self.model.forward).parameters, *LOGGED_COLUMNS}
            dataset = dataset.remove_columns([name for name in dataset.column_names if name not in read])
        size = self.config.batch_size
        return torch.utils.data.DataLoader(
            dataset, batch_size=size, collate_fn=data_collator, shuffle=True, drop_last=True
        )

    def generate(
        self,
        query_tensor: Tensor | Sequence[Tensor],
        length_sampler: Callable[[], int] | None = None,
        batch_size: int = 4,
        return_prompt: bool = True,
        generate_ref_response: bool = False,
        **generation_kwargs: Any,
    ) -> Any:
        """Replies of the policy, and with generate_ref_response those of the reference: (ours, its).

        A list of 1-D queries, or a stacked batch [B, N] whose padding is left out, gives a list of 1-D tensors that end
        with the end token, if it came; one 1-D query gives a tensor [1, length]. return_prompt=False leaves the query
        out. length_sampler draws max_new_tokens anew for every batch_size queries; without it all queries are drawn
        together. `step` takes logprobs at the temperature of the last call.
        """
        remove_padding = generation_kwargs.pop("remove_padding", True)
        generation = read_keywords(generation_kwargs)
        self._temperature = generation.temperature if generation.do_sample else 1.0
        query_tensor = rows_of(query_tensor, pad_token_of(self.tokenizer))
        queries = [query_tensor] if isinstance(query_tensor, torch.Tensor) else list(query_tensor)
        if not queries or any(query.dim() != 1 for query in queries):
            raise DataError(
                "query_tensor must be a tensor of shape (`seq_len`), a list of tensors of shape (`seq_len`), or one of "
                "shape (`batch_size`, `seq_len`)"
            )
        chunk = len(queries) if length_sampler is None else batch_size
        starts = range(0, len(queries), chunk)
        drawn = [replace(generation, max_new_tokens=length_sampler()) if length_sampler else generation for _ in starts]
        found = []
        for model in (self.model, self.ref_model)[: 1 + generate_ref_response]:
            replies: list[Tensor] = []
            for start, own in zip(starts, drawn, strict=True):
                replies += self._replies(model, queries[start : start + chunk], own, remove_padding)
            if return_prompt:
                replies = [torch.cat([query, reply]) for query, reply in zip(queries, replies, strict=True)]
            found.append(replies[0][None] if isinstance(query_tensor, torch.Tensor) else replies)
        return tuple(found) if generate_ref_response else found[0]

    def step(
        self,
        queries: Any,
        responses: Any,
        scores: Any,
        response_masks: list[Tensor] | None = None,
        temperature: float | None = None,
    ) -> dict[str, Any]:
        """One round of PPO on config.batch_size samples; returns the statistics under TRL's names.

        queries, responses: 1-D token tensors, or stacked batches [B, N] whose padding is left out. scores: numbers, a
        tensor [B] or [B, 1], a classifier's output with such logits, or for a response a tensor with a reward for each
        of its tokens. response_masks: 1 where a token of a response counts. temperature: at which the responses were
        drawn (None: that of the last `generate`). If every response begins with its own query, that part is not
        trained on. Past config.stop_at nothing is updated, and `stopped` is true.
        Raises DataError for lists that do not fit, NonFiniteError if a loss or gradient is not finite.
        """
        started, config = time.monotonic(), self.config
        vocab_size = self.model.pretrained_model.trunk.vocab_size
        pad = pad_token_of(self.tokenizer)
        queries, responses, scores = rows_of(queries, pad), rows_of(responses, pad), numbers_of(scores)
        responses, scores, response_masks = without_queries(queries, responses, scores, response_masks)
        rollouts, scores = check_batch(config.batch_size, vocab_size, queries, responses, scores, response_masks)
        at = check_temperature(self._temperature if temperature is None else temperature)
        if config.reproduce_trl:
            at = 1.0  # whatever the replies were drawn at
        self.model.pretrained_model.release_sampler()
        trained = trained_scores(scores, self.running, config)
        times = [time.monotonic()]
        before = predict(self.model, self.ref_model, rollouts, config, at)
        times.append(time.monotonic())
        rewards = token_rewards(trained, before.kl, before.predictions.mask, self.kl_ctl.value, scores)
        times.append(time.monotonic())
        learned = experience_of(before, scores, rewards, config)
        times.append(time.monotonic())
        self.stopped = self._is_past_target(float(before.kl.sum(1).mean()))
        seen = [] if self.stopped else update(self.model, self.optimizer, learned, config, at)
        times.append(time.monotonic())

        stats = step_statistics(before, trained, seen, self.kl_ctl.value)
        stats["ppo/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self.kl_ctl.update(stats["objective/kl"], config.batch_size)
        if self.lr_scheduler is not None and not self.stopped:
            self.lr_scheduler.step()
        self.current_step += 1
        return stats | _timing(started, times)

    def log_stats(
        self,
        stats: Mapping[str, Any],
        batch: Mapping[str, Any],
        rewards: Any,
        columns_to_log: Iterable[str] = ("query", "response"),
    ) -> None:
        """Sends the statistics, and mean and deviation of the rewards, where `log_with` and project_kwargs say."""
        values = torch.stack([torch.as_tensor(reward).float().sum() for reward in rewards]).cpu().numpy()
        if "query" not in batch and "response" not in batch:
            warnings.warn("the batch has no 'query' and no 'response', so no texts are logged", stacklevel=2)
        logs = {
            **stats,
            "env/reward_mean": float(values.mean()),
            "env/reward_std": deviation(values),
            "env/reward_dist": values,
        }
        logs |= {f"game_log/{name}": list(batch[name]) for name in columns_to_log if name in batch}
        self.accelerator.log(logs)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Writes the model, its value head and the tokenizer to a folder."""
        self.model.save_pretrained(save_directory)
        write: Any = getattr(self.tokenizer, "save_pretrained", None) or getattr(self.tokenizer, "save", None)
        write(save_directory)

    def push_to_hub(self, *_: Any, **__: Any) -> None:
        """Raises ConfigError: nothing is sent anywhere."""
        self.model.push_to_hub()

    def _is_past_target(self, kl: float) -> bool:
        """Whether this step's responses are farther from the reference than the run may go (nats per sequence)."""
        limit = self.config.stop_at
        if limit is None or kl <= limit:
            return False
        if not self.stopped:
            warnings.warn(
                f"the responses are {kl:.2f} nats per sequence from the reference, past target_kl={limit}: the policy "
                "is no longer updated, so end your loop (`if trainer.stopped: break`)",
                stacklevel=3,
            )
        return True

    def _reference(self, given: Any, num_shared_layers: int | None) -> AutoModelForCausalLMWithValueHead:
        if given is None:
            return (
                base_reference(self.model)
                if self.is_peft_model
                else create_reference_model(self.model, num_shared_layers)
            )
        if not isinstance(given, AutoModelForCausalLMWithValueHead):
            raise ConfigError(f"ref_model must come from this module's from_pretrained or be None, got {type(given)}")
        if given is self.model:
            raise ConfigError("ref_model is the model itself, which is trained; leave it out for a frozen copy")
        if num_shared_layers is not None:
            warnings.warn("num_shared_layers is ignored when ref_model is provided", stacklevel=3)
        return given

    def _optimizer(self, given: Any, scheduler: Any) -> tuple[torch.optim.Optimizer, Any]:
        parameters = trained(self.model.engine.model(self.model.handle))
        if given is None:
            if scheduler is not None:
                raise ConfigError("lr_scheduler schedules an optimizer that is not used; pass that as optimizer= too")
            return torch.optim.AdamW(parameters, lr=self.config.learning_rate, weight_decay=0.0, fused=True), None
        ours = set(map(id, parameters))
        if not any(id(parameter) in ours for group in given.param_groups for parameter in group["params"]):
            raise ConfigError("optimizer holds none of the model's parameters; make it from model.parameters()")
        return given, scheduler

    def _replies(
        self,
        model: AutoModelForCausalLMWithValueHead,
        queries: Sequence[Tensor],
        generation: Generation,
        remove_padding: bool,
    ) -> list[Tensor]:
        """Replies without their queries, cut after the first end token of the tokenizer."""
        end = getattr(self.tokenizer, "eos_token_id", None)
        ends = tuple(getattr(self.tokenizer, "stop_ids", ())) if end is None else (end,)
        ends = ends or model.pretrained_model.end_tokens()
        replies = model.pretrained_model.replies([query.tolist() for query in queries], generation, ends)
        if remove_padding:
            replies = [_cut(reply, ends) for reply in replies]
        return [torch.tensor(reply, device=query.device) for query, reply in zip(queries, replies, strict=True)]


def _controller(config: PPOConfig) -> AdaptiveKLController | FixedKLController:
    if not config.adap_kl_ctrl:
        return FixedKLController(config.init_kl_coef)
    return AdaptiveKLController(config.init_kl_coef, config.target or ADAPTIVE_TARGET, config.horizon)


def _of_type(given: Mapping[str, Any], name: str, kind: type) -> Any:
    value = given.get(name)
    if not isinstance(value, kind):
        raise ConfigError(f"{name} must be a {kind.__name__}, got {type(value)}")
    return value


def _cut(reply: list[int], ends: Sequence[int]) -> list[int]:
    return next((reply[: i + 1] for i, token in enumerate(reply) if token in ends), reply)


def _timing(started: float, times: Sequence[float]) -> dict[str, float]:
    """Seconds."""
    names = ("forward_pass", "compute_rewards", "compute_advantages", "optimize_step", "calc_stats")
    now = time.monotonic()
    spans = zip(names, pairwise([*times, now]), strict=True)
    return {f"time/ppo/{name}": end - begin for name, (begin, end) in spans} | {"time/ppo/total": now - started}
