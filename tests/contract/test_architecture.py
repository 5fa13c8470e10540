"""What design and style promise about the source as a whole, checked by reading it."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import thumbs.config
from thumbs.config.base import Frozen, load_config
from thumbs.config.pipeline import PipelineConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "thumbs"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
TORCH_FREE = ("records", "types", "errors", "config", "data", "tracking", "report", "collect", "web", "cli")
CONFIGS = ("tiny.yaml", "demo-tiny.yaml", "demo.yaml", "safe.yaml")

MOST_LINES_A_FILE = 400
MOST_LINES_A_FUNCTION = 60
VAGUE_NAMES = {"util", "utils", "misc", "helper", "helpers", "common"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions_of(tree: ast.AST) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def public_definitions(body: list[ast.stmt]) -> list[Function | ast.ClassDef]:
    """Functions and classes without a leading underscore, and the methods of those classes."""
    found = [n for n in body if isinstance(n, Function | ast.ClassDef) and not n.name.startswith("_")]
    return found + [m for n in found if isinstance(n, ast.ClassDef) for m in public_definitions(n.body)]


def config_classes() -> list[type[Frozen]]:
    found: set[type[Frozen]] = set()
    for module in pkgutil.iter_modules(thumbs.config.__path__):
        members = vars(importlib.import_module(f"thumbs.config.{module.name}")).values()
        found |= {m for m in members if inspect.isclass(m) and issubclass(m, Frozen) and m is not Frozen}
    return sorted(found, key=lambda cls: cls.__name__)


def test_the_sources_are_found():
    assert len(SOURCES) >= 50


def test_no_file_is_longer_than_its_budget():
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {path: n for path, n in lengths.items() if n > MOST_LINES_A_FILE} == {}


def test_no_function_is_longer_than_its_budget():
    lengths = {
        f"{relative(path)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in SOURCES
        for node in functions_of(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert {name: n for name, n in lengths.items() if n > MOST_LINES_A_FUNCTION} == {}


def test_no_file_has_a_name_that_says_nothing():
    names = {relative(path): set(re.split(r"[_./]", relative(path.with_suffix("")))) for path in SOURCES}
    assert [path for path, words in names.items() if words & VAGUE_NAMES] == []


def test_every_unit_has_its_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    listed = [unit for layer in layers for unit in re.findall(r"\w+", layer)]
    units = {path.stem for path in PACKAGE.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"}
    assert sorted(listed) == sorted(units - {"__init__"})


@pytest.mark.parametrize("unit", TORCH_FREE)
def test_unit_imports_without_torch(unit: str):
    program = (
        "import importlib, json, pkgutil, sys\n"
        f"unit = importlib.import_module('thumbs.{unit}')\n"
        "for found in pkgutil.walk_packages(getattr(unit, '__path__', []), unit.__name__ + '.'):\n"
        "    importlib.import_module(found.name)\n"
        "print(json.dumps([name for name in ('torch', 'transformers') if name in sys.modules]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []


def test_our_decoder_opens_without_transformers():
    """Importing it takes several seconds, which every command would wait for."""
    program = (
        "import sys\n"
        "from thumbs.config.model import ModelConfig\n"
        "from thumbs.engine.base import ModelSpec\n"
        "from thumbs.engine.local import LocalEngine\n"
        "LocalEngine().create(ModelSpec('policy', ModelConfig(name='byte-tiny')))\n"
        "sys.exit('transformers' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.parametrize("cls", config_classes(), ids=lambda cls: cls.__name__)
def test_config_class_is_frozen_closed_and_documented(cls: type[Frozen]):
    assert cls.model_config.get("frozen") is True
    assert cls.model_config.get("extra") == "forbid"
    assert cls.__doc__
    # A `name` that can be one thing only tells the losses apart; the class says what it is.
    undocumented = [key for key, field in cls.model_fields.items() if not field.description and key != "name"]
    assert undocumented == []


def test_the_config_classes_are_found():
    assert len(config_classes()) >= 16


def test_every_committed_config_loads():
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert tuple(path.name for path in files) == CONFIGS
    for path in files:
        assert load_config(PipelineConfig, path).run == f"runs/{path.stem}"


@pytest.mark.parametrize("path", [*sorted((PACKAGE / "functional").glob("[!_]*.py")), PACKAGE / "engine" / "base.py"])
def test_what_others_call_has_a_docstring(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = public_definitions(tree.body)
    assert ast.get_docstring(tree)
    assert public
    undocumented = [node.name for node in public if not ast.get_docstring(node)]
    # torch.autograd.Function says what these two are.
    assert set(undocumented) <= {"forward", "backward"}


def test_engines_are_opened_in_one_place():
    """`open_engine` chooses; whoever names an engine cannot be given another one."""
    naming = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if "LocalEngine" in path.read_text()}
    assert naming == {"engine"}
