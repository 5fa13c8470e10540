"""docs/reference/extending.md names every place where code of others goes in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from thumbs.config.pipeline import PipelineConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "extending.md").read_text(encoding="utf-8")
INNER = {
    "Asked",
    "Compares",
    "Decoder",
    "IdentityProvider",
    "ModelSource",
    "ModuleEngine",
    "OpenWatch",
    "Session",
    "TwoAnswers",
}
"""Protocols that say what one function of ours uses of its argument; nobody implements them for us."""


def trees() -> Iterator[ast.Module]:
    for path in sorted((ROOT / "src" / "thumbs").rglob("*.py")):
        if path.relative_to(ROOT / "src" / "thumbs").parts[0] != "recipe":  # another project's surface
            yield ast.parse(path.read_text(encoding="utf-8"))


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def settings() -> Iterator[str]:
    """`section.key` of every setting that takes a Python name."""
    left: list[tuple[str, type[BaseModel]]] = [("", PipelineConfig)]
    seen: set[type[BaseModel]] = set()
    while left:
        section, cls = left.pop()
        seen.add(cls)
        for key, field in cls.model_fields.items():
            if "module:name" in (field.description or ""):
                yield f"{section}.{key}"
            left += [(key, inner) for inner in models(field.annotation) if inner not in seen]


def test_every_setting_that_takes_a_python_name_is_on_the_page():
    found = set(settings())
    assert len(found) >= 6
    assert {name for name in found if f"`{name}`" not in PAGE.replace("reward[].", "reward.")} == set()


def test_every_function_that_registers_is_on_the_page():
    functions = {node.name for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = {name for name in functions if name.startswith("register_")}
    assert found
    assert {name for name in found if f".{name}(" not in PAGE} == set()
    registries = {
        target.id
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(target := node.target, ast.Name)
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "Registry"
    }
    assert registries
    assert {name for name in registries if f"`{name}`" not in PAGE} == set()


def test_every_protocol_is_on_the_page_or_ours_alone():
    classes = [node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {cls.name for cls in classes if any(ast.unparse(base) == "Protocol" for base in cls.bases)}
    public = {name for name in found if not name.startswith("_")}
    assert {name for name in public - INNER if f"`{name}`" not in PAGE} == set()


def test_the_page_names_nothing_that_is_not_there():
    names = {node.name for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    listed = PAGE.partition("## Protocols to implement")[2].partition("\n## ")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", listed)) <= names
