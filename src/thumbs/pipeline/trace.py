"""Which labels shaped which checkpoint, and which checkpoints a label shaped: read from a run folder.

A label is a pair with all judgements of it. What training took of them is not noted down but worked out again, by the
same functions and seeds: the split by prompt, the verdicts that a loss can use, the batches up to the weights kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from thumbs.config.base import build_config
from thumbs.config.pipeline import METHODS, PipelineConfig, place
from thumbs.config.reward_model import RewardModelConfig
from thumbs.config.reward_parts import RUNS_OWN, RewardPart
from thumbs.data.preferences import preferred
from thumbs.errors import RunError
from thumbs.pipeline.former_runs import bring_up_to_date
from thumbs.pipeline.labels import heldout_share, labels_of, split
from thumbs.records import Preference
from thumbs.stages.context import grouped_batch_at
from thumbs.stages.sequences import by_prompt
from thumbs.tracking.files import read_object, read_object_if_there
from thumbs.tracking.run_folder import RunFolder

PEOPLE = "people.json"
_HELD = "held out"


@dataclass(frozen=True)
class Label:
    """A judged pair. item, judgements: its ids in the collect database, where people judged it."""

    pair: Preference
    iteration: int
    item: int | None = None
    judgements: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelOrigin:
    """Where the labels of an iteration are from: a file; a policy's replies, judged by people or simulated ones."""

    iteration: int
    place: str
    checkpoint: str
    pairs: int
    labels: int
    by: dict[str, int]
    file: str | None = None
    project: str | None = None
    database: str | None = None


@dataclass(frozen=True)
class TracedModel:
    """A model of the run and what made it.

    trained: labels whose gradient is in the weights that were kept; heldout: labels that decided which weights to keep;
    unused: the others that it was given, and why. other: data and models from outside of the run.
    """

    name: str
    method: str
    start: str
    scored_by: str | None = None
    trained: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    unused: dict[str, str] = field(default_factory=dict)
    other: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """A run's labels by id and its checkpoints by name, each in the order of their making."""

    run: Path
    sources: tuple[LabelOrigin, ...]
    labels: dict[str, Label]
    checkpoints: dict[str, TracedModel]

    def checkpoint(self, name: str) -> TracedModel:
        """By its name, `/model` may follow; raises RunError if the run has none of that name."""
        found = self.checkpoints.get(name.removesuffix("/").removesuffix("/model"))
        if found is None:
            raise RunError(f"{self.run} has no checkpoint {name!r}; it has {', '.join(self.checkpoints) or 'none yet'}")
        return found

    def label(self, name: str) -> Label:
        """By its id, the beginning of it, or `item:NUMBER`; raises RunError if it is none, or of several."""
        if name in self.labels:
            return self.labels[name]
        if name.startswith("item:"):
            found = [label for label in self.labels.values() if f"item:{label.item}" == name]
        else:
            found = [label for key, label in self.labels.items() if key.startswith(name)]
        if len({label.pair.id for label in found}) != 1:
            many = f"begins {len(found)} labels" if found else f"is none of its {len(self.labels)} labels"
            raise RunError(f"{self.run}: {name!r} {many}; `thumbs trace {self.run} --json` lists them")
        return found[0]

    def made_of(self, name: str) -> list[TracedModel]:
        """The checkpoint and all that it came from: what it started from, what scored it, and theirs."""
        own = self.checkpoints[name]
        parents = [parent for parent in (own.start, own.scored_by) if parent in self.checkpoints]
        found = {one.name: one for parent in parents for one in self.made_of(parent)}
        return [*(one for key, one in self.checkpoints.items() if key in found), own]

    def labels_behind(self, name: str) -> list[str]:
        """Ids of every label that the checkpoint was trained on, by itself or by what it came from."""
        found = {label for one in self.made_of(name) for label in one.trained}
        return [label for label in self.labels if label in found]

    def shaped_by(self, label: str) -> dict[str, str]:
        """Name of a model → how the label reached it: `trained`, `held out`, or `through` another that it came from."""
        found: dict[str, str] = {}
        for name, one in self.checkpoints.items():
            through = [parent for parent in (one.scored_by, one.start) if found.get(parent or "", _HELD) != _HELD]
            if label in one.trained:
                found[name] = "trained"
            elif through:
                found[name] = f"through {' and '.join(map(str, through))}"
            elif label in one.heldout:
                found[name] = _HELD
        return found


