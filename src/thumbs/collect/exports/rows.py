"""Rows that trainers read: pairs, rankings, ratings, labelled replies, conversations, transcripts; and judgements one
by one, with everything that is known of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from thumbs.collect.exports.judged import JudgedItem, Opinion, rating_of, share, winner
from thumbs.collect.exports.select import Filters
from thumbs.data.conversations import read_transcript
from thumbs.data.preferences import preference_to_json, preferred
from thumbs.data.prompts import prompt_id
from thumbs.data.rankings import pairs_of
from thumbs.data.sources import RowError
from thumbs.records import Judgement, Message, Preference, Ranking, RankJudgement

Row = Mapping[str, Any]
Pair = tuple[Preference, str, str]
"""A pair and its texts: the one that people prefer, the other."""
_NUMBERS = ("judgement", "item", "question", "guideline", "strength", "active_ms", "wall_ms")


def preference_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """Our own format: every opinion, ties and pairs of two bad replies too."""
    pair = pair_of(judged)
    row = preference_to_json(pair)
    if filters.strength_as == "margin":
        row["margin"] = margin(pair)
    yield row | _weight(pair, filters)


def trl_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """Conversational prompt, chosen and rejected; n_votes judgements, `agreement` the share of those that say what most
    say; pairs of one group_id share their prompt and belong on one side of a split.
    """
    for pair, chosen, rejected in decided(judged):
        yield {
            "prompt": _messages(pair.prompt),
            "chosen": _reply(chosen),
            "rejected": _reply(rejected),
            "margin": margin(pair) if filters.strength_as == "margin" else 0.0,
            **_weight(pair, filters),
            "n_votes": len(pair.judgements),
            "agreement": round(share([(one.verdict, one.strength > 0) for one in pair.judgements]), 6),
            "item_id": pair.id,
            "group_id": prompt_id(pair.prompt),
        }


def transcript_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """A transcript with the better reply and one with the other, as HH-RLHF keeps them."""
    for pair, chosen, rejected in decided(judged):
        yield {"chosen": _transcript(pair.prompt, chosen), "rejected": _transcript(pair.prompt, rejected)}


def comparison_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """The cookbook's comparisons, one an opinion."""
    first, second = (_reply(reply.text) for reply in judged.replies)
    for opinion in judged.opinions:
        yield {
            "comparison": {
                "prompt_conversation": _messages(judged.messages),
                "completion_A": first,
                "completion_B": second,
            },
            "label": {"first": "A", "second": "B", "tie": "Tie"}[opinion.side],
        }


def ranking_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """Our rankings: the ranks of every annotator."""
    yield asdict(ranking_of(judged))


def rating_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """Our ratings: a row per reply, with the number of every annotator; "project/item/slot" is its id."""
    for slot, reply in enumerate(judged.replies):
        told = [
            {"annotator": one.annotator, "at": _time(one), "value": value, "reason": one.answer.reason}
            for one in judged.opinions
            if (value := rating_of(judged.question, filters.axis, one.answer, slot)) is not None
        ]
        if told:
            row = {"id": f"{judged.id}/{slot}", "prompt": _messages(judged.messages), "reply": asdict(reply)}
            yield row | {"judgements": told}


def labelled_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """Single replies that are desirable or not: the better and the worse of a pair, both bad ones, and what is rated
    above or below the middle of the scale.
    """
    for slot, good in enumerate(_labels(judged, filters)):
        if good is not None:
            reply = _reply(judged.replies[slot].text)
            yield {"prompt": _messages(judged.messages), "completion": reply, "label": good, "item_id": judged.id}


def conversation_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """Conversations to imitate: what people wrote, or else the reply that they like best."""
    texts = list(dict.fromkeys(one.answer.text for one in judged.opinions if one.answer.text))
    if not texts and (best := best_slot(judged, filters)) is not None:
        texts = [judged.replies[best].text]
    for text in texts:
        yield {"messages": [*_messages(judged.messages), *_reply(text)], "item_id": judged.id}


def mean_rating_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """A row per reply with the mean of its ratings."""
    for row in rating_rows(judged, filters):
        values = [one["value"] for one in row["judgements"]]
        yield {
            "prompt": row["prompt"],
            "reply": row["reply"]["text"],
            "rating": sum(values) / len(values),
            "n_votes": len(values),
            "item_id": row["id"],
        }


def vote_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """A row per judgement; `given` is the answer as it was given, before its sign was turned or an axis was chosen."""
    for one in judged.opinions:
        yield {
            **_stamps(judged, one),
            "answer": asdict(one.answer),
            "given": asdict(one.vote.as_given),
            "display": list(one.vote.display),
            "conversation": judged.conversation,
            "name": judged.name,
            "chosen_by": judged.chosen_by,
            "prompt": [asdict(message) for message in judged.messages],
            "replies": [asdict(reply) for reply in judged.replies],
        }


def table_rows(judged: JudgedItem, filters: Filters) -> Iterator[Row]:
    """The same for a table: what is not a single value as JSON text, a column per reply."""
    for one in judged.opinions:
        row: dict[str, Any] = {
            **_stamps(judged, one),
            **{name: _cell(value) for name, value in vars(one.answer).items() if name != "skip_reason"},
            "first_shown": one.vote.display[0] if one.vote.display else "",
            "name": judged.name,
            "prompt": _cell([[message.role, message.content] for message in judged.messages]),
        }
        for place in range(judged.question.replies[1]):
            reply = judged.replies[place] if place < len(judged.replies) else None
            row[f"reply_{place}"] = reply.text if reply else ""
            row[f"generator_{place}"] = f"{reply.generator.name} {reply.generator.checkpoint}".strip() if reply else ""
        yield {column: value if column in _NUMBERS else str(value) for column, value in row.items()}


