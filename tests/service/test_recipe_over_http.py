"""The recipes through the SDKs against a server, beside the same recipes in process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.conformance import MINT, MODEL, ROOT, TINKER, Sdk, environment, environment_of, served


def metrics_of(python: str | Path, settings: dict[str, str], *arguments: str | Path) -> Any:
    """What the script prints: the metrics of SFT and of RL."""
    command = [python, "-W", "ignore", "tests/service/recipe_script.py", *arguments]
    done = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sdk", [TINKER, MINT], ids=lambda sdk: sdk.name)
def test_recipes_train_through_an_sdk_as_they_do_in_process(sdk: Sdk, tmp_path: Path) -> None:
    with served(tmp_path) as url:
        own = {"THUMBS_STORE": str(tmp_path / "in-process"), "PYTHONPATH": str(ROOT / "src")}
        settings = environment(url, tmp_path / "hf") | own
        remote = metrics_of(environment_of(sdk).python, settings, tmp_path / "remote", url)
        settings["THUMBS_ALIASES"] = f"{MODEL}={tmp_path / 'model'}"
        local = metrics_of(sys.executable, settings, tmp_path / "local")
    for supervised, reinforced in (remote, local):
        assert [line["step"] for line in supervised] == [0, 1]
        assert [line["env/all/total_episodes"] for line in reinforced] == [8, 8]
        # The sampler and the trainer have the same weights; so have the first step's policy and its KL reference.
        assert all(abs(line["optim/kl_sample_train_v1"]) < 1e-2 for line in reinforced)
        assert abs(reinforced[0]["kl_policy_base"]) < 1e-2
    # A new adapter changes nothing, so both doors begin with the loss of the same base model.
    assert remote[0][0]["train_mean_nll"] == local[0][0]["train_mean_nll"]
    assert remote[0][0]["num_loss_tokens"] == local[0][0]["num_loss_tokens"]
