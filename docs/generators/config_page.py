"""Every setting with its type, default and meaning, as the Markdown page docs/reference/config.md.

python docs/generators/config_page.py > docs/reference/config.md
"""

from __future__ import annotations

import datetime
import sys
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union

from pydantic.fields import FieldInfo

from thumbs.config.base import Frozen
from thumbs.config.pipeline import PipelineConfig

INTRODUCTION = """# Settings

Made from the source by `python docs/generators/config_page.py`; do not edit by hand.

A YAML file gives the settings of a run, and `key.key=value` on the command line replaces some of them
(`thumbs run config.yaml ppo.kl.coef=0.05`). A setting that is not here is an error that names the nearest one that is.

Setting one key changes one key: a section that you write lies over the default that its row shows. `ppo.optim` is by
default a constant rate without warm-up, and with `ppo: {optim: {learning_rate: 1e-5}}` it still is.

`null` means absent: where the type says "or null" it is a value that the row explains, and everywhere else it is the
default. NaN and infinite numbers are refused, and so is a key that stands twice in one section.
"""

_SIGNS = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
_PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false"} | {
    type(None): "null",
    datetime.date: "date",
}


def reference() -> str:
    """The Markdown page: one section for each class that a run's file can hold, outermost first."""
    return "\n".join([INTRODUCTION, *(_section(cls, paths) for cls, paths in _reachable().items())])


def _reachable() -> dict[type[Frozen], list[str]]:
    """Config class → the keys it stands under; the whole file is ``."""
    found: dict[type[Frozen], list[str]] = {}

    def visit(cls: type[Frozen], path: str) -> None:
        found.setdefault(cls, []).append(path)
        for key, field in cls.model_fields.items():
            for inner in _classes(field.annotation):
                visit(inner, f"{path}.{key}".lstrip("."))

    visit(PipelineConfig, "")
    return found


def _section(cls: type[Frozen], paths: list[str]) -> str:
    where = ", ".join(f"`{path}`" for path in paths if path) or "the whole file"
    lines = [f"## {cls.__name__}", "", f"Under {where}. {_one_line(cls.__doc__ or '')}", ""]
    lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*lines, *(_row(key, field) for key, field in cls.model_fields.items()), ""])


def _row(key: str, field: FieldInfo) -> str:
    cells = (f"`{key}`", _kind(field), _default(field), _one_line(field.description or ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(field: FieldInfo) -> str:
    bounds = [f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in _SIGNS if hasattr(m, name)]
    kind, null, _ = _type(field.annotation).partition(" or null")
    return f"{kind} {', '.join(bounds)}".strip() + null


def _type(annotation: Any) -> str:
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is dict:
        return "mapping"
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type, arguments))
    return f"[{annotation.__name__}](#{annotation.__name__.lower()})"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Frozen):
        changed = value.model_dump(mode="json", exclude_unset=True)
        return ", ".join(f"{key}: {_plain(item)}" for key, item in changed.items()) or "its defaults"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _classes(annotation: Any) -> Iterator[type[Frozen]]:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _classes(inner)


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.stdout.write(reference())
