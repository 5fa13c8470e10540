"""Every method is in the help and on its page, and its paper is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from methods_page import page
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.config.families import FAMILIES, WIDTH
from thumbs.config.methods import Method

DOCS = Path(__file__).parents[2] / "docs"
METHODS = [method for family in FAMILIES for method in family.methods]


def test_the_page_is_up_to_date():
    made = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert made == page(), "python docs/generators/methods_page.py > docs/methods.md"


def test_help_names_every_method_and_fits_a_terminal():
    text = CliRunner().invoke(app, ["--help"], terminal_width=WIDTH + 20).stdout
    listed = re.split(r"[,\s]+", text.partition("Methods (")[2])
    assert {method.name for method in METHODS} <= {*listed, "ppo", "rejection"}
    assert all(f"thumbs {family.command}" in text for family in FAMILIES)
    assert max(map(len, text.splitlines())) <= 110


def test_names_are_unique_within_a_family():
    for family in FAMILIES:
        names = [method.name for method in family.methods]
        assert len(names) == len(set(names))
        assert (DOCS / family.guide).is_file()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_its_papers_are_listed(method: Method):
    papers = (DOCS / "papers.md").read_text(encoding="utf-8")
    assert method.source
    for number in re.findall(r"arXiv:(\d{4}\.\d{5})", method.source):
        assert number in papers, f"docs/papers.md has no row for arXiv:{number}, the source of {method.name}"
