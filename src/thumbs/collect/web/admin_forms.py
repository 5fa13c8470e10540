"""Questions and settings as fields of forms, and back."""

from __future__ import annotations

import re
from typing import Any, Literal, cast

from starlette.datastructures import FormData

from thumbs.collect.errors import CollectError
from thumbs.collect.question import Axis, Question
from thumbs.collect.settings import Settings
from thumbs.collect.web.admin_site import number, text

QUESTION_FIELDS = ("kind", *Question.model_fields)
"""Fields of a form that asks for a question."""
SETTINGS_FIELDS = (
    *(name for name in Settings.model_fields if name not in ("lease_s", "qualify_share")),
    "lease_minutes",
    "qualify_percent",
)
"""Fields of the form of a project's settings."""
_AXIS = re.compile(
    r"([a-z][a-z0-9_]*)\s*(?::\s*([^\[\]*]*?))?\s*(?:\[\s*(\d+)\s*-\s*(\d+)\s*\])?"
    r"\s*(?:\[\s*(low|high) is best\s*\])?\s*(\*)?"
)


def read_question_form(form: FormData) -> Question:
    """The question of a form. Axes stand one per line, `key: Label [1-5] [low is best] *`, * if an answer needs
    them; flags and reasons to skip one per line. Raises CollectError, or pydantic's ValidationError.
    """
    given: dict[str, Any] = {
        "kind": text(form, "kind") or "pair",
        "text": text(form, "text"),
        "direction": text(form, "direction") or "better",
        "tie": "tie" in form,
        "both_bad": "both_bad" in form,
        "reason": text(form, "reason") or "optional",
        "rewrite": "rewrite" in form,
        "axes": tuple(_axis(line) for line in _lines(text(form, "axes"))),
        "flags": tuple(_lines(text(form, "flags"))),
    }
    if reasons := _lines(text(form, "skip_reasons")):
        given["skip_reasons"] = tuple(reasons)
    return Question(**given)


def axes_text(question: Question) -> str:
    """The axes as the form's lines."""
    lines = []
    for axis in question.axes:
        scale = "" if question.is_pair else f" [{axis.low}-{axis.high}]"
        scale += f" [{axis.best} is best]" if axis.best else ""
        lines.append(f"{axis.key}: {axis.label}{scale}{' *' if axis.required else ''}")
    return "\n".join(lines)


def read_settings_form(form: FormData, now: Settings) -> Settings:
    """The settings of a form; what it has no field for stays as it is now."""
    percent = text(form, "qualify_percent")
    if percent and not re.fullmatch(r"\d{1,3}", percent):
        raise CollectError(f"the share of right answers must be 0 to 100 per cent, got {percent!r}"[:200])
    values = {
        "overlap": _needed(form, "overlap", now.overlap),
        "lease_s": 60 * _needed(form, "lease_minutes", now.lease_s // 60),
        "gold_every": _needed(form, "gold_every", now.gold_every),
        "qualify_items": _needed(form, "qualify_items", now.qualify_items),
        "qualify_share": int(percent) / 100 if percent else now.qualify_share,
        "quota": number(form, "quota"),
        "invited_only": "invited_only" in form,
        "submit_on_key": "submit_on_key" in form,
        "prolific_code": text(form, "prolific_code") or None,
        "prolific_screen_out_code": text(form, "prolific_screen_out_code") or None,
        "prolific_early_code": text(form, "prolific_early_code") or None,
        "exclude_people": tuple(text(form, "exclude_people").replace(",", " ").split()),
        "exclude_late": "exclude_late" in form,
        "question_version": number(form, "question_version"),
        "mturk": "mturk" in form,
    }
    return Settings.model_validate({**now.model_dump(), **values})


def _needed(form: FormData, name: str, default: int) -> int:
    value = number(form, name)
    return default if value is None else value


def _lines(given: str) -> list[str]:
    return [line.strip() for line in given.splitlines() if line.strip()]


def _axis(line: str) -> Axis:
    found = _AXIS.fullmatch(line)
    if found is None:
        raise CollectError(
            f"an axis is a line such as `helpful: Helpful [1-5] *` (the scale only for ratings, * where it must be "
            f"answered), got {line[:80]!r}"
        )
    key, label, low, high, best, needed = found.groups()
    scale = {"low": int(low), "high": int(high)} if low else {}
    good = cast("Literal['high', 'low'] | None", best)
    return Axis(key=key, label=(label or "").strip() or key, required=bool(needed), best=good, **scale)
