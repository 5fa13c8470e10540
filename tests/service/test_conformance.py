"""The real SDKs against a server of ours, and the same script through both doors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from service.conformance import MODEL, PAGE, SDKS, TINKER, Sdk, environment, environment_of, on_ranks, outcomes, served
from service.serving import seen_by
from thumbs.config.engine import RolloutConfig
from thumbs.engine.base import Handle
from thumbs.engine.local import LocalEngine
from thumbs.records import Example, TrainOutput
from thumbs.rollout.native import native_samplers
from thumbs.rollout.publish import OpenSampler


class WaitingEngine(LocalEngine):
    """Its passes over data that begin with "ahead" wait until a file is there."""

    def __init__(self, file: Path, sampler: OpenSampler) -> None:
        super().__init__(sampler=sampler)
        self._file = file

    def _passes(
        self, handle: Handle, data: Sequence[Example], *args: Any, **how: Any
    ) -> Generator[None, None, TrainOutput]:
        until = time.monotonic() + 120
        while bytes(data[0].inputs[:5].tolist()) == b"ahead" and not self._file.exists():
            assert time.monotonic() < until, "nobody drew meanwhile"
            time.sleep(0.01)
        return (yield from super()._passes(handle, data, *args, **how))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: sdk.name)
def test_the_sdk_works_against_the_server(sdk: Sdk, tmp_path):
    """Every case passes, and the page says of each what is the case."""
    environment_of(sdk)
    with served(tmp_path) as url:
        found, printed = outcomes(sdk, url, tmp_path)
    assert [case for case, passed in found.items() if not passed] == [], printed[-5000:]
    assert len(found) >= 45
    column = SDKS.index(sdk) + 2
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "|" in line]
    told = {row[1] for row in rows if len(row) == 4 and row[column] == "passes"}
    assert told == {re.sub(r"\[.*|^test_(?:\d+_)?(?:and_\d+_)?", "", case).replace("_", " ") for case in found}


ON_RANKS = "07 or 08 or 12 or 13 or 16 or 20 or 26 or 30 or 34 or 44"
"""Passes in flight, sampled and saved weights, stops, agreement, resuming, clients side by side, errors."""


@pytest.mark.timeout(600)
def test_the_sdk_works_against_ranks_with_shards_and_a_sampler_of_its_own(tmp_path):
    """A part of the cases; `conformance.py ranks` runs all of them."""
    environment_of(TINKER)
    with served(tmp_path, **on_ranks(tmp_path / "logs", "full")) as url:
        found, printed = outcomes(TINKER, url, tmp_path, chosen=ON_RANKS)
    assert [case for case, passed in found.items() if not passed] == [], printed[-5000:]
    assert len(found) >= 10


@pytest.mark.timeout(300)
def test_samples_over_http_do_not_wait_for_a_pass(tmp_path):
    """The SDK draws from the weights of step k while the pass of step k + 1 computes, which ends only after that."""
    environment_of(TINKER)
    engine = WaitingEngine(tmp_path / "drawn", native_samplers(RolloutConfig(workers=1)))
    with served(tmp_path, engine=engine, elsewhere=engine.open_sampler) as url:
        seen = seen_by(TINKER, "ahead_script.py", url, tmp_path)
    assert seen["draws"][0] == seen["draws"][1]  # of step k, before and while step k + 1 computes
    assert seen["draws"][2] != seen["draws"][0]  # of step k + 1


def test_both_doors_give_the_same_numbers(tmp_path):
    """To the last bit: the script over HTTP with the SDK, and in process after a change of one import."""
    script = "tests/service/same_script.py"
    with served(tmp_path) as url:
        settings = environment(url, tmp_path / "hf") | {
            "THUMBS_ALIASES": f"{MODEL}={tmp_path / 'model'}",
            "THUMBS_STORE": str(tmp_path / "in-process"),
        }
        seen = []
        for python, module in ((environment_of(TINKER).python, "tinker"), (sys.executable, "thumbs")):
            command = [python, "-W", "ignore", script, module]
            done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=200)
            assert done.returncode == 0, done.stderr
            seen.append(json.loads(done.stdout))
    assert len(seen[0]) == 15
    assert seen[0] == seen[1]
