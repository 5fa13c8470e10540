"""Recipes of tinker-cookbook, as published: against a server of ours, and on our clients in one process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from service.conformance import (
    COOKBOOK,
    COOKBOOKS,
    PAGE,
    ROOT,
    Sdk,
    environment,
    environment_of,
    in_process,
    outcomes,
    recipes,
    served,
)
from thumbs.models.precision import multiplies_bfloat16

each_cookbook = pytest.mark.parametrize("sdk", COOKBOOKS, ids=lambda sdk: sdk.name)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_the_recipes_run_against_the_server(tmp_path: Path):
    """Every case passes, and the page says so."""
    environment_of(COOKBOOK)
    with served(tmp_path, COOKBOOK) as url:
        passed, printed = outcomes(COOKBOOK, url, tmp_path)
    assert [case for case, well in passed.items() if not well] == [], printed[-5000:]
    assert len(passed) >= 10
    assert recipes(passed) in PAGE.read_text(encoding="utf-8")


@pytest.mark.e2e
@pytest.mark.timeout(600)
@each_cookbook
def test_the_recipes_run_in_process(sdk: Sdk, tmp_path: Path):
    """The same cases, after `import thumbs.recipe` alone."""
    passed, printed = outcomes(environment_of(sdk), None, tmp_path)
    assert [case for case, well in passed.items() if not well] == [], printed[-5000:]
    assert len(passed) >= 10


@pytest.mark.timeout(300)
@each_cookbook
@pytest.mark.parametrize("cases", ["recipe_cases.py", "example_cases.py"])
def test_the_shim_and_the_example(sdk: Sdk, cases: str, tmp_path: Path):
    passed, printed = outcomes(environment_of(sdk), None, tmp_path, cases)
    assert passed, printed[-5000:]
    assert [case for case, well in passed.items() if not well] == [], printed[-5000:]


def result_of(sdk: Sdk, settings: Mapping[str, str], folder: Path, module: str) -> Any:
    """The metrics of SFT, the losses of the preference model, and the metrics of RL."""
    command = [sdk.python, "-W", "ignore", "tests/service/recipe_script.py", folder, module]
    done = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


@pytest.mark.timeout(300)
@each_cookbook
def test_one_script_trains_over_http_and_in_process(sdk: Sdk, tmp_path: Path) -> None:
    environment_of(sdk)
    with served(tmp_path, sdk) as url:
        settings = environment(url, tmp_path / "hf", sdk.model) | {"PYTHONPATH": os.fspath(ROOT / "src")}
        remote = result_of(sdk, settings, tmp_path / "remote", "tinker")
    local = result_of(sdk, in_process(sdk, tmp_path), tmp_path / "local", "thumbs")
    exact = not multiplies_bfloat16()
    for supervised, losses, (first, *others) in (remote, local):
        assert supervised[-1]["train_mean_nll"] < 0.6 * supervised[0]["train_mean_nll"]
        assert losses[-1] < 0.5 * losses[0]
        assert len([row for row in others if "env/all/reward/total" in row]) == 1
        # Sampler and trainer have the same weights; in bfloat16 the one rounds an adapter's products otherwise.
        assert abs(first["optim/kl_sample_train_v1"]) < (1e-5 if exact else 2e-3)
        assert first["env/all/by_preferences"] == 1
    # A new adapter changes nothing, so both doors begin with the loss of the same base model.
    assert remote[0][0]["train_mean_nll"] == local[0][0]["train_mean_nll"]
    assert remote[1] == local[1], "the same seed"
