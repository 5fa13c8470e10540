"""Many clients at once."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.conformance import TINKER, environment_of
from service.serving import seen_by, served_by
from thumbs.clients.backend import Backend
from thumbs.engine.base import TrainOutput
from thumbs.engine.local import LocalEngine

TRAINERS, STEPS, SAMPLES = 8, 4, 200


class GatedEngine(LocalEngine):
    """Begins its first pass when everything has been asked for: then who is served when is for the server to say."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend, self._begun = backend, False

    def _passes(self, *args: Any, **how: Any) -> Generator[None, None, TrainOutput]:
        until = time.monotonic() + 60
        while not self._begun:
            time.sleep(0.05)
            self._begun = self._everything_waits() or time.monotonic() > until
        return (yield from super()._passes(*args, **how))

    def _everything_waits(self) -> bool:
        waiting = self._backend.waiting()
        return sum(waiting["operations"].values()) == 2 * TRAINERS * STEPS and waiting["samples"] == SAMPLES


class GatedBackend(Backend):
    """Has all the work before it when it begins."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._engine = self.samplers._engine = GatedEngine(self)


@pytest.mark.timeout(300)
def test_all_are_served_and_nobody_waits_for_all_of_another(tmp_path: Path, record_property: Any):
    """Two hundred samples and eight trainers; control calls are answered meanwhile."""
    environment_of(TINKER)
    with served_by(GatedBackend, tmp_path) as url:
        seen = seen_by(TINKER, "load_script.py", url, tmp_path)
    steps, samples, control = (np.array(seen[name]) for name in ("steps", "samples", "control"))
    assert steps.shape == (TRAINERS, STEPS)
    assert samples.size == SAMPLES
    for clients in (steps, samples):
        assert clients.min(axis=1).max() < clients.max(axis=1).min()
    assert steps.min() < samples.max()
    assert samples.min() < steps.max()
    middle, late = np.percentile(control, [50, 99])
    record_property("control calls", f"{len(control)}: p50 {1000 * middle:.0f} ms, p99 {1000 * late:.0f} ms")
    assert late < 2.0  # with a model of 5M weights on two cores it is to be under 1 s; machines differ
