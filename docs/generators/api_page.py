"""docs/reference/api.md: thumbs from Python, made of the signatures and docstrings.

python docs/generators/api_page.py > docs/reference/api.md
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from typing import Any

import thumbs
from thumbs import errors

INTRODUCTION = """# Python API

Made from the source by `python docs/generators/api_page.py`; do not edit by hand. The guide is
[From Python](../guides/python.md).
"""
OWN = ("load_config", "plan", "run", "open_run", "Run", "open_engine")


def page() -> str:
    """The Markdown page: functions, the object of a run, errors, packages."""
    parts = [INTRODUCTION]
    for name in OWN:
        value = getattr(thumbs, name)
        parts.append(f"## thumbs.{name}\n\n{_entry(name, value)}")
        if inspect.isclass(value):
            parts += [f"### {name}.{key}\n\n{_entry(key, member)}" for key, member in _members(value)]
    listed = "\n".join(f"* `{name}`: {_first(getattr(errors, name))}" for name in errors.__all__ if name != "needs")
    parts.append(f"## thumbs.errors\n\n{listed}\n")
    parts.append("## Packages\n\n" + "\n".join(_packages()) + "\n")
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    if isinstance(value, property) or inspect.isclass(value):
        return f"{inspect.getdoc(value)}\n"
    shown = re.sub(r"(: |-> )'([^']+)'", r"\1\2", str(inspect.signature(value)))  # annotations are text
    return f"```python\n{name}{shown}\n```\n\n{inspect.getdoc(value)}\n"


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in vars(cls).items() if not key.startswith("_") and inspect.getdoc(value))


def _first(value: Any) -> str:
    return (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")


def _packages() -> Iterator[str]:
    for found in pkgutil.iter_modules(thumbs.__path__):
        if found.ispkg and not found.name.startswith("_"):
            package = importlib.import_module(f"thumbs.{found.name}")
            yield f"* `thumbs.{found.name}`: {_first(package)}"


if __name__ == "__main__":
    sys.stdout.write(page())
