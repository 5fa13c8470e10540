"""Benchmarks of others on a run's policy: both programs as people install them, in an environment of their own.

What lm-evaluation-harness was told over HTTP is what the engine says of the same tokens in process, to 1e-4.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.conformance import EVALUATORS, ROOT, environment_of
from thumbs.cli.main import app
from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.evaluation.benchmarks import BenchmarkScore, keep_scores, read_scores
from thumbs.pipeline.artifacts import open_run
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Example

TASKS = Path(__file__).with_name("benchmark_tasks")
QUESTIONS = [
    {"question": "Greet Ida.", "choices": [" Ida, nice day.", " bad", " là 漢字", "x"], "answer": 0},
    {"question": "How do you do?", "choices": [" well", " not so well", " ok", " e"], "answer": 3},
    {"question": "Once more, and again, " * 4 + "again", "choices": [" a", " b", " c", " d"], "answer": 1},
]
PROGRAM = "import sys; from thumbs.cli.main import app; app(sys.argv[1:])"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose policy both programs have measured, and what the command printed."""
    sdk, folder = environment_of(EVALUATORS), tmp_path_factory.mktemp("benchmarks")
    sys.path.insert(0, str(ROOT / "tests" / "unit" / "pipeline"))
    from tiny_run_settings import tiny_settings, write_rows

    run = run_pipeline(build_config(PipelineConfig, tiny_settings(folder)))
    write_rows(folder / "greetings.jsonl", QUESTIONS)
    task = (TASKS / "greetings.yaml").read_text(encoding="utf-8").replace("FOLDER", str(folder))
    (folder / "greetings.yaml").write_text(task, encoding="utf-8")
    shutil.copy(TASKS / "greetings.py", folder)
    done = subprocess.run(
        [sdk.python, "-W", "ignore", "-c", PROGRAM, "eval", run, "--tasks", "greetings.yaml,greetings.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return run, done.stdout


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "benchmarks" / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.timeout(500)
def test_log_likelihoods_are_those_of_the_policy_in_process(finished: tuple[Path, str]):
    run, _ = finished
    opened = open_run(run)
    policy, encode = opened.model("ppo"), opened.tokenizer.encode
    for row, question in zip(rows_of(run, "ppo-greetings.jsonl"), QUESTIONS, strict=True):
        told = [float(response[0][0]) for response in row["resps"]]
        ours = []
        for choice in question["choices"]:
            context, whole = encode(question["question"]), encode(question["question"] + choice)
            weights = [float(i + 1 >= len(context)) for i in range(len(whole) - 1)]
            (output,) = opened.engine.forward(policy, [Example.next_token(whole, weights=weights)])
            ours.append(float((output.logprobs * np.array(weights)).sum()))
        np.testing.assert_allclose(told, ours, atol=1e-4)
        assert row["acc"] == float(int(np.argmax(ours)) == question["answer"])


@pytest.mark.timeout(500)
def test_what_was_found_is_printed_kept_and_in_the_summary(finished: tuple[Path, str]):
    run, printed = finished
    harness, inspect = read_scores(run / "benchmarks")
    right = np.mean([row["acc"] for row in rows_of(run, "ppo-greetings.jsonl")])
    assert (harness.program, harness.task, harness.metric, harness.samples) == ("lm-eval", "greetings", "acc", 3)
    assert harness.value == pytest.approx(right)
    replies = [row["output"]["choices"][0]["message"]["content"] for row in rows_of(run, "ppo-letters.jsonl")]
    assert len(replies) == 3
    assert (inspect.program, inspect.task, inspect.samples) == ("inspect-ai", "letters", 3)
    assert inspect.value == pytest.approx(np.mean(["e" in reply.lower() for reply in replies]))
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert summary["ppo.greetings.acc"] == harness.value
    assert "greetings" in printed
    assert "letters" in printed


def test_scores_of_the_same_task_take_the_place_of_earlier_ones(tmp_path: Path):
    old, other, new = (
        BenchmarkScore(system, "lm-eval", task, "acc", value, None, 4)
        for system, task, value in (("ppo", "one", 0.1), ("sft", "one", 0.2), ("ppo", "one", 0.9))
    )
    assert read_scores(tmp_path) == []
    keep_scores(tmp_path, [old, other])
    keep_scores(tmp_path, [new])
    assert read_scores(tmp_path) == [other, new]


def test_tasks_that_are_not_there_and_options_without_tasks_are_refused(tmp_path: Path):
    from typer.testing import CliRunner

    for arguments, said in (
        (["--tasks", "nowhere/at/all.yaml"], "there is no file nowhere/at/all.yaml"),
        (["--limit", "3"], "--limit belongs to --tasks"),
    ):
        result = CliRunner().invoke(app, ["eval", str(tmp_path), *arguments])
        assert result.exit_code != 0
        assert said in " ".join(f"{result.exception} {result.output}".split())
