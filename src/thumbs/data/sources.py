"""Where rows come from: files, `datasets` names and packaged data, with the line of everything that is wrong.

A row that cannot be read is a Problem in the stream, not an exception: one bad line must not hide the others.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from thumbs.data.layout import other_layout
from thumbs.errors import DataError, needs

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is not a training row, and reading it whole could exhaust memory."""

MAX_LIST_BYTES = 2**31
"""A .json file that is one list is read whole; a larger one must be lines."""

Kind = Literal[
    "bad_json",
    "bad_label",
    "bad_role",
    "bad_text",
    "blank_line",
    "different_prompts",
    "duplicate",
    "empty_mask",
    "empty_prompt",
    "empty_reply",
    "html_entities",
    "identical_replies",
    "missing_field",
    "no_assistant_turn",
    "no_user_turn",
    "not_an_object",
    "repeated_prompt",
    "same_role_twice",
    "template",
    "too_long",
    "unreadable",
    "unsupported",
    "wrong_format",
]
"""What can be wrong with a row."""

WARNINGS: frozenset[Kind] = frozenset(
    {"blank_line", "duplicate", "html_entities", "repeated_prompt", "same_role_twice"}
)
"""Kinds that are worth a look but no fault of a row."""


@dataclass(frozen=True)
class Row:
    """One value of a source; `line` counts from 1 (lines of a text file, items of anything else)."""

    line: int
    value: object
    source: str


@dataclass(frozen=True)
class Problem:
    """What is wrong at one line of a source; line 0 stands for the source as a whole."""

    source: str
    line: int
    kind: Kind
    text: str

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}" if self.line else self.source
        return f"{where}: {self.kind}: {self.text}"


