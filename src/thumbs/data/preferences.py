"""Preference pairs: what people keep elsewhere, our own format, and the file that labels grow in."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from thumbs.data.conversations import read_prompt_messages, split_pair, with_system
from thumbs.data.formats import recognise
from thumbs.data.messages import Conversation, as_prompt, read_messages
from thumbs.data.prompts import check_prompt, content_id
from thumbs.data.reading import ignore_unknown
from thumbs.data.sources import RowError, parse_json, read_text
from thumbs.data.verdicts import favoured, read_judgement, read_verdicts
from thumbs.errors import DataError
from thumbs.records import Generator, Preference, Reply
from thumbs.tracking.files import writing

PREFERENCES = "preferences.jsonl"
"""The file in which a run's stage keeps its preferences."""

_KINDS = ("model", "human", "file")
_REPLY_KEYS = frozenset(field.name for field in fields(Reply))
_GENERATOR_KEYS = frozenset(field.name for field in fields(Generator))
_STOP_REASONS = ("stop", "length")


def read_preference(value: object, source: str = "file") -> Preference:
    """Preference of one row; `source` names the file as generator and annotator of a pair that names neither.

    Accepted: our own format (an object with `replies` and `judgements`, see preference_from_json), and any format of
    pairs (docs/data.md). Next to `chosen` and `rejected` may stand `margin` (score units), `weight` (how much the pair
    counts, 1 by default), `tie` (true: neither is better), `label`: 1 or "chosen", 0 or "rejected" (the annotator
    disagrees with the names), 0.5 or "tie", or `judgements`, as in our own format. The first reply of the result is
    `chosen`. Raises RowError when a reply is empty, both are the same, or they answer different prompts.
    """
    shaped = recognise(value, "preferences")
    row = shaped.row
    if "replies" in row:
        prompt = as_prompt(read_prompt_messages(row["prompt"]))
        found = _own(row, prompt, str(row.get("id", "")))
    else:
        prompt, (first, second) = split_pair(row)
        generator = Generator("file", source)
        replies, judgements = (Reply(first, generator), Reply(second, generator)), read_verdicts(row, source)
        margin = read_number(row.get("margin", 0.0), "margin")
        found = Preference(str(row.get("id", "")), prompt, replies, judgements, margin, _read_weight(row))
    prompt = with_system(prompt, shaped.system)
    identity = read_text(found.id, "id") or content_id(prompt, (reply.text for reply in found.replies))
    return _checked(replace(found, prompt=prompt, id=identity))


def preferred(preference: Preference) -> float | None:
    """Probability that the first reply is the better one: the mean over judgements of 1 (first), 0.5 (tie),
    0 (second).

    A judgement counts once, whatever its strength; skip and both_bad do not count. None when nothing counts.
    """
    return favoured(preference.judgements)


def preference_to_json(preference: Preference) -> dict[str, Any]:
    """Plain data of a preference, one line of our JSONL: id, prompt, replies, judgements, margin, weight."""
    prompt = [{"role": message.role, "content": message.content} for message in preference.prompt]
    return asdict(preference) | {"prompt": prompt}


def preference_from_json(value: Mapping[str, Any]) -> Preference:
    """Inverse of preference_to_json; raises RowError that names the field that is missing or out of range."""
    for key in ("prompt", "id"):
        if key not in value:
            raise RowError("missing_field", f"no {key!r}")
    return _own(value, as_prompt(read_messages(value["prompt"], "prompt")), read_text(value["id"], "id"))


def _own(value: Mapping[str, Any], prompt: Conversation, identity: str) -> Preference:
    """Preference of a row in our own format."""
    try:
        replies = [reply_from_json(item) for item in value["replies"]]
        judgements = tuple(read_judgement(item) for item in value["judgements"])
    except KeyError as error:
        raise RowError("missing_field", f"no {error.args[0]!r}") from None
    except (TypeError, AttributeError) as error:
        raise RowError("not_an_object", f"a part of the preference has the wrong shape: {error}") from None
    if len(replies) != 2:
        raise RowError("missing_field", f"'replies' must hold two replies, got {len(replies)}")
    margin = read_number(value.get("margin", 0.0), "margin")
    return Preference(identity, prompt, (replies[0], replies[1]), judgements, margin, _read_weight(value))


