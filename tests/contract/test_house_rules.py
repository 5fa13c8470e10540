"""The checks of .ci see what they are there to see."""

from __future__ import annotations

import ast
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

CI = Path(__file__).resolve().parents[2] / ".ci"


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = spec_from_loader("house", SourceFileLoader("house", str(CI / "house")))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def given(house: ModuleType, monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    texts = {f"thumbs.{name.replace('__', '.')}": text for name, text in sources.items()}
    monkeypatch.setattr(house, "SOURCES", texts)
    monkeypatch.setattr(house, "TREES", {name: ast.parse(text) for name, text in texts.items()})
    monkeypatch.setattr(house, "LINES", {name: len(text.splitlines()) for name, text in texts.items()})


def test_circles_count_type_checking_and_packages(house: ModuleType, monkeypatch: pytest.MonkeyPatch):
    given(
        house,
        monkeypatch,
        a="from thumbs.b import x",
        b="if TYPE_CHECKING:\n    from thumbs.a import y",
        c="from thumbs.a import x\ndef f():\n    from thumbs.d import z",
        d="from thumbs.c import z",
        p="from thumbs.p.m import one",
        p__m="from thumbs.q import two",
        p__n="",
        q="from thumbs.p.n import three",
    )
    assert house.circular() == ["thumbs.a", "thumbs.b", "thumbs.p", "thumbs.p.m", "thumbs.q"]


def test_names_that_stand_twice_and_classes_named_elsewhere(house: ModuleType, monkeypatch: pytest.MonkeyPatch):
    given(
        house,
        monkeypatch,
        engine__local="class LocalEngine: ...\nclass _Row: ...",
        stages__sft="class Row: ...\nLocalEngine()",
        data__rows="class Row: ...\nclass _Row: ...",
        rollout__native="NotLocalEngine()",
    )
    assert house.repeated_classes() == ["Row: thumbs.data.rows, thumbs.stages.sft"]
    assert house.named_outside("LocalEngine", "engine") == ["thumbs.stages.sft"]


def test_a_unit_above_its_budget_fails(
    house: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["house"])
    monkeypatch.setattr(house, "measures", dict)
    monkeypatch.setattr(house, "lines_by_unit", lambda: {"safety": 1})
    assert house.main() == 0
    monkeypatch.setattr(house, "lines_by_unit", lambda: {"safety": 1_000_000})
    assert house.main() == 1
    monkeypatch.setattr(house, "lines_by_unit", lambda: {"unbudgeted": 1})
    assert house.main() == 1
    assert "above its budget" in capsys.readouterr().out


def test_the_base_is_counted_with_what_it_brings(house: ModuleType):
    found = house.distributions()
    assert {"thumbs", "torch", "sympy", "pydantic-core"} <= found
    assert not {"starlette", "matplotlib", "pytest"} & found


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        ("word " * 30, [1]),
        ("word " * 18, []),
        ("| " + "cell " * 30, []),
        ("```\n" + "word " * 30 + "\n```\n" + "word " * 30, [4]),
        ("see `" + "word " * 30 + "`", []),
        ("x " * 30 + "`" + "word " * 10 + "`", [1]),
        ("<!-- do not edit -->\n" + "word " * 30, []),
    ],
)
def test_wide_lines_are_those_of_prose_that_can_be_broken(
    house: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, wide: list[int]
):
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(house, "ROOT", tmp_path)
    assert house.wide_lines() == [f"page.md:{line}" for line in wide]


def test_the_house_is_in_order(house: ModuleType):
    assert house.repeated_classes() == []
    assert house.wide_lines() == []
    assert house.circular() == []
