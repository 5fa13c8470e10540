"""From a source to rows that a stage can use: read, checked, measured, and counted where left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from thumbs.config.data import DataConfig
from thumbs.data.conversations import read_conversation
from thumbs.data.messages import Conversation
from thumbs.data.preferences import read_preference
from thumbs.data.prompts import read_prompt
from thumbs.data.rankings import pairs_of, read_ranking
from thumbs.data.ratings import pairs_of_ratings, read_rating, read_stepped_reply
from thumbs.data.reading import note_oddities, reading
from thumbs.data.replies import JudgedReply, read_judged_reply
from thumbs.data.safety import read_safety
from thumbs.data.shapes import DataKind
from thumbs.data.sources import WARNINGS, Problem, Row, RowError, read_rows
from thumbs.data.tokenizers import Tokenizer, training_sequences
from thumbs.errors import DataError
from thumbs.records import Message, Preference, Prompt, Ranking, Rating, Reply, SafetyPair, SteppedReply

Judged = Preference | Ranking | Rating | SteppedReply
T = TypeVar("T")
J = TypeVar("J", Preference, Ranking, Rating, SteppedReply)

_SHOWN = 30
"""Runs of lines that a summary names of a kind of problem."""

MOST_TIMES = 1000
"""A weight that needs the same rows more often is a mistake."""
_KEYS = 40
_BOOKKEEPING = ("id", "uid", "uuid", "idx", "index", "source", "dataset", "split", "category", "language", "metadata")
"""Keys that many files have and training does not need; they are named after the others."""


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """What came of a source: usable rows with their lengths (tokens), what was wrong, how many rows there were, and
    which keys of the usable rows nothing reads, with the number of rows that have each.
    """

    source: str
    rows: list[T]
    lengths: list[int]
    problems: list[Problem]
    total: int
    ignored: Mapping[str, int] = field(default_factory=dict)
    origins: list[tuple[str, int]] = field(default_factory=list)
    """Source and line of each row, where the rows are those of a source."""
    mixture: str = ""
    """How many rows of each source there are, where they were mixed by weight."""

    def summary(self) -> str:
        """Rows left of all, and every kind of problem, those that cost a row first: where, how many, and the first."""
        by_kind: dict[str, list[Problem]] = {}
        for problem in sorted(self.problems, key=lambda problem: problem.kind in WARNINGS):
            by_kind.setdefault(problem.kind, []).append(problem)
        lines = [self.mixture] if self.mixture else []
        lines += ignored_text(self.ignored)
        for kind, each in by_kind.items():
            lines.append(f"{_places(each)}: {f'{len(each)} ' if len(each) > 1 else ''}{kind}: {each[0].text}")
        return "\n  ".join([f"{self.source}: {len(self.rows)} of {self.total} rows usable", *lines])


def _places(problems: Sequence[Problem]) -> str:
    """`a.jsonl:2, 5-7, 9`; of many runs of lines the first, and how many lines are left."""
    in_order = groupby(enumerate(problems), lambda at: (at[1].source, at[1].line - at[0]))
    runs = [[problem for _, problem in run] for _, run in in_order]
    shown, source = "", ""
    for first, *rest in runs[:_SHOWN]:
        place = f"{first.line}-{rest[-1].line}" if rest else str(first.line)
        named = place if first.source == source else f"{first.source}:{place}"
        shown += f"{', ' if shown else ''}{named.removesuffix(':0')}"  # line 0 stands for the whole
        source = first.source
    left = sum(map(len, runs[_SHOWN:]))
    return f"{shown} and {left} more" if left else shown


def ignored_text(ignored: Mapping[str, int]) -> list[str]:
    """The line that names the keys which nothing reads, the most frequent first and mere bookkeeping last; empty
    without any.
    """
    keys = sorted(ignored, key=lambda key: (key.rpartition("_")[2] in _BOOKKEEPING, -ignored[key], key))
    if not keys:
        return []
    shown = ", ".join(f"{key} ({ignored[key]} row{'s' * (ignored[key] != 1)})" for key in keys[:_KEYS])
    more = f" and {len(keys) - _KEYS} more" if len(keys) > _KEYS else ""
    return [f"ignored keys: {shown}{more}"]


@dataclass(frozen=True)
class Form(Generic[T]):
    """One form of training data: how a row is read, measured (tokens), and told from others; the texts of its replies,
    if they stand apart from its messages; and how a source is cut into rows.
    """

    read: Callable[[object], T]
    measure: Callable[[T, Tokenizer], int]
    key: Callable[[T], Hashable] = lambda row: row
    texts: Callable[[T], Sequence[str]] = lambda row: ()
    drop_duplicates: bool = False
    rows: Callable[[str | Path], Iterator[Row | Problem]] = read_rows

    def load(self, config: DataConfig, tokenizer: Tokenizer, system: str | None = None) -> Loaded[T]:
        """Rows of this form of a source.

        `system` goes in front of every row that has no system message; ids of prompts do not change with it. Rows that
        are faulty or longer than config.max_tokens, the longest reply counting, are left out and counted; equal rows
        are kept and noted, but a prompt that comes again is left out. Raises DataError when fewer than min_rows, or
        less than min_kept of all rows, are usable.
        """
        loaded = read_all(config.paths, self, tokenizer, system, config.max_tokens, config.axis)
        _check_enough(loaded, config)
        weights = {source.path: source.weight for source in config.sources if source.weight is not None}
        loaded = _mixed(loaded, weights) if weights else loaded
        ids: dict[str, int] = {}
        return replace(loaded, rows=[_identified(row, ids) for row in loaded.rows])


def load_pairs(
    config: DataConfig, form: Literal["pairs", "rankings", "ratings"], tokenizer: Tokenizer, system: str | None = None
) -> Loaded[Preference]:
    """Preference pairs of a source of pairs, or all pairs that its rankings, or its rated replies to one prompt, hold.

    `total` and the problems are of the source's rows; the length of a pair made of rows is that of the longest row.
    """
    if form == "pairs":
        return PREFERENCES.load(config, tokenizer, system)
    loaded = FORMS[form].load(config, tokenizer, system)
    if form == "rankings":
        pairs = [pair for ranking in loaded.rows for pair in pairs_of(ranking)]
    else:
        pairs = pairs_of_ratings(loaded.rows)
        if not pairs:
            raise DataError(f"{loaded.source}: no two replies to one prompt are rated, so there are no pairs")
    ids: dict[str, int] = {}
    pairs, lengths = [_identified(pair, ids) for pair in pairs], [max(loaded.lengths)] * len(pairs)
    return Loaded(loaded.source, pairs, lengths, loaded.problems, loaded.total, loaded.ignored)


def load_graded(
    config: DataConfig,
    form: Literal["pairs", "rankings", "ratings", "steps", "safety"],
    tokenizer: Tokenizer,
    system: str | None = None,
) -> Loaded[Preference] | Loaded[Ranking] | Loaded[Rating] | Loaded[SteppedReply] | Loaded[SafetyPair]:
    """Rows of that form, whatever a reward model learns from."""
    return FORMS["preferences" if form == "pairs" else form].load(config, tokenizer, system)


def read_all(
    paths: str | Path | Sequence[str],
    form: Form[T],
    tokenizer: Tokenizer,
    system: str | None,
    max_tokens: int | None,
    axis: str | None = None,
) -> Loaded[T]:
    """Everything in a source, or in several as if they were one, usable or not.

    Raises DataError only when there is no such source.
    """
    names = [paths] if isinstance(paths, str | Path) else paths
    loaded: Loaded[T] = Loaded(", ".join(map(str, names)), [], [], [], 0)
    seen: dict[Hashable, tuple[T, Row]] = {}
    ignored: Counter[str] = Counter()
    total, axis_used = 0, False
    for item in chain.from_iterable(form.rows(name) for name in names):
        total += isinstance(item, Row) or (item.line > 0 and item.kind not in WARNINGS)
        if isinstance(item, Problem):
            loaded.problems.append(item)
            continue
        try:
            with reading(axis) as notes:
                row, length = _examine(item, form, tokenizer, system, max_tokens)
        except RowError as error:
            loaded.problems.append(Problem(item.source, item.line, error.kind, str(error)))
            continue
        axis_used = axis_used or notes.axis_used
        loaded.problems.extend(Problem(item.source, item.line, kind, text) for kind, text in notes.remarks)
        ignored.update(notes.ignored)
        first, place = seen.setdefault(form.key(row), (row, item))
        if place is not item:
            again = f"line {place.line}" if place.source == item.source else f"line {place.line} of {place.source}"
            if form.drop_duplicates and first != row:
                text = f"the prompt of {again} once more, with another answer; one prompt has one right answer"
                loaded.problems.append(Problem(item.source, item.line, "bad_label", text))
                continue
            loaded.problems.append(Problem(item.source, item.line, "duplicate", f"the same as {again}"))
            if form.drop_duplicates:
                continue
        loaded.rows.append(row)
        loaded.lengths.append(length)
        loaded.origins.append((item.source, item.line))
    if axis is not None and loaded.rows and not axis_used:
        text = f"axis {axis!r} is given, and no row has several judgements to choose from; leave it out"
        loaded.problems.append(Problem(loaded.source, 0, "wrong_format", text))
    return replace(loaded, total=total, ignored=dict(ignored))


def _identified(row: T, ids: dict[str, int]) -> T:
    """The row under an id that no row before it has: what a file calls `id` may be that of a prompt, or of nothing.

    ids: how often each id was asked for; the second row of an id gets "id#2".
    """
    own: str | None = getattr(row, "id", None)
    if own is None or isinstance(row, Prompt):
        return row
    name = own
    while name in ids:
        ids[own] += 1
        name = f"{own}#{ids[own]}"
    ids[name] = 1
    return replace(row, id=name)  # type: ignore[type-var]


def _examine(
    item: Row, form: Form[T], tokenizer: Tokenizer, system: str | None, max_tokens: int | None
) -> tuple[T, int]:
    row = with_system(form.read(item.value), system)
    note_oddities(_messages(row), form.texts(row))
    length = form.measure(row, tokenizer)
    if max_tokens is not None and length > max_tokens:
        raise RowError("too_long", f"{length} tokens, more than max_tokens = {max_tokens}")
    return row, length


def _check_enough(loaded: Loaded[Any], config: DataConfig) -> None:
    """Raises DataError if a source could not be read to its end, or too few of its rows are usable."""
    kept = len(loaded.rows)
    if whole := [problem for problem in loaded.problems if problem.line == 0]:
        what = "cannot be read to its end" if whole[0].kind == "unreadable" else "is not as it should be"
        raise DataError(f"the data {what}\n{loaded.summary()}")
    if not loaded.total:
        raise DataError(f"{loaded.source}: the file is empty, 0 usable rows")
    if kept < config.min_rows:
        raise DataError(f"{kept} usable rows, min_rows asks for {config.min_rows}\n{loaded.summary()}")
    if kept < config.min_kept * loaded.total:
        raise DataError(
            f"{kept} of {loaded.total} rows are usable, min_kept asks for {config.min_kept:.0%}; mend the "
            f"data, raise max_tokens, or lower min_kept\n{loaded.summary()}"
        )


def _mixed(loaded: Loaded[T], weights: Mapping[str, float]) -> Loaded[T]:
    """The rows, some of them again, so that the sources have shares as their weights say and no row is left out.

    With n rows of each source and weight w there are w · max(n / w) rows of it. Raises DataError if a source has
    no usable row, or its rows would have to come more than MOST_TIMES times each.
    """
    of = {name: [i for i, (source, _) in enumerate(loaded.origins) if source == name] for name in weights}
    if missing := [name for name, places in of.items() if not places]:
        raise DataError(f"{', '.join(missing)}: no usable row, so it cannot have the share that its weight asks for")
    scale = max(len(places) / weights[name] for name, places in of.items())
    order: list[int] = []
    parts = []
    for name, places in of.items():
        wanted = max(round(weights[name] * scale), len(places))
        if wanted > MOST_TIMES * len(places):
            raise DataError(
                f"{name}: {len(places)} usable rows would come {wanted / len(places):.0f} times each to have the share "
                f"that its weight asks for; at most {MOST_TIMES} times: lower its weight, or add rows"
            )
        times, more = divmod(wanted, len(places))
        order += places * times + [places[i * len(places) // more] for i in range(more)]  # spread over the source
        parts.append(f"{wanted} of {name}" + (f" (its {len(places)} rows again)" if wanted > len(places) else ""))
    return replace(
        loaded,
        rows=[loaded.rows[i] for i in order],
        lengths=[loaded.lengths[i] for i in order],
        origins=[loaded.origins[i] for i in order],
        mixture="mixed by weight: " + ", ".join(parts),
    )


def _field(row: object) -> str:
    """The field of a row that holds its messages; empty for a conversation, which is them."""
    return "" if isinstance(row, tuple) else "messages" if isinstance(row, Prompt | JudgedReply) else "prompt"


def _messages(row: Any) -> Conversation:
    return getattr(row, _field(row)) if _field(row) else row


def with_system(row: T, system: str | None) -> T:
    """The row with a system message in front, unless it has one."""
    messages = _messages(row)
    if system is None or messages[0].role == "system":
        return row
    messages = (Message("system", system), *messages)
    return replace(row, **{_field(row): messages}) if _field(row) else messages  # type: ignore[type-var,return-value]


def _replies(row: Judged) -> tuple[Reply, ...]:
    return row.replies if isinstance(row, Preference | Ranking) else (row.reply,)


def _texts(row: Judged) -> tuple[str, ...]:
    return row.steps if isinstance(row, SteppedReply) else tuple(reply.text for reply in _replies(row))


def _measure_conversation(messages: Conversation, tokenizer: Tokenizer) -> int:
    """Length of the longest sequence that the conversation is trained as."""
    sequences = training_sequences(tokenizer, messages)
    if not sequences:
        raise RowError("empty_mask", "the chat template leaves nothing of the assistant's turns to learn from")
    return max(len(tokens) for tokens, _ in sequences)


def _measure_reply(messages: Conversation, tokenizer: Tokenizer) -> int:
    tokens, mask = tokenizer.render(messages)
    if not any(mask):
        raise RowError("empty_mask", "the chat template leaves nothing of the assistant's turns to learn from")
    return len(tokens)


def _judged(read: Callable[[object], J]) -> Form[J]:
    """A form of replies to a prompt with judgements."""
    return Form(
        read,
        lambda row, tokenizer: max(
            _measure_reply((*row.prompt, Message("assistant", reply.text)), tokenizer) for reply in _replies(row)
        ),
        lambda row: (row.prompt, _texts(row), row.judgements),
        _texts,
    )


CONVERSATIONS = Form(read_conversation, _measure_conversation)
PREFERENCES = _judged(read_preference)
RANKINGS = _judged(read_ranking)
SAFETY = Form(
    read_safety,
    lambda row, tokenizer: max(
        _measure_reply((*row.prompt, Message("assistant", reply.text)), tokenizer) for reply in row.replies
    ),
    lambda row: (row.prompt, *(reply.text for reply in row.replies), row.unsafe, row.safer),
    lambda row: tuple(reply.text for reply in row.replies),
)
RATINGS = _judged(read_rating)
STEPS = _judged(read_stepped_reply)
REPLIES = Form(read_judged_reply, lambda row, tokenizer: _measure_reply(row.messages, tokenizer))
PROMPTS = Form(
    read_prompt,
    lambda row, tokenizer: len(tokenizer.render_prompt(row.messages)),
    key=lambda row: row.id,
    drop_duplicates=True,
)
FORMS: Mapping[DataKind, Form[Any]] = {
    "conversations": CONVERSATIONS,
    "preferences": PREFERENCES,
    "prompts": PROMPTS,
    "rankings": RANKINGS,
    "ratings": RATINGS,
    "steps": STEPS,
    "replies": REPLIES,
    "safety": SAFETY,
}

load_conversations = CONVERSATIONS.load
load_preferences = PREFERENCES.load
load_rankings = RANKINGS.load
load_ratings = RATINGS.load
load_stepped_replies = STEPS.load
load_replies = REPLIES.load
load_safety = SAFETY.load
load_prompts = PROMPTS.load
