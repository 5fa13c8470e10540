"""Pages and parts of pages from the templates; everything in them is escaped."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any, cast

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse

from thumbs.collect.screening import hidden_of
from thumbs.collect.web.charts import round_up
from thumbs.collect.web.markdown import render_markdown, render_raw
from thumbs.collect.web.site import root_of, site_of
from thumbs.collect.web.words import LANGUAGES, Language, translator

_HERE = Path(__file__).parent
_COOKIE = "lang"
_YEAR_S = 365 * 24 * 3600


def page(request: Request, template: str, status: int = 200, **content: Any) -> HTMLResponse:
    """The page that `template` makes of `content`. Each also has caller (None: nobody is logged in), csrf, local, root
    (what stands before all paths), t, lang, languages and static.
    """
    response = HTMLResponse(fragment(request, template, **content), status)
    asked = request.query_params.get("lang")
    if asked in LANGUAGES:
        secure = request.url.scheme == "https"
        path = root_of(request) or "/"
        response.set_cookie(_COOKIE, asked, max_age=_YEAR_S, path=path, secure=secure, httponly=True, samesite="lax")
    return response


def fragment(request: Request, template: str, **content: Any) -> str:
    """A part of a page."""
    language = language_of(request)
    shared = {
        "caller": request.state.caller,
        "csrf": request.state.csrf,
        "local": site_of(request).local,
        "root": root_of(request),
        "t": translator(language),
        "lang": language,
        "languages": LANGUAGES,
    }
    return environment().get_template(template).render({**shared, **content})


def language_of(request: Request) -> Language:
    """What the person chose by ?lang= or before, else the first of their browser's languages that we have."""
    accepted = request.headers.get("accept-language", "").split(",")
    wishes = [request.query_params.get("lang", ""), request.cookies.get(_COOKIE, ""), *accepted]
    plain = [re.split(r"[-;]", wish.strip().lower())[0] for wish in wishes]
    return cast("Language", next((wish for wish in plain if wish in LANGUAGES), "en"))


@cache
def static(name: str) -> str:
    """The address of a file in static/: another one when its content changes, so that browsers may keep it."""
    digest = hashlib.sha256((_HERE / "static" / name).read_bytes()).hexdigest()
    return f"/static/{name}?{digest[:8]}"


@cache
def environment() -> jinja2.Environment:
    """The templates, whatever is put into them escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"markdown": render_markdown, "raw": render_raw, "round_up": round_up}
    made.globals |= {"static": static, "hidden_of": hidden_of}
    return made
