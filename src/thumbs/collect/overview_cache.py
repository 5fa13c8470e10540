"""Statistics of projects, kept until there are new judgements; a large project's are made beside the requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sqlalchemy import func, select

from thumbs.collect.tables import JUDGEMENTS, PROJECTS
from thumbs.storage import Database

log = logging.getLogger(__name__)

AT_ONCE = 3000
"""Judgements of a project whose numbers are made while the page waits, which takes a fraction of a second."""
_REST = 4.0
"""After numbers that took t seconds none of the same project are made for so many times t, so that pages stay fast."""


class HasWatermark(Protocol):
    """Numbers that know the newest judgement they hold."""

    @property
    def watermark(self) -> int:
        """Its id."""
        ...


N = TypeVar("N", bound=HasWatermark)


@dataclass(frozen=True)
class Shown(Generic[N]):
    """What a page may show now. numbers: None where none are ready yet; age_s: since they were made; coming: whether
    there are newer judgements, whose numbers are on their way; failed: why the last attempt made none, or "".
    """

    numbers: N | None
    age_s: float
    coming: bool
    failed: str = ""


@dataclass
class _Kept(Generic[N]):
    numbers: N | None = None
    made: float = 0.0
    took: float = 0.0
    worker: threading.Thread | None = None
    failed: str = ""
    settings: object = None


class Snapshots(Generic[N]):
    """`make(project_id)` gives the numbers; it runs in one thread a project at most."""

    def __init__(self, db: Database, make: Callable[[int], N], clock: Callable[[], float] = time.monotonic) -> None:
        self._db, self._make, self._clock = db, make, clock
        self._kept: dict[int, _Kept[N]] = {}
        self._lock = threading.Lock()

    def of(self, project_id: int) -> Shown[N]:
        """The numbers of a project: fresh ones of a small project, else the newest that there are."""
        newest, small, settings = self._newest(project_id)
        with self._lock:
            kept = self._kept.setdefault(project_id, _Kept())
            if kept.settings != settings and kept.worker is None:  # another part of the judgements may count now
                kept.numbers, kept.settings = None, settings
            if kept.numbers is not None and kept.numbers.watermark >= newest:
                return self._shown(kept, coming=False)
            rested = small or self._clock() - kept.made >= _REST * kept.took
            worker = kept.worker or (self._start(project_id, kept) if rested else None)
        if small and worker is not None:
            worker.join()
            return self._shown(kept, coming=False)
        return self._shown(kept, coming=True)

    def wait(self, project_id: int) -> Shown[N]:
        """The numbers as soon as those under way are ready; for tests and programs without readers."""
        self.of(project_id)
        worker = self._kept[project_id].worker
        if worker is not None:
            worker.join()
        return self.of(project_id)

    def _start(self, project_id: int, kept: _Kept[N]) -> threading.Thread:
        kept.worker = threading.Thread(target=self._work, args=(project_id, kept), daemon=True)
        kept.worker.start()
        return kept.worker

    def _work(self, project_id: int, kept: _Kept[N]) -> None:
        start, made, failed = self._clock(), None, ""
        try:
            made = self._make(project_id)
        except Exception as error:  # a thread of its own: nobody else would hear of it
            log.exception("the numbers of project %d cannot be made", project_id)
            failed = f"{type(error).__name__}: {error}"
        with self._lock:
            kept.numbers = made or kept.numbers
            kept.made, kept.failed, kept.worker = self._clock(), failed, None
            kept.took = kept.made - start

    def _shown(self, kept: _Kept[N], *, coming: bool) -> Shown[N]:
        return Shown(kept.numbers, self._clock() - kept.made, coming and not kept.failed, kept.failed)

    def _newest(self, project_id: int) -> tuple[int, bool, object]:
        """The newest judgement as far as it can be seen without waiting for writers, whether there are few, and the
        project's settings.
        """
        of = JUDGEMENTS.c.project_id == project_id
        some = select(JUDGEMENTS.c.id).where(of).limit(AT_ONCE + 1).subquery()
        with self._db.reading() as db:
            newest = db.scalar(select(func.max(JUDGEMENTS.c.id)).where(of)) or 0
            settings = db.scalar(select(PROJECTS.c.settings).where(PROJECTS.c.id == project_id))
            return newest, (db.scalar(select(func.count()).select_from(some)) or 0) <= AT_ONCE, settings
