"""The tutorials do what they show: every file is written and every command is typed, with a model that is small."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from thumbs.cli.main import app

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
NAMES = ("steer_a_tone.md", "your_own_pairs.md", "your_teams_labels.md")
NOT_TYPED = {
    "pip install": "the package under test is there",
    "thumbs doctor": "looks at the machine; has tests of its own",
    "thumbs lint pairs.jsonl --model": "downloads a tokenizer",
    "thumbs chat": "waits for a person",
    "thumbs collect account add ann": "asks for a password",
    "thumbs collect serve": "serves until Ctrl-C",
    "thumbs run loop.yaml": "waits for people",
}
"""Beginning of a command → why this test reads its words only."""

SMALL = {
    "model": ["model.name=byte-tiny", "model.lora=null"],
    "sft": ["sft.epochs=1"],
    "reward_model": ["reward_model.epochs=1"],
    "direct": ["direct.epochs=1"],
    "ppo": ["ppo.steps=1", "ppo.batch_size=16", "ppo.sampling.max_new_tokens=8"],
}
"""Section of a config → what makes it take a second."""


class Block(NamedTuple):
    language: str
    text: str


def blocks(name: str) -> list[Block]:
    text = (TUTORIALS / name).read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def commands(name: str) -> Iterator[str]:
    for block in blocks(name):
        if not block.language:
            yield from block.text.splitlines()


def made_small(words: list[str]) -> list[str]:
    if words[0] not in ("run", "plan"):
        return words
    sections = yaml.safe_load(Path(words[1]).read_text(encoding="utf-8"))
    return words + [setting for key in sections for setting in SMALL.get(key, [])]


def typed(words: list[str]) -> tuple[int, str]:
    result = CliRunner().invoke(app, words)
    return result.exit_code, result.output + (repr(result.exception) if result.exception else "")


def do(block: Block) -> None:
    """Writes the file that a block begins with the name of, or types its commands."""
    file = re.match(r"# (\w+\.\w+)\n", block.text)
    if block.language and file:
        Path(file[1]).write_text(block.text, encoding="utf-8")
    for line in () if block.language else block.text.splitlines():
        if not line.startswith((*NOT_TYPED, "cd ")):
            program, *words = shlex.split(line)
            assert program == "thumbs", line
            code, shown = typed(made_small(words))
            assert code == 0, f"{line}\n{shown}"


@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_runs_from_its_first_line_to_its_last(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    first, *rest = blocks(name)
    do(first)
    (entered,) = [line.split()[1] for line in first.text.splitlines() if line.startswith("cd ")]
    monkeypatch.chdir(tmp_path / entered)
    for block in rest:
        do(block)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_typed_exists_all_the_same(name: str):
    left = [line for line in commands(name) if line.startswith(tuple(NOT_TYPED)) and line.startswith("thumbs")]
    for line in left:
        words = [word for word in shlex.split(line)[1:] if re.fullmatch(r"[a-z-]+", word)]
        options = [word for word in words if word.startswith("--")]
        path = words[: 3 if words[:2] == ["collect", "account"] else 2 if words[0] == "collect" else 1]
        code, shown = typed([*path, "--help"])
        assert code == 0, line
        assert [option for option in options if option not in shown] == [], line


def test_every_reason_not_to_type_a_command_is_used():
    lines = [line for name in NAMES for line in commands(name)]
    assert [begin for begin in NOT_TYPED if not any(line.startswith(begin) for line in lines)] == []