def pair_of(judged: JudgedItem) -> Preference:
    """The item as a preference of our records."""
    first, second = judged.replies
    told = tuple(
        Judgement(one.annotator, _time(one), one.answer.verdict, one.answer.strength, one.answer.reason)  # type: ignore[arg-type]
        for one in judged.opinions
    )
    return Preference(judged.id, judged.messages, (first, second), told)


def ranking_of(judged: JudgedItem) -> Ranking:
    """The item as a ranking of our records."""
    told = tuple(
        RankJudgement(one.annotator, _time(one), one.answer.ranks or _ranks(one.side), one.answer.reason)
        for one in judged.opinions
    )
    return Ranking(judged.id, judged.messages, judged.replies, told)


def decided(judged: JudgedItem) -> Iterator[Pair]:
    """The pairs of the item (all of a ranking) of which one reply is preferred by more people than the other."""
    pairs = [pair_of(judged)] if judged.question.is_pair else pairs_of(ranking_of(judged))
    for pair in pairs:
        better = preferred(pair)
        if better is not None and better != 0.5:
            first, second = (reply.text for reply in pair.replies)
            yield (pair, first, second) if better > 0.5 else (pair, second, first)


def margin(pair: Preference) -> float:
    """Mean signed strength in favour of the reply that more people prefer, steps of the scale, 0 to 4; ties count as 0.

    0 where as many prefer either, and where fewer but stronger voices speak for the other.
    """
    better = preferred(pair)
    if better is None or better == 0.5:
        return 0.0
    counted = [one.strength for one in pair.judgements if one.verdict in ("prefer", "tie")]
    mean = sum(counted) / len(counted)
    return max(0.0, -mean if better > 0.5 else mean)


def best_slot(judged: JudgedItem, filters: Filters) -> int | None:
    """The reply that people like best; None if there is no single one, or nobody compared."""
    if judged.question.is_pair:
        return {"first": 0, "second": 1}.get(winner(judged.opinions))
    if judged.question.kind == "rank":
        totals = [-sum(one.answer.ranks[slot] for one in judged.opinions) for slot in range(len(judged.replies))]
        return _only_highest(totals)
    if judged.question.kind == "rate" and len(judged.replies) > 1:
        return _only_highest([-math.inf if mean is None else mean for mean in _means(judged, filters)])
    return None


def forged(judged: JudgedItem) -> str | None:
    """Why the item cannot be a transcript: a system message, or text that would read as turns of its own."""
    if judged.messages[0].role == "system":
        return "system"
    for _, chosen, rejected in decided(judged):
        for text in (chosen, rejected):
            told = [Message(m.role, m.content.strip()) for m in (*judged.messages, Message("assistant", text))]
            try:
                if list(read_transcript(_transcript(judged.messages, text))) != told:
                    return "forged_turn"
            except RowError:
                return "forged_turn"
    return None


def _labels(judged: JudgedItem, filters: Filters) -> Sequence[bool | None]:
    if judged.question.is_pair:
        sides = {"first": (True, False), "second": (False, True), "both_bad": (False, False), "tie": (None, None)}
        return sides[winner(judged.opinions)]
    axes = [axis for axis in judged.question.axes if filters.axis in (None, axis.key)]
    middle = sum(axis.low + axis.high for axis in axes) / (2 * len(axes))
    return [None if mean in (None, middle) else mean > middle for mean in _means(judged, filters)]


def _means(judged: JudgedItem, filters: Filters) -> list[float | None]:
    """Mean rating of each slot; None if nobody rated it."""
    rated = {row["id"]: row["judgements"] for row in rating_rows(judged, filters)}
    told = [rated.get(f"{judged.id}/{slot}", ()) for slot in range(len(judged.replies))]
    return [sum(one["value"] for one in values) / len(values) if values else None for values in told]


def _only_highest(values: Sequence[float]) -> int | None:
    highest = max(values)
    return values.index(highest) if values.count(highest) == 1 else None


def _weight(pair: Preference, filters: Filters) -> dict[str, float]:
    if filters.strength_as != "weight":
        return {}
    told = [abs(one.strength) for one in pair.judgements if one.verdict == "prefer"]
    return {"weight": sum(told) / len(told) / 4 if told else 1.0}


def _ranks(side: str) -> tuple[int, int]:
    return {"first": (1, 2), "second": (2, 1)}.get(side, (1, 1))


def _time(opinion: Opinion) -> str:
    return opinion.vote.at.isoformat()


def _messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _transcript(messages: Sequence[Message], reply: str) -> str:
    names = {"user": "Human", "assistant": "Assistant"}
    turns = (*messages, Message("assistant", reply))
    return "".join(f"\n\n{names[turn.role]}: {turn.content}" for turn in turns)


def _stamps(judged: JudgedItem, one: Opinion) -> dict[str, Any]:
    return {
        "id": judged.id,
        "item": judged.item,
        "judgement": one.vote.judgement,
        "assignment": one.vote.assignment,
        "annotator": one.annotator,
        "at": one.vote.at.isoformat(),
        "question": one.vote.version,
        "guideline": one.guideline,
        "direction": one.vote.direction,
        "active_ms": one.vote.active_ms,
        "wall_ms": one.vote.wall_ms,
        "late": one.vote.late,
    }


def _cell(value: Any) -> str | int:
    """Text and numbers as they are, the rest as JSON text, nothing for what is empty."""
    if isinstance(value, str | int):
        return value
    return json.dumps(value, ensure_ascii=False) if value else ""
