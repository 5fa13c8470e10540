"""A folder as `datasets.Dataset.save_to_disk` writes it, made in one pass: that method wants the whole set first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from thumbs.errors import needs
from thumbs.tracking.files import write_json

_DATA = "data-00000-of-00001.arrow"


@needs("data", "exporting a data set of `datasets`")
def write_dataset(rows: Iterable[Mapping[str, Any]], folder: Path) -> str:
    """Writes the rows, whose columns and their types are those of the first, so that `datasets.load_from_disk` opens
    the empty folder; returns the SHA-256 of a JSON object of its files' names and theirs.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    writer, features = None, None
    for row in rows:
        if writer is None:
            features = datasets.Features({name: _feature(value) for name, value in row.items()})
            writer = ArrowWriter(path=str(folder / _DATA), features=features, writer_batch_size=100)
        writer.write(dict(row))
    if writer is not None:
        writer.finalize()
        writer.close()
    datasets.DatasetInfo(features=features).write_to_directory(str(folder))
    state = {
        "_data_files": [{"filename": _DATA}],
        "_fingerprint": _digest(folder / _DATA)[:16] if writer is not None else "",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)
    sums = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode("ascii")).hexdigest()


@needs("data", "exporting a data set of `datasets`")
def _feature(value: Any) -> Any:
    import datasets

    if isinstance(value, list):
        return datasets.List({name: datasets.Value("string") for name in value[0]})
    kinds = {bool: "bool", int: "int64", float: "float64", str: "string"}
    return datasets.Value(kinds[type(value)])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
