"""The formats of rows that belong to no project: prompts with their answers, conversations, and graded replies.

`thumbs.data.foreign` has those of named projects, `thumbs.data.formats` finds the one that a row is in.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from thumbs.data.sources import RowError

Row = Mapping[str, Any]
DataKind = Literal["conversations", "preferences", "prompts", "rankings", "ratings", "steps", "replies"]


def as_it_is(row: Row) -> Row:
    """The row: its keys are those that the readers know."""
    return row


def always(row: Row) -> bool:
    """Every row fits."""
    return True


@dataclass(frozen=True)
class Format:
    """One format: how a row of it is recognised and read.

    kind: what its rows are. needs: keys that must be there; "a|b" is a or else b. reads: keys that count if they are
    there. unused: keys that such rows are known to have and that nothing reads. fits: whether the values are right.
    convert: the row under the names that the readers know. prompt: those of its keys that make the prompt.
    refusal: why its rows cannot be read and what to do instead; empty if they can.
    """

    name: str
    kind: DataKind
    needs: tuple[str, ...]
    reads: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    fits: Callable[[Row], bool] = always
    convert: Callable[[Row], Row] = as_it_is
    prompt: tuple[str, ...] = ()
    refusal: str = ""

    def keys_of(self, row: Row) -> set[str] | None:
        """The keys of a row that this format reads; None if one that it needs is missing or its values do not fit."""
        used = set()
        for need in self.needs:
            found = next((key for key in need.split("|") if key in row), None)
            if found is None:
                return None
            used.add(found)
        return used | {key for key in self.reads if key in row} if self.fits(row) else None


def first_of(row: Row, keys: str) -> Any:
    """The value of the first of the keys "a|b|…" that is there."""
    return next(row[key] for key in keys.split("|") if key in row)


def is_list(value: object) -> bool:
    """Whether a value is a list, of whatever."""
    return isinstance(value, list | tuple)


def turns_of(value: Any, field: str) -> Any:
    """The messages of a list of turns; objects of input and output, as Capybara keeps them, become two messages."""
    if is_list(value) and value and all(isinstance(turn, Mapping) and "input" in turn for turn in value):
        messages = []
        for turn in value:
            messages += [{"role": "user", "content": turn["input"]}]
            messages += [{"role": "assistant", "content": turn["output"]}] if "output" in turn else []
        return messages
    if isinstance(value, Mapping) and "messages" in value:
        return value["messages"]
    return value


def instruction_prompt(row: Row) -> Any:
    """Prompt of Alpaca's instruction and input, or Dolly's context, after LLaMA-Factory's history of pairs."""
    messages = []
    for turn in row.get("history", ()):
        if not is_list(turn) or len(turn) != 2:
            raise RowError("missing_field", f"'history' holds [question, answer] pairs, got {reprlib.repr(turn)}")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    for key in ("instruction", "input", "context"):
        if not isinstance(row.get(key, ""), str):
            raise RowError("bad_text", f"{key!r} must be text, got {type(row[key]).__name__}")
    parts = (row["instruction"], row.get("input", ""), row.get("context", ""))
    question = "\n\n".join(part for part in parts if part.strip())
    return [*messages, {"role": "user", "content": question}]


@dataclass(frozen=True)
class Style:
    """A way to write a prompt: the key that holds it, the keys that count with it, and the prompt of a row."""

    key: str
    reads: tuple[str, ...] = ()

    def prompt_of(self, row: Row) -> Any:
        """Text or messages."""
        return instruction_prompt(row) if self.key == "instruction" else turns_of(row[self.key], self.key)


STYLES = (
    Style("prompt"),
    Style("instruction", ("input", "context", "history")),
    Style("input"),
    Style("question"),
    Style("query"),
    Style("user"),
)
LISTS = tuple(Style(key) for key in ("messages", "conversations", "conversation"))
REPLY = "completion|response|output|reply|assistant|answer"
SIDES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
    ("response_j", "response_k"),
)
"""Keys of the better and the worse reply: TRL and others, Argilla, OpenAI, Stack Exchange pairs."""

_PAIR = ("margin", "weight", "tie", "label", "judgements", "id")
_PAIR_UNUSED = (
    *(
        "prompt_id",
        "messages",
        "conversation",
        "conversations",
        "chosen_score",
        "rejected_score",
        "score_chosen",
        "score_rejected",
    ),
    *("rating_chosen", "rating_rejected", "chosen_rating", "rejected_rating", "chosen_avg_rating"),
    *("rejected_avg_rating", "chosen_model", "rejected_model", "n_votes", "agreement", "item_id", "group_id"),
)
_ROUTINE = ("id", "source", "prompt_id", "metadata", "item_id")
_OPENAI = ("parallel_tool_calls",)


