"""A public class name stands for one thing. What compat offers under another project's name is exported by an alias."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[3] / "src" / "thumbs"


def public_classes(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Where each public class is defined at the top of a module, by its name."""
    places: dict[str, list[str]] = defaultdict(list)
    for path, text in sources.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{path}:{node.lineno}")
    return places


def test_no_public_class_name_stands_for_two_things():
    sources = {str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}
    classes = public_classes(sources)
    assert len(classes) > 300
    assert {name: places for name, places in classes.items() if len(places) > 1} == {}


def test_a_second_class_of_a_name_would_be_seen():
    one, two = "class Row:\n    pass\n", "class _Own:\n    pass\n\n\nclass Row:\n    pass\n"
    assert public_classes({"a.py": one, "b.py": two}) == {"Row": ["a.py:1", "b.py:5"]}
