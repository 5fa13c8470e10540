"""`thumbs eval`: measure a run on its held-out prompts, its reward model on held-out pairs, or any reward model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from thumbs import api
from thumbs.cli.shell import printable
from thumbs.config.former_names import current_key
from thumbs.errors import ConfigError, needs

Asked = Annotated[
    list[str],
    typer.Argument(
        metavar="[reward-model|judge] RUN",
        help="The run folder; `reward-model` before it audits its reward model, `judge MODEL` audits a judge.",
    ),
]
Pairs = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="With reward-model or judge: the pairs on which it is audited. In place of RUN then stands the reward "
        "model (a run's `reward_model` folder, the folder or hub name of a sequence classifier) or the judge.",
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

Prompts = Annotated[
    str | None, typer.Option(metavar="FILE", help="Prompts that no stage trained on, in place of the config's.")
]
GoldOption = Annotated[
    list[str] | None,
    typer.Option(
        "--gold",
        metavar="GOLD",
        help="What is trusted: a rule (vader), module:function, the folder of a reward model, people; or settings of "
        "`evaluation.gold`, one each time: --gold judge=NAME --gold endpoint=http://localhost:8000/v1.",
    ),
]


def evaluate(
    asked: Asked,
    halves: Halves = False,
    pairs: Pairs = None,
    prompts: Prompts = None,
    gold: GoldOption = None,
    tasks: Tasks = None,
    limit: Limit = None,
    stage: TaskStage = None,
) -> None:
    """Measure a run on held-out prompts, audit its reward model, or audit a judge.

    Prints the numbers as JSON, and what they decide on the other stream; writes RUN/evaluation and the report. An audit
    prints a table; that of a run's reward model is kept in RUN/reward_model/audit.json and in the report.

    \b
    Example:
      thumbs eval runs/demo
      thumbs eval runs/mine --prompts heldout.jsonl --gold my_gold:score
      thumbs eval reward-model runs/demo --halves
      thumbs eval reward-model org/reward-model --pairs pairs.jsonl
      thumbs eval runs/demo --tasks arc_easy,tasks.py
      thumbs eval judge qwen3-8b --gold endpoint=http://localhost:8000/v1 --pairs labelled.jsonl
    """
    kind = {"reward_model": "reward-model"}.get(current_key(asked[0]), asked[0]) if len(asked) == 2 else "run"
    measured = {"--halves": halves, "--pairs": pairs, "--prompts": prompts, "--gold": gold}
    _refuse_options(kind, asked, measured | {"--tasks": tasks, "--limit": limit, "--stage": stage})
    if kind == "judge":
        _audit_judge(asked[1], str(pairs), gold or [])
    elif kind == "reward-model" and pairs is not None:
        from thumbs.pipeline.reward_audit import audit_model

        _show(audit_model(asked[1], pairs))
    elif kind == "reward-model":
        _refuse_models(asked[1])
        _audit(Path(asked[1]), halves)
    elif tasks is not None:
        from thumbs.cli.benchmarks import run_benchmarks

        names = [name.strip() for each in tasks for name in each.split(",") if name.strip()]
        run_benchmarks(Path(asked[0]), names, stage, limit)
    else:
        run, trusted = api.open_run(asked[0]), _gold(gold or [])
        found = run.evaluate(prompts=prompts, gold=trusted, people=_people(run, trusted))
        run.report()
        typer.echo(json.dumps(found, indent=2))


_OPTIONS = {
    "run": ("--prompts", "--gold", "--tasks", "--limit", "--stage"),
    "reward-model": ("--halves", "--pairs"),
    "judge": ("--pairs", "--gold"),
}
"""The options of each thing that can be measured."""


def _refuse_options(kind: str, asked: Sequence[str], given: Mapping[str, Any]) -> None:
    if kind not in _OPTIONS or (kind == "run" and len(asked) != 1):
        raise ConfigError(
            f"`thumbs eval {' '.join(asked)}`: write `thumbs eval RUN`, `thumbs eval reward-model RUN` or `thumbs eval "
            "judge MODEL --pairs FILE`"
        )
    for option, value in given.items():
        if value and option not in _OPTIONS[kind]:
            homes = " or ".join(f"`thumbs eval {k} …`" for k, options in _OPTIONS.items() if option in options)
            raise ConfigError(f"{option} belongs to {homes.replace('eval run', 'eval RUN')}")
    if kind == "reward-model" and given["--halves"] and given["--pairs"] is not None:
        raise ConfigError("--halves trains models of a run; leave it out or leave out --pairs")
    if given["--tasks"] is None and (stray := [name for name in ("--limit", "--stage") if given[name] is not None]):
        raise ConfigError(f"{stray[0]} belongs to --tasks")
    if given["--tasks"] is not None and (stray := [name for name in ("--prompts", "--gold") if given[name]]):
        raise ConfigError(f"{stray[0]} measures the run on prompts, --tasks on benchmarks; give one of them")
    if kind == "judge" and given["--pairs"] is None:
        raise ConfigError("`thumbs eval judge MODEL` needs --pairs FILE, pairs that people have judged")


def _gold(given: Sequence[str]) -> str | dict[str, Any] | None:
    """A gold in short, or its settings; raises ConfigError for a mixture."""
    from thumbs.config.base import apply_overrides

    if not given or (len(given) == 1 and "=" not in given[0]):
        return given[0] if given else None
    if bare := [item for item in given if "=" not in item]:
        raise ConfigError(f"--gold {bare[0]}: write one gold in short, or settings alone, such as --gold judge=NAME")
    return apply_overrides({}, given)


def _people(run: api.Run, gold: str | dict[str, Any] | None) -> Any:
    """Who asks people, where they are the gold."""
    own = None if run.config.evaluation is None else run.config.evaluation.gold
    asked = gold == "people" or (isinstance(gold, dict) and "people" in gold)
    if not asked and (gold is not None or own is None or own.people is None):
        return None
    with needs("collect", "asking people"):
        from thumbs.collect.desk import Desk, open_page

    return Desk(tell=lambda text: typer.echo(text, err=True), show=open_page)


def _audit_judge(name: str, pairs: str, settings: Sequence[str]) -> None:
    from thumbs.config.base import apply_overrides, build_config
    from thumbs.config.evaluation import GoldConfig
    from thumbs.pipeline.reward_audit import audit_pair_judge

    given = apply_overrides({}, [f"judge={name}", *settings])
    found = audit_pair_judge(build_config(GoldConfig, given), pairs)
    for line in judge_lines(found):
        typer.echo(printable(line))


def judge_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The audit of a judge for a terminal."""
    rows = (
        ("consistency", "consistency", "one verdict in both orders, ties too"),
        ("prefers what is shown first", "position", "0.5 is no taste for a place"),
        ("prefers the longer reply", "longer", ""),
        ("  people prefer it", "longer_labels", "on the same pairs"),
        ("  difference", "length_bias", "0 is no more taste for length than people's"),
        ("agreement with people", "agreement", f"{found['untied']} untied pairs of {found['pairs']}"),
        ("  always the longer reply", "null_longer", "null baseline"),
        ("  always the first of the file", "null_first", "null baseline"),
    )
    for title, key, note in rows:
        yield _row(title, found[key]["value"], found[key]["low"], found[key]["high"], note)


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
    for title, key in (("  always the longer reply", "longer"), ("  always the first of the file", "first")):
        if (null := pairs.get("nulls", {}).get(key)) is not None:
            yield _row(title, null["value"], null["low"], null["high"], "null baseline")
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
    shown = "-" if value is None or math.isnan(value) else f"{value:.3f}"
    interval = "" if shown == "-" or low is None or high is None else f"{low:.3f} to {high:.3f}"
    return f"{name:<44}{shown:>8}  {interval:<18}{note}".rstrip()
