"""Model text as HTML: what is kept, what is taken out, and that nothing of it can run, load or take long."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thumbs.collect.web.markdown import MOST_CELLS, MOST_CHARACTERS, MOST_MARKS, render_markdown, render_raw

TAGS = set(re.findall(r"\w+", """
    div p br hr strong em s code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td a
    details summary span
"""))  # fmt: skip
ATTRIBUTES = {"href", "title", "start", "rel", "target", "tabindex", "class", "dir"}


class Read(HTMLParser):
    """The tags and attributes of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def inner(text: str) -> str:
    return str(render_markdown(text)).removeprefix('<div class="md" dir="auto">').removesuffix("</div>").strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a **b** *c* ~~d~~ `e`", "<p>a <strong>b</strong> <em>c</em> <s>d</s> <code>e</code></p>"),
        ("<b>x</b> & y", "<p>&lt;b&gt;x&lt;/b&gt; &amp; y</p>"),
        ("3. x", '<ol start="3">\n<li>x</li>\n</ol>'),
        ("```html\n<p>\n```", '<pre tabindex="0"><code>&lt;p&gt;\n</code></pre>'),
        ("![cat](http://h.example/c.png)", "<p>[image: cat — http://h.example/c.png]</p>"),
        ('![a<b](x "t")', "<p>[image: a&lt;b — x]</p>"),
        (
            "[x](https://h.example/?a=1&b)",
            '<p><a href="https://h.example/?a=1&amp;b" target="_blank" rel="noopener noreferrer nofollow">x</a></p>',
        ),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ("[x](data:text/html,y)", "<p>[x](data:text/html,y)</p>"),
        ("[x](/logout)", '<p><a target="_blank" rel="noopener noreferrer nofollow">x</a></p>'),
        ("[x](//evil.example)", '<p><a target="_blank" rel="noopener noreferrer nofollow">x</a></p>'),
    ],
)
def test_what_becomes_of(text: str, expected: str):
    def normal(shown: str) -> str:  # the sanitiser is free in the order of attributes
        return re.sub(r"<(\w+)((?: [\w-]+=\"[^\"]*\")+)>", lambda m: f"<{m[1]} {sorted(m[2].split())}>", shown)

    assert normal(inner(text)) == normal(expected)


def test_a_table_is_one():
    assert "<th>a</th>" in inner("|a|b|\n|-|-|\n|1|2|")


def test_a_long_text_is_cut_and_the_rest_is_there_unrendered():
    rest = "**<b>\u202e"
    shown = str(render_markdown("x" * MOST_CHARACTERS + rest, "Show all"))
    assert shown.count("x") == MOST_CHARACTERS
    assert "<summary>Show all</summary>" in shown
    assert '**&lt;b&gt;<span class="codepoint">U+202E</span></div></details></div>' in shown


def test_raw_is_every_character():
    shown = str(render_raw("a  **b**\n<c>\u200b"))
    assert shown == '<div class="raw" dir="auto">a  **b**\n&lt;c&gt;<span class="codepoint">U+200B</span></div>'


PIECES = (
    *"<>\"'&[)|-#\\\t *`a\n\x00\u202e", "javascript:", "data:", "](", "![", "\n\n", "```", "<script>", "1. ", "> ",
    "<!--", "<img src=x onerror=y>", "http://e.example", "&#106;",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_no_text_brings_tags_attributes_or_addresses_of_its_own(text: str):
    for tag, attributes in Read(str(render_markdown(text))).tags:
        assert tag in TAGS
        assert attributes.keys() <= ATTRIBUTES
        assert (attributes.get("href") or "http:").startswith(("http:", "https:", "mailto:"))


@given(st.text(max_size=80))
def test_plain_words_stay_what_they_are(text: str):
    words = re.sub(r"[^\w ]|_", "", text).strip()
    words = re.sub(r"^(\d+)", r"n\1", re.sub(r" +", " ", words))
    assert html.unescape(re.sub(r"<[^>]+>", "", inner(words))) == words


@pytest.mark.parametrize("chain", ["[a][b]", "[", "![", "**a*", "`", "<", "&", "~~a", "> \n", "- a\n"])
def test_a_text_of_marks_is_rendered_up_to_a_bound_and_shown_to_its_end(chain: str):
    text = chain * (2 * MOST_MARKS) + "the end\n\n[b]: http://h.example"
    shown = str(render_markdown(text))
    body, _, rest = shown.partition("<details>")
    assert sum(body.count(tag) for tag in ("<a ", "<li>", "<em>", "<s>")) <= MOST_MARKS + 1
    assert "the end" in rest


def test_a_table_that_a_short_text_blows_up_is_shown_as_text():
    wide = "|" + "a|" * 3000 + "\n|" + "-|" * 3000 + "\n" + "|b\n" * 300
    assert "<td" not in str(render_markdown(wide))
    many = "|a|\n|-|\n" + "|b|\n" * (MOST_CELLS // 10)
    assert str(render_markdown(many)).count("<td>") == MOST_CELLS // 10
