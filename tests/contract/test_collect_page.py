"""docs/collect.md names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from thumbs.collect.exports.formats import FORMATS
from thumbs.collect.exports.select import Filters
from thumbs.collect.question import Question
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.web.annotate import KEYS
from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "collect.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def test_the_question_of_the_page_can_be_asked_and_has_every_setting():
    question = build_config(Question, next(block for block in BLOCKS if "kind" in block))
    told = set(question.model_fields_set)
    assert set(Question.model_fields) - told == {"skip_reasons"}


def test_the_config_of_the_page_is_one():
    loop = build_config(PipelineConfig, next(block for block in BLOCKS if "run" in block))
    assert loop.iterations == 2
    assert loop.labels is not None
    assert loop.labels.people is not None


def test_every_setting_filter_format_and_key_is_on_the_page():
    missing = [name for name in (*ProjectSettings.model_fields, *Filters.model_fields) if f"{name}=" not in PAGE]
    missing += [name for name in FORMATS if f"`{name}`" not in PAGE]
    keys = {key for line in KEYS for key in re.findall(r"[A-Z?]", line.shown)}
    missing += [key for key in keys if f"<kbd>{key}</kbd>" not in PAGE]
    assert missing == []


def test_every_picture_is_there_and_used():
    used = re.findall(r"\]\(images/collect/([\w.-]+)\)", PAGE)
    assert sorted(used) == sorted(path.name for path in (DOCS / "images" / "collect").iterdir())
    assert len(used) >= 20
