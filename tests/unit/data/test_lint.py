"""Lint finds what was planted, tells kinds apart, and survives anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thumbs.data.lint import lint
from thumbs.data.tokenizers import ByteTokenizer

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_report_by_hand(tmp_path):
    rows = [PAIR, {**PAIR, "tie": True, "prompt": "abc"}, {**PAIR, "rejected": "b"}, "{", *[""] * 5, PAIR]
    path = write(tmp_path, *rows)
    report = lint(path)
    assert (report.kind, report.total, report.rows_left) == ("preferences", 5, 3)
    assert report.counts == {"blank_line": 5, "identical_replies": 1, "bad_json": 1, "duplicate": 1}
    assert [problem.line for problem in report.examples] == [3, 4, 5, 6, 7, 10]
    assert report.lengths == {"shortest": 5, "median": 5, "90 %": 7, "99 %": 7, "longest": 7}
    assert report.ties == pytest.approx(1 / 3)
    text = report.text()
    assert f"{path}:3: identical_replies" in text
    assert "3 of 5 rows usable" in text
    assert "in bytes: shortest 5, median 5" in text
    assert "ties: 33.3%" in text


def test_tokenizer_and_limit(tmp_path):
    report = lint(write(tmp_path, PAIR, {**PAIR, "prompt": "abcdef"}), ByteTokenizer(), max_tokens=8)
    assert report.unit == "tokens"
    assert report.counts == {"too_long": 1}
    assert lint(write(tmp_path, PAIR)).text().endswith("nothing is wrong")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (PAIR, "preferences"),
        ({"chosen": "x", "rejected": None, "prompt": "y"}, "conversations"),
        ({"replies": [], "foo": 1}, "conversations"),
        ({"messages": [{"role": "user", "content": "a"}]}, "prompts"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "conversations"),
        ({"conversations": []}, "conversations"),
        ({"instruction": "a", "output": "b"}, "conversations"),
        ({"instruction": "a"}, "prompts"),
        ({"prompt": "a"}, "prompts"),
        ('"a"', "prompts"),
        ({"foo": 1}, "conversations"),
        ("[1]", "conversations"),
    ],
)
def test_kind_is_told_by_most_rows(tmp_path, row, kind):
    assert lint(write(tmp_path, row, row, {"prompt": "a", "messages": 3})).kind == kind
    assert lint(write(tmp_path, row), kind="prompts").kind == "prompts"


def test_what_is_not_there_is_a_report(tmp_path):
    for path in ("none.jsonl", tmp_path, "builtin:none", "a\0.jsonl", "x.bin", ""):
        report = lint(path)
        assert (report.rows_left, report.counts) == (0, {"unreadable": 1})
        assert "unreadable" in report.text()


FIELDS = [
    "messages",
    "role",
    "content",
    "prompt",
    "chosen",
    "rejected",
    "replies",
    "label",
    "margin",
    "id",
    "text",
    "generator",
    "judgements",
    "verdict",
    "conversations",
    "from",
    "value",
    "instruction",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
LINES = st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode())


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(LINES, max_size=4),
    ending=st.sampled_from([".jsonl", ".json", ".txt", ".parquet"]),
    kind=st.sampled_from(["auto", "conversations", "preferences", "prompts"]),
)
def test_nothing_in_a_file_makes_it_raise(tmp_path_factory, lines, ending, kind):
    path = tmp_path_factory.getbasetemp() / f"garbage{ending}"
    path.write_bytes(b"\n".join(lines))
    report = lint(path, kind=kind)
    assert 0 <= report.rows_left <= report.total
    report.text().encode("utf-8")


def test_binary_and_deep_files(tmp_path):
    for name, content in {
        "a.jsonl": bytes(range(256)) * 50,
        "b.json": b"[" * 200_000,
        "c.jsonl": b'{"messages":' * 5_000 + b"1" + b"}" * 5_000,
        "d.jsonl": b'{"prompt": "' + b"x" * 2**20 + b'"}',
        "e.parquet": b"PAR1" + bytes(200) + b"PAR1",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert lint(tmp_path / name).text()


def test_real_human_preferences():
    folder = Path(__file__).parents[3].parent / "shared" / "data" / "hh-rlhf-harmless"
    if not folder.is_dir():
        pytest.skip("../shared/data/hh-rlhf-harmless is absent")
    report = lint(folder / "dev.jsonl")
    assert (report.kind, report.total) == ("preferences", 300)
    assert report.rows_left >= 290
    assert report.ties == 0


def test_the_data_layer_imports_without_torch():
    modules = "lint load annotators tokenizers splits preferences"
    imports = "".join(f"import thumbs.data.{name}\n" for name in modules.split())
    check = "import sys\nassert not {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", imports + check], check=True)
