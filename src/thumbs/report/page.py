"""Pages that need no other file: no scripts, nothing loaded, all text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from thumbs.report.headline import duration, number, percent
from thumbs.web.safe_text import visible


def render(template: str, content: Mapping[str, Any]) -> str:
    """The page that `template`, a file next to this one, makes of `content`; a name that it lacks is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "percent": percent, "duration": duration, "visible": visible}
    style = Markup(_beside("page.css"))  # noqa: S704 - a file of ours
    return environment.from_string(_beside(template)).render({**content, "style": style})


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
