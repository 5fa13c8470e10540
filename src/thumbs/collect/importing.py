"""Items from files that people have, and from lines that a script sends."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from thumbs.collect.errors import CollectError
from thumbs.collect.question import AnswerError, Axis, Question, read_answer
from thumbs.collect.records import Added, Answer, ItemRole, NewItem
from thumbs.collect.store import CollectStore
from thumbs.data.conversations import read_conversation, read_prompt_messages, with_system
from thumbs.data.formats import kind_of, plain_row, recognise
from thumbs.data.messages import as_prompt, require_trained
from thumbs.data.preferences import read_number, read_preference
from thumbs.data.prompts import check_prompt, read_prompt
from thumbs.data.rankings import read_ranking, read_reply
from thumbs.data.ratings import read_rating
from thumbs.data.reading import ignore, reading
from thumbs.data.replies import read_judged_reply
from thumbs.data.shapes import DataKind
from thumbs.data.sources import WARNINGS, Problem, Row, RowError, parse_json, read_mixed_lines, read_rows, read_text
from thumbs.records import Generator, Message, Preference, Ranking, Rating, Reply

QUALITY = Axis(key="quality", label="Quality", low=1, high=5, required=True)
"""What single replies are rated on, unless the project says otherwise."""
_QUESTIONS: Mapping[str, Question] = {
    "preferences": Question(kind="pair"),
    "rankings": Question(kind="rank"),
    "ratings": Question(kind="rate", axes=(QUALITY,)),
    "replies": Question(kind="rate", axes=(QUALITY,)),
    "prompts": Question(kind="write"),
    "conversations": Question(kind="rewrite"),
}
_MOST_JUDGEMENTS = 100
_OWN = frozenset(("prompt", "replies", "name", "id", "priority", "target", "role", "gold", "chosen_by"))
"""Keys of an item of our own."""


def question_for(kind: DataKind) -> Question:
    """What is asked of a file of that kind (see `thumbs.data.lint.detect_kind`) unless the user says otherwise: pairs
    are compared, rankings ranked, single replies rated, prompts answered, conversations' last replies rewritten.

    Raises CollectError for replies in steps, for which there is no task.
    """
    if kind not in _QUESTIONS:
        raise CollectError(f"there is no task for a file of {kind}; there are tasks for {', '.join(_QUESTIONS)}")
    return _QUESTIONS[kind]


@dataclass(frozen=True)
class Imported:
    """What came of rows: the items; by lines, the rows that are none or were refused; the keys that nothing reads."""

    added: Added
    problems: Sequence[Problem]
    ignored: Counter[str]


def import_items(
    store: CollectStore,
    project_id: int,
    given: str | Path | Iterable[str | bytes],
    *,
    source: str,
    by: int | None = None,
) -> Imported:
    """Adds the items of a file or of JSON lines to a project, as `read_items` reads them; `by` is the account."""
    question = store.projects.question(project_id)[1]
    problems: list[Problem] = []
    lines: list[int] = []
    ignored: Counter[str] = Counter()

    def items() -> Iterator[NewItem]:
        for read in read_items(given, question, source=source, ignored=ignored):
            if isinstance(read, NewItem):
                lines.append(read.line)
                yield read
            else:
                problems.append(read)

    added = store.items.add(project_id, items(), by)
    problems += [Problem(source, lines[place], "unsupported", why) for place, why in added.refused]
    return Imported(added, sorted(problems, key=lambda problem: problem.line), ignored)


def read_items(
    given: str | Path | Iterable[str | bytes],
    question: Question,
    *,
    source: str,
    ignored: Counter[str] | None = None,
) -> Iterator[NewItem | Problem]:
    """Items of a file (as `thumbs.data.sources.read_rows` reads them) or of JSON lines, and a Problem with its line in
    the place of each row that is none.

    A row is what the question is about in any form that our loaders know (a pair, a ranking, a rated or labelled reply,
    a prompt, a conversation) or an item of our own: {"prompt": text or messages, "replies": [text, messages or {"text",
    "generator": {…}}]} for every task that has replies, {"prompt"} where people write. Next to these may stand: name;
    priority, a number; target, judgements wanted; role, one of work, gold, attention, qualification; gold, the right
    answer in the order of the replies ({"verdict": "prefer", "strength": -2}, …), which makes the item a gold one
    unless it has another role; chosen_by, who picked these replies and how.

    Labels are nobody's judgement here; they stay with the item as chosen_by["labels"]. Replies that say who wrote them
    are noted in chosen_by["leaks"]. `source` is the generator of replies that name none; `ignored` counts the rows that
    have each key that nothing reads.
    """
    if question.kind == "chat":
        raise CollectError("the items of a chat are made as people talk; import pairs into a project of pairs")
    for row in _rows_of(given, question, source):
        if isinstance(row, Problem):
            if row.kind not in WARNINGS:
                yield row
            continue
        try:
            with reading(judged=False) as notes:
                item = replace(_noted(_item(row.value, question, source)), line=row.line)
            if ignored is not None:
                ignored.update(notes.ignored)
            yield item
        except RowError as error:
            yield Problem(row.source, row.line, error.kind, str(error))
        except (TypeError, ValueError, AttributeError) as error:
            yield Problem(row.source, row.line, "not_an_object", f"a part has the wrong shape: {error}")


def leaks(replies: Sequence[Reply]) -> list[tuple[int, str]]:
    """(slot, words) of each reply that says who wrote it, by its generator's name or as models introduce themselves."""
    found = []
    for slot, reply in enumerate(replies):
        names = _own_names(reply.generator)
        match = _INTRODUCTION.search(reply.text) or (names.search(reply.text) if names else None)
        if match:
            found.append((slot, match.group().strip()))
    return found