class RowError(DataError):
    """A row is not usable; `kind` says why in one word."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind: Kind = kind


def read_rows(path: str | Path) -> Iterator[Row | Problem]:
    """Rows of a source in order, and a Problem in the place of each row that cannot be read.

    path: a .jsonl, .ndjson, .json, .txt, .csv, .tsv or .parquet file, all but the last also as .gz, .zst or .bz2;
    `hub:NAME[@REVISION][[:CONFIGURATION]:SPLIT]` (the `datasets` library; split "train" unless named); or
    `builtin:NAME` (packaged with thumbs). A .json file holds one list, or one object per line. Raises DataError
    when there is no such source.
    """
    name = str(path)
    if name.startswith("hub:"):
        return _hub_rows(name)
    if name.startswith("builtin:"):
        return _builtin_rows(name)
    file = Path(path)
    reader = _READERS.get(_suffix(file))
    if reader is None or (_suffix(file) == ".parquet" and _is_compressed(file)):
        raise DataError(
            f"{name}: cannot read {file.suffix!r} files; use {', '.join(_READERS)} (all but .parquet also with "
            f"{', '.join(_COMPRESSED)} behind), hub:NAME or builtin:NAME"
        )
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "no such file"
        raise DataError(f"{name}: {what}; give the path of a file, hub:NAME or builtin:NAME")
    return _guarded(name, reader(file, name))


_COMPRESSED = (".gz", ".zst", ".bz2")


def _is_compressed(file: Path) -> bool:
    return file.suffix.lower() in _COMPRESSED


def _suffix(file: Path) -> str:
    """What kind of file it is, whether compressed or not."""
    return Path(file.stem if _is_compressed(file) else file.name).suffix.lower()


def _open(file: Path) -> IO[bytes]:
    """The bytes of a file, decompressed; a file that ends too early is an error of reading."""
    suffix = file.suffix.lower()
    if suffix == ".zst":
        with needs("data", "reading .zst files"):
            import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(file), compression="zstd"))  # type: ignore[arg-type]
    # Not by pyarrow, which takes a cut file for a whole one in these two formats.
    return {".gz": gzip.open, ".bz2": bz2.open}.get(suffix, open)(file, "rb")  # type: ignore[operator]


def read_mixed_lines(path: str | Path) -> Iterator[Row | Problem]:
    """As read_rows, but a line of a file may also be plain text: what is not JSON, or a JSON number, is its own words.

    A line that begins as an object and is none stays a fault.
    """
    file = Path(path)
    if not file.is_file() or _suffix(file) in (".csv", ".tsv", ".parquet") or _holds_list(file):
        return read_rows(path)
    return _guarded(str(path), _parsed(file, str(path), _text_or_json))


def _guarded(source: str, rows: Iterator[Row | Problem]) -> Iterator[Row | Problem]:
    """The rows, and where a library gives up in the midst of them a Problem in place of its exception."""
    try:
        yield from rows
    except Exception as error:  # pyarrow and datasets raise most of the standard library's errors
        yield Problem(source, 0, "unreadable", f"reading stopped: {type(error).__name__}: {error}")


def _lines(file: IO[bytes], source: str) -> Iterator[tuple[int, str] | Problem]:
    """Numbered lines without their ends; blank, oversized and undecodable ones as Problems."""
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            yield Problem(source, 0, "bad_text", "the file is UTF-16; save it as UTF-8")
            return
        if len(raw) > MAX_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE_BYTES)
            yield Problem(source, number, "too_long", f"line of more than {MAX_LINE_BYTES} bytes")
            continue
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            yield Problem(source, number, "bad_text", f"not UTF-8: {error.reason} at byte {error.start}")
            continue
        if text.strip():
            yield number, text
        else:
            yield Problem(source, number, "blank_line", "blank line, skipped")


def _parsed(file: Path, source: str, parse: Callable[[str], object]) -> Iterator[Row | Problem]:
    """A row of each line; a Problem in the place of one that `parse` refuses with ValueError."""
    with _open(file) as stream:
        for item in _lines(stream, source):
            if isinstance(item, Problem):
                yield item
                continue
            try:
                yield Row(item[0], parse(item[1]), source)
            except ValueError as error:
                yield Problem(source, item[0], "bad_json", str(error))


def _text_rows(file: Path, source: str) -> Iterator[Row | Problem]:
    return _parsed(file, source, str.strip)


def _jsonl_rows(file: Path, source: str) -> Iterator[Row | Problem]:
    if reason := other_layout(lambda: _open(file), MAX_LINE_BYTES):
        yield Problem(source, 0, "unreadable", reason)
    else:
        yield from _parsed(file, source, parse_json)


def _text_or_json(text: str) -> object:
    try:
        value = parse_json(text)
    except ValueError:
        if text.lstrip().startswith("{"):
            raise
        value = None
    return value if isinstance(value, str | dict | list) else text.strip()


def _holds_list(file: Path) -> bool:
    """Whether a .json file is one list, not one object per line."""
    if _suffix(file) != ".json":
        return False
    with _open(file) as stream:
        head = b""
        while not head.strip() and (block := stream.read(65536)):
            head = block.removeprefix(b"\xef\xbb\xbf")
        return head.lstrip().startswith(b"[")


def _json_rows(file: Path, source: str) -> Iterator[Row | Problem]:
    if not _holds_list(file):
        yield from _jsonl_rows(file, source)
        return
    with _open(file) as stream:
        data = stream.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        yield Problem(source, 0, "too_long", f"a list of more than {MAX_LIST_BYTES} bytes; write one value per line")
        return
    try:
        values = parse_json(data.decode("utf-8-sig"))
    except ValueError as error:
        yield Problem(source, 0, "bad_json", str(error))
        return
    yield from _numbered(values, source)


def _parquet_rows(file: Path, source: str) -> Iterator[Row | Problem]:
    with needs("data", "reading Parquet files"):
        import pyarrow.parquet

    def values() -> Iterator[object]:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()

    yield from _numbered(values(), source)


_NUMBERS = ("label", "margin", "weight", "rating", "score", "best")
"""Columns of a table of text in which `4` is a number; everywhere else it is the text "4"."""


def _csv_rows(file: Path, source: str) -> Iterator[Row | Problem]:
    """Rows of a table with a head: an empty cell is absent, and a JSON object or list of objects in a cell is read."""
    with needs("data", "reading CSV files"):
        import pyarrow.csv

    with _open(file) as stream:
        head = stream.readline(MAX_LINE_BYTES).decode("utf-8-sig")
    delimiter = "\t" if _suffix(file) == ".tsv" else max(",;\t", key=head.count)
    columns = next(csv.reader([head], delimiter=delimiter), [])
    if repeated := [name for name in dict.fromkeys(columns) if columns.count(name) > 1]:
        raise ValueError(f"the head names {', '.join(map(repr, repeated))} more than once")
    with _open(file) as stream:
        table = pyarrow.csv.open_csv(
            pyarrow.PythonFile(stream, mode="r"),
            pyarrow.csv.ReadOptions(block_size=MAX_LINE_BYTES),
            pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                column_types={name: pyarrow.string() for name in columns if name not in _NUMBERS},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        rows = (row for batch in table for row in batch.to_pylist())
        yield from _numbered(({key: _cell(value) for key, value in row.items()} for row in rows), source)


def _cell(value: object) -> object:
    """A cell's JSON list of objects or object (messages that a table keeps as text), else the cell."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        inner = parse_json(value)
    except ValueError:
        return value
    nested = isinstance(inner, dict) or (isinstance(inner, list) and any(isinstance(item, dict) for item in inner))
    return inner if nested else value


