"""Checkpoints of a run: what checkpoints.jsonl says of them, and when they are saved."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from thumbs.errors import ConfigError
from thumbs.recipe.any_client import RENDERER_NAME_KEY, connect
from thumbs.recipe.futures import call, resolved
from thumbs.recipe.model_info import get_recommended_renderer_name
from thumbs.tracking import StepLog

log = logging.getLogger(__name__)

Kind = Literal["state", "sampler", "both"]
LoopState = Mapping[str, Any]
Paths = dict[str, str]


@dataclass(frozen=True)
class CheckpointRecord:
    """One line of checkpoints.jsonl; `epoch` and `batch` say which batch runs next."""

    name: str
    batch: int | None = None
    epoch: int | None = None
    final: bool | None = None
    state_path: str | None = None
    sampler_path: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many steps have run; the batch where the line does not say."""
        return int(self.extra.get("step", self.batch or 0))

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> CheckpointRecord:
        """The record of a line; keys that are no field go to `extra`."""
        own = {key: value for key, value in d.items() if key in _FIELDS}
        return cls(**own, extra={key: value for key, value in d.items() if key not in _FIELDS})

    def to_dict(self) -> dict[str, Any]:
        """The line, without fields that are None."""
        own = {name: getattr(self, name) for name in _FIELDS}
        return {**{key: value for key, value in own.items() if value is not None}, **self.extra}

    def has(self, key: str) -> bool:
        """Whether a field or a key of `extra` has a value."""
        return self.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field or of a key of `extra`."""
        return getattr(self, key) if key in _FIELDS else self.extra.get(key, default)


_FIELDS = [item.name for item in fields(CheckpointRecord) if item.name != "extra"]


def load_checkpoints_file(log_dir: str | Path) -> list[CheckpointRecord]:
    """The records of a log folder, oldest first; none where there is no file."""
    return [CheckpointRecord.from_dict(line) for line in _file(log_dir).read()]


def get_last_checkpoint(log_dir: str | Path, required_key: str = "state_path") -> CheckpointRecord | None:
    """The newest record of a log folder that has `required_key`; None where there is none."""
    records = load_checkpoints_file(log_dir)
    return next((record for record in reversed(records) if record.has(required_key)), None)


async def save_checkpoint_async(
    training_client: Any,
    name: str,
    log_path: str | Path,
    loop_state: LoopState,
    kind: Kind = "state",
    ttl_seconds: int | None = None,
) -> Paths:
    """Save the weights under a name, to train on from, to sample from, or both, and record that once it is done.

    loop_state: what the record says of the loop, `batch`, `epoch`, `final` and any other keys. ttl_seconds: None is for
    good. Returns the paths by record field.
    """
    paths = await saved_paths(training_client, name, kind, ttl_seconds)
    record = CheckpointRecord.from_dict({"name": name, **loop_state, **paths})
    _file(log_path).append(record.step, record.to_dict())
    return paths


def save_checkpoint(
    training_client: Any,
    name: str,
    log_path: str | Path,
    loop_state: LoopState,
    kind: Kind = "state",
    ttl_seconds: int | None = None,
) -> Paths:
    """As save_checkpoint_async, outside of an event loop."""
    return asyncio.run(save_checkpoint_async(training_client, name, log_path, loop_state, kind, ttl_seconds))


async def saved_paths(client: Any, name: str, kind: Kind, ttl_seconds: int | None = None) -> Paths:
    """Save the weights; the paths by record field."""
    futures = {}
    if kind != "sampler":
        futures["state_path"] = client.save_state(name, ttl_seconds=ttl_seconds)
    if kind != "state":
        futures["sampler_path"] = client.save_weights_for_sampler(name, ttl_seconds=ttl_seconds)
    return {key: (await resolved(future)).path for key, future in futures.items()}


class CheckpointManager:
    """Saves a training client every so many steps, tokens or seconds, and when a run ends.

    Periodic checkpoints are kept ttl_seconds. Rolling ones, which are to train on from only, replace each other and are
    kept rolling_ttl_seconds at most; the final one is kept for good. `extra` goes into every record.
    """

    def __init__(
        self,
        training_client: Any,
        service_client: Any,
        log_path: str | Path,
        save_every: int = 0,
        save_every_tokens: int = 0,
        save_every_seconds: float = 0.0,
        ttl_seconds: int | None = 604800,
        rolling_save_every: int = 0,
        rolling_ttl_seconds: int = 7200,
        store: None = None,
        async_periodic_saves: bool = False,
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises ConfigError for a `store`, or saves beside training: neither is there."""
        if store is not None or async_periodic_saves:
            raise ConfigError("store and async_periodic_saves are not supported; records go to log_path, between steps")
        self._client, self._service, self._log_path = training_client, service_client, log_path
        self._steps, self._tokens, self._seconds = save_every, save_every_tokens, save_every_seconds
        self._rolling_steps = rolling_save_every
        self._ttl, self._rolling_ttl = ttl_seconds, rolling_ttl_seconds
        self._extra = dict(extra or {})
        self._saved_at_s, self._saved_at_tokens = time.monotonic(), 0
        self._rolling_path: str | None = None

    def should_save_periodic(self, step: int, *, elapsed_tokens: int = 0) -> bool:
        """Whether a periodic checkpoint is due once `step` steps and so many tokens in all have been trained on."""
        return (
            _is_multiple(step, self._steps)
            or 0 < self._tokens <= elapsed_tokens - self._saved_at_tokens
            or 0 < self._seconds <= time.monotonic() - self._saved_at_s
        )

    def should_save(self, step: int, *, elapsed_tokens: int = 0) -> bool:
        """Whether maybe_save_async would save."""
        return self.should_save_periodic(step, elapsed_tokens=elapsed_tokens) or _is_multiple(step, self._rolling_steps)

    async def maybe_save_async(self, step: int, loop_state: LoopState, *, elapsed_tokens: int = 0) -> Paths | None:
        """Save what is due, a periodic checkpoint or else a rolling one; the paths of a periodic one."""
        if self.should_save_periodic(step, elapsed_tokens=elapsed_tokens):
            self._saved_at_tokens = elapsed_tokens
            return await self.save_periodic_async(step, loop_state)
        await self.maybe_save_rolling_async(step, loop_state)
        return None

    async def save_periodic_async(self, step: int, loop_state: LoopState) -> Paths:
        """Save a periodic checkpoint; its paths."""
        self._saved_at_s = time.monotonic()
        return await self._save(f"{step:06d}", loop_state, "both", self._ttl)

    async def maybe_save_rolling_async(self, step: int, loop_state: LoopState) -> None:
        """Save a rolling checkpoint where one is due, then delete the one before it."""
        if _is_multiple(step, self._rolling_steps):
            paths = await self._save(f"rolling-{step:06d}", loop_state, "state", self._rolling_ttl)
            await self.finalize_async()
            self._rolling_path = paths["state_path"]

    async def save_final_async(self, loop_state: LoopState) -> Paths:
        """Save for good, then delete the last rolling checkpoint; the paths."""
        step = CheckpointRecord.from_dict({"name": "", **loop_state}).step
        paths = await self._save(f"final-{step:06d}", {**loop_state, "final": True}, "both", None)
        await self.finalize_async()
        return paths

    async def finalize_async(self) -> None:
        """Delete the last rolling checkpoint; one that cannot be deleted goes when its time is over."""
        path, self._rolling_path = self._rolling_path, None
        if path is None:
            return
        try:
            rest = await call(self._service.create_rest_client)
            await resolved(rest.delete_checkpoint_from_tinker_path(path))
        except Exception as error:
            log.warning("%s was not deleted and stays until it expires: %s", path, error)

    def maybe_save(self, step: int, loop_state: LoopState, *, elapsed_tokens: int = 0) -> Paths | None:
        """As maybe_save_async, outside of an event loop."""
        return asyncio.run(self.maybe_save_async(step, loop_state, elapsed_tokens=elapsed_tokens))

    def save_periodic(self, step: int, loop_state: LoopState) -> Paths:
        """As save_periodic_async, outside of an event loop."""
        return asyncio.run(self.save_periodic_async(step, loop_state))

    def maybe_save_rolling(self, step: int, loop_state: LoopState) -> None:
        """As maybe_save_rolling_async, outside of an event loop."""
        asyncio.run(self.maybe_save_rolling_async(step, loop_state))

    def save_final(self, loop_state: LoopState) -> Paths:
        """As save_final_async, outside of an event loop."""
        return asyncio.run(self.save_final_async(loop_state))

    def finalize(self) -> None:
        """As finalize_async, outside of an event loop."""
        asyncio.run(self.finalize_async())

    async def _save(self, name: str, loop_state: LoopState, kind: Kind, ttl_seconds: int | None) -> Paths:
        state = {**loop_state, **self._extra}
        return await save_checkpoint_async(self._client, name, self._log_path, state, kind, ttl_seconds)


