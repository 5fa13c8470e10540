"""Each file of a finished run, damaged in several ways, under each command: named, with what to do; no traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.errors import ThumbsError
from thumbs.tracking.files import read_json, read_object, write_json


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{text or "empty": lambda path, text=text: path.write_text(text) for text in ("", "[]", "null", "5", '"x"', "{}")},
    "cut": lambda path: path.write_bytes(path.read_bytes()[:9]),
    "binary": lambda path: path.write_bytes(os.urandom(400)),
    "a folder": as_folder,
}

COMMANDS: dict[str, list[str]] = {
    "run": ["run", "CONFIG"],
    "eval": ["eval", "RUN"],
    "report": ["report", "RUN"],
    "sample": ["sample", "RUN", "Ana", "--max-new-tokens", "2"],
    "export": ["export", "RUN", "OUT"],
    "compare": ["compare", "RUN", "--out", "PAGE"],
    "trace": ["trace", "RUN"],
}


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """The finished run, to be damaged; data and settings stay where they are."""
    return shutil.copytree(tiny_run, tmp_path / "run", copy_function=os.link)


def command(name: str, run: Path, config: dict[str, object]) -> tuple[int, str]:
    """Exit code and output; a traceback is a failure of the test."""
    places = {"RUN": run, "CONFIG": run.parent / "c.yaml", "OUT": run.parent / "out", "PAGE": run.parent / "page.html"}
    write_json(places["CONFIG"], config | {"run": str(run)})
    found = CliRunner().invoke(app, [str(places.get(word, word)) for word in COMMANDS[name]])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.output


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()  # the copy is linked
    path.write_bytes(content)
    DAMAGES[how](path)


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "{}"])
def test_the_one_reader_names_whatever_is_no_object(tmp_path: Path, how: str):
    write_json(tmp_path / "done.json", {"loss": 1.0})
    DAMAGES[how](tmp_path / "done.json")
    with pytest.raises(ThumbsError, match=f"{tmp_path / 'done.json'} .*; restore it, or delete it"):
        read_object(tmp_path / "done.json")


@pytest.mark.parametrize("name", ["eval", "sample", "export"])
@pytest.mark.parametrize(
    ("file", "how"), [("config.json", "[]"), ("config.json", "cut"), ("reward_model/done.json", "null")]
)
def test_commands_that_need_a_model_name_it_too(copy: Path, name: str, file: str, how: str):
    config = read_json(copy / "config.json")
    damaged(copy / file, how)
    code, output = command(name, copy, config)
    if code:
        assert str(copy / file) in output


@pytest.mark.parametrize("stage", ["sft", "reward_model", "ppo"])
def test_a_model_that_is_no_folder_is_named(copy: Path, stage: str):
    config = read_json(copy / "config.json")
    shutil.rmtree(copy / stage / "model")
    (copy / stage / "model").write_text("")
    code, output = command("run", copy, config)
    assert code == 1
    assert str(copy / stage / "model") in output
    code, output = command("sample", copy, config)
    assert code == (1 if stage == "ppo" else 0)


@pytest.mark.parametrize("how", ["[]", "null", '"x"', "{}", "cut", "a folder"])
@pytest.mark.parametrize("file", ["checkpoints/latest.json", "spent_s.json"])
def test_the_state_of_an_interrupted_stage_is_named(copy: Path, file: str, how: str):
    config = read_json(copy / "config.json")
    (copy / "ppo" / "done.json").unlink()
    (copy / "ppo" / "end").rename(copy / "ppo" / "checkpoints")
    damaged(copy / "ppo" / file, how)
    code, output = command("run", copy, config)
    assert code == 1
    assert str(copy / "ppo" / file) in output
    assert "delete" in output


def test_settings_of_another_version_are_named(copy: Path):
    config = read_json(copy / "config.json")
    damaged(copy / "config.json", "{}")
    write_json(copy / "config.json", config | {"sft": config["sft"] | {"rho": 3}})
    for name in ("eval", "sample", "trace"):
        code, output = command(name, copy, config)
        assert code == 2
        assert "unknown key 'sft.rho'" in output
