"""What is wrong with a file, line by line, before a run depends on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from thumbs.data.formats import kind_of
from thumbs.data.load import FORMS, Loaded, ignored_text, read_all
from thumbs.data.preferences import preferred
from thumbs.data.shapes import DataKind
from thumbs.data.sources import WARNINGS, Problem, Row, read_rows
from thumbs.data.tokenizers import ByteTokenizer, Tokenizer
from thumbs.errors import DataError
from thumbs.records import Preference
from thumbs.tracking.files import replacing, writing

_QUANTILES = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}
_EXAMPLES = 3
_VOTERS = 200


@dataclass(frozen=True)
class LintReport:
    """Findings on one source; `examples` has the first few problems of each kind, `lengths` are in `unit`."""

    source: str
    kind: DataKind
    total: int
    rows_left: int
    counts: Mapping[str, int]
    examples: tuple[Problem, ...]
    lengths: Mapping[str, int]
    unit: Literal["tokens", "bytes"]
    ties: float | None
    """Fraction of the usable pairs whose judgements favour neither reply; None if there are no pairs."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Keys that nothing reads, with the number of usable rows that have each."""
    notes: tuple[str, ...] = ()
    """What the tokenizer's chat template does that training is to be told of."""

    def text(self) -> str:
        """The report for a terminal."""
        lines = [f"{self.source}: {self.kind}, {self.rows_left} of {self.total} rows usable"]
        for kind, number in self.counts.items():
            lines.append(f"  {kind}: {number}")
            lines += [f"    {problem}" for problem in self.examples if problem.kind == kind]
        if self.lengths:
            lengths = ", ".join(f"{name} {length}" for name, length in self.lengths.items())
            lines.append(f"  length of a row in {self.unit}: {lengths}")
        if self.ties is not None:
            lines.append(f"  ties: {self.ties:.1%} of the usable pairs")
        lines += [f"  {line}" for line in (*ignored_text(self.ignored), *self.notes)]
        if not self.total and not any(kind not in WARNINGS for kind in self.counts):
            lines.append("  the file is empty")
        elif not self.counts:
            lines.append("  nothing is wrong")
        return "\n".join(lines)


def lint(
    path: str | Path,
    tokenizer: Tokenizer | None = None,
    kind: DataKind | Literal["auto"] = "auto",
    max_tokens: int | None = None,
    axis: str | None = None,
    fix: Path | None = None,
) -> LintReport:
    """Report on a source, as loading it would see it; never raises for what is in it, nor when it is not
    there.

    fix: a new file for the usable rows as they stand in the source, one JSON value per line. Raises DataError if it
    cannot be written, or is there already.

    kind "auto" takes what most of the first rows look like. Lengths, and max_tokens with them, are tokens of
    `tokenizer`, or without one UTF-8 bytes.
    """
    ruler = tokenizer or ByteTokenizer()
    try:
        chosen: DataKind = detect_kind(path) if kind == "auto" else kind
        loaded: Loaded[Any] = read_all(path, FORMS[chosen], ruler, None, max_tokens, axis)
    except DataError as error:
        chosen = "conversations" if kind == "auto" else kind
        loaded = Loaded(str(path), [], [], [Problem(str(path), 0, "unreadable", str(error))], 0)
    if fix is not None:
        _write_usable(loaded, fix)
    seen: Counter[str] = Counter()
    examples: list[Problem] = []
    for problem in loaded.problems:
        seen[problem.kind] += 1
        if seen[problem.kind] <= _EXAMPLES:
            examples.append(problem)
    return LintReport(
        source=loaded.source,
        kind=chosen,
        total=loaded.total,
        rows_left=len(loaded.rows),
        counts=dict(seen.most_common()),
        examples=tuple(examples),
        lengths=_describe(loaded.lengths),
        unit="bytes" if tokenizer is None else "tokens",
        ties=_tie_fraction(loaded.rows),
        ignored=loaded.ignored,
        notes=tuple(ruler.notes()),
    )


def _write_usable(loaded: Loaded[Any], out: Path) -> None:
    if out.suffix.lower() != ".jsonl":
        raise DataError(f"{out}: the rows that remain are written as JSON lines; give a name that ends in .jsonl")
    if out.exists():
        raise DataError(f"{out} is there already; name a new file")
    usable = {line for _, line in loaded.origins}
    rows = (item for item in read_rows(loaded.source) if isinstance(item, Row) and item.line in usable)
    with writing(out), replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            try:
                file.write(json.dumps(row.value, ensure_ascii=False, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:
                raise DataError(f"{row.source}:{row.line}: cannot be written as JSON: {error}") from None


def detect_kind(path: str | Path) -> DataKind:
    """What most of the first 200 readable rows look like by their keys; conversations when none tells."""
    rows = (item.value for item in read_rows(path) if isinstance(item, Row))
    votes: list[DataKind] = [vote for value in islice(rows, _VOTERS) if (vote := kind_of(value))]
    return max(FORMS, key=votes.count)


def _describe(lengths: list[int]) -> dict[str, int]:
    if not lengths:
        return {}
    return {name: int(np.quantile(lengths, quantile, method="inverted_cdf")) for name, quantile in _QUANTILES.items()}


def _tie_fraction(rows: list[Any]) -> float | None:
    pairs = [row for row in rows if isinstance(row, Preference)]
    return sum(preferred(pair) == 0.5 for pair in pairs) / len(pairs) if pairs else None
