"""Nothing in shown text is markup or invisible."""

import html
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thumbs.web.safe_text import visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < b & c\n\td", "a &lt; b &amp; c\n\td"),
        ("\u202e", '<span class="codepoint">U+202E</span>'),
        ("a\u200db", 'a<span class="codepoint">U+200D</span>b'),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        (
            "👩\u200d\u200d🔬",
            '👩<span class="codepoint">U+200D</span>' * 1 + '<span class="codepoint">U+200D</span>🔬',
        ),
        ("\U000e0041", '<span class="codepoint">U+E0041</span>'),
        ("\u3164\u2028", '<span class="codepoint">U+3164</span><span class="codepoint">U+2028</span>'),
        ("é\u0301 ß 漢 🙂🏽", "é\u0301 ß 漢 🙂🏽"),
    ],
)
def test_visible(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_a_long_text_says_how_much_is_left_out() -> None:
    assert visible("<" * 10, limit=4) == '&lt;&lt;&lt;&lt;<span class="cut">… 6 more characters</span>'


@given(st.text(max_size=60))
def test_only_our_own_tags_and_no_hidden_character(text: str) -> None:
    shown = str(visible(text))
    bare = re.sub(r'<span class="codepoint">U\+([0-9A-F]{4,6})</span>', lambda m: chr(int(m[1], 16)), shown)
    assert "<" not in bare
    assert html.unescape(bare.replace("\r", "&#13;")) == text or not text.isprintable()
    left = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert left <= set("\n\t\u200c\u200d")
