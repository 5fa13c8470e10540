"""Sampled pairs, and a labelling run that was interrupted anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from byte_world import byte_context, prompt
from thumbs.config.labels import LabelsConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.annotators import SimulatedAnnotator
from thumbs.engine.base import ModelSpec
from thumbs.stages import labels as stage

CONFIG = LabelsConfig(replies_per_prompt=4, pairs_per_prompt=3, sampling=SamplingConfig(max_new_tokens=6))
PROMPTS = [prompt(name) for name in ("a", "bc", "def", "g", "hi", "jkl", "m")]


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "MAX_ROWS", 14)  # three prompts with four replies each


def length_judge(messages: object, reply: str) -> float:
    return float(len(reply))


def collected(folder: Path) -> bytes:
    context = byte_context(folder)
    start = folder / "start" / "model"
    if not start.exists():
        context.engine.save(context.engine.create(ModelSpec("sft", context.model)), start)
    annotators = [SimulatedAnnotator(f"a{i}", length_judge, 0.1, 0.5, i) for i in range(2)]
    stage.sample_labels(context, CONFIG, start, PROMPTS, annotators, "2026-01-01")
    return (folder / "preferences.jsonl").read_bytes()


def test_a_labelling_run_goes_on_where_a_kill_cut_the_file(tmp_path: Path):
    whole = collected(tmp_path)
    lines = whole.splitlines(keepends=True)
    assert len(lines) > 12
    for kept in (b"", b"".join(lines[:4]), b"".join(lines[:7]) + lines[7][:50], whole):
        (tmp_path / "preferences.jsonl").write_bytes(kept)
        assert collected(tmp_path) == whole


def test_a_finished_labelling_run_samples_only_its_last_group_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    collected(tmp_path)
    asked: list[str] = []
    sample = stage.sample_replies
    monkeypatch.setattr(stage, "sample_replies", lambda *a: asked.extend(p.id for p in a[-1]) or sample(*a))
    collected(tmp_path)
    assert asked == ["m"]


def test_pairs_name_the_model_the_settings_and_the_seed_of_each_reply(tmp_path: Path):
    collected(tmp_path)
    for preference in stage.PreferenceStore(tmp_path / "preferences.jsonl").load():
        first, second = (reply.generator for reply in preference.replies)
        assert (first.kind, first.name, first.checkpoint) == ("model", "byte-tiny", "start/model")
        assert first.sampling["max_new_tokens"] == 6
        assert first.seed != second.seed
        assert preference.replies[0].text != preference.replies[1].text