def _has_ranks(row: Row) -> bool:
    """Whether replies stand with an order of theirs, not with votes on two of them."""
    judgements = row.get("judgements")
    first = judgements[0] if is_list(judgements) and judgements else {}
    return "ranks" in row or "best" in row or (isinstance(first, Mapping) and "verdict" not in first)


def _has_values(row: Row) -> bool:
    """Whether the judgements are numbers, not verdicts."""
    first = row["judgements"][0] if is_list(row["judgements"]) else {}
    return not isinstance(first, Mapping) or "verdict" not in first


def _has_one_reply(row: Row) -> bool:
    return not _texts(first_of(row, REPLY))


def _has_score_of_label(row: Row) -> bool:
    return not isinstance(row["score"], list | dict) and row["score"] in (0, 1)


_LABEL = "label|kto_tag"
_STEPS = "steps|completions"
_BEHIND: tuple[Format, ...] = (
    Format("a labelled reply", "replies", (REPLY, _LABEL), (), _ROUTINE),
    Format(
        "a rated reply",
        "ratings",
        (REPLY, "rating|ratings"),
        ("judgements", "id"),
        _ROUTINE,
        lambda row: not isinstance(row.get("ratings"), Mapping),
    ),
    Format("a judged reply", "ratings", (REPLY, "judgements"), ("id",), _ROUTINE, _has_values),
    Format("a ranking", "rankings", ("ranking",), ("id",), _ROUTINE),
    Format(
        "ranked replies",
        "rankings",
        ("replies", "ranks|best|judgements"),
        ("ranks", "best", "judgements", "id"),
        _ROUTINE,
        _has_ranks,
    ),
    Format("labelled steps", "steps", (_STEPS, "labels|judgements"), ("id",), _ROUTINE),
    Format("a score of 0 or 1", "replies", (REPLY, "score"), (), _ROUTINE, _has_score_of_label),
    Format("an answer", "conversations", (REPLY,), (), (*_ROUTINE, "text"), _has_one_reply),
    Format("chosen", "conversations", ("chosen",), (), _ROUTINE, lambda row: "rejected" not in row),
    Format("nothing else", "prompts", (), ("answer",), _ROUTINE),
)
"""What may stand next to a prompt, but for pairs."""

_NAMES: Mapping[str, Mapping[str, str]] = {
    "a labelled reply": {"completion": REPLY, "label": _LABEL},
    "a rated reply": {"reply": REPLY},
    "a judged reply": {"reply": REPLY},
    "labelled steps": {"steps": _STEPS},
    "a score of 0 or 1": {"completion": REPLY, "label": "score"},
    "an answer": {"completion": REPLY},
    "chosen": {"completion": "chosen"},
}
"""The names that the readers know, and the keys of a row that hold them."""


def _prompt_formats(style: Style) -> Iterator[Format]:
    """The formats whose prompt is written in that style."""

    def with_prompt(names: Mapping[str, str]) -> Callable[[Row], Row]:
        def convert(row: Row) -> Row:
            gone = {style.key, *style.reads, *(key for keys in names.values() for key in keys.split("|"))}
            rest = {key: value for key, value in row.items() if key not in gone}
            return rest | {"prompt": style.prompt_of(row)} | {new: first_of(row, old) for new, old in names.items()}

        return convert

    about = "prompt" if style.key == "prompt" else f"{style.key} as prompt"
    keys = (style.key, *style.reads)
    for chosen, rejected in SIDES:
        needs, convert = (style.key, chosen, rejected), with_prompt({"chosen": chosen, "rejected": rejected})
        name = f"{about} with {chosen} and {rejected}"
        reads = (*style.reads, *_PAIR)
        yield Format(name, "preferences", needs, reads, _PAIR_UNUSED, convert=convert, prompt=keys)
    behind = _BEHIND if style.key != "prompt" else (*_BEHIND[-1:], *_BEHIND[:-1])  # prompt and answer make a prompt
    for rest in behind:
        yield replace(
            rest,
            name=f"{about} with {rest.name}",
            needs=(style.key, *rest.needs),
            reads=(*style.reads, *rest.reads),
            convert=with_prompt(_NAMES.get(rest.name, {})),
            prompt=keys,
        )