async def get_renderer_name_from_checkpoint_async(service_client: Any, checkpoint_path: str) -> str | None:
    """The renderer that the run of a checkpoint was trained with, where its metadata says so."""
    try:
        rest = await call(service_client.create_rest_client)
        run = await resolved(rest.get_training_run_by_tinker_path(checkpoint_path))
    except Exception as error:
        log.warning("the renderer of %s is unknown: %s", checkpoint_path, error)
        return None
    return (run.user_metadata or {}).get(RENDERER_NAME_KEY)


def get_renderer_name_from_checkpoint(service_client: Any, checkpoint_path: str) -> str | None:
    """As get_renderer_name_from_checkpoint_async, outside of an event loop."""
    return asyncio.run(get_renderer_name_from_checkpoint_async(service_client, checkpoint_path))


async def resolve_renderer_name_from_checkpoint_or_default_async(
    *,
    model_name: str,
    explicit_renderer_name: str | None,
    load_checkpoint_path: str | None,
    base_url: str | None = None,
) -> str:
    """The explicit renderer, else that of the checkpoint, else the recommended one of the model."""
    if explicit_renderer_name is not None:
        return explicit_renderer_name
    found = None
    if load_checkpoint_path is not None:
        service = await call(connect, base_url)
        found = await get_renderer_name_from_checkpoint_async(service, load_checkpoint_path)
    return found or get_recommended_renderer_name(model_name)