_MAKERS = (
    "openai|anthropic|google|deepmind|meta|mistral|alibaba|qwen|deepseek|xai|microsoft|cohere|nvidia|hugging ?face|"
    "stability|databricks|lmsys|ai2|zhipu|baidu|moonshot"
)
_MODELS = (
    r"chatgpt|gpt-?\d[\w.-]*|claude|gemini|gemma|bard|llama|mistral|mixtral|qwen|deepseek|grok|phi-?\d|vicuna|alpaca|"
    r"koala|dolly|falcon|smollm|command[- ]r|tulu|olmo|glm|kimi|ernie"
)
_MADE = r"\b(?:created|developed|trained|made|built|designed)\s+by\s+"
_INTRODUCTION = re.compile(
    rf"\b(?:I am|I'm|I’m|my name is)\s+(?:{_MODELS})\b"
    rf"|\b(?:I|I'm|I’m|AI|assistant|chatbot|model)\b[^.!?\n]{{0,60}}{_MADE}(?:the\s+\w+\s+at\s+)?(?:{_MAKERS})\b"
    rf"|\bas an? (?:AI |large )?language model,? {_MADE}\w+",
    re.IGNORECASE,
)


def _own_names(generator: Generator) -> re.Pattern[str] | None:
    """The generator's name as a whole word, where it is one that no prose holds by chance: a digit or 6 letters."""
    name = generator.name.rsplit("/", 1)[-1]
    if generator.kind != "model" or not (len(name) >= 6 or re.search(r"\d", name)) or len(name) < 3:
        return None
    return re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)


def _noted(item: NewItem) -> NewItem:
    if not (told := leaks(item.replies)):
        return item
    return replace(item, chosen_by={**item.chosen_by, "leaks": [list(leak) for leak in told]})


def _rows_of(given: str | Path | Iterable[str | bytes], question: Question, source: str) -> Iterator[Row | Problem]:
    if isinstance(given, str | Path):
        return read_mixed_lines(given) if question.kind == "write" else read_rows(given)
    return _json_rows(given, source)


def _json_rows(lines: Iterable[str | bytes], source: str) -> Iterator[Row | Problem]:
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8") if isinstance(line, bytes) else line
            if text.strip():
                yield Row(number, parse_json(text), source)
        except UnicodeDecodeError as error:
            yield Problem(source, number, "bad_text", f"not UTF-8: {error.reason} at byte {error.start}")
        except ValueError as error:
            yield Problem(source, number, "bad_json", str(error))


def _item(value: object, question: Question, source: str) -> NewItem:
    if isinstance(value, Mapping) and not value.get("judgements") and _is_ours(value, question):
        return _own_item(value, question, source)
    return _READERS[question.kind](value, source)


def _is_ours(value: Mapping[str, Any], question: Question) -> bool:
    """Whether the row is an item, not a row of training data: replies without a judgement of them."""
    labels = ("ranks", "best", "rating", "ratings", "label")
    if question.replies[1] == 0:
        return value.get("prompt") is not None
    return value.get("replies") is not None and all(value.get(key) is None for key in labels)


