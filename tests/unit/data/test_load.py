"""Loading keeps what is usable, counts what is not, and refuses to go on with too little."""

import json

import pytest

from thumbs.config.data import DataConfig
from thumbs.data.load import load_conversations, load_preferences, load_prompts
from thumbs.data.sources import RowError
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import DataError
from thumbs.records import Message

BYTES = ByteTokenizer()
SYSTEM = Message("system", "Be kind.")


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def pair(prompt, reply):
    return {"prompt": prompt, "completion": reply}


def test_faulty_rows_are_left_out_and_counted(tmp_path):
    rows = [pair("a", "b"), "{", "", pair("a", ""), pair("long", "x" * 100), pair("a", "b"), pair("c", "d")]
    path = write(tmp_path, *rows)
    loaded = load_conversations(DataConfig(path=path, max_tokens=20, min_kept=0.5), BYTES)
    assert [messages[0].content for messages in loaded.rows] == ["a", "a", "c"]
    assert loaded.lengths == [5, 5, 5]
    assert loaded.total == 6
    assert [(problem.line, problem.kind) for problem in loaded.problems] == [
        (2, "bad_json"),
        (3, "blank_line"),
        (4, "empty_reply"),
        (5, "too_long"),
        (6, "duplicate"),
    ]
    lines = loaded.summary().splitlines()
    assert lines[0] == f"{path}: 3 of 6 rows usable"
    assert lines[1].startswith(f"  {path}:2: bad_json")
    assert lines[3] == f"  {path}:5: too_long: 107 tokens, more than max_tokens = 20"


def test_a_summary_names_every_line_of_a_kind(tmp_path):
    path = write(tmp_path, *["{" if line in (2, 5, 6, 7, 9) else pair("a", str(line)) for line in range(1, 10)])
    (tmp_path / "b").mkdir()
    again = write(tmp_path / "b", pair("a", "b"), "{")
    loaded = load_conversations(DataConfig(path=[path, again], min_kept=0), BYTES)
    assert f"\n  {path}:2, 5-7, 9, {again}:2: 6 bad_json: " in loaded.summary()
    alternating = write(tmp_path, *[pair("a", "b"), "{"] * 40)
    summary = load_conversations(DataConfig(path=alternating, min_kept=0), BYTES).summary()
    assert ", 58, 60 and 10 more: 40 bad_json: " in summary


@pytest.mark.parametrize("fault", ["no JSON", pair("a", "")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_fault_counts_wherever_it_stands(tmp_path, fault, place):
    rows = [pair("a", "b"), pair("c", "d")]
    path = write(tmp_path, *rows[:place], fault, *rows[place:])
    loaded = load_conversations(DataConfig(path=path, min_kept=0), BYTES)
    assert (len(loaded.rows), loaded.total, loaded.problems[0].line) == (2, 3, place + 1)


def test_the_second_row_of_an_id_is_its_number_two(tmp_path):
    rows = [{"id": "x", "prompt": "a", "chosen": reply, "rejected": "no"} for reply in ("b", "c", "d")]
    path = write(tmp_path, *rows, {**rows[0], "id": "x#2", "prompt": "e"})
    ids = [row.id for row in load_preferences(DataConfig(path=path), BYTES).rows]
    assert ids == ["x", "x#2", "x#3", "x#2#2"]


def test_a_row_of_exactly_max_tokens_stays(tmp_path):
    path = write(tmp_path, pair("abcd", "efg"))
    assert len(load_conversations(DataConfig(path=path, max_tokens=10), BYTES).rows) == 1
    with pytest.raises(DataError, match="10 tokens, more than max_tokens = 9"):
        load_conversations(DataConfig(path=path, max_tokens=9), BYTES)


def test_too_little_data_stops_a_run(tmp_path):
    path = write(tmp_path, pair("a", "b"), "{", "{", pair("c", "d"))
    assert len(load_conversations(DataConfig(path=path, min_kept=0.5), BYTES).rows) == 2
    with pytest.raises(DataError, match=r"min_kept asks for 60%(.|\n)*rows\.jsonl:2-3: 2 bad_json"):
        load_conversations(DataConfig(path=path, min_kept=0.6), BYTES)
    with pytest.raises(DataError, match="2 usable rows, min_rows asks for 3"):
        load_conversations(DataConfig(path=path, min_rows=3), BYTES)
    with pytest.raises(DataError, match="0 usable rows"):
        load_conversations(DataConfig(path=write(tmp_path)), BYTES)
    with pytest.raises(DataError, match="no such file"):
        load_conversations(DataConfig(path="none.jsonl"), BYTES)


def test_a_source_that_breaks_off_stops_a_run_whatever_was_read(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="cannot be read to its end"):
        load_prompts(DataConfig(path=str(path), min_kept=0), BYTES)


def test_system_goes_in_front_where_there_is_none(tmp_path):
    own = {"messages": [{"role": "system", "content": "own"}, {"content": "a"}, {"content": "b"}]}
    path = write(tmp_path, pair("a", "b"), own)
    loaded = load_conversations(DataConfig(path=path), BYTES, SYSTEM.content)
    assert [messages[0].content for messages in loaded.rows] == ["Be kind.", "own"]
    assert loaded.lengths[0] == len("Be kind.\nab") + 3
    path = write(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"})
    assert load_preferences(DataConfig(path=path), BYTES, SYSTEM.content).rows[0].prompt[0] == SYSTEM
    plain, steered = (load_prompts(DataConfig(path=path), BYTES, s).rows[0] for s in (None, SYSTEM.content))
    assert steered.messages == (SYSTEM, *plain.messages)
    assert steered.id == plain.id


def test_the_longer_reply_of_a_pair_counts(tmp_path):
    path = write(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c" * 30})
    assert load_preferences(DataConfig(path=path), BYTES).lengths == [34]
    with pytest.raises(DataError, match="too_long"):
        load_preferences(DataConfig(path=path, max_tokens=33), BYTES)


def test_a_prompt_comes_once_and_opposed_labels_both_stay(tmp_path):
    loaded = load_prompts(DataConfig(path=write(tmp_path, '"Hi"', {"prompt": "Hi"}, '"Ho"')), BYTES)
    assert [prompt.messages[0].content for prompt in loaded.rows] == ["Hi", "Ho"]
    assert loaded.summary().endswith("rows.jsonl:2: duplicate: the same as line 1")
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    loaded = load_preferences(DataConfig(path=write(tmp_path, row, {**row, "label": 0}, row)), BYTES)
    assert len(loaded.rows) == 3
    assert [problem.line for problem in loaded.problems] == [3]


class Mute(ByteTokenizer):
    """A chat template that refuses some messages and hides the assistant in the others."""

    def render_turns(self, messages):
        if messages[0].content == "refuse":
            raise RowError("template", "no")
        return super().render_turns(messages)[0], {}


def test_what_the_template_makes_unusable_is_a_problem(tmp_path):
    path = write(tmp_path, pair("a", "b"), pair("refuse", "b"))
    with pytest.raises(DataError, match=r":1: empty_mask: (.|\n)*:2: template: no"):
        load_conversations(DataConfig(path=path), Mute())


def test_packaged_data_loads_whole():
    config = DataConfig(path="builtin:demonstrations", min_kept=1.0, max_tokens=4096)
    assert load_conversations(config, BYTES).total >= 200
