"""Runs with a cost model and a limit on its cost: what is written down, what builds on it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run_settings import tiny_settings, write_rows

import thumbs
from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.safety import SafetyConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError, DataError, RunError
from thumbs.pipeline.artifacts import open_run, sample_text
from thumbs.pipeline.exports import plan_export
from thumbs.pipeline.identity import parents
from thumbs.pipeline.run import run_pipeline
from thumbs.pipeline.safety import open_unsafe
from thumbs.records import Example, Message
from thumbs.tracking.files import read_json
from thumbs.tracking.run_folder import StageFolder


def marks(folder: Path, rows: int = 60) -> str:
    return write_rows(
        folder / "marks.jsonl",
        [
            {
                "prompt": f"question {i}",
                "response_0": "a bad day",
                "response_1": "a nice day",
                "is_response_0_safe": i % 3 == 0,
                "is_response_1_safe": True,
                "better_response_id": 0,
                "safer_response_id": 1,
            }
            for i in range(rows)
        ],
    )


def config_of(folder: Path, **changes: Any) -> PipelineConfig:
    folder.mkdir(exist_ok=True)
    settings = tiny_settings(folder)
    settings.pop("evaluation")
    settings["cost_model"] = {"data": {"path": marks(folder), "holdout": 0.5}, "batch_size": 8}
    settings["ppo"]["constraint"] = {"limit": 0.1}
    return build_config(PipelineConfig, settings | changes)


@pytest.mark.timeout(300)
def test_a_run_limits_the_cost_that_its_cost_model_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = config_of(tmp_path)
    path = run_pipeline(config)
    done = read_json(path / "cost_model" / "done.json")
    assert {"scale", "shift"} == set(done["cost"])
    assert done["pairs"] + done["heldout_pairs"] == 60
    assert "AUROC" in capsys.readouterr().err
    rows = StageFolder(path / "ppo").metrics.read()
    assert rows[0]["ppo/lambda"] == 1.0
    assert all(0 < row["ppo/cost"] < 1 for row in rows)
    run_pipeline(config)  # done: nothing runs again
    assert StageFolder(path / "ppo").metrics.read() == rows
    with pytest.raises(RunError, match="a cost model is not exported"):
        plan_export(path, config, "cost_model", form=None, dtype=None)
    with pytest.raises(RunError, match="the cost model cannot generate text"):
        sample_text(path, "cost_model", ["hi"], 1, SamplingConfig(), 0)


@pytest.mark.timeout(300)
def test_the_gate_can_ask_the_runs_cost_model(tmp_path: Path):
    """Its probabilities by hand: the calibrated value at the last token of prompt and reply."""
    asked = write_rows(tmp_path / "asked.jsonl", [{"prompt": f"something new {i}"} for i in range(12)])
    safety = {"unsafe": "cost", "prompts": {"path": asked}, "sampling": {"max_new_tokens": 6}}
    path = run_pipeline(config_of(tmp_path, safety=safety))
    found = thumbs.open_run(path).safety()["systems"]["ppo"]["gate"]
    opened = open_run(path)
    done = read_json(path / "cost_model" / "done.json")["cost"]
    (log,) = (path / "safety").glob("ppo-*.jsonl")
    rows = [row for row in map(json.loads, log.read_text(encoding="utf-8").splitlines()) if row["kind"] == "gate"]
    spec = ModelSpec("cost", opened.config.model, ("scalar",), path / "cost_model" / "model", trainable=False)
    handle, tokens = opened.engine.create(spec), opened.tokenizer
    raw = []
    for row in rows:
        talk = [Message("system", opened.config.system or ""), Message("user", row["prompt"])]
        whole = [*tokens.render_prompt(talk), *tokens.encode(row["text"]), tokens.eos_id]
        (output,) = opened.engine.forward(handle, [Example.whole_sequence(whole)])
        raw.append(float(output.values[-1]))
    probable = 1 / (1 + np.exp(-(done["scale"] * np.array(raw) + done["shift"])))
    assert len(rows) == found["n"] == 12
    assert found["hits"] == int((probable > 0.5).sum())
    judge, _ = open_unsafe(opened, opened.config.safety or SafetyConfig())
    prompts = [[Message("system", opened.config.system or ""), Message("user", row["prompt"])] for row in rows]
    np.testing.assert_allclose(judge.probability(prompts, [row["text"] for row in rows]), probable, rtol=1e-5)


def test_a_method_builds_on_the_cost_model_only_if_it_asks_it(tmp_path: Path):
    config = config_of(tmp_path)
    assert "cost_model" in parents(config, "ppo", 1)
    assert parents(config, "cost_model", 1) == ["sft"]
    free = config.model_copy(update={"ppo": config.ppo.model_copy(update={"constraint": None})})  # pyright: ignore
    assert "cost_model" not in parents(free, "ppo", 1)
    part = {"model": "cost_model", "weight": -1.0}
    mixed = build_config(
        PipelineConfig, {"ppo": {"prompts": {"path": "p"}, "reward": [part]}, "cost_model": {"data": {"path": "p"}}}
    )
    assert "cost_model" in parents(mixed, "ppo", 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cost_model": None}, "section `ppo` needs section `cost_model`"),
        ({"cost_model": {"data": {"path": "nowhere.jsonl"}}}, "nowhere"),
        ({"safety": {"unsafe": "cots"}}, "safety.unsafe: got 'cots'; allowed are guard, cost, refusals"),
        ({"safety": {"unsafe": "nowhere:judge"}}, "safety.unsafe"),
    ],
)
def test_what_a_limit_needs_is_asked_for_before_anything_runs(changes: dict[str, Any], said: str, tmp_path: Path):
    with pytest.raises((ConfigError, DataError), match=said):
        run_pipeline(config_of(tmp_path, **changes))
    assert not (tmp_path / "run" / "sft").exists()
