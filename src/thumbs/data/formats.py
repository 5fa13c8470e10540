"""Which format a row is in, by all of its keys, and what is wrong if it is none or says more than we would read."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from thumbs.data.foreign import FOREIGN
from thumbs.data.foreign_tools import TOOLS
from thumbs.data.messages import REFUSED
from thumbs.data.reading import ignore, without_nulls
from thumbs.data.shapes import SHAPES, DataKind, Format, is_list
from thumbs.data.sources import RowError, parse_json, read_text

FORMATS: tuple[Format, ...] = (*SHAPES, *FOREIGN, *TOOLS)
"""All formats; of those that explain as many keys of a row, the first one counts."""

_READABLE: Mapping[DataKind, tuple[DataKind, ...]] = {
    "conversations": ("conversations", "preferences", "replies"),
    "prompts": ("prompts", "conversations", "preferences", "replies", "rankings", "ratings", "steps", "safety"),
}
_WAYS: Mapping[DataKind, str] = {
    "preferences": "pairs: use them for `labels` or a reward model of `form: pairs`",
    "rankings": "rankings: use `form: rankings`",
    "ratings": "rated replies: use `form: ratings`",
    "steps": "replies in labelled steps: use `form: steps`",
    "replies": "single replies, good or bad: use `direct.unpaired` (KTO)",
    "safety": "pairs of replies that are safe or not: use the section `cost_model`",
}
_PROMPTS = "'prompt', 'instruction', 'input', 'question' or 'query'"
_WANTED: Mapping[DataKind, str] = {
    "preferences": f"'chosen' and 'rejected' with their prompt ({_PROMPTS}, or in both), or 'replies' with "
    "'judgements'",
    "rankings": f"a prompt ({_PROMPTS}) with a 'ranking', or with 'replies' and their 'ranks', 'best' or 'judgements'",
    "ratings": f"a prompt ({_PROMPTS}) with a 'reply' and its 'rating', 'ratings' or 'judgements'",
    "steps": f"a prompt ({_PROMPTS}) with a list of 'steps' and their 'labels' or 'judgements'",
    "replies": "a conversation with a 'label' that says whether the reply is good",
    "safety": "'prompt', 'response_0' and 'response_1' with 'is_response_0_safe' and 'is_response_1_safe'",
    "conversations": f"'messages', 'conversations', 'text', or a prompt ({_PROMPTS}) with its 'completion', "
    "'response', 'output' or 'answer'",
    "prompts": f"{_PROMPTS}, or 'messages' that end with the user",
}
_CARGO = ("tools", "functions", "image", "images", "audio", "audios", "video", "videos")
_SYSTEM = re.compile(r"^(system|sys)_?(prompt|message|instruction|msg|text|content)?$")
_LISTS = ("messages", "conversations", "conversation", "judgements")


@dataclass(frozen=True)
class Shaped:
    """A row in the names that the readers know; system: what a column of its own says; format: where it comes from."""

    format: str
    kind: DataKind
    row: Mapping[str, Any]
    system: str | None


def recognise(value: object, wanted: DataKind) -> Shaped:
    """The format of a row whose reader wants rows of that kind.

    All keys are used, said to be ignored (`reading.ignore`), or the row is refused: RowError for a row in no known
    format, for one whose format is of another kind or cannot be read, and for one that has, besides what its format
    reads, other replies or a judgement.
    """
    row, system = plain_row(value)
    form, used = _best(row, wanted)
    left = [key for key in row if key not in used]
    if form.refusal:
        raise RowError("wrong_format", f"the row is in the format of {form.name}: {form.refusal}")
    if form.kind != wanted and form.kind not in _READABLE.get(wanted, ()):
        if form.kind in ("conversations", "prompts"):
            raise RowError("missing_field", f"a row needs {_WANTED[wanted]}; its keys are {_shown(row)}")
        raise RowError(
            "wrong_format",
            f"a row needs {_WANTED[wanted]}; this one is in the format of {form.name}, which makes {_WAYS[form.kind]}",
        )
    _check_left(form, row, left)
    try:
        found = form.read({key: row[key] for key in row if key in used})
    except RowError:  # says itself what is wrong; it is a ValueError too
        raise
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise RowError("not_an_object", f"{form.name}: a part of the row has the wrong shape: {error}") from None
    if wanted == "prompts" and form.kind != "prompts":
        ignore(*(key for key in used if key not in (form.asking or used)))
        if "answer" in left:
            found, left = {**found, "answer": row["answer"]}, [key for key in left if key != "answer"]
    ignore(*left)
    return Shaped(form.name, form.kind, found, system)


def kind_of(value: object) -> DataKind | None:
    """What a row is by its keys, refused formats included; None if they do not tell."""
    if isinstance(value, str):
        return "prompts"
    try:
        row, _ = plain_row(value)
        form, used = _best(row, None)
    except RowError:
        return None
    try:
        _check_left(form, row, [key for key in row if key not in used])
    except RowError:
        return "preferences"
    return form.kind


def plain_row(value: object) -> tuple[dict[str, Any], str | None]:
    """The row without nulls and empty lists, with lists that are written as JSON text read, and its system message."""
    if not isinstance(value, Mapping):
        raise RowError("not_an_object", f"expected an object, got {type(value).__name__}")
    row = {str(key): item for key, item in without_nulls(value).items() if item not in ([], {})}
    for key in _LISTS:
        if isinstance(row.get(key), str) and row[key].lstrip().startswith("["):
            try:
                row[key] = parse_json(row[key])
            except ValueError as error:
                raise RowError("bad_json", f"{key!r} is text that is not a JSON list: {error}") from None
    systems = {key: row.pop(key) for key in list(row) if _SYSTEM.match(_snake(key))}
    texts = {read_text(text, key) for key, text in systems.items()}
    texts.discard("")
    if len(texts) > 1:
        raise RowError("bad_role", f"{' and '.join(systems)} are two system messages; a row has one")
    return row, next(iter(texts), None)


def _best(row: Mapping[str, Any], wanted: DataKind | None) -> tuple[Format, set[str]]:
    """The format that explains most keys of the row, and the keys that it reads."""
    best: tuple[tuple[int, bool], Format, set[str]] | None = None
    for form in _candidates(frozenset(row)):
        try:
            used = form.keys_of(row)
        except (TypeError, LookupError):  # values that its test does not expect
            continue
        if used is None:
            continue
        rank = (len(used) + len((form.idle & row.keys()) - used), form.kind == wanted)
        if best is None or rank > best[0]:
            best = (rank, form, used)
    if best is None:
        wants = _WANTED[wanted] if wanted else "the keys of a known format"
        raise RowError("missing_field", f"a row needs {wants}; its keys are {_shown(row)}")
    return best[1], best[2]


@lru_cache(maxsize=256)
def _candidates(keys: frozenset[str]) -> tuple[Format, ...]:
    """The formats whose needed keys are all there."""
    return tuple(form for form in FORMATS if all(not keys.isdisjoint(need) for need in form.needed))


def _shown(keys: Any) -> str:
    names = sorted(map(str, keys))
    return (
        ", ".join(reprlib.repr(name) for name in names[:12]) + (f" and {len(names) - 12} more" if names[12:] else "")
        or "none"
    )


_REPLIES = (
    "response|answer|completion|output|reply|candidate|generation|text|summary|continuation|conversation|chat|assistant|"
    "sample|human_ref|result|solution|rejected|chosen"
)
_NUMBERED = re.compile(
    rf"^(model|ai|llm|bot)?_?({_REPLIES})s?_?([a-f]|[0-9]|one|two|left|right|first|second|i|j|k|w|l|win|lose|good|bad|pos|neg)$"
)
_SEVERAL = re.compile(
    r"^(all_|model_|candidate_|ranked_)?(completion|response|answer|reply|replie|candidate|generation|output|summarie)s?$"
)
_JUDGE = re.compile(
    r"(^|_)((dis|non_?)?preferred|prefer|preferences?|chosen|rejected|better|worse|winners?|losers?|verdicts?|comparisons?"
    r"|rankings?|ranks|judge?ments?)(_|$)"
)
_PAIR_JUDGE = re.compile(
    r"(^|_)(winner|loser|verdicts?|preferred|better|worse|choice|votes?|judge?ments?)(_|$)|^preference$"
)
_MARK = re.compile(
    r"(^|_)(labels?|tag|accepted|accept|approved|safe|good|thumbs?|feedback|vote|desirable|liked?|correct|valid|choice|best"
    r"|win|won)(_|$)"
)
_FLAW = re.compile(r"(^|_)(unsafe|bad|toxic|harmful|flagged)(_|$)")
_LABEL = re.compile(r"(^|_)(labels?|tag)(_|$)")
_NO = ("false", "no", "bad", "down", "reject", "rejected", "undesirable", "negative", "thumbs_down", "dislike")
_YES = ("true", "yes")


def _check_left(form: Format, row: Mapping[str, Any], left: list[str]) -> None:
    """Raises RowError if a key that the format does not know holds another reply or a judgement."""
    unknown = [key for key in left if key not in form.idle]
    for key in unknown:
        if key in _CARGO and row[key] not in ("", "[]", "{}", False):
            raise RowError("unsupported", f"the row has {key!r}: {REFUSED[key]}")
    judges = [key for key in unknown if _is_judgement(key, row[key], form.kind)]
    if form.kind == "preferences":
        others = [key for key in unknown if key in ("rejected_2", "ranking", "ranks", "labels")]
        _check_scores(row)
    elif form.kind in ("rankings", "steps"):
        others = []
    else:
        others = [key for key in unknown if _is_reply(key, row[key])]
    if found := [*others, *(key for key in judges if key not in others)]:
        raise RowError(
            "wrong_format",
            f"the row looks like {form.name}, but {_shown(found)} would count too and is in no format that is read; "
            "name the replies chosen and rejected (or see docs/data.md for the formats), or remove the key",
        )


def _is_reply(key: str, value: Any) -> bool:
    name = _snake(key)
    return bool(_NUMBERED.match(name)) or (bool(_SEVERAL.match(name)) and is_list(value) and len(value) > 1)


def _is_judgement(key: str, value: Any, kind: DataKind) -> bool:
    """Whether a key says which reply is better, or that the only one is bad."""
    name = _snake(key)
    if kind in ("rankings", "steps", "ratings"):
        return False
    if kind == "preferences":
        return bool(_PAIR_JUDGE.search(name))
    if _JUDGE.search(name):
        return True
    word = value.strip().lower() if isinstance(value, str) else value
    if _FLAW.search(name):
        return word is True or word in _YES
    number = bool(_LABEL.search(name)) and word in (0, -1, "0", "-1")
    return bool(_MARK.search(name)) and (word is False or word in _NO or number)


def _check_scores(row: Mapping[str, Any]) -> None:
    """Raises RowError if the scores next to a pair say that the rejected reply is the better one."""
    for key, value in row.items():
        other = key.replace("chosen", "rejected") if "chosen" in key and key != "chosen" else ""
        numbers = (value, row.get(other))
        if (
            other
            and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
            and numbers[0] < numbers[1]
        ):
            raise RowError(
                "bad_label", f"{key!r} is {value} and {other!r} {row[other]}: is the rejected reply the better one?"
            )


def _snake(key: str) -> str:
    """A key in small letters with underscores: responseA and Response-A are response_a."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()).strip("_")