def _read_weight(value: Mapping[str, Any]) -> float:
    weight = 1.0 if value.get("weight") is None else read_number(value["weight"], "weight")
    if weight < 0:
        raise RowError("bad_label", f"'weight' is {weight:g}; a pair counts 0 or more")
    return weight


def reply_from_json(item: Mapping[str, Any]) -> Reply:
    """Reply of plain data in our own format; raises KeyError for a part that is missing, RowError for a wrong one."""
    maker = item["generator"]
    ignore_unknown(item, _REPLY_KEYS, "replies[]")
    ignore_unknown(maker, _GENERATOR_KEYS, "replies[].generator")
    generator = Generator(
        kind=_one_of(maker["kind"], _KINDS, "kind"),
        name=read_text(maker["name"], "name"),
        checkpoint=read_text(maker.get("checkpoint", ""), "checkpoint"),
        sampling=dict(maker.get("sampling") or {}),
        seed=maker.get("seed"),
    )
    return Reply(
        text=read_text(item["text"], "text"),
        generator=generator,
        stop_reason=_one_of(item.get("stop_reason", "stop"), _STOP_REASONS, "stop_reason"),
    )


def _checked(preference: Preference) -> Preference:
    check_prompt(preference.prompt)
    first, second = (reply.text.strip() for reply in preference.replies)
    if not first or not second:
        raise RowError("empty_reply", "an empty reply; a pair needs two answers")
    if first == second:
        raise RowError("identical_replies", "both replies are the same; nothing can be learned from the pair")
    return preference


def _one_of(value: Any, allowed: tuple[str, ...], field: str) -> Any:
    if value not in allowed:
        raise RowError("bad_label", f"{field!r} is {reprlib.repr(value)}; use one of {', '.join(allowed)}")
    return value


def read_number(value: object, field: str) -> float:
    """A finite number; raises RowError naming `field` otherwise."""
    # Compared as it is: float() of an integer with 400 digits overflows.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e308 < value < 1e308:
        raise RowError("bad_label", f"{field!r} must be a finite number, got {reprlib.repr(value)}")
    return float(value)


class PreferenceStore:
    """Preferences in a JSONL file, one per line, in the order of their arrival; one process writes at a time.

    A line counts once its newline is on disk. What `kill -9` left after the last newline is not counted:
    `note` says so, and the next append cuts it off, so a resumed labelling run makes that line anew.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens the store, which may not exist yet; raises DataError at a broken line before the last
        newline.
        """
        self.path = Path(path)
        self.note = ""
        raw = self.path.read_bytes() if self.path.exists() else b""
        self._size = raw.rfind(b"\n") + 1
        if torn := len(raw) - self._size:
            self.note = f"{self.path}: dropped {torn} bytes of a last line that was never finished"
        self._preferences = list(self._parse(raw[: self._size]))

    def __len__(self) -> int:
        return len(self._preferences)

    def ids(self) -> frozenset[str]:
        """Ids of all stored preferences."""
        return frozenset(p.id for p in self._preferences)

    def load(self) -> list[Preference]:
        """All stored preferences, oldest first."""
        return list(self._preferences)

    def append(self, preferences: Iterable[Preference]) -> int:
        """Adds the preferences whose id is not stored yet and returns how many; they are on disk when this returns.

        A stage that goes on after a kill gives the same ids again, so ids must tell preferences apart; loading a file
        gives every row an id of its own.
        """
        stored, fresh = {p.id: p for p in self._preferences}, []
        for preference in preferences:
            known = stored.setdefault(preference.id, preference)
            if known is preference:
                fresh.append(preference)
        if not fresh:
            return 0
        lines = [json.dumps(preference_to_json(p), ensure_ascii=False, allow_nan=False) for p in fresh]
        data = "".join(f"{line}\n" for line in lines).encode("utf-8")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.truncate(self._size)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        self._size += len(data)
        self._preferences.extend(fresh)
        return len(fresh)

    def _parse(self, raw: bytes) -> Iterable[Preference]:
        for number, line in enumerate(raw.split(b"\n")[:-1], start=1):
            try:
                yield preference_from_json(parse_json(line.decode("utf-8")))
            except (RowError, ValueError, TypeError) as error:
                raise DataError(f"{self.path}:{number}: not a preference: {error}; mend or delete this line") from None
