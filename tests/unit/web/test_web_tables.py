"""CSV files: nothing in them runs, nothing is cut, and our own reader gives back what went in."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thumbs.web.tables import MOST_CELL, plain, read_table, safe, table_lines

DANGEROUS = [
    "=1+1",
    " =1+1",
    "\t=1+1",
    "\ufeff=1+1",
    "\u3000＝1+1",
    "＝1+1",
    "＋1",
    "－1",
    "＠SUM(1)",
    "@SUM(1)",
    "-2+3",
    'x;=HYPERLINK("http://evil.example")',
    'x; "=1+1',
    "a\tb;=cmd|' /C calc'!A0",
    "a\t\u200b=1",
    "line\n=1+1",
    "line\r\n@x",
    "\r=1",
    "'=1",
    "''=1",
    "'\n;'=1",
]
HARMLESS = ["plain", "a = b", "x-y", "你好，世界", "don't", 'say "hi"', "a,b", "", "'quoted'"]


def written(rows: list[dict[str, object]], path: Path) -> Path:
    path.write_bytes("".join(table_lines(rows)).encode("utf-8"))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_no_cell_begins_with_a_formula_whatever_the_separator(tmp_path: Path, separator: str):
    path = written([{"name": text, "n": 1, "last": text} for text in DANGEROUS], tmp_path / "t.csv")
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file, delimiter=separator) for cell in row]
    blank = r'^[\s"\x00-\x1f\u200b\ufeff]*'
    assert not [cell for cell in cells if re.match(blank + r"[=+\-@＝＋－＠]", cell)]


def test_a_byte_order_mark_says_that_it_is_utf8(tmp_path: Path):
    assert written([{"a": "你好"}], tmp_path / "t.csv").read_bytes().startswith(b'\xef\xbb\xbf"a"')


def test_what_needs_no_apostrophe_has_none():
    assert [safe(text) for text in HARMLESS] == HARMLESS


def test_our_reader_gives_back_the_texts(tmp_path: Path):
    texts = [*DANGEROUS, *HARMLESS]
    rows = read_table(written([{"=text": text, "n": -3} for text in texts], tmp_path / "t.csv"))
    assert list(rows) == [{"=text": text, "n": "-3"} for text in texts]


@pytest.mark.parametrize("unit", ["x", "😀", ";=", "\n-"])
def test_what_a_cell_cannot_hold_goes_on_in_further_columns(tmp_path: Path, unit: str):
    long = unit * 50_000
    path = written(
        [{"id": "1", "text": long, "end": "e"}, {"id": "2", "text": "short", "end": "e"}], tmp_path / "t.csv"
    )
    with path.open(encoding="utf-8-sig", newline="") as file:
        names, *rows = csv.reader(file)
    assert names[:3] == ["id", "text", "text (2)"]
    assert names[-1] == "end"
    assert max(len(cell.encode("utf-16-le")) // 2 for row in rows for cell in row) <= MOST_CELL
    assert [row["text"] for row in read_table(path)] == [long, "short"]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=[*"=+-@＝'\";\t\n\r ax\ufeff\u200b"], max_size=12))
def test_the_way_back_is_exact(text: str):
    assert plain(safe(text)) == text
