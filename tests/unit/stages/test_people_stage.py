"""The stage in which people judge: which pairs they get, what is written, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from byte_world import MAKER, byte_context, prompt
from thumbs.config.base import build_config
from thumbs.config.labels import LabelsConfig, PeopleConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.annotators import SimulatedAnnotator
from thumbs.data.preferences import PreferenceStore
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError
from thumbs.pipeline.checks import check_active_choice
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Judgement, Message, Preference, Reply
from thumbs.stages import people as stage
from thumbs.stages.context import Context
from thumbs.stages.labels import sample_labels
from thumbs.stages.people import Candidate, Labels, ask_people, choose_first, choose_informative

CONFIG = LabelsConfig(replies_per_prompt=4, pairs_per_prompt=2, sampling=SamplingConfig(max_new_tokens=6))
PROMPTS = [prompt(name) for name in ("a", "bc", "def", "g", "hi", "jkl", "m")]
Ask = Callable[[Iterator[Candidate]], Labels]


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "MAX_ROWS", 14)  # three prompts with four replies each


def opened(folder: Path) -> tuple[Context, Path]:
    context, start = byte_context(folder / "labels"), folder / "sft" / "model"
    if not start.exists():
        context.engine.save(context.engine.create(ModelSpec("sft", context.model)), start)
    return context, start


def judged(pair: Preference, strength: int = -2, annotator: str = "ana") -> Preference:
    verdict = "prefer" if strength else "tie"
    return replace(pair, judgements=(Judgement(annotator, "2026-01-01", verdict, strength),))


def first(number: int, seen: list[Candidate] | None = None) -> Ask:
    """Takes so many candidates, calls the third a tie and prefers the first reply of the others."""

    def ask(candidates: Iterator[Candidate]) -> Labels:
        taken = list(islice(candidates, number))
        (seen if seen is not None else []).extend(taken)
        pairs = [judged(one.pair, 0 if place == 2 else -2) for place, one in enumerate(taken)]
        items = {pair.id: place for place, pair in enumerate(pairs)}
        return Labels(pairs, "demo", "collect.db", items, {pair.id: [7 + items[pair.id]] for pair in pairs})

    return ask


def test_people_get_the_pairs_that_simulated_annotators_get(tmp_path: Path):
    context, start = opened(tmp_path / "people")
    ask_people(context, CONFIG, start, PROMPTS, first(7), choose_first)
    asked = PreferenceStore(tmp_path / "people" / "labels" / "preferences.jsonl").load()

    context, start = opened(tmp_path / "simulated")
    longer = SimulatedAnnotator("a", lambda _, reply: float(len(reply)), 0.0, 0.0, 0)
    one = CONFIG.model_copy(update={"pairs_per_prompt": 1})
    sample_labels(context, one, start, PROMPTS, [longer], "")
    others = PreferenceStore(tmp_path / "simulated" / "labels" / "preferences.jsonl").load()
    assert [(p.id, p.prompt, p.replies) for p in asked] == [(p.id, p.prompt, p.replies) for p in others]
    assert {reply.generator.checkpoint for p in asked for reply in p.replies} == {"sft/model"}


def test_every_prompt_has_its_turn_before_one_comes_again_with_other_replies(tmp_path: Path):
    context, start = opened(tmp_path)
    seen: list[Candidate] = []
    ask_people(context, CONFIG, start, PROMPTS, first(99, seen), choose_first)
    names = [one.pair.id.partition("/")[0] for one in seen]
    assert names == [p.id for p in PROMPTS] * 2
    seeds = [reply.generator.seed for one in seen for reply in one.pair.replies]
    assert len(set(seeds)) == len(seeds)
    assert {one.chosen_by["policy"] for one in seen} == {"random"}


def test_another_iteration_draws_other_replies(tmp_path: Path):
    context, start = opened(tmp_path)
    both: list[Candidate] = []
    for iteration in (1, 2):
        ask_people(context, CONFIG, start, PROMPTS, first(99, both), choose_first, iteration)
    seeds = [reply.generator.seed for one in both for reply in one.pair.replies]
    assert len(set(seeds)) == len(seeds) == 2 * 2 * 2 * len(PROMPTS)
    assert len({one.pair.id for one in both}) == len(both)


def test_replies_are_drawn_when_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    context, start = opened(tmp_path)
    asked: list[str] = []
    sample = stage.sample_replies
    monkeypatch.setattr(stage, "sample_replies", lambda *a: asked.extend(p.id for p in a[4]) or sample(*a))
    ask_people(context, CONFIG, start, PROMPTS, first(4), choose_first)
    assert asked == [p.id for p in PROMPTS[:6]]


def test_what_is_written_and_counted(tmp_path: Path):
    context, start = opened(tmp_path)
    counts = ask_people(context, CONFIG, start, PROMPTS, first(4), choose_first)
    assert counts == {"pairs": 4, "ties": 0.25, "undecided": 0, "labels": 4, "by": {"ana": 4}, "project": "demo"}
    told = json.loads((context.folder.path / "people.json").read_text())
    ids = [pair.id for pair in PreferenceStore(context.folder.path / "preferences.jsonl").load()]
    assert told == {
        "project": "demo",
        "database": "collect.db",
        "items": {pair_id: place for place, pair_id in enumerate(ids)},
        "judgements": {pair_id: [7 + place] for place, pair_id in enumerate(ids)},
    }


def test_an_interruption_leaves_nothing_and_costs_nothing(tmp_path: Path):
    context, start = opened(tmp_path)
    seen: list[Candidate] = []

    def stopped(candidates: Iterator[Candidate]) -> Labels:
        first(3, seen)(candidates)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_people(context, CONFIG, start, PROMPTS, stopped, choose_first)
    assert not (context.folder.path / "preferences.jsonl").exists()
    again: list[Candidate] = []
    ask_people(context, CONFIG, start, PROMPTS, first(5, again), choose_first)
    assert again[:3] == seen
    whole = (context.folder.path / "preferences.jsonl").read_bytes()
    ask_people(context, CONFIG, start, PROMPTS, first(5), choose_first)
    assert (context.folder.path / "preferences.jsonl").read_bytes() == whole


def test_held_out_prompts_get_the_pair_that_was_drawn(tmp_path: Path):
    scored: list[str] = []

    def scores(answers: Sequence[tuple[Sequence[Message], Reply]]) -> np.ndarray:
        scored.append(answers[0][0][-1].content)
        return np.array([[0.0], [5.0], [9.0], [9.1]])[: len(answers)]

    replies = [Reply(text, MAKER) for text in "wxyz"]
    choose = choose_informative(
        PeopleConfig(active="uncertain", random_share=1e-9), scores, lambda p: p.id == "a", seed=0
    )
    honest, chosen = choose(prompt("a"), replies, 0), choose(prompt("b"), replies, 0)
    assert honest is not None
    assert chosen is not None
    assert (honest.places, honest.chosen_by["policy"]) == ((0, 1), "random")
    assert (chosen.places, chosen.chosen_by["policy"]) == ((2, 3), "uncertain")
    assert scored == ["b"]
    assert choose(prompt("b"), replies[:1] * 2, 0) is None


def settings(folder: Path, **people: object) -> PipelineConfig:
    prompts = {"path": "builtin:tiny_prompts_train"}
    raw = {"run": str(folder / "run"), "model": {"name": "byte-tiny", "lora": None}}
    return build_config(PipelineConfig, raw | {"labels": {"prompts": prompts, "people": people}})


def test_a_run_without_anybody_who_asks_says_what_to_do(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"thumbs\.run\(config, people=thumbs\.collect\.desk\.Desk\(\)\)"):
        run_pipeline(settings(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_finished_stage_needs_nobody(tmp_path: Path):
    class Nobody:
        def ask(self, settings: object, run: object, iteration: object, candidates: object) -> Labels:
            return Labels([], "demo", "collect.db")

    config = settings(tmp_path)
    run_pipeline(config, people=Nobody())
    assert run_pipeline(config) == tmp_path / "run"


@pytest.mark.parametrize(
    ("reward", "active", "reason"),
    [
        (None, "uncertain", "give `reward_model`"),
        ({}, "disagreement", r"set reward_model\.heads or reward_model\.adapters to 2"),
        ({"heads": 2}, "disagreement", None),
        ({}, "uncertain", None),
    ],
)
def test_an_active_choice_needs_a_model_that_can_choose(
    tmp_path: Path, reward: dict | None, active: str, reason: str | None
):
    raw = settings(tmp_path, active=active).model_dump(mode="json") | {"reward_model": reward}
    config = build_config(PipelineConfig, raw)
    if reason is None:
        check_active_choice(config)
    else:
        with pytest.raises(ConfigError, match=reason):
            check_active_choice(config)


@pytest.mark.parametrize("other", [{"data": {"path": "pairs.jsonl"}}, {"judge_model": "smollm2-135m"}])
def test_people_and_another_source_of_labels_exclude_each_other(other: dict):
    with pytest.raises(ConfigError, match="leave out either `people` or"):
        build_config(LabelsConfig, {"people": {}} | other)
