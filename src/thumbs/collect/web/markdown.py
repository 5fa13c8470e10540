"""Model text as a person sees it: Markdown without HTML, sanitised, nothing loaded from anywhere.

Two layers, either of which would do: the parser takes HTML for text, and what it makes is filtered by a short list of
tags. Pictures are not loaded (they tell their server who looks): their address is shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from thumbs.web.safe_text import visible

MOST_CHARACTERS = 200_000
"""The most characters of one text that are rendered; the rest is shown on demand, unrendered."""
MOST_MARKS = 10_000
"""Characters of a text that Markdown may take for marks, line breaks among them; the text after so many is shown as it
is. Each costs the parser up to some 60 µs, and chains of links cost the square of their number.
"""
MOST_CELLS = 5_000
"""Cells of the widest table that a text could hold. Rows are filled up to the width of the table, so that a short text
can make tens of thousands; a text that could make more is shown without tables.
"""
_MARK = re.compile(r"[\[\]!*_~`<>&|\\\n#]")
_TAGS = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
_SCHEMES = {"http", "https", "mailto"}
_SCROLLS = {"tabindex": "0"}
"""By keys alone too."""
_REL = "noopener noreferrer nofollow"


@lru_cache(maxsize=256)
def render_markdown(text: str, more: str = "…") -> Markup:
    """`text` as HTML that cannot run, load or pretend anything; `more` is what opens the rest of a very long one."""
    end = _affordable(text)
    shown, rest = text[:end], text[end:]
    body = _cleaned((_PARSER if _cells(shown) <= MOST_CELLS else _WITHOUT_TABLES).render(shown))
    if rest:
        body += Markup('<details><summary>{}</summary><div class="raw" dir="auto">{}</div></details>').format(
            more, _raw(rest)
        )
    return Markup('<div class="md" dir="auto">{}</div>').format(body)


@lru_cache(maxsize=256)
def render_raw(text: str) -> Markup:
    """`text` character by character, what is invisible as boxed code points: what a reward model reads."""
    return Markup('<div class="raw" dir="auto">{}</div>').format(_raw(text))


def _affordable(text: str) -> int:
    """How much of the text is rendered, characters."""
    marks = _MARK.finditer(text, 0, MOST_CHARACTERS)
    beyond = next(islice(marks, MOST_MARKS, None), None)
    return MOST_CHARACTERS if beyond is None else beyond.start()


def _cells(text: str) -> int:
    """An upper bound for the cells of its tables."""
    widths = [line.count("|") + 1 for line in text.split("\n") if "|" in line]
    return max(widths, default=0) * len(widths)


def _raw(text: str) -> Markup:
    return visible(text, limit=len(text))


def _cleaned(html: str) -> Markup:
    return Markup(  # noqa: S704 - this is the sanitiser's answer
        nh3.clean(
            html,
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            attribute_filter=_whole_address,
            url_schemes=_SCHEMES,
            link_rel=_REL,
            set_tag_attribute_values={"a": {"target": "_blank"}, "pre": _SCROLLS, "table": _SCROLLS},
        )
    )


def _whole_address(tag: str, attribute: str, value: str) -> str | None:
    """Drops links that would lead to a page of ours."""
    is_link = attribute == "href"
    return None if is_link and value.partition(":")[0].lower() not in _SCHEMES else value


def _image(_: RendererHTML, tokens: Sequence[Token], place: int, options: Any, environment: Any) -> str:
    token = tokens[place]
    return str(escape(f"[image: {token.content} — {token.attrGet('src') or ''}]"))


def _parser(*rules: str) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", *rules])
    parser.add_render_rule("image", _image)
    return parser


_PARSER, _WITHOUT_TABLES = _parser("table"), _parser()
