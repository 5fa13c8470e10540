"""Questions, settings and filters as fields of forms, and back."""

from __future__ import annotations

import re
from typing import Any, Literal, cast

from pydantic import BaseModel
from starlette.datastructures import FormData, QueryParams

from thumbs.collect.errors import CollectError
from thumbs.collect.question import Axis, Question
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.web.admin_site import number, text

QUESTION_FIELDS = tuple(Question.model_fields)
"""Fields of a form that asks for a question."""
SETTINGS_FIELDS = (
    *(name for name in ProjectSettings.model_fields if name not in ("lease_s", "qualify_share", "filters", "guard")),
    "lease_minutes",
    "qualify_percent",
)
"""Fields of the form of a project's settings."""
_AXIS = re.compile(
    r"([a-z][a-z0-9_]*)\s*(?::\s*([^\[\]*]*?))?\s*(?:\[\s*(\d+)\s*-\s*(\d+)\s*\])?"
    r"\s*(?:\[\s*(low|high) is best\s*\])?\s*(\*)?"
)


def read_fields(model: type[BaseModel], given: FormData | QueryParams) -> dict[str, Any]:
    """The fields of the model that a form or an address has, as text; the model's validation makes more of them.

    Of a box without a tick a browser sends nothing, so that every truth value is there. Lists are lines; handles of
    people may stand in one line. What is left empty is None or an empty list if that is the default, else left out.
    """
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        written = given.get(name)
        plain = written.strip() if isinstance(written, str) else ""
        if isinstance(field.default, bool):
            values[name] = plain not in ("", "false")
        elif isinstance(field.default, tuple):
            entries = re.split(r"[\s,]+" if name == "exclude_people" else r"\n", plain)
            if written is not None and (plain or not field.default):
                values[name] = tuple(entry.strip() for entry in entries if entry.strip())
        elif plain or (written is not None and field.default is None):
            values[name] = plain or None
    return values


def read_question_form(form: FormData) -> Question:
    """The question of a form. Axes stand one per line, `key: Label [1-5] [low is best] *`, * if an answer needs
    them. Raises CollectError, or pydantic's ValidationError.
    """
    axes = tuple(_axis(line) for line in text(form, "axes").splitlines() if line.strip())
    return Question.model_validate({**read_fields(Question, form), "axes": axes}, strict=False)


def axes_text(question: Question) -> str:
    """The axes as the form's lines."""
    lines = []
    for axis in question.axes:
        scale = "" if question.is_pair else f" [{axis.low}-{axis.high}]"
        scale += f" [{axis.best} is best]" if axis.best else ""
        lines.append(f"{axis.key}: {axis.label}{scale}{' *' if axis.required else ''}")
    return "\n".join(lines)


def read_settings_form(form: FormData, now: ProjectSettings) -> ProjectSettings:
    """The settings of a form; what it has no field for stays as it is now."""
    values, percent, minutes = (
        read_fields(ProjectSettings, form),
        text(form, "qualify_percent"),
        number(form, "lease_minutes"),
    )
    if percent and not re.fullmatch(r"\d{1,3}", percent):
        raise CollectError(f"the share of right answers must be 0 to 100 per cent, got {percent!r}"[:200])
    if percent:
        values["qualify_share"] = int(percent) / 100
    if minutes is not None:
        values["lease_s"] = 60 * minutes
    return ProjectSettings.model_validate({**now.model_dump(), **values}, strict=False)


def _axis(line: str) -> Axis:
    found = _AXIS.fullmatch(line.strip())
    if found is None:
        raise CollectError(
            f"an axis is a line such as `helpful: Helpful [1-5] *` (the scale only for ratings, * where it must be "
            f"answered), got {line[:80]!r}"
        )
    key, label, low, high, best, needed = found.groups()
    scale = {"low": int(low), "high": int(high)} if low else {}
    good = cast("Literal['high', 'low'] | None", best)
    return Axis(key=key, label=(label or "").strip() or key, required=bool(needed), best=good, **scale)
