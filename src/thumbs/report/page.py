"""Pages that need no other file: one script of ours, nothing loaded, all text escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from thumbs.report.numbers import duration, number, percent, signed
from thumbs.web.safe_text import visible


def render(template: str, content: Mapping[str, Any]) -> str:
    """The page that `template`, a file next to this one, makes of `content`; a name that it lacks is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "duration": duration}
    environment.filters |= {"signed": signed, "visible": visible}
    style, script = Markup(_beside("page.css")), Markup(_beside("page.js"))  # noqa: S704 - files of ours
    ours = {"style": style, "script": script, "digest": digest(script)}
    return environment.from_string(_beside(template)).render({**content, **ours})


def digest(script: str) -> str:
    """What a content security policy calls a script that it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