def _own_item(value: Mapping[str, Any], question: Question, source: str) -> NewItem:
    value, system = plain_row(value)
    if "prompt" not in value:
        raise RowError("missing_field", "no 'prompt'")
    if question.replies[1] == 0:  # other keys may say that the row is more than a prompt
        recognise({key: item for key, item in value.items() if key == "prompt" or key not in _OWN}, "prompts")
    else:
        ignore(*(key for key in value if key not in _OWN))
    prompt = with_system(as_prompt(read_prompt_messages(value["prompt"])), system)
    check_prompt(prompt)
    given = value.get("replies") or []
    if not isinstance(given, list):
        raise RowError("missing_field", f"'replies' must be a list, got {type(given).__name__}")
    replies = tuple(read_reply(reply, source, "replies") for reply in given)
    role = value.get("role") or ("gold" if value.get("gold") is not None else "work")
    if role not in get_args(ItemRole):
        raise RowError("bad_label", f"role {role!r}; use one of {', '.join(get_args(ItemRole))}")
    gold = _gold(value.get("gold"), question, len(replies))
    if (role == "work") != (gold is None):
        raise RowError(
            "bad_label", f"an item with the role {role!r} has {'no' if role == 'work' else 'a'} 'gold' answer"
        )
    return NewItem(
        messages=prompt,
        replies=replies,
        name=read_text(str(value.get("name") or value.get("id") or ""), "name"),
        priority=read_number(value.get("priority") or 0.0, "priority"),
        target=_target(value.get("target")),
        role=role,
        gold=gold,
        chosen_by=_object(value.get("chosen_by"), "chosen_by") or {"policy": "file", "source": source},
    )


def _gold(value: object, question: Question, k: int) -> Answer | None:
    if value is None:
        return None
    try:
        return read_answer(question, range(k), _object(value, "gold"))
    except AnswerError as error:
        raise RowError("bad_label", f"gold{error}") from None


def _object(value: object, field: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise RowError("not_an_object", f"{field!r} must be an object, got {type(value).__name__}")
    return dict(value or {})


def _target(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_JUDGEMENTS:
        raise RowError("bad_label", f"'target' is a whole number from 1 to {_MOST_JUDGEMENTS}, got {value!r}"[:200])
    return value


def _labelled(
    messages: Sequence[Message], replies: Sequence[Reply], source: str, labels: Sequence[Any] = (), name: str = ""
) -> NewItem:
    chosen_by: dict[str, Any] = {"policy": "file", "source": source}
    if labels:
        chosen_by["labels"] = list(labels)
    return NewItem(tuple(messages), tuple(replies), name=name, chosen_by=chosen_by)


def _judged(read: Callable[[object, str], Preference | Ranking | Rating], value: object, source: str) -> NewItem:
    row = read(value, source)
    replies = (row.reply,) if isinstance(row, Rating) else row.replies
    return _labelled(row.prompt, replies, source, [asdict(one) for one in row.judgements], row.id)


def _rating(value: object, source: str) -> NewItem:
    if kind_of(value) != "replies":
        return _judged(read_rating, value, source)
    told = read_judged_reply(value)
    return _last_reply(told.messages, source, [{"desirable": told.desirable}])


def _prompt(value: object, source: str) -> NewItem:
    row = read_prompt(value)
    return _labelled(row.messages, (), source, name=row.id)


def _conversation(value: object, source: str) -> NewItem:
    return _last_reply(read_conversation(value), source)


def _last_reply(messages: Sequence[Message], source: str, labels: Sequence[Any] = ()) -> NewItem:
    if messages[-1].role != "assistant":
        raise RowError("no_assistant_turn", "the conversation does not end with a reply to judge or to rewrite")
    require_trained(messages[-1], "messages")
    check_prompt(tuple(messages[:-1]))
    return _labelled(as_prompt(messages[:-1]), [Reply(messages[-1].content, Generator("file", source))], source, labels)


_READERS: Mapping[str, Callable[[object, str], NewItem]] = {
    "pair": partial(_judged, read_preference),
    "rank": partial(_judged, read_ranking),
    "rate": _rating,
    "write": _prompt,
    "rewrite": _conversation,
}
