"""`thumbs trace`: which labels shaped which checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thumbs import api
from thumbs.cli.shell import printable
from thumbs.config.former_names import current_place
from thumbs.errors import ConfigError

if TYPE_CHECKING:
    from thumbs.pipeline.trace import Label, LabelOrigin, Trace, TracedModel

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]
LabelId = Annotated[
    str | None,
    typer.Argument(metavar="LABEL", help="A label: its id, the beginning of it, or item:NUMBER.", show_default=False),
]
Name = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="NAME", help="A checkpoint, as ppo or iteration-2/ppo.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def trace(run: Run, label: LabelId = None, checkpoint: Name = None, as_json: Json = False) -> None:
    """Show how labels and checkpoints of a run hang together.

    Alone, the run from iteration to iteration; with a label, who said what of which replies and which checkpoints it
    shaped; with --checkpoint, every label behind that checkpoint.

    \b
    Example:
      thumbs trace runs/demo
      thumbs trace runs/demo 5ff31fc9aebe4108/0-1
      thumbs trace runs/demo --checkpoint ppo
    """
    if label is not None and checkpoint is not None:
        raise ConfigError("give a label or --checkpoint, not both")
    found = api.open_run(run).trace()
    if label is not None:
        one = found.label(label)
        value, lines = label_value(found, one), label_lines(found, one)
    elif checkpoint is not None:
        made = found.checkpoint(current_place(checkpoint))
        value, lines = checkpoint_value(found, made), checkpoint_lines(found, made)
    else:
        value, lines = run_value(found), run_lines(found)
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False) if as_json else printable("\n".join(lines)))


def run_value(trace: Trace) -> dict[str, Any]:
    """Everything: sources, checkpoints with the labels they were given, labels with the checkpoints they shaped."""
    return {
        "run": str(trace.run),
        "sources": [vars(source) for source in trace.sources],
        "checkpoints": {name: checkpoint_value(trace, one) for name, one in trace.checkpoints.items()},
        "labels": {name: trace.shaped_by(name) for name in trace.labels},
    }


def checkpoint_value(trace: Trace, one: TracedModel) -> dict[str, Any]:
    """A checkpoint with the ids of all labels behind it."""
    return {**vars(one), "labels": trace.labels_behind(one.name)}


def label_value(trace: Trace, label: Label) -> dict[str, Any]:
    """A label with its text, provenance and effect."""
    from thumbs.data.preferences import preference_to_json

    value = {"iteration": label.iteration, "item": label.item, "judgement_ids": list(label.judgements)}
    return value | preference_to_json(label.pair) | {"checkpoints": trace.shaped_by(label.pair.id)}


def run_lines(trace: Trace) -> Iterator[str]:
    """The tree, an iteration after the other."""
    yield str(trace.run)
    first = next(iter(trace.checkpoints.values()), None)
    if first is not None and first.name == "sft":
        yield _branch(trace, first)
    iterations = [source.iteration for source in trace.sources] or [1]
    for iteration in iterations:
        if len(iterations) > 1:
            yield f"iteration {iteration}"
        yield from (f"  {_told(source)}" for source in trace.sources if source.iteration == iteration)
        for name, one in trace.checkpoints.items():
            if name != "sft" and _iteration(name) == iteration:
                yield _branch(trace, one)


def checkpoint_lines(trace: Trace, one: TracedModel) -> Iterator[str]:
    """What it came from, then the ids of its labels."""
    for parent in trace.made_of(one.name):
        yield _branch(trace, parent)
    labels = trace.labels_behind(one.name)
    yield f"{len(labels)} labels behind {one.name}/model:"
    for name in labels:
        judgements = [f"{j.annotator} {_verdict(j.verdict, j.strength)}" for j in trace.labels[name].pair.judgements]
        yield f"  {name}  {', '.join(judgements)}"


def label_lines(trace: Trace, label: Label) -> Iterator[str]:
    """The pair as it was judged, who judged it, and where it went."""
    pair = label.pair
    item = "" if label.item is None else f", item {label.item} of the project"
    yield f"label {pair.id}, iteration {label.iteration}{item}"
    for message in pair.prompt:
        yield from _indented(f"{message.role}:", message.content)
    for place, reply in enumerate(pair.replies, start=1):
        maker = reply.generator
        by = " ".join(filter(None, (maker.name, maker.checkpoint)))
        drawn = ", ".join(f"{key} {value}" for key, value in maker.sampling.items() if value not in ((), [], None))
        seed = "" if maker.seed is None else f", seed {maker.seed}"
        yield from _indented(f"reply {place} ({by}; {drawn}{seed}):", reply.text)
    for judgement in pair.judgements:
        reason = f": {judgement.reason}" if judgement.reason else ""
        yield f"{judgement.at}  {judgement.annotator}  {_verdict(judgement.verdict, judgement.strength)}{reason}"
    shaped = trace.shaped_by(pair.id)
    for name, how in shaped.items():
        yield f"{name}/model: {how}"
    unused = {n: one.unused[pair.id] for n, one in trace.checkpoints.items() if pair.id in one.unused}
    yield from (f"{name}/model: not used, {why}" for name, why in unused.items())
    if not shaped and not unused:
        yield "no checkpoint has seen it"


def _indented(title: str, text: str) -> Iterable[str]:
    return [title, *(f"    {line}" for line in text.splitlines())]


def _told(source: LabelOrigin) -> str:
    if source.file is not None:
        return f"{source.place}: {source.pairs} pairs of {source.file}"
    people = ", ".join(f"{name} ({n})" for name, n in source.by.items()) or "nobody yet"
    where = "" if source.project is None else f"; project {source.project} in {source.database}"
    of = f"replies of {source.checkpoint}"
    return f"{source.place}: {source.pairs} pairs, {source.labels} labels by {people}; {of}{where}"


def _branch(trace: Trace, one: TracedModel) -> str:
    parts = [f"from {one.start}"]
    if one.trained or one.heldout:
        parts.append(f"trained on {len(one.trained)} labels, chosen on {len(one.heldout)} held out")
    if one.scored_by is not None:
        parts.append(f"scored by {one.scored_by}/model")
    if one.other:
        parts.append(f"with {', '.join(one.other)}")
    behind = len(trace.labels_behind(one.name))
    if behind != len(one.trained):
        parts.append(f"{behind} labels behind it")
    method = "" if one.method == one.name.rpartition("/")[2] else f" ({one.method})"
    return f"  {one.name}/model{method}: {'; '.join(parts)}"


def _iteration(name: str) -> int:
    head = name.partition("/")[0]
    return int(head.removeprefix("iteration-")) if head.startswith("iteration-") else 1


def _verdict(verdict: str, strength: int) -> str:
    if verdict != "prefer":
        return {"tie": "a tie", "both_bad": "both bad", "skip": "skipped"}.get(verdict, verdict)
    return f"reply {1 if strength < 0 else 2} better, strength {abs(strength)} of 4"
