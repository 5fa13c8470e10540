"""Tables as CSV that spreadsheets open safely and whole, and the way back.

RFC 4180 in UTF-8 with a byte order mark, without which Excel takes Chinese for something else. No cell begins with a
formula, whichever separator the reader's country has: where a cell, or what stands in it after a semicolon, a tab or a
line break, would begin with a formula, an apostrophe stands before it. Excel cuts a cell after 32,767 characters, so a
longer text goes on in further columns, `reply_0 (2)`, `reply_0 (3)`, ….
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

MOST_CELL = 32_767
"""UTF-16 units in a cell of Excel's."""

# Spreadsheets take the full-width signs for the others, and skip what is blank before them.
_SIGN = r"[=+\-@\uff1d\uff0b\uff0d\uff20\u2212]"
_BLANK = r"[\s\"\x00-\x1f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
_BREAK = r"[;\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]"
_AT_START = re.compile(rf"(?='*(?:[\t\r\n]|{_BLANK}*{_SIGN}))")
_WITHIN = re.compile(rf"({_BREAK}{_BLANK}*)(?='*{_SIGN})")
_ADDED_WITHIN = re.compile(rf"({_BREAK}{_BLANK}*)'(?='*{_SIGN})")
_FURTHER = re.compile(r"(.+) \(([0-9]+)\)")


def table_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of the file, the names of the columns first; numbers stay numbers. All rows have the same columns.

    Reads all rows before the first line, since the longest text says how many columns there are; they wait on disk.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogatepass") as held:
        widths: dict[str, int] = {}
        for row in rows:
            cells = {name: _cells(value) for name, value in row.items()}
            for name, parts in cells.items():
                widths[name] = max(widths.get(name, 1), len(parts))
            held.write(json.dumps(list(cells.values())) + "\n")
        if not widths:
            return
        names = [name if n == 1 else f"{name} ({n})" for name, most in widths.items() for n in range(1, most + 1)]
        yield "\ufeff" + _line([safe(name) for name in names])
        held.seek(0)
        for line in held:
            cells = zip(json.loads(line), widths.values(), strict=True)
            yield _line([part for parts, most in cells for part in (*parts, *[""] * (most - len(parts)))])


def read_table(path: Path) -> Iterator[dict[str, str]]:
    """The rows of such a file with the texts that went into it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(max(csv.field_size_limit(), 4 * MOST_CELL))
        for row in csv.DictReader(file):
            whole: dict[str, str] = {}
            for name, cell in row.items():
                column, further = plain(name), _FURTHER.fullmatch(plain(name))
                if further is not None and further[1] in whole:
                    column = further[1]
                whole[column] = whole.get(column, "") + plain(cell)
            yield whole


def safe(text: str) -> str:
    """The text with an apostrophe wherever a spreadsheet would begin a formula."""
    within = _WITHIN.sub(r"\1'", text)
    return f"'{within}" if _AT_START.match(within) else within


def plain(cell: str) -> str:
    """Inverse of `safe`."""
    within = cell[1:] if cell.startswith("'") and _AT_START.match(cell) else cell
    return _ADDED_WITHIN.sub(r"\1", within)


def _cells(value: object) -> list[Any]:
    """A value as the cells that hold it: a number as it is, a text in as many as it needs."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [value]
    text, parts = str(value), []
    while text or not parts:
        size = MOST_CELL
        while _units(cell := safe(text[:size])) > MOST_CELL:
            size = size * 3 // 4
        parts.append(cell)
        text = text[size:]
    return parts


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _line(cells: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC).writerow(cells)
    return text.getvalue()