_HUB = re.compile(
    r"hub:(?P<name>[^:@]+)(@(?P<revision>[^:@]+))?"
    r"((:(?P<configuration>[^:@\[]+))?:(?P<split>[^:@\[]+(\[[^\]@]*\])?))?"
)


def _hub_rows(source: str) -> Iterator[Row | Problem]:
    with needs("data", "reading data sets of the hub"):
        import datasets

    form = "hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIGURATION:SPLIT, with @REVISION behind NAME if you want one"
    if (named := _HUB.fullmatch(source)) is None:
        raise DataError(f"{source}: not the name of a data set; write {form}")
    try:
        values = datasets.load_dataset(
            named["name"],
            named["configuration"],
            split=named["split"] or "train",
            revision=named["revision"],
            streaming=True,
        )
    except Exception as error:  # network, file and script errors have no common base there
        raise DataError(f"{source}: cannot load: {error}; write {form}") from error
    return _guarded(source, _numbered(values, source))


def _builtin_rows(source: str) -> Iterator[Row | Problem]:
    folder = resources.files("thumbs.data") / "builtin"
    names = sorted(item.name.removesuffix(".jsonl") for item in folder.iterdir() if item.name.endswith(".jsonl"))
    name = source.removeprefix("builtin:")
    if name not in names:
        raise DataError(f"{source}: no such packaged data; there are {', '.join(names)}")
    with resources.as_file(folder / f"{name}.jsonl") as file:
        # Read before the context ends: the file of a zipped package is gone after it.
        return iter(list(_jsonl_rows(file, source)))


def _numbered(values: Iterable[object], source: str) -> Iterator[Row | Problem]:
    for line, value in enumerate(values, start=1):
        yield Row(line, value, source)


def parse_json(text: str) -> Any:
    """Value of a JSON text; raises ValueError for anything that RFC 8259 does not allow, NaN and endless
    nesting too.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write a number or null")


def canonical_json(value: object) -> str:
    """The one JSON text of a value (sorted keys, no spaces, ASCII): what ids and splits hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(value: object, field: str) -> str:
    """`value` when it is text that can be encoded; raises RowError naming `field` otherwise."""
    if not isinstance(value, str):
        raise RowError("bad_text", f"{field!r} must be text, got {type(value).__name__}")
    if _LONE_SURROGATE.search(value):
        raise RowError("bad_text", f"{field!r} holds half of a surrogate pair (an escape such as \\ud83d alone)")
    return value


_READERS: dict[str, Callable[[Path, str], Iterator[Row | Problem]]] = {
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".json": _json_rows,
    ".txt": _text_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
}
