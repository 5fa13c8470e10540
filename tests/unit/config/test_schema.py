"""The JSON schema for editors accepts what configs accept, and marks what they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.schema import config_schema
from thumbs.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def validator() -> Any:
    found = config_schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def settings_in_documents() -> list[tuple[str, dict[str, Any]]]:
    """Every YAML block of the documents and every config that stands for a whole run."""
    texts = [(str(path.relative_to(ROOT)), path.read_text("utf-8")) for path in sorted(ROOT.glob("configs/**/*.yaml"))]
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        blocks = re.findall(r"```yaml\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
        texts += [(f"{path.relative_to(ROOT)}#{number}", block) for number, block in enumerate(blocks)]
    found = []
    for name, text in texts:
        try:
            settings = yaml.safe_load(text)
            build_config(PipelineConfig, settings)
        except (ConfigError, yaml.YAMLError, AttributeError, TypeError):
            continue
        if set(settings) <= PipelineConfig.model_fields.keys():
            found.append((name, json.loads(json.dumps(settings, default=str))))  # editors read dates as text
    return found


def test_documents_have_many_configs_to_check():
    assert len(settings_in_documents()) > 25


@pytest.mark.parametrize(("name", "settings"), settings_in_documents(), ids=lambda value: str(value)[:40])
def test_the_schema_accepts_what_a_config_accepts(validator: Any, name: str, settings: dict[str, Any]):
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(settings)] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"sft": {"data": "chats.jsonl"}},
        {"sft": {"data": ["a.jsonl", {"path": "b.jsonl"}]}},
        {"sft": None, "ppo": {"prompts": {"path": "p.txt"}, "kl": None}},
        {"seed": None},
    ],
)
def test_short_forms_and_null_are_in_the_schema(validator: Any, settings: dict[str, Any]):
    build_config(PipelineConfig, settings)
    assert list(validator.iter_errors(settings)) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"stf": {"data": "chats.jsonl"}},
        {"sft": {"data": "chats.jsonl", "epoch": 3}},
        {"sft": {"data": {"path": 3}}},
        {"sft": {"data": []}},
        {"ppo": {"prompts": "p.txt", "kl": {"coef": "much"}}},
        {"seed": -1},
        {"sft": {}},
    ],
)
def test_the_schema_marks_what_a_config_refuses(validator: Any, settings: dict[str, Any]):
    with pytest.raises(ConfigError):
        build_config(PipelineConfig, settings)
    assert list(validator.iter_errors(settings))


def test_every_setting_says_what_it_means():
    found = config_schema()
    silent = [
        f"{name}.{key}"
        for name, definition in {"": found, **found["$defs"]}.items()
        for key, schema in definition.get("properties", {}).items()
        if "description" not in schema and "$ref" not in str(schema)
    ]
    assert silent == []
