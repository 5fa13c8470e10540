"""Rankings of K replies: how they are read, and the pairs that they hold."""

from __future__ import annotations

import itertools
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from thumbs.data.conversations import read_prompt_messages, with_system
from thumbs.data.formats import recognise
from thumbs.data.messages import Conversation, as_prompt, read_messages, require_trained
from thumbs.data.preferences import reply_from_json
from thumbs.data.prompts import check_prompt, content_id
from thumbs.data.reading import ignore_unknown
from thumbs.data.shapes import DataKind
from thumbs.data.sources import RowError, read_text
from thumbs.records import Generator, Judgement, Preference, Ranking, RankJudgement, Reply

MOST_TIED = 8
"""Replies that may share a rank: the loss of a tie looks at all subsets of the tied."""


def read_ranking(value: object, source: str = "file") -> Ranking:
    """Ranking of one row; `source` names the file as generator and annotator where the row names neither.

    Accepted: `prompt` with `ranking`, the texts from best to worst; or with `replies` (texts, or objects of our own
    format) and one of `ranks` (1 is best, equal numbers are ties, null is worse than all ranked ones, order unknown),
    `best` (index of the best reply from 0; the others have no order), or `judgements`, each with annotator, at and
    ranks. Raises RowError for anything else, for equal or empty replies, and for a tie of more than MOST_TIED.
    """
    row, prompt = row_and_prompt(value, "rankings")
    given = row.get("ranking") if "replies" not in row else row["replies"]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise RowError("missing_field", "no 'ranking' (texts from best to worst) and no list of 'replies'")
    replies = tuple(read_reply(item, source, "replies") for item in given)
    _check_replies(replies)
    judgements = tuple(_read_judgements(row, len(replies), source))
    return Ranking(row_id(row, prompt, (reply.text for reply in replies)), prompt, replies, judgements)


def pairs_of(ranking: Ranking) -> list[Preference]:
    """All K(K - 1)/2 pairs of a ranking, as people who compared two replies would have judged them.

    Each annotator's ranks become a judgement a pair, of strength 1; equal ranks are ties, two replies without a rank
    a skip.
    """
    return [
        Preference(
            f"{ranking.id}/{i}-{j}",
            ranking.prompt,
            (ranking.replies[i], ranking.replies[j]),
            tuple(_judge(judgement, i, j) for judgement in ranking.judgements),
        )
        for i, j in itertools.combinations(range(len(ranking.replies)), 2)
    ]


def row_and_prompt(value: object, kind: DataKind) -> tuple[Mapping[str, Any], Conversation]:
    """A row of that kind under the names that its reader knows, and its prompt; raises RowError otherwise."""
    shaped = recognise(value, kind)
    prompt = with_system(as_prompt(read_prompt_messages(shaped.row["prompt"])), shaped.system)
    check_prompt(prompt)
    return shaped.row, prompt


def row_id(value: Mapping[str, Any], prompt: Conversation, texts: Iterable[str]) -> str:
    """The row's own id, or a hash of its prompt and the texts of its replies."""
    return content_id(prompt, texts) if value.get("id") is None else read_text(str(value["id"]), "id")


def judgement_rows(value: Mapping[str, Any], *keys: str) -> Iterator[Mapping[str, Any]]:
    """The objects of `judgements`, each with annotator and at as text, and those keys; raises RowError otherwise."""
    rows = value["judgements"]
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes) or not rows:
        raise RowError("missing_field", "'judgements' must be a list of at least one object")
    for row in rows:
        if not isinstance(row, Mapping) or row.get("annotator") is None:
            raise RowError("missing_field", "a judgement is an object with an annotator")
        ignore_unknown(row, {"annotator", "at", "reason", *keys}, "judgements[]")
        yield {
            **row,
            "annotator": read_text(row["annotator"], "annotator"),
            "at": read_text(row.get("at") or "", "at"),
            "reason": read_text(row.get("reason") or "", "reason"),
        }


def read_reply(item: object, source: str, field: str) -> Reply:
    """A reply given as text, as our own object, or as a list of one message of the assistant."""
    if isinstance(item, Mapping):
        try:
            return reply_from_json(item)
        except KeyError as error:
            raise RowError("missing_field", f"a reply has no {error.args[0]!r}") from None
        except (TypeError, AttributeError) as error:
            raise RowError("not_an_object", f"a reply has the wrong shape: {error}") from None
    if not isinstance(item, str):
        messages = read_messages(item, field, first="assistant")
        if len(messages) != 1 or messages[0].role != "assistant":
            raise RowError("bad_role", f"a reply in {field!r} is text or one message of the assistant")
        item = require_trained(messages[0], field).content
    return Reply(read_text(item, field), Generator("file", source))


def _check_replies(replies: Sequence[Reply]) -> None:
    texts = [reply.text.strip() for reply in replies]
    if len(texts) < 2:
        raise RowError("missing_field", f"a ranking needs two replies or more, got {len(texts)}")
    if not all(texts):
        raise RowError("empty_reply", f"reply {texts.index('')} is empty")
    if len(set(texts)) < len(texts):
        raise RowError("identical_replies", "two replies are the same; one text cannot have two places")


def _read_judgements(value: Mapping[str, Any], k: int, source: str) -> Iterator[RankJudgement]:
    if value.get("judgements") is not None:
        for row in judgement_rows(value, "ranks"):
            yield RankJudgement(row["annotator"], row["at"], _read_ranks(row.get("ranks"), k), row["reason"])
    elif value.get("ranks") is not None:
        yield RankJudgement(source, "", _read_ranks(value["ranks"], k))
    elif value.get("best") is not None:
        best = value["best"]
        if isinstance(best, bool) or not isinstance(best, int) or not 0 <= best < k:
            raise RowError("bad_label", f"'best' is {reprlib.repr(best)}; it is the index of a reply, 0 to {k - 1}")
        yield RankJudgement(source, "", tuple(1 if place == best else None for place in range(k)))
    elif value.get("replies") is None:
        yield RankJudgement(source, "", tuple(range(1, k + 1)))
    else:
        raise RowError("missing_field", "replies without 'ranks', 'best' or 'judgements'")


def _read_ranks(value: object, k: int) -> tuple[int | None, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != k:
        raise RowError("bad_label", f"'ranks' must be a list of {k} numbers, one per reply")
    if any(rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1) for rank in value):
        raise RowError("bad_label", f"'ranks' are whole numbers from 1 (best) or null, got {reprlib.repr(value)}")
    counts = Counter(rank for rank in value if rank is not None)
    if not counts:
        raise RowError("bad_label", "no reply has a rank")
    if max(counts.values()) > MOST_TIED:
        raise RowError("bad_label", f"{max(counts.values())} replies share a rank; at most {MOST_TIED} may")
    return tuple(value)


def _judge(judgement: RankJudgement, i: int, j: int) -> Judgement:
    first, second = judgement.ranks[i], judgement.ranks[j]
    if first is None and second is None:
        return Judgement(judgement.annotator, judgement.at, "skip", reason=judgement.reason)
    if first == second:
        return Judgement(judgement.annotator, judgement.at, "tie", reason=judgement.reason)
    better = second is None or (first is not None and first < second)
    return Judgement(judgement.annotator, judgement.at, "prefer", -1 if better else 1, judgement.reason)
