"""Trackers: programs that show the numbers of runs. They follow the logs of a run folder, next to the training.

The folder is the truth and a tracker a copy of it: training never waits for one, one that fails is named and left
alone, and what was not sent yet is sent when the same run is started again, under the same name and in the same curves.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from thumbs.config.named import Registry
from thumbs.config.pipeline import PipelineConfig, place
from thumbs.config.tracking import TrackerConfig
from thumbs.errors import ConfigError, ThumbsError
from thumbs.pipeline.identity import GROWING, read_identity
from thumbs.pipeline.standing import places
from thumbs.tracking.files import read_object_if_there, write_json
from thumbs.tracking.run_folder import StageFolder

log = logging.getLogger(__name__)

SENT = "trackers.json"
"""What each tracker was sent, in the run folder."""

_EVERY_S = 5.0


class Tracker(Protocol):
    """A run that is open in a program which shows numbers."""

    def numbers(self, place: str, step: int, values: Mapping[str, float]) -> None:
        """Takes the metrics of a step of the stage at `place` (`ppo`, `iteration-2/ppo`)."""
        ...

    def samples(self, place: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes the replies to the fixed prompts after a step: `prompt`, `text`, `score` and what else a row has."""
        ...

    def close(self) -> None:
        """Ends the run there, once everything is sent."""
        ...


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is opened with: where the run belongs, an id that stays when the run goes on, its folder, and its
    settings.
    """

    project: str
    name: str
    id: str
    folder: Path
    settings: Mapping[str, Any]


TRACKERS: Registry[Callable[[TrackedRun], Tracker]] = Registry(
    "tracker",
    {name: f"thumbs.pipeline.tracker_kinds:{name}" for name in ("trackio", "wandb", "tensorboard", "mlflow")},
)
"""What a config names as `tracking`."""


@contextlib.contextmanager
def tracked(config: PipelineConfig, run: Path) -> Iterator[None]:
    """Sends what the block logs to every tracker of the config, and what was logged before and not sent.

    Raises ConfigError, before the block, for a tracker that is not known or does not open.
    """
    if not config.tracking:
        yield
        return
    with contextlib.ExitStack() as opened:
        followers: list[_Follower] = []
        for chosen in config.tracking:
            followers.append(_Follower(config, run, chosen))
            opened.callback(followers[-1].close)
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(_EVERY_S):
                _send(followers)

        thread = threading.Thread(target=follow, name="trackers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            _send(followers)


def _send(followers: Sequence[_Follower]) -> None:
    for follower in followers:
        follower.send()


class _Follower:
    """One tracker and how much of the run it has."""

    def __init__(self, config: PipelineConfig, run: Path, chosen: TrackerConfig) -> None:
        self._run, self._kind, self._broken = run, chosen.kind, False
        self._places = [place(stage, iteration) for stage, iteration in places(config)]
        make = TRACKERS[chosen.kind]
        self._sent = dict(self._file().get(self._kind, {}))
        self._sent.setdefault("id", secrets.token_hex(6))
        self._save()  # the id first: a run that is killed goes on under it
        name = chosen.name or run.resolve().name
        about = TrackedRun(chosen.project, name, self._sent["id"], run, config.model_dump(mode="json"))
        try:
            self._tracker = make(about)
        except ThumbsError:
            raise
        except Exception as error:  # each program has errors of its own
            raise ConfigError(
                f"tracking: {self._kind} does not open ({type(error).__name__}: {error}); set it up as its "
                "documentation says, or leave it out of `tracking`: the run folder has every number"
            ) from error

    def send(self) -> None:
        """Sends what is new; a tracker that fails gets no more in this process."""
        for where in () if self._broken else self._places:
            try:
                self._send_stage(where)
            except Exception as error:  # each program has errors of its own, and training must not end for them
                self._fail(error)
                return

    def close(self) -> None:
        """Ends the run at the tracker."""
        try:
            self._tracker.close()
        except Exception as error:  # as above
            self._fail(error)

    def _send_stage(self, where: str) -> None:
        folder = StageFolder(self._run / where)
        stage = _digest(where, folder.path)
        if stage is None:
            return
        known = self._sent.get(where, {})
        if known.get("stage") != stage:  # trained anew with other settings: all its numbers are new
            known = {"stage": stage, "numbers": -1, "samples": -1}
        numbers = [record for record in folder.metrics.read() if record["step"] > known["numbers"]]
        for record in numbers:
            values = {key: float(value) for key, value in record.items() if key != "step" and value is not None}
            self._tracker.numbers(where, record["step"], values)
        # The rows of a step are written one by one: the last step is sent when a later line says that it is whole.
        rows = [row for row in folder.samples.read() if row["step"] > known["samples"]]
        reached = max([known["numbers"], *(record["step"] for record in numbers)])
        whole = [step for step in dict.fromkeys(row["step"] for row in rows) if step < reached or folder.is_done()]
        for step in whole:
            self._tracker.samples(where, step, [row for row in rows if row["step"] == step])
        if numbers or whole:
            self._sent[where] = {**known, "numbers": reached, "samples": max([known["samples"], *whole])}
            self._save()

    def _file(self) -> Mapping[str, Any]:
        return read_object_if_there(self._run / SENT)

    def _save(self) -> None:
        write_json(self._run / SENT, {**self._file(), self._kind: self._sent})

    def _fail(self, error: Exception) -> None:
        self._broken = True
        log.warning(
            "tracking: %s failed (%s: %s) and gets no more numbers; start the same run again to send the rest",
            self._kind,
            type(error).__name__,
            error,
        )


def _digest(where: str, folder: Path) -> str | None:
    """What the stage in a folder is, however many steps it has; None if it has not begun."""
    found = read_identity(folder) if folder.is_dir() else None
    if found is None:
        return None
    grows = GROWING.get(where.rpartition("/")[2])
    return replace(found, settings={key: value for key, value in found.settings.items() if key != grows}).digest
