"""The formats of rows that belong to no project: prompts with their answers, conversations, and graded replies.

`thumbs.data.foreign` has those of named projects, `thumbs.data.formats` finds the one that a row is in.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from thumbs.data.sources import RowError

Row = Mapping[str, Any]
DataKind = Literal["conversations", "preferences", "prompts", "rankings", "ratings", "steps", "replies", "safety"]


@dataclass(frozen=True)
class Format:
    """One format: how a row of it is recognised and read. Keys are separated by spaces; "a|b" is a or else b.

    kind: what its rows are. needs: keys that must be there, next to those of `names`. reads: keys that count if they
    are there. unused: keys that such rows are known to have and that nothing reads. fits: whether the values are right.
    names: the names that the readers know, and the keys that hold them. votes: the judgements of a pair, from the row.
    convert: what is not a matter of names. prompt: the keys that make the prompt, by default that of its name.
    refusal: why its rows cannot be read and what to do instead; empty if they can.
    """

    name: str
    kind: DataKind
    needs: str = ""
    reads: str = ""
    unused: str = ""
    fits: Callable[[Row], bool] = lambda row: True
    names: Mapping[str, str] = field(default_factory=dict)
    votes: Callable[[Row], Sequence[Row]] | None = None
    convert: Callable[[Row], Row] = lambda row: row
    prompt: str = ""
    refusal: str = ""

    @cached_property
    def needed(self) -> tuple[tuple[str, ...], ...]:
        """Of each of these alternatives one key must be there."""
        return tuple(tuple(need.split("|")) for need in (*self.names.values(), *self.needs.split()))

    @cached_property
    def counting(self) -> frozenset[str]:
        """The keys of `reads`."""
        return frozenset(self.reads.split())

    @cached_property
    def idle(self) -> frozenset[str]:
        """The keys of `unused`."""
        return frozenset(self.unused.split())

    @cached_property
    def asking(self) -> frozenset[str]:
        """The keys of the prompt; empty if the prompt has none of its own."""
        return frozenset((self.prompt or self.names.get("prompt", "")).split())

    def keys_of(self, row: Row) -> set[str] | None:
        """The keys of a row that this format reads; None if one that it needs is missing or its values do not fit."""
        used = set()
        for keys in self.needed:
            found = next((key for key in keys if key in row), None)
            if found is None:
                return None
            used.add(found)
        return used | (self.counting & row.keys()) if self.fits(row) else None

    def read(self, row: Row) -> Row:
        """The row, which has no other keys than those that are read, under the names that the readers know."""
        named = {new: next(row[key] for key in old.split("|") if key in row) for new, old in self.names.items()}
        if self.votes is not None:
            return self.convert(named | {"judgements": list(self.votes(row))})
        gone = {key for keys in self.names.values() for key in keys.split("|")}
        return self.convert({key: value for key, value in row.items() if key not in gone} | named)


def is_list(value: object) -> bool:
    """Whether a value is a list, of whatever."""
    return isinstance(value, list | tuple)


def turns_of(value: Any) -> Any:
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


_INSTRUCTION = "instruction input context history"
PROMPTS = ("prompt", "instruction", "input", "question", "query", "user")
"""Keys that hold a prompt."""
_LISTS = ("messages", "conversations", "conversation")
_REPLY = "completion|response|output|reply|assistant|answer"
_SIDES = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),
    ("response_j", "response_k"),
)
"""Keys of the better and the worse reply: TRL and others, Argilla, OpenAI, Stack Exchange pairs."""

_PAIR = "margin weight tie label judgements id"
_PAIR_UNUSED = (
    "prompt_id messages conversation conversations chosen_score rejected_score score_chosen score_rejected "
    "rating_chosen rating_rejected chosen_rating rejected_rating chosen_avg_rating rejected_avg_rating chosen_model "
    "rejected_model n_votes agreement item_id group_id"
)
_ROUTINE = "id source prompt_id metadata item_id"
_LABEL = "label|kto_tag"


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
    return not _texts(next(row[key] for key in _REPLY.split("|") if key in row))


def _has_score_of_label(row: Row) -> bool:
    return not isinstance(row["score"], list | dict) and row["score"] in (0, 1)


_BEHIND: tuple[Format, ...] = (
    Format("a labelled reply", "replies", unused=_ROUTINE, names={"completion": _REPLY, "label": _LABEL}),
    Format(
        "a rated reply",
        "ratings",
        "rating|ratings",
        "judgements id",
        _ROUTINE,
        lambda row: not isinstance(row.get("ratings"), Mapping),
        {"reply": _REPLY},
    ),
    Format("a judged reply", "ratings", "judgements", "id", _ROUTINE, _has_values, {"reply": _REPLY}),
    Format("a ranking", "rankings", "ranking", "id", _ROUTINE),
    Format(
        "ranked replies", "rankings", "replies ranks|best|judgements", "ranks best judgements id", _ROUTINE, _has_ranks
    ),
    Format("labelled steps", "steps", "labels|judgements", "id", _ROUTINE, names={"steps": "steps|completions"}),
    Format(
        "a score of 0 or 1",
        "replies",
        unused=_ROUTINE,
        fits=_has_score_of_label,
        names={"completion": _REPLY, "label": "score"},
    ),
    Format("an answer", "conversations", unused=f"{_ROUTINE} text", fits=_has_one_reply, names={"completion": _REPLY}),
    Format(
        "chosen",
        "conversations",
        unused=_ROUTINE,
        fits=lambda row: "rejected" not in row,
        names={"completion": "chosen"},
    ),
    Format("nothing else", "prompts", reads="answer", unused=_ROUTINE),
)
"""What may stand next to a prompt, but for pairs."""


def _prompt_formats(key: str) -> Iterator[Format]:
    """The formats whose prompt is under that key."""
    keys = _INSTRUCTION if key == "instruction" else key
    besides = keys.removeprefix(key)

    def convert(row: Row) -> Row:
        prompt = instruction_prompt(row) if key == "instruction" else turns_of(row[key])
        return {name: value for name, value in row.items() if name not in keys.split()} | {"prompt": prompt}

    about = "prompt" if key == "prompt" else f"{key} as prompt"
    for chosen, rejected in _SIDES:
        yield Format(
            f"{about} with {chosen} and {rejected}",
            "preferences",
            key,
            f"{besides} {_PAIR}",
            _PAIR_UNUSED,
            names={"chosen": chosen, "rejected": rejected},
            convert=convert,
            prompt=keys,
        )
    behind = _BEHIND if key != "prompt" else (*_BEHIND[-1:], *_BEHIND[:-1])  # prompt and answer make a prompt
    for rest in behind:
        yield replace(
            rest,
            name=f"{about} with {rest.name}",
            needs=f"{key} {rest.needs}",
            reads=f"{besides} {rest.reads}",
            convert=convert,
            prompt=keys,
        )


def _list_formats(key: str) -> Iterator[Format]:
    """The formats that hold their turns in a list under that key."""

    def turned(row: Row) -> Row:
        return {**row, "messages": turns_of(row["messages"])}

    def pair(row: Row) -> Row:
        sides = {side: [row[side]] if isinstance(row[side], Mapping) else row[side] for side in ("chosen", "rejected")}
        return {name: value for name, value in row.items() if name != key} | {"prompt": turns_of(row[key])} | sides

    yield Format(
        f"{key} with chosen and rejected",
        "preferences",
        f"{key} chosen rejected",
        _PAIR,
        _PAIR_UNUSED,
        lambda row: not _is_whole(row["chosen"]),
        convert=pair,
    )
    yield Format(
        f"{key} with a rejected answer (ms-swift)",
        "preferences",
        f"{key} rejected_response|rejected_messages",
        _PAIR,
        _PAIR_UNUSED,
        lambda row: "chosen" not in row and not _ends_with_user(turns_of(row[key])),
        convert=lambda row: _against_last(row, key),
    )
    names = {"messages": key}
    yield Format(f"{key} with a label", "replies", unused=_ROUTINE, names=names | {"label": _LABEL}, convert=turned)
    yield Format(
        f"{key} that end with the user",
        "prompts",
        reads="answer",
        unused=_ROUTINE,
        fits=lambda row: _ends_with_user(turns_of(row[key])),
        names=names,
        convert=turned,
    )
    yield Format(key, "conversations", unused=f"{_ROUTINE} prompt parallel_tool_calls", names=names, convert=turned)


def _against_last(row: Row, key: str) -> Row:
    """The last reply of a conversation against another one, or against another conversation."""
    messages = turns_of(row[key])
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
        reads=_PAIR,
        unused=_PAIR_UNUSED,
        fits=lambda row: _is_conversation(row[chosen]) and _is_conversation(row[rejected]),
        names={"chosen": chosen, "rejected": rejected},
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
    rest = {key: value for key, value in row.items() if key not in (*_INSTRUCTION.split(), "output")}
    return rest | {"prompt": instruction_prompt(row), "chosen": row["output"][0], "rejected": row["output"][1]}


SHAPES: tuple[Format, ...] = (
    Format(
        "preferences of thumbs",
        "preferences",
        "prompt replies judgements",
        "id margin weight",
        fits=lambda row: not _has_ranks(row),
    ),
    Format(
        "LLaMA-Factory's older pairs",
        "preferences",
        "instruction output",
        f"{_INSTRUCTION} {_PAIR}",
        fits=lambda row: _texts(row["output"]),
        convert=_older_pair,
        prompt=_INSTRUCTION,
    ),
    *(found for key in PROMPTS for found in _prompt_formats(key)),
    *(found for key in _LISTS for found in _list_formats(key)),
    *(_whole(*sides) for sides in _SIDES),
    Format("a transcript with a label", "replies", "text", names={"label": _LABEL}),
    Format("a transcript", "conversations", "text", unused=_ROUTINE),
    Format(
        "a conversation in chosen",
        "conversations",
        "chosen",
        unused=_ROUTINE,
        fits=lambda row: "rejected" not in row and _is_conversation(row["chosen"]),
        convert=lambda row: {"text" if isinstance(row["chosen"], str) else "messages": row["chosen"]},
    ),
)
