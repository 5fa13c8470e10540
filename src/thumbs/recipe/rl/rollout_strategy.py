"""How the episodes of a group are rolled out, and what happens when one of them fails."""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from thumbs.errors import DataError, RunError
from thumbs.recipe.completers import TokenCompleter
from thumbs.recipe.rl.rollout_runner import do_single_rollout
from thumbs.recipe.rl.types import Env, EnvGroupBuilder, RolloutError, Trajectory

log = logging.getLogger(__name__)


class AllTrajectoriesFailedError(RunError):
    """So many episodes of a group have failed that the rest is too few."""


@dataclass(frozen=True)
class RolloutResult:
    """Episodes that were finished, in the order of the environments, and what went wrong."""

    trajectories: list[Trajectory]
    envs: Sequence[Env]
    errors: list[RolloutError]


class RolloutStrategy(ABC):
    """Rolls out a group."""

    @property
    def catches_group_errors(self) -> bool:
        """Whether training goes on without a group that has failed, rather than ending."""
        return False

    @abstractmethod
    async def execute(self, env_group_builder: EnvGroupBuilder, policy: TokenCompleter) -> RolloutResult:
        """Make the environments and roll them out."""


@dataclass(frozen=True)
class FailFast(RolloutStrategy):
    """An exception in a rollout ends the run; it can be continued from its last checkpoint."""

    async def execute(self, env_group_builder: EnvGroupBuilder, policy: TokenCompleter) -> RolloutResult:
        """All episodes at once; raises what the first that fails has raised."""
        return await _Group(env_group_builder, policy).collect()


@dataclass(frozen=True)
class RetryOnFailure(RolloutStrategy):
    """An episode that fails is done again in a new environment, `max_retries` times in a group; then the group fails.

    per_rollout_timeout: seconds after which an episode has failed; 0 is never.
    """

    max_retries: int = 3
    per_rollout_timeout: float = 0

    @property
    def catches_group_errors(self) -> bool:
        """Yes."""
        return True

    async def execute(self, env_group_builder: EnvGroupBuilder, policy: TokenCompleter) -> RolloutResult:
        """All episodes at once; raises what the last failure has raised when no retry is left."""
        return await _Group(env_group_builder, policy, self.max_retries, self.per_rollout_timeout or None).collect()


@dataclass(frozen=True)
class MinViableGroup(RolloutStrategy):
    """A group is good with `min_successful` episodes, None is three quarters of them; failures are retried until then.

    A smaller group has a noisier mean, so its advantages are noisier too. per_rollout_timeout: seconds; None is never.
    """

    min_successful: int | None = None
    max_retries: int = 3
    per_rollout_timeout: float | None = None

    @property
    def catches_group_errors(self) -> bool:
        """Yes."""
        return True

    async def execute(self, env_group_builder: EnvGroupBuilder, policy: TokenCompleter) -> RolloutResult:
        """All episodes at once; raises AllTrajectoriesFailedError where too few are left."""
        group = _Group(env_group_builder, policy, self.max_retries, self.per_rollout_timeout)
        try:
            return await group.collect(self.min_successful or 0.75)
        except Exception as error:
            if not group.errors:
                raise  # the environments could not be made
            raise AllTrajectoriesFailedError(
                f"{len(group.errors)} failures in a group, the last: {error!r}; fewer than min_successful are left"
            ) from error


@dataclass
class _Group:
    """Episodes under way."""

    builder: EnvGroupBuilder
    policy: TokenCompleter
    retries: int = 0
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        self.errors: list[RolloutError] = []

    async def collect(self, needed: float = 1.0) -> RolloutResult:
        """The episodes, at least so many of them (int) or that share of all (float)."""
        envs = list(await self.builder.make_envs())
        if not envs:
            name = type(self.builder).__name__
            raise DataError(f"{name}.make_envs() returned no environment; a group needs at least one")
        least = needed if isinstance(needed, int) else math.ceil(needed * len(envs))
        finished: dict[int, Trajectory] = {}
        pending = {self._begin(env): place for place, env in enumerate(envs)}
        try:
            while pending:
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    place = pending.pop(task)
                    if task.exception() is None:
                        finished[place] = task.result()
                    elif self._may_retry(task.exception(), len(finished), least):
                        envs[place] = list(await self.builder.make_envs())[place]
                        pending[self._begin(envs[place])] = place
                    elif len(finished) + len(pending) < least:
                        task.result()  # raises
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        places = sorted(finished)
        return RolloutResult([finished[place] for place in places], [envs[place] for place in places], self.errors)

    def _begin(self, env: Env) -> asyncio.Task[Trajectory]:
        return asyncio.create_task(asyncio.wait_for(do_single_rollout(self.policy, env), self.timeout_s))

    def _may_retry(self, error: BaseException | None, finished: int, least: float) -> bool:
        self.errors.append(RolloutError(type(error).__name__, str(error)))
        if self.retries == 0 or finished >= least:
            return False
        self.retries -= 1
        log.warning("a rollout failed and is done again: %r", error)
        return True
