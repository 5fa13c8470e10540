"""Both languages say everything that is asked of them, and nothing is translated for nobody."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path
from typing import get_args

import pytest

from thumbs.collect.records import NoTask
from thumbs.collect.web import words as words_module
from thumbs.collect.web.annotate import KEYS, SKIP_WORDS
from thumbs.collect.web.words import LANGUAGES, script_words, translator, words

WEB = Path(words_module.__file__).parent
OWN = ("en", "zh")


def own(language: str) -> dict[str, str]:
    """The annotator's words; those of other pages are tested with them."""
    import json

    return json.loads((WEB / "words" / f"{language}.json").read_text(encoding="utf-8"))


def asked() -> tuple[set[str], set[str]]:
    """Keys, and beginnings of keys, in the templates and the sources."""
    keys, starts = set(), set()
    for path in [*(WEB / "templates").rglob("*.html"), *WEB.glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = "\n".join(
                f"t({node.value!r})"
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            )
        keys |= set(re.findall(r"""["']([a-z_]+(?:\.[a-z_0-9]+)+)["']""", text))
        starts |= set(re.findall(r"""["']([a-z_]+\.(?:[a-z_]+\.)?)["'] *[+~]""", text))
    script = "".join(path.read_text(encoding="utf-8") for path in (WEB / "static").glob("*.js"))
    keys |= {f"js.{name}" for name in re.findall(r"\bwords\.([a-z_]+)", script)}
    return keys, starts


def test_the_languages_have_the_same_keys():
    assert words("en").keys() == words("zh").keys()


@pytest.mark.parametrize("language", OWN)
def test_each_text_takes_the_same_values(language: str):
    def names(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    for key, text in words("en").items():
        assert names(text) == names(translator(language)(key)), key


def test_every_key_is_used():
    keys, starts = asked()
    unused = [key for key in own("en") if key not in keys and not any(key.startswith(start) for start in starts)]
    # The annotator's templates put these together.
    built = re.compile(r"(ask|key|skip|step\.(better|harmful)|nothing|why|role|state)\.")
    assert [key for key in unused if not built.match(key)] == []


def test_no_key_is_missing():
    keys, _ = asked()
    first = {key.partition(".")[0] for key in own("en")}
    dotted = {
        key for key in keys if key.partition(".")[0] in first and not key.endswith((".html", ".js", ".css", ".json"))
    }
    assert sorted(dotted - words("en").keys()) == []


def test_what_the_templates_put_together_is_there():
    built = [f"key.{key.does}" for key in KEYS] + [f"skip.{reason}" for reason in SKIP_WORDS]
    built += [
        f"nothing.{reason}.{part}" for reason in get_args(NoTask) if reason != "your_turn" for part in ("title", "text")
    ]
    built += [f"step.{way}.{step}" for way in ("better", "harmful") for step in range(1, 5)]
    built += [f"ask.{kind}" for kind in ("pair", "chat", "rank", "rate", "write", "rewrite", "harmful")]
    built += ["why.write", "why.rewrite", "role.system", "role.user", "role.assistant", "state.paused", "state.closed"]
    assert sorted(set(built) - words("en").keys()) == []


def test_chinese_is_chinese():
    same = [key for key in words("zh") if words("zh")[key] == words("en")[key]]
    assert [key for key in same if re.search(r"[a-z]{3}", words("en")[key])] == []
    assert LANGUAGES["zh"] == "中文"


def test_values_are_filled_in_and_a_missing_key_is_an_error():
    assert translator("en")("task.reply", letter="A") == "Reply A"
    assert translator("zh")("task.reply", letter="A") == "回复 A"
    with pytest.raises(KeyError):
        translator("en")("no.such")


def test_the_script_gets_its_own_words_only():
    assert script_words("en")["saved"] == "Saved"
    assert all(f"js.{key}" in words("en") for key in script_words("en"))
