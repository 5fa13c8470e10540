"""Markdown is wrapped at 100 columns; tables, code and addresses are as long as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WIDTH = 100
TOP = ("AGENTS.md", "CONTRIBUTING.md", "README.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]


def long_lines(text: str) -> list[int]:
    """Numbers of the lines of prose that are too long; a line that cannot be broken is none of them."""
    long, is_code = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(r"\s*(```|~~~)", line):
            is_code = not is_code
        is_prose = not is_code and not line.startswith(("|", "#", "    ", "!["))
        unbroken = re.sub(r"`[^`]*`", "", line)  # a span of code is not broken
        if is_prose and len(line) > WIDTH and len(unbroken) > WIDTH // 2:
            long.append(number)
    return long


HAND_WRITTEN = [page for page in PAGES if "do not edit" not in " ".join(page.read_text(encoding="utf-8").split())]


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_wrapped(page: Path):
    assert long_lines(page.read_text(encoding="utf-8")) == []


def test_a_long_line_of_prose_is_seen():
    prose, table = "word " * 30, "| " + "cell " * 30
    assert long_lines(f"{prose}\n{table}\n```\n{prose}\n```\n{prose}") == [1, 6]