def trace_run(run: Path) -> Trace:
    """The trace of a run folder, as far as it has come; raises RunError if it is none."""
    bring_up_to_date(run)
    config = build_config(PipelineConfig, RunFolder(run).settings(), source=str(run / "config.json"))
    builder = _Builder(run, config)
    checkpoints = {one.name: one for one in builder.checkpoints() if (run / one.name / "done.json").exists()}
    return Trace(run, tuple(builder.sources()), builder.labels, checkpoints)


@dataclass(frozen=True)
class _Batches:
    """How a stage draws its batches: their size, the name in their seed, how many rows a pair is, for how many members
    of an ensemble.
    """

    size: int
    seed: str
    keep_ties: bool
    rows_a_pair: int = 1
    members: int = 1


@dataclass(frozen=True)
class _Builder:
    run: Path
    config: PipelineConfig

    @cached_property
    def labels(self) -> dict[str, Label]:
        if self.config.labels is None:
            return {}
        return {label.pair.id: label for i in self.iterations for label in self.labels_of(i)}

    @property
    def iterations(self) -> range:
        return range(1, self.config.iterations + 1)

    def labels_of(self, iteration: int) -> Iterator[Label]:
        told = self.told(iteration)
        items, judgements = told.get("items", {}), told.get("judgements", {})
        for pair in labels_of(self.run, iteration):
            key = pair.id.rpartition("@")[0] if iteration > 1 else pair.id
            yield Label(pair, iteration, items.get(key), tuple(judgements.get(key, ())))

    def told(self, iteration: int) -> dict[str, Any]:
        path = self.run / place("labels", iteration) / PEOPLE
        return read_object_if_there(path)

    def sources(self) -> Iterator[LabelOrigin]:
        c = self.config.labels
        for iteration in self.iterations if c is not None else ():
            labels = [label for label in self.labels.values() if label.iteration == iteration]
            given = [j.annotator for label in labels for j in label.pair.judgements if j.verdict != "skip"]
            told = self.told(iteration)
            yield LabelOrigin(
                iteration,
                place("labels", iteration),
                self.start(iteration),
                len(labels),
                len(given),
                {name: given.count(name) for name in dict.fromkeys(given)},
                None if c is None or c.data is None else ", ".join(c.data.paths),
                told.get("project"),
                told.get("database"),
            )

    def start(self, iteration: int) -> str:
        """What an iteration starts from."""
        if iteration == 1:
            return "base" if self.config.sft is None else "sft"
        return place(next(name for name in METHODS if getattr(self.config, name) is not None), iteration - 1)

    def checkpoints(self) -> Iterator[TracedModel]:
        if self.config.sft is not None:
            yield TracedModel("sft", "sft", "base", other=self.config.sft.data.paths)
        for iteration in self.iterations:
            if self.config.reward_model is not None:
                yield self.reward_model(self.config.reward_model, iteration)
            for method in METHODS:
                if getattr(self.config, method) is not None:
                    yield self.direct(iteration) if method == "direct" else self.policy(method, iteration)

    def reward_model(self, c: RewardModelConfig, iteration: int) -> TracedModel:
        name, start = place("reward_model", iteration), self.start(1)
        if c.data is not None:
            return TracedModel(name, c.loss, start, other=c.data.paths)
        batches = _Batches(c.batch_size, "reward", c.ties == "half", members=c.members)
        return self.learned(TracedModel(name, c.loss, start), iteration, batches)

    def direct(self, iteration: int) -> TracedModel:
        """A policy that learns from pairs itself, or from pairs of its own that a reward chooses."""
        c, name, start = self.config.direct, place("direct", iteration), self.start(iteration)
        assert c is not None  # noqa: S101
        if c.online is not None:
            return self.scored(name, c.method, start, iteration, c.online.reward)
        if c.unpaired is not None:
            return TracedModel(name, c.method, start, other=c.unpaired.paths)
        batches = _Batches(c.batch_size, "preference", c.ties == "half")
        if c.preset.data == "replies":
            batches = _Batches(c.batch_size, "kto", keep_ties=False, rows_a_pair=2)
        return self.learned(TracedModel(name, c.method, start), iteration, batches)

    def policy(self, method: str, iteration: int) -> TracedModel:
        c = getattr(self.config, method)
        critic = method == "ppo" and c.critic.init == "reward"
        parts: Sequence[RewardPart] = c.reward
        has_own = not parts and getattr(c, "environment", None) is None
        own = getattr(c, "method", method)
        name, start = place(method, iteration), self.start(iteration)
        if critic or has_own:
            parts = [*parts, RewardPart(model=RUNS_OWN)]
        return self.scored(name, own, start, iteration, parts or [RewardPart(environment=True)])

    def scored(self, name: str, method: str, start: str, iteration: int, parts: Sequence[RewardPart]) -> TracedModel:
        own = not parts or any(part.model == RUNS_OWN for part in parts)
        other = tuple(part.model or part.title for part in parts if part.model != RUNS_OWN)
        return TracedModel(name, method, start, place("reward_model", iteration) if own else None, other=other)

    def learned(self, learner: TracedModel, iteration: int, batch: _Batches) -> TracedModel:
        """The learner with the labels that it was given, of the batches up to the step whose weights were kept."""
        assert self.config.labels is not None  # noqa: S101
        given = [label.pair for label in self.labels.values() if label.iteration <= iteration]
        rows, held = split(given, lambda pair: pair.prompt, heldout_share(self.config.labels))
        unused = {pair.id: why for pair in given if (why := _says_nothing(pair, keep_ties=batch.keep_ties))}
        train = [pair for pair in rows if pair.id not in unused]
        drawn = self.drawn(learner.name, train, batch) - self.passed_over(rows, batch.members)
        unused |= {pair.id: "drawn for none of the weights that were kept" for pair in train if pair.id not in drawn}
        return replace(
            learner,
            trained=tuple(pair.id for pair in train if pair.id in drawn),
            heldout=tuple(pair.id for pair in held if pair.id not in unused),
            unused=unused,
        )

    def drawn(self, name: str, pairs: Sequence[Preference], batch: _Batches) -> set[str]:
        """Ids of the pairs in the batches before the best step."""
        done = self.run / name / "done.json"
        steps = int(read_object(done).get("best_step", 0)) if done.exists() else 0
        groups = by_prompt([pair for pair in pairs for _ in range(batch.rows_a_pair)])
        batches = (grouped_batch_at(groups, step, batch.size, self.config.seed, batch.seed) for step in range(steps))
        return {pair.id for rows in batches for pair in rows}

    def passed_over(self, rows: Sequence[Preference], members: int) -> set[str]:
        """Ids of the rows that no member of an ensemble has in its sample."""
        if members == 1 or not rows:
            return set()
        from thumbs.stages.reward_items import Item, draw

        weights = draw([Item(i, row.prompt, ()) for i, row in enumerate(rows)], range(members), self.config.seed)
        return {row.id for row, own in zip(rows, weights, strict=True) if not own.any()}


def _says_nothing(pair: Preference, *, keep_ties: bool) -> str:
    """Why a loss leaves the pair out, or ""."""
    better = preferred(pair)
    if better is None:
        return "no verdict"
    return "" if keep_ties or better != 0.5 else "a tie"
