"""Every source gives the same rows, and a bad line is named without hiding the others."""

import json

import pytest

from thumbs.data import sources
from thumbs.data.sources import Problem, Row, canonical_json, parse_json, read_rows
from thumbs.errors import DataError

VALUES = [{"prompt": "a", "n": 1}, {"prompt": "é🙂", "n": 2}]


def found(path):
    return [(item.line, item.value if isinstance(item, Row) else item.kind) for item in read_rows(path)]


def test_jsonl_names_the_line_of_everything_that_is_wrong(tmp_path):
    path = tmp_path / "rows.jsonl"
    deep = b"[" * 100_000
    lines = [
        b'\xef\xbb\xbf{"a": 1}',
        b"",
        b'{"a": ',
        b"\xff\xfe",
        b'"text"\r',
        b"NaN",
        deep,
        b"9" * 5000,
        b"[2]",
    ]
    path.write_bytes(b"\n".join(lines))
    assert found(path) == [
        (1, {"a": 1}),
        (2, "blank_line"),
        (3, "bad_json"),
        (4, "bad_text"),
        (5, "text"),
        (6, "bad_json"),
        (7, "bad_json"),
        (8, "bad_json"),
        (9, [2]),
    ]
    assert str(list(read_rows(path))[1]).startswith(f"{path}:2: blank_line: ")


def test_a_huge_line_is_skipped_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 64)
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": "{"x" * 200}"}}\n{{"a": "{"y" * 54}"}}\n1\n')
    assert len(path.read_bytes().splitlines(keepends=True)[1]) == 64
    assert found(path) == [(1, "too_long"), (2, {"a": "y" * 54}), (3, 1)]


def test_json_holds_a_list_or_lines(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(VALUES, indent=2), encoding="utf-8")
    assert [value for _, value in found(path)] == VALUES
    path.write_text("\n".join(map(json.dumps, VALUES)))
    assert [value for _, value in found(path)] == VALUES
    path.write_text("[1, 2")
    assert found(path) == [(0, "bad_json")]


def test_text_is_one_row_a_line(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("  first \n\nsecond\u2028still\n")
    assert found(path) == [(1, "first"), (2, "blank_line"), (3, "second\u2028still")]


def test_parquet_rows_and_garbage(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(VALUES), path)
    assert found(path) == [(1, VALUES[0]), (2, VALUES[1])]
    path.write_bytes(path.read_bytes()[:-20])
    assert found(path) == [(0, "unreadable")]


def test_hub_names_go_to_datasets(monkeypatch):
    import datasets

    calls = []

    def load(name, configuration, split, revision, streaming):
        calls.append((name, split, streaming))
        if name == "org/none":
            raise FileNotFoundError("not there")
        return datasets.Dataset.from_list(VALUES).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [value for _, value in found("hub:org/name")] == VALUES
    assert [value for _, value in found("hub:org/name:test[:10%]")] == VALUES
    assert calls == [("org/name", "train", True), ("org/name", "test[:10%]", True)]
    with pytest.raises(DataError, match="hub:org/none: cannot load: not there"):
        read_rows("hub:org/none")


def test_a_source_that_stops_in_the_midst_says_so(monkeypatch):
    import datasets

    def load(name, configuration, split, revision, streaming):
        yield VALUES[0]
        raise ConnectionError("gone")

    monkeypatch.setattr(datasets, "load_dataset", load)
    first, second = read_rows("hub:x")
    assert first == Row(1, VALUES[0], "hub:x")
    assert isinstance(second, Problem)
    assert (second.line, second.kind) == (0, "unreadable")


def test_packaged_data_is_found_by_name():
    rows = list(read_rows("builtin:demonstrations"))
    assert len(rows) >= 200
    assert all(isinstance(row, Row) for row in rows)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("builtin:none", "there are .*demonstrations"),
        ("builtin:../demonstrations", "no such packaged data"),
        ("nowhere.jsonl", "no such file"),
        ("a\0b.jsonl", "no such file"),
        ("rows.pickle", r"cannot read '.pickle' files; use .jsonl"),
        ("rows", "cannot read '' files"),
    ],
)
def test_a_source_that_is_not_there_is_an_error(path, match):
    with pytest.raises(DataError, match=match):
        read_rows(path)


def test_strict_and_canonical_json():
    for text in ("Infinity", "-Infinity", '{"a": NaN}', "", "{'a': 1}"):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)
    assert canonical_json({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"\\u00e9"]}'
