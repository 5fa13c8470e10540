"""`thumbs eval`: measure a run on its held-out prompts, its reward model on held-out pairs, or any reward model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from thumbs import api
from thumbs.cli.shell import printable
from thumbs.config.former_names import current_key
from thumbs.errors import ConfigError

Asked = Annotated[
    list[str],
    typer.Argument(
        metavar="[reward-model] RUN", help="The run folder; `reward-model` before it audits its reward model."
    ),
]
Pairs = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="With reward-model, and in place of RUN a reward model: a run's `reward_model` folder, or the folder or "
        "hub name of a sequence classifier; FILE holds the pairs on which it is audited.",
    ),
]
Halves = Annotated[
    bool,
    typer.Option(
        "--halves", help="With reward-model: train two more models, each on half of the data, and compare them."
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TASK,…",
        help="Benchmarks of the run's policy: tasks of lm-evaluation-harness (arc_easy, folder/task.yaml) and of "
        "inspect-ai (tasks.py, tasks.py@name, package/name).",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="With --tasks: at most so many samples a task.")]
TaskStage = Annotated[str | None, typer.Option("--stage", help="With --tasks: whose model. [default: the last method]")]


def evaluate(
    asked: Asked,
    halves: Halves = False,
    pairs: Pairs = None,
    tasks: Tasks = None,
    limit: Limit = None,
    stage: TaskStage = None,
) -> None:
    """Measure a run on its held-out prompts, or audit its reward model.

    Prints the numbers as JSON. An audit prints a table and keeps its numbers in RUN/reward_model/audit.json and in the
    report.

    \b
    Example:
      thumbs eval runs/demo
      thumbs eval reward-model runs/demo --halves
      thumbs eval reward-model org/reward-model --pairs pairs.jsonl
      thumbs eval runs/demo --tasks arc_easy,tasks.py
    """
    of_model = len(asked) == 2 and current_key(asked[0]) in ("reward_model", "reward-model")
    if of_model and pairs is not None:
        if halves:
            raise ConfigError("--halves trains models of a run; leave it out or leave out --pairs")
        from thumbs.pipeline.reward_audit import audit_model

        _show(audit_model(asked[1], pairs))
        return
    if of_model:
        _refuse_models(asked[1])
        _audit(Path(asked[1]), halves)
        return
    if len(asked) != 1:
        raise ConfigError(f"`thumbs eval {' '.join(asked)}`: write `thumbs eval RUN` or `thumbs eval reward-model RUN`")
    if halves or pairs is not None:
        raise ConfigError(f"{'--halves' if halves else '--pairs'} belongs to `thumbs eval reward-model RUN`")
    if tasks is not None:
        from thumbs.cli.benchmarks import run_benchmarks

        names = [name.strip() for each in tasks for name in each.split(",") if name.strip()]
        run_benchmarks(Path(asked[0]), names, stage, limit)
        return
    if limit is not None or stage is not None:
        raise ConfigError(f"{'--limit' if limit is not None else '--stage'} belongs to --tasks")

    typer.echo(json.dumps(api.open_run(asked[0]).evaluate(), indent=2))


def _audit(run: Path, halves: bool) -> None:
    opened = api.open_run(run)
    _show(opened.audit(halves=halves))
    typer.echo(f"report: {opened.report()}")


def _show(found: Mapping[str, Any]) -> None:
    for line in audit_lines(found):
        typer.echo(printable(line))


def _refuse_models(name: str) -> None:
    """Raises ConfigError if a model stands in the place of a run."""
    folder = Path(name)
    if (folder / "config.json").is_file():
        from thumbs.tracking.files import read_json

        config = read_json(folder / "config.json")
        is_model = isinstance(config, dict) and "model_type" in config
    else:
        is_model = (folder / "adapter_config.json").is_file() or not folder.exists()
    if is_model:
        raise ConfigError(f"{name} is not a run; audit a model with `thumbs eval reward-model {name} --pairs FILE`")


def audit_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The audit for a terminal."""
    pairs, length, end = found["pairs"], found["length"], found["end"]
    yield _row("accuracy", pairs["accuracy"], pairs["accuracy_low"], pairs["accuracy_high"], f"{pairs['n']} pairs")
    yield _row("calibration error", pairs["ece"], note="0 is perfect")
    yield _row("loss", pairs["loss"], note="nats per pair; a coin has 0.693")
    yield ""
    yield "accuracy by kind of pair"
    for s in found["slices"]:
        yield _row(f"  {s['kind']}: {s['name']}", s["accuracy"], s["low"], s["high"], f"{s['n']} pairs")
    yield ""
    yield "length"
    yield _row("  correlation with the score", pairs["length_correlation"])
    yield _row("  effect at equal labels", length["slope"], length["low"], length["high"], "deviations")
    matched = (length["matched_accuracy"], length["matched_low"], length["matched_high"])
    yield _row("  accuracy where lengths match", *matched, f"{length['matched_n']} pairs")
    yield _row("  accuracy of the longer reply", length["longer_is_better"])
    yield ""
    yield "other clothes, same words: shift of the score, deviations; pairs that turn"
    for s in [*found["formats"], end]:
        yield _row(f"  {s['name']}", s["shift"], s["low"], s["high"], f"{s['flips']:.0%} turn")
    yield _row("  order of scoring", found["order"], note="largest shift")
    if "halves" in found:
        h = found["halves"]
        yield ""
        yield _row("agreement of models of two halves", h["agreement"], h["low"], h["high"], f"{h['n']} pairs")
    yield ""
    yield from (f"finding: {finding}" for finding in found["findings"] or ["nothing stands out"])


def _row(name: str, value: float | None, low: float | None = None, high: float | None = None, note: str = "") -> str:
    shown = "-" if value is None else f"{value:.3f}"
    interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return f"{name:<44}{shown:>8}  {interval:<18}{note}".rstrip()
