"""English and Chinese say the same: each promised page has both, with the same shape, code, settings and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IN_BOTH = (
    "README.md",
    "docs/README.md",
    "docs/collect.md",
    "docs/coming_from.md",
    "docs/concepts.md",
    "docs/demo.md",
    "docs/guides/chat.md",
    "docs/guides/cluster.md",
    "docs/guides/direct.md",
    "docs/guides/evaluation.md",
    "docs/guides/group.md",
    "docs/guides/labels.md",
    "docs/guides/ppo.md",
    "docs/guides/python.md",
    "docs/guides/recipes.md",
    "docs/guides/rejection.md",
    "docs/guides/resume.md",
    "docs/guides/reward_model.md",
    "docs/guides/rlhf_pipeline.md",
    "docs/guides/safety.md",
    "docs/guides/sft.md",
    "docs/guides/trackers.md",
    "docs/guides/trl_ppo.md",
    "docs/guides/watching.md",
    "docs/service.md",
    "docs/tutorials/steer_a_tone.md",
    "docs/tutorials/your_own_pairs.md",
    "docs/tutorials/your_teams_labels.md",
    "examples/from_scratch/README.md",
)  # fmt: skip
"""What the site promises in Simplified Chinese; docs/X.md is docs/zh/X.md there, and X.md above docs/ is X.zh.md."""

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`[^`]+`")
HAN = re.compile(r"[\u4e00-\u9fff]")


def chinese(page: str) -> str:
    return page.replace("docs/", "docs/zh/", 1) if page.startswith("docs/") else page.replace(".md", ".zh.md")


def english(page: str) -> str:
    return page.replace("docs/zh/", "docs/", 1).replace(".zh.md", ".md")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    return FENCE.sub("", read(page))


def without_comment(line: str) -> str:
    """What stands before a comment, or before a column of explanations, which is three blanks away."""
    bare = re.split(r"(?:^|\s)#|(?<=\S)\s{3,}", line)[0].rstrip()
    return "" if HAN.search(bare) else bare


def code(page: str) -> list[tuple[str, list[str]]]:
    found = [(language, map(without_comment, text.splitlines())) for language, text in FENCE.findall(read(page))]
    return [(language, [line for line in lines if line]) for language, lines in found]


def headings(page: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(page), re.MULTILINE)]


def links(page: str) -> Counter[str]:
    """What a page points to, as the English page's file or address, with how often."""
    found = re.findall(r"\]\(([^)#\s]+)", SPAN.sub("", prose(page)))
    here = (ROOT / page).parent
    return Counter(
        link if "://" in link else english((here / link).resolve().relative_to(ROOT).as_posix()) for link in found
    )


def spans(page: str) -> Counter[str]:
    """The names, settings and commands within sentences."""
    return Counter(" ".join(span.split()) for span in SPAN.findall(prose(page)))


def rows(page: str) -> list[int]:
    """Columns of each row of a table."""
    return [line.count("|") for line in prose(page).splitlines() if line.startswith("|")]


@pytest.mark.parametrize("what", [headings, code, links, spans, rows], ids=lambda what: what.__name__)
@pytest.mark.parametrize("page", IN_BOTH)
def test_both_languages_have_the_same(page: str, what):
    assert what(chinese(page)) == what(page)


@pytest.mark.parametrize("page", IN_BOTH)
def test_a_chinese_page_is_written_in_chinese(page: str):
    lines = SPAN.sub("", prose(chinese(page))).splitlines()
    plain = [line for line in lines if "](" not in line and not line.startswith("    ")]
    assert [line for line in plain if len(line) > 60 and not HAN.search(line)] == []


def test_no_chinese_page_is_unpromised():
    there = [*(ROOT / "docs" / "zh").rglob("*.md"), *ROOT.glob("*.zh.md"), *(ROOT / "examples").rglob("*.zh.md")]
    assert sorted(english(path.relative_to(ROOT).as_posix()) for path in there) == sorted(IN_BOTH)