def _list_formats(style: Style) -> Iterator[Format]:
    """The formats that hold their turns in a list."""
    key = style.key

    def named(**names: str) -> Callable[[Row], Row]:
        def convert(row: Row) -> Row:
            gone = {key, *(name for old in names.values() for name in old.split("|"))}
            rest = {name: value for name, value in row.items() if name not in gone}
            return (
                rest | {"messages": turns_of(row[key], key)} | {new: first_of(row, old) for new, old in names.items()}
            )

        return convert

    def pair(row: Row) -> Row:
        sides = {side: [row[side]] if isinstance(row[side], Mapping) else row[side] for side in ("chosen", "rejected")}
        return {name: value for name, value in row.items() if name != key} | {"prompt": turns_of(row[key], key)} | sides

    yield Format(
        f"{key} with chosen and rejected",
        "preferences",
        (key, "chosen", "rejected"),
        _PAIR,
        _PAIR_UNUSED,
        lambda row: not _is_whole(row["chosen"]),
        pair,
    )
    yield Format(
        f"{key} with a rejected answer (ms-swift)",
        "preferences",
        (key, "rejected_response|rejected_messages"),
        _PAIR,
        _PAIR_UNUSED,
        lambda row: "chosen" not in row and not _ends_with_user(turns_of(row[key], key)),
        lambda row: _against_last(row, key),
    )
    yield Format(f"{key} with a label", "replies", (key, _LABEL), (), _ROUTINE, convert=named(label=_LABEL))
    yield Format(
        f"{key} that end with the user",
        "prompts",
        (key,),
        ("answer",),
        _ROUTINE,
        lambda row: _ends_with_user(turns_of(row[key], key)),
        named(),
    )
    yield Format(key, "conversations", (key,), (), (*_ROUTINE, "prompt", *_OPENAI), convert=named())


def _against_last(row: Row, key: str) -> Row:
    """The last reply of a conversation against another one, or against another conversation."""
    messages = turns_of(row[key], key)
    rest = {name: value for name, value in row.items() if name not in (key, "rejected_response", "rejected_messages")}
    if "rejected_messages" in row:
        return rest | {"chosen": messages, "rejected": row["rejected_messages"]}
    return rest | {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": row["rejected_response"]}


def _ends_with_user(messages: object) -> bool:
    last = messages[-1] if is_list(messages) and messages else None  # type: ignore[index]
    return isinstance(last, Mapping) and (last.get("role") or last.get("from")) in ("user", "human")


def _whole(chosen: str, rejected: str) -> Format:
    return Format(
        f"{chosen} and {rejected} as whole conversations",
        "preferences",
        (chosen, rejected),
        _PAIR,
        _PAIR_UNUSED,
        lambda row: _is_conversation(row[chosen]) and _is_conversation(row[rejected]),
        convert=lambda row: (
            {k: v for k, v in row.items() if k not in (chosen, rejected)}
            | {"chosen": row[chosen], "rejected": row[rejected]}
        ),
    )


def _is_conversation(value: Any) -> bool:
    """Whether a value is a list or a transcript, not the mere text of a reply."""
    return not isinstance(value, str) or value.lstrip().startswith("Human:")


def _is_whole(value: Any) -> bool:
    """Whether a value is a conversation from its beginning, not only the reply."""
    first = value[0] if is_list(value) and value else None
    if isinstance(first, Mapping):
        return (first.get("role") or first.get("from")) in ("system", "user", "human")
    return isinstance(value, str) and value.lstrip().startswith("Human:")


def _texts(value: Any) -> bool:
    return is_list(value) and len(value) > 1 and all(isinstance(text, str) for text in value)


def _older_pair(row: Row) -> Row:
    if len(row["output"]) != 2:
        raise RowError("missing_field", f"'output' must hold the better and the worse reply, got {len(row['output'])}")
    rest = {k: v for k, v in row.items() if k not in ("instruction", "input", "context", "history", "output")}
    return rest | {"prompt": instruction_prompt(row), "chosen": row["output"][0], "rejected": row["output"][1]}


SHAPES: tuple[Format, ...] = (
    Format(
        "preferences of thumbs",
        "preferences",
        ("prompt", "replies", "judgements"),
        ("id", "margin", "weight"),
        fits=lambda row: not _has_ranks(row),
    ),
    Format(
        "LLaMA-Factory's older pairs",
        "preferences",
        ("instruction", "output"),
        ("input", "context", "history", *_PAIR),
        fits=lambda row: _texts(row["output"]),
        convert=_older_pair,
        prompt=("instruction", "input", "context", "history"),
    ),
    *(found for style in STYLES for found in _prompt_formats(style)),
    *(found for style in LISTS for found in _list_formats(style)),
    *(_whole(*sides) for sides in SIDES),
    Format(
        "a transcript with a label",
        "replies",
        ("text", _LABEL),
        convert=lambda row: {"text": row["text"], "label": first_of(row, _LABEL)},
    ),
    Format("a transcript", "conversations", ("text",), (), _ROUTINE),
    Format(
        "a conversation in chosen",
        "conversations",
        ("chosen",),
        (),
        _ROUTINE,
        lambda row: "rejected" not in row and _is_conversation(row["chosen"]),
        convert=lambda row: {"text" if isinstance(row["chosen"], str) else "messages": row["chosen"]},
    ),
)
