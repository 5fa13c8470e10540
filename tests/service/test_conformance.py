"""The real SDKs against a server of ours, and the same script through both doors."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from service.conformance import MODEL, PAGE, SDKS, TINKER, Sdk, environment, environment_of, outcomes, served


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
