"""Compressed files, tables, data sets with configurations, and several sources at once."""

from __future__ import annotations

import bz2
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from thumbs.config.base import apply_overrides, build_config
from thumbs.config.data import DataConfig
from thumbs.config.sft import SftConfig
from thumbs.data.lint import lint
from thumbs.data.load import load_conversations, load_prompts
from thumbs.data.sources import Problem, Row, read_rows
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, DataError

ROWS = [{"prompt": f"question {i}", "completion": "é\n🙂 answer"} for i in range(200)]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
}


def values(path: str | Path) -> list[object]:
    return [item.value if isinstance(item, Row) else item.kind for item in read_rows(path)]


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "ROWS.JSONL", "rows.json"])
def test_compressed_files_hold_the_same_rows(tmp_path: Path, ending: str, name: str):
    path = tmp_path / f"{name}{ending}"
    path.write_bytes(PACKED[ending](LINES))
    assert values(path) == ROWS
    path.write_bytes(PACKED[ending](LINES + b"\n") + PACKED[ending](LINES))  # as `cat a.gz b.gz` makes them
    assert values(path) == ROWS + ROWS


@pytest.mark.parametrize("ending", PACKED)
def test_a_compressed_file_that_was_cut_is_no_shorter_data_set(tmp_path: Path, ending: str):
    path, whole = tmp_path / f"rows.jsonl{ending}", PACKED[ending](LINES)
    for cut in (whole[:-1], whole[: len(whole) // 2], b"no such format"):
        path.write_bytes(cut)
        *_, last = read_rows(path)
        assert isinstance(last, Problem)
        assert last.kind == "unreadable"
        with pytest.raises(DataError, match="cannot be read to its end"):
            load_conversations(DataConfig(path=str(path), min_kept=0), ByteTokenizer())


def test_tables_hold_text_but_for_the_columns_of_numbers(tmp_path: Path):
    head = "\ufeffprompt,chosen,rejected,label,messages\n"
    rows = '"a, ""b""\nnext",42,x,1,"[{""role"": ""user"", ""content"": ""hi""}]"\n[1],{x},"",0.5,\n'
    path = tmp_path / "pairs.csv"
    path.write_text(head + rows, encoding="utf-8")
    first, second = values(path)
    assert first == {
        "prompt": 'a, "b"\nnext',
        "chosen": "42",
        "rejected": "x",
        "label": 1,
        "messages": [{"role": "user", "content": "hi"}],
    }
    # An empty cell is absent; an empty text in quotes is a text; what only looks like JSON stays text.
    assert second == {"prompt": "[1]", "chosen": "{x}", "rejected": "", "label": 0.5, "messages": None}


@pytest.mark.parametrize(("name", "sign"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_tables_of_other_places_have_other_signs_between_cells(tmp_path: Path, name: str, sign: str):
    (tmp_path / name).write_text(f"prompt{sign}completion\nwhat?{sign}that\n", encoding="utf-8")
    assert values(tmp_path / name) == [{"prompt": "what?", "completion": "that"}]


@pytest.mark.parametrize("text", ["a,a\n1,2\n", "a,b\n1,2,3\n", "", 'a,b\n"1,2\n'])
def test_a_broken_table_is_named(tmp_path: Path, text: str):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert "unreadable" in values(tmp_path / "a.csv")


def test_other_files_are_refused_with_what_can_be_read(tmp_path: Path):
    for name in ("rows.xz", "rows.parquet.gz", "rows.xlsx", "rows.gz"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=r"cannot read .* files; use \.jsonl, \.ndjson"):
            read_rows(tmp_path / name)
    (tmp_path / "rows.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """A data set of two configurations, as on the hub."""
    folder, files = tmp_path / "set", []
    folder.mkdir()
    for name in ("main", "other"):
        for split in ("train", "test"):
            row = {"prompt": f"{name} {split}", "completion": "yes"}
            (folder / f"{name}-{split}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        parts = "".join(f"  - split: {s}\n    path: {name}-{s}.jsonl\n" for s in ("train", "test"))
        files.append(f"- config_name: {name}\n  data_files:\n{parts}")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(files)}---\n", encoding="utf-8")
    return folder


def test_a_data_set_is_named_with_configuration_split_and_revision(data_set: Path, monkeypatch: pytest.MonkeyPatch):
    prompts = [row["prompt"] for row in values(f"hub:{data_set}:other:test") if isinstance(row, dict)]
    assert prompts == ["other test"]
    with pytest.raises(DataError, match=r"(?s)main.*other.*hub:NAME:CONFIGURATION:SPLIT"):
        read_rows(f"hub:{data_set}")
    with pytest.raises(DataError, match="not the name of a data set"):
        read_rows("hub:a:b:c:d")
    import datasets

    asked: list[Any] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k["split"], k["revision"])) or [])
    for source in (
        "hub:o/n",
        "hub:o/n:test",
        "hub:o/n:main:test",
        "hub:o/n@v1.2:main:test",
        "hub:o/n@abc",
        "hub:o/n:m:test[:9]",
    ):
        read_rows(source)
    assert asked == [
        (("o/n", None), "train", None),
        (("o/n", None), "test", None),
        (("o/n", "main"), "test", None),
        (("o/n", "main"), "test", "v1.2"),
        (("o/n", None), "train", "abc"),
        (("o/n", "m"), "test[:9]", None),
    ]


def write(path: Path, name: str, number: int) -> str:
    rows = (json.dumps({"prompt": f"{name} {i}", "completion": "yes"}) for i in range(number))
    path.write_text("\n".join(rows), encoding="utf-8")
    return str(path)


def test_a_path_or_a_list_of_paths_is_data_and_what_is_wrong_is_named_as_written():
    def data(given: object) -> DataConfig:
        return build_config(SftConfig, {"data": given}).data

    assert data("a.jsonl") == DataConfig(path="a.jsonl")
    assert data(["a.jsonl", "b.jsonl"]).paths == ("a.jsonl", "b.jsonl")
    assert data({"path": ["a", {"path": "b"}], "max_tokens": 9}).paths == ("a", "b")
    assert [s.weight for s in data([{"path": "a", "weight": 3}, {"path": "b", "weight": 1}]).sources] == [3, 1]
    for given, said in (
        ("", "no data is named"),
        ([], "no data is named"),
        ([""], r"data\.0\.path: String should have at least 1 character|data\.0: String should"),
        ([{"path": "a", "weight": 1}, "b"], "b has none"),
        ([{"path": "a", "weight": 0}], "greater than 0"),
        ({"path": [{"path": "a", "wieght": 2}]}, r"unknown key 'data\.path\.0\.wieght'; did you mean 'weight'"),
        ({"path": 3}, r"data\.path: Input should be a valid string"),
        (5, "expected a section of settings"),
    ):
        with pytest.raises(ConfigError, match=said):
            data(given)


def test_sources_without_weights_stand_one_after_the_other(tmp_path: Path):
    paths = [write(tmp_path / "a.jsonl", "a", 3), write(tmp_path / "b.jsonl", "b", 2)]
    loaded = load_conversations(build_config(DataConfig, {"path": paths}), ByteTokenizer())
    assert [row[0].content for row in loaded.rows] == ["a 0", "a 1", "a 2", "b 0", "b 1"]
    assert loaded.total == 5
    again = load_conversations(build_config(DataConfig, {"path": [paths[0], paths[0]]}), ByteTokenizer())
    assert len(again.rows) == 6


def test_weights_are_shares_and_no_row_is_left_out(tmp_path: Path):
    sources = [
        {"path": write(tmp_path / "a.jsonl", "a", 10), "weight": 3},
        {"path": write(tmp_path / "b.jsonl", "b", 8), "weight": 1},
    ]
    loaded = load_conversations(build_config(DataConfig, {"path": sources}), ByteTokenizer())
    names = Counter(row[0].content.split()[0] for row in loaded.rows)
    assert names == {"a": 24, "b": 8}  # 3 : 1, and b is whole
    each = Counter(row[0].content for row in loaded.rows)
    assert {each[f"a {i}"] for i in range(10)} == {2, 3}
    assert len(loaded.lengths) == len(loaded.rows) == 32
    assert f"24 of {sources[0]['path']} (its 10 rows again), 8 of {sources[1]['path']}" in loaded.summary()


def test_weights_that_repeat_a_few_rows_without_end_are_refused(tmp_path: Path):
    sources = [
        {"path": write(tmp_path / "a.jsonl", "a", 1), "weight": 999},
        {"path": write(tmp_path / "b.jsonl", "b", 8), "weight": 1},
    ]
    with pytest.raises(DataError, match=r"a\.jsonl: 1 usable rows would come 7992 times each"):
        load_conversations(build_config(DataConfig, {"path": sources}), ByteTokenizer())


def test_a_prompt_of_two_files_names_both(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("Ana\n", encoding="utf-8")
    paths = [str(tmp_path / f"{name}.txt") for name in "ab"]
    loaded = load_prompts(build_config(DataConfig, {"path": paths}), ByteTokenizer())
    assert [str(problem) for problem in loaded.problems] == [
        f"{paths[1]}:1: duplicate: the same as line 1 of {paths[0]}"
    ]


def test_fixing_writes_the_rows_that_remain_as_they_were(tmp_path: Path):
    good = [{"prompt": "a", "completion": "b", "mine": 1}, {"completion": "é", "prompt": "c"}]
    lines = [json.dumps(good[0]), "{", json.dumps({"prompt": "x", "completion": ""}), json.dumps(good[1]), ""]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines), encoding="utf-8")
    report = lint(source, fix=out)
    assert report.rows_left == 2
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == good
    assert lint(out).counts == {}
    with pytest.raises(DataError, match="is there already"):
        lint(source, fix=out)
    with pytest.raises(DataError, match=r"ends in \.jsonl"):
        lint(source, fix=tmp_path / "out.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_of_another_encoding_is_named_once(tmp_path: Path, encoding: str):
    path = tmp_path / "rows.jsonl"
    mark = "" if encoding == "utf-16" else "\ufeff"
    path.write_bytes((mark + '{"prompt": "é"}\n' * 3).encode(encoding))
    (problem,) = read_rows(path)
    assert isinstance(problem, Problem)
    assert problem.text == "the file is UTF-16; save it as UTF-8"


def test_one_setting_of_data_that_is_a_path_changes_alone():
    for given in ("a.jsonl", ["a.jsonl", "b.jsonl"]):
        raw = apply_overrides({"data": given}, ["data.max_tokens=99"])
        data = build_config(SftConfig, raw).data
        assert (data.paths, data.max_tokens) == (tuple([given] if isinstance(given, str) else given), 99)
