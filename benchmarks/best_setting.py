"""The setting with which a peer is fastest, looked for before anything is compared.

One choice after the other: of the rows on a device, for example, the best is kept while the number format is chosen.
Every setting does the same optimizer step on the same batches.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from jobs import Job, Worker
from process import FAILURES, Figures, Process

PATIENCE = 3.0
"""A setting whose turn takes so many times the best one's seconds is given up."""
FIRST_TURN = 400.0
"""Seconds: until a worker is loaded, and for its first turn, in which some compile."""


def best_setting(job: Job, worker: Worker, common: dict[str, Any]) -> Figures:
    """`chosen`: the settings of the highest rate; `tried`: each with its rate, or why it did not run."""
    best: dict[str, Any] = {}
    tried: list[Figures] = []
    for choice in worker.choices:
        for option in choice:
            if (settings := merged(best, option)) in (one["settings"] for one in tried):
                continue
            quickest = min((one["seconds"] for one in tried if "seconds" in one), default=None)
            tried.append({"settings": settings} | attempt(job, worker, common, settings, quickest))
            print(f"    {worker.name} {settings}: {told(tried[-1])}", file=sys.stderr, flush=True)
        ran = [one for one in tried if "seconds" in one]
        if ran:
            best = min(ran, key=lambda one: one["seconds"])["settings"]
    return {"chosen": best, "tried": tried}


def merged(settings: dict[str, Any], option: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of an option over them; variables of the environment are joined."""
    env = settings.get("env", {}) | option.get("env", {})
    return settings | option | ({"env": env} if env else {})


def attempt(
    job: Job, worker: Worker, common: dict[str, Any], settings: dict[str, Any], quickest: float | None
) -> Figures:
    """Seconds of the faster of two turns, after one to warm up, or the error. All settings get the same batches."""
    started = time.monotonic()
    limit = None if quickest is None else PATIENCE * quickest
    try:
        running = Process(job, worker, common, settings, FIRST_TURN)
        try:
            running.turn(0, FIRST_TURN)
            turns = range(1, min(len(job.batches), 3))
            seconds = min(running.turn(number, limit)["seconds"] for number in turns)
            return {"seconds": seconds, "whole_s": time.monotonic() - started}
        finally:
            running.stop()
    except FAILURES as error:
        return {"error": str(error).splitlines()[0]}


def told(one: Figures) -> str:
    return f"{one['seconds']:.2f} s" if "seconds" in one else one["error"]
