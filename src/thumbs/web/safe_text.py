"""Text that a model or a stranger wrote, made safe to look at: escaped, nothing in it invisible."""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup, escape

_JOINERS = "\u200c\u200d"
# Letters and symbols by category, yet blank on the screen.
_BLANK = "\u115f\u1160\u2800\u3164\uffa0"
_UNUSUAL = re.compile(r"[^\n\t -~]")
_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: object, limit: int = 4000) -> Markup:
    """`text` as HTML: escaped; control, bidi and invisible characters as boxed code points; cut at `limit`.

    Line breaks and tabs stay. A joiner stays between two characters beyond ASCII, where emoji and several
    scripts need it. The caller isolates the text's direction (<div dir="auto">).
    """
    whole = str(text)
    shown = whole[:limit]
    parts, last = [], 0
    for found in _UNUSUAL.finditer(shown):
        parts += [escape(shown[last : found.start()]), _show(shown, found.start())]
        last = found.end()
    parts.append(escape(shown[last:]))
    if len(whole) > limit:
        parts.append(Markup('<span class="cut">… {} more characters</span>').format(len(whole) - limit))
    return Markup("").join(parts)


def _show(text: str, i: int) -> Markup:
    character = text[i]
    if _is_hidden(character) and not (character in _JOINERS and _joins(text, i)):
        return Markup('<span class="codepoint">U+{:04X}</span>').format(ord(character))
    return escape(character)


def _is_hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _BLANK or unicodedata.category(character) in _HIDDEN_CATEGORIES


def _joins(text: str, i: int) -> bool:
    return 0 < i < len(text) - 1 and not any(c.isascii() or _is_hidden(c) for c in (text[i - 1], text[i + 1]))
