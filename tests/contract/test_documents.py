"""What the documents show can be typed, and what they point to is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.preferences import preferred, read_preference

ROOT = Path(__file__).resolve().parents[2]
TOP = ("AGENTS.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md")
DOCUMENTS = [
    *(ROOT / name for name in TOP),
    *ROOT.glob("*.zh.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_config_of_the_readme_loads():
    (block,) = blocks("README.md", "yaml")
    config = build_config(PipelineConfig, yaml.safe_load(block))
    assert config.sft is not None
    assert config.ppo is not None


def test_the_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = set(
        re.findall(r"\bthumbs ([a-z]+)", "\n".join(re.findall(r"`thumbs [a-z]+|^thumbs [a-z]+", text, re.M)))
    )
    assert len(commands) >= 8
    assert {name for name in commands if CliRunner().invoke(app, [name, "--help"]).exit_code} == set()


def test_the_preference_of_the_data_page_reads():
    (block,) = blocks("docs/data.md", "json")
    assert preferred(read_preference(json.loads(block))) == 1.0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document: Path):
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    paths = re.findall(r"`((?:src|docs|tests|configs|examples)/[\w./-]+)`", text)
    missing = [link for link in links if not (document.parent / link).exists()]
    assert missing + [path for path in paths if not (ROOT / path).exists()] == []


def anchors(document: Path) -> set[str]:
    """The names of a page's headings, as code hosts and the site make them."""
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    titles = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_anchors_are_headings(document: Path):
    text = FENCE.sub("", document.read_text(encoding="utf-8"))
    found = [(file, name) for file, name in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text) if "://" not in file]
    pages = {file: document.parent / file if file else document for file, _ in found}
    assert [(file, name) for file, name in found if name not in anchors(pages[file])] == []
