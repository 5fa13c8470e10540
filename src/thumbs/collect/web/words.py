"""What the pages say, in each language: `words/*.json`, every language with the same keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

Words = Callable[..., str]
"""t("key", name=value): the text of `key` with its {names} filled in; raises KeyError for one that is missing."""
Language = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "中文"}
"""Code and own name of each."""
_FOLDER = Path(__file__).with_name("words")


@cache
def words(language: Language) -> Mapping[str, str]:
    """All texts of a language by key; raises ValueError if two files have one key."""
    found: dict[str, str] = {}
    for path in sorted(_FOLDER.glob(f"*{language}.json")):
        texts: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        if twice := found.keys() & texts.keys():
            raise ValueError(f"{path.name}: {', '.join(sorted(twice))} is in another file too")
        found |= texts
    return found


def translator(language: Language) -> Words:
    """The texts of a language by key."""
    texts = words(language)

    def t(key: str, /, **values: object) -> str:
        return texts[key].format_map(values) if values else texts[key]

    return t


def script_words(language: Language) -> dict[str, str]:
    """The texts that the annotator's script needs, by key without its `js.`."""
    return {key[3:]: text for key, text in words(language).items() if key.startswith("js.")}
