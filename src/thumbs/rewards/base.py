"""Where scores come from: a trained model, a rule, an environment, or any Python callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from thumbs.envs.limits import OutOfTimeError, within
from thumbs.errors import ConfigError, RewardError
from thumbs.records import Rollout, Score
from thumbs.rewards.returned import as_items, as_numbers, check_size, reply_place, shown
from thumbs.rewards.signatures import SIGNATURES, batch_arguments, batch_columns, untouchable

TIME_LIMIT_S = 600.0
"""What a call of a reward function may take, unless its part of the mix says otherwise."""


class RewardSource(Protocol):
    """One score per rollout."""

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores in order, score units."""
        ...


def require_finite(name: str, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> None:
    """Raises RewardError, which names the rollout, for a score that is not a finite number, or too large to train
    on.
    """
    for number, (rollout, score) in enumerate(zip(rollouts, scores, strict=True)):
        where = reply_place(name, number, rollout)
        if not np.isfinite(score.value):
            raise RewardError(f"{where} got {score.value}, which is not a finite number")
        check_size(score.value, where)


class NoAnswerError(RewardError):
    """A rule compares with the answer of a prompt that has none."""


def shown_scores(source: RewardSource, rollouts: Sequence[Rollout]) -> list[float]:
    """Scores to show with replies from which nothing is learned; NaN if their prompts lack the answer."""
    try:
        return [score.value for score in source.score(rollouts)]
    except NoAnswerError:
        return [float("nan")] * len(rollouts)


class CallableReward:
    """A Python function as reward, of one of the signatures in `signatures.py`.

    It gets copies, through which nothing that is trained on can be changed, and has `time_limit_s` seconds for each
    call. A function of one rollout is called for `concurrency` of them at the same time, in threads. Raises ConfigError
    for another signature.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str = "function",
        time_limit_s: float = TIME_LIMIT_S,
        concurrency: int = 1,
    ) -> None:
        self.function, self.name, self.time_limit_s, self.concurrency = function, name, time_limit_s, concurrency
        self.columns = batch_arguments(function, name)
        if self.columns is not None and concurrency > 1:
            raise ConfigError(f"reward {name} takes a whole batch in one call, so concurrency={concurrency} is no use")

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """A score for each rollout, in order. Raises RewardError if the function fails or gives anything else.

        Where a function of TRL's signature gives None, the score counts for nothing (`Score.counts`).
        """
        if self.columns is not None:
            return self._score_batch(rollouts, self.columns) if rollouts else []
        if self.concurrency == 1:
            return [self._score_one(number, rollout) for number, rollout in enumerate(rollouts)]
        with ThreadPoolExecutor(self.concurrency) as threads:
            scores = [threads.submit(self._score_one, *numbered) for numbered in enumerate(rollouts)]
            try:
                return [score.result() for score in scores]
            finally:
                threads.shutdown(cancel_futures=True)

    def _score_one(self, number: int, rollout: Rollout) -> Score:
        where = reply_place(self.name, number, rollout)
        given = self._call(where, lambda: self.function(untouchable(rollout)))
        if given is None:
            raise RewardError(
                f"{where} got None; return a number (a function f(prompts, completions, **columns) may give None for "
                "a reply of which it has nothing to say)"
            )
        sampled = int(rollout.mask.sum())
        found = as_numbers(given, where, f"one number, or one for each of the {sampled} tokens that were sampled")
        if found.shape not in ((), (sampled,)):
            raise RewardError(
                f"{where} got an array of shape {found.shape}; give one number, or one for each of the {sampled} "
                "tokens that were sampled"
            )
        value = float(found.sum())
        check_size(value, where, "a sum of " if found.ndim else "")
        return Score(value, tokens=tuple(found.tolist()) if found.ndim else None)

    def _score_batch(self, rollouts: Sequence[Rollout], taken: Sequence[str]) -> list[Score]:
        where = f"reward {self.name}: the batch of {len(rollouts)} replies"
        columns = {name: column for name, column in batch_columns(rollouts).items() if name in taken}
        given = self._call(where, lambda: self.function(**columns))
        items = as_items(given)
        if items is None:
            raise RewardError(f"{where} got {shown(given)}; give a list with a number (or None) for each reply")
        if len(items) != len(rollouts):
            raise RewardError(f"{where} got {len(items)} rewards; give one for each of the {len(rollouts)} replies")
        return [
            self._one_of_batch(number, rollout, item)
            for number, (rollout, item) in enumerate(zip(rollouts, items, strict=True))
        ]

    def _one_of_batch(self, number: int, rollout: Rollout, given: Any) -> Score:
        if given is None:
            return Score(0.0, counts=False)
        where = reply_place(self.name, number, rollout)
        found = as_numbers(given, where, "one number for each reply")
        if found.size != 1:
            raise RewardError(f"{where} got an array of shape {found.shape}; give one number for each reply")
        return Score(float(found.reshape(())))

    def _call(self, where: str, call: Callable[[], Any]) -> Any:
        try:
            given = within(self.time_limit_s, call)
        except OutOfTimeError:
            raise RewardError(
                f"{where} took longer than the {self.time_limit_s:g} s that it has; make the function faster, or raise "
                "the part's time_limit_s"
            ) from None
        except RewardError:
            raise
        except (Exception, SystemExit, GeneratorExit) as error:  # KeyboardInterrupt is the person who watches
            raise RewardError(f"{where} failed with {type(error).__name__}: {error}") from error
        if inspect.isawaitable(given):
            if inspect.iscoroutine(given):
                given.close()
            raise RewardError(f"{where} got a coroutine, which nothing awaits; write a plain function {SIGNATURES}")
        return given


class EnvironmentReward:
    """What the environment gave to each turn of a conversation."""

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Sums over the turns, each reward at the end of its turn; raises RewardError for a rollout without any."""
        return [self._score(rollout) for rollout in rollouts]

    def _score(self, rollout: Rollout) -> Score:
        if rollout.rewards is None:
            raise RewardError(
                f"prompt {rollout.prompt_id} was answered outside of an environment, which scores nothing"
            )
        sampled = rollout.rewards[rollout.mask > 0].astype(np.float64)
        return Score(float(sampled.sum()), tokens=tuple(sampled.tolist()))
