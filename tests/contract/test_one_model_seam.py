"""No caller asks which kind of model stands behind the `Trunk` protocol."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from thumbs.models.base import Trunk
from thumbs.models.byte_lm import build_byte_lm
from thumbs.models.causal_lm import CausalLM
from thumbs.models.hf import HfCausalLM
from thumbs.models.module_lm import ModuleLM

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "thumbs"
KINDS = {"CausalLM", "HfCausalLM", "ModuleLM", "Lora", "FrozenLora", "HfLora"}


def test_no_caller_asks_for_a_kind_of_model():
    asked = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE / "models"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "isinstance"
        and ("trunk" in ast.unparse(node.args[0]) or KINDS & set(ast.unparse(node.args[1]).split(" | ")))
    ]
    assert asked == []


def test_the_walk_finds_such_a_question():
    call = ast.parse("isinstance(network.trunk, CausalLM)").body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    assert "trunk" in ast.unparse(call.value.args[0])


@pytest.mark.parametrize("kind", [CausalLM, HfCausalLM, ModuleLM], ids=lambda kind: kind.__name__)
def test_every_kind_has_the_methods_of_the_protocol(kind: type):
    methods = [name for name, value in vars(Trunk).items() if callable(value) and not name.startswith("_")]
    assert {"new_adapter", "freeze", "frozen", "below", "tensors", "files", "load_tensors"} <= set(methods)
    assert [name for name in methods if not callable(getattr(kind, name, None))] == []


def test_a_byte_model_speaks_the_protocol():
    import torch

    assert isinstance(build_byte_lm("byte-tiny", 0, torch.float32), Trunk)