def resolve_renderer_name_from_checkpoint_or_default(
    *,
    model_name: str,
    explicit_renderer_name: str | None,
    load_checkpoint_path: str | None,
    base_url: str | None = None,
) -> str:
    """As resolve_renderer_name_from_checkpoint_or_default_async, outside of an event loop."""
    return asyncio.run(
        resolve_renderer_name_from_checkpoint_or_default_async(
            model_name=model_name,
            explicit_renderer_name=explicit_renderer_name,
            load_checkpoint_path=load_checkpoint_path,
            base_url=base_url,
        )
    )


async def check_renderer_name_for_checkpoint_async(
    service_client: Any, checkpoint_path: str, expected_renderer_name: str | None
) -> None:
    """Warns in the log where a checkpoint was trained with another renderer than the expected one."""
    if expected_renderer_name is None:
        return
    found = await get_renderer_name_from_checkpoint_async(service_client, checkpoint_path)
    if found not in (None, expected_renderer_name):
        log.warning(
            "%s was trained with the renderer %s; this run uses %s", checkpoint_path, found, expected_renderer_name
        )


def check_renderer_name_for_checkpoint(
    service_client: Any, checkpoint_path: str, expected_renderer_name: str | None
) -> None:
    """As check_renderer_name_for_checkpoint_async, outside of an event loop."""
    asyncio.run(check_renderer_name_for_checkpoint_async(service_client, checkpoint_path, expected_renderer_name))


def _is_multiple(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _file(log_path: str | Path) -> StepLog:
    return StepLog(Path(log_path).expanduser() / "checkpoints.jsonl")
