"""The records that the store gives out: rows as frozen values, the task that a person sees, the answer they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from thumbs.records import Message, Reply

Verdict = Literal["prefer", "tie", "both_bad", "skip", "rank", "rate", "write"]
Role = Literal["owner", "admin", "reviewer", "annotator", "viewer"]
ROLES: tuple[Role, ...] = get_args(Role)
ItemRole = Literal["work", "gold", "attention", "qualification"]
ITEM_ROLES: tuple[ItemRole, ...] = get_args(ItemRole)
ItemState = Literal["open", "done", "retired"]
STATES: tuple[ItemState, ...] = get_args(ItemState)
ProjectState = Literal["open", "paused", "closed"]
TokenScope = Literal["ingest", "export", "admin"]
"""What an API token is for."""
Source = Literal["prolific", "mturk"]
"""Where hired workers come from."""
NoTask = Literal[
    "done", "all_leased", "waiting", "quota", "paused", "closed", "not_qualified", "not_invited", "your_turn"
]
"""Why there is no task: all are judged; others hold the rest; replies are being written; one's share is done; …;
in a chat it is the person's turn to write.
"""


@dataclass(frozen=True)
class Answer:
    """What a person said of an item, replies in the order of its slots.

    strength: -4 … -1 the first, 1 … 4 the second reply is better; axes: -4 … 4 likewise, 0 is equal; ranks: one per
    slot, 1 is best, equal numbers are ties, without gaps; ratings: {axis: number}, one per slot; flags: one tuple per
    slot. text: what was written; reason: why.
    """

    verdict: Verdict
    strength: int = 0
    axes: Mapping[str, int] = field(default_factory=dict)
    ranks: tuple[int, ...] = ()
    ratings: tuple[Mapping[str, int], ...] = ()
    flags: tuple[tuple[str, ...], ...] = ()
    text: str = ""
    reason: str = ""
    skip_reason: str = ""


@dataclass(frozen=True)
class Project:
    """A body of work: one question, one set of items, some people."""

    id: int
    slug: str
    name: str
    state: ProjectState
    settings: Mapping[str, Any]
    created: datetime


@dataclass(frozen=True)
class Version:
    """A version of a project's question (body: JSON text) or guidelines (body: Markdown)."""

    id: int
    project_id: int
    version: int
    body: str
    sha256: str
    created_by: int | None
    created: datetime


@dataclass(frozen=True)
class Account:
    """A person, or a script that speaks for one."""

    id: int
    handle: str
    name: str
    role: Role
    disabled: bool
    created: datetime


@dataclass(frozen=True)
class Task:
    """What a person is asked, and nothing that would tell who wrote what.

    replies and cut (it ran into the length limit) stand in display order; `earlier` is their own last answer, in
    display order as the page sends it, where the task is looked at again; hidden: (filter, reason) by the text that one
    of them found something in.
    """

    assignment: str
    kind: str
    question: Mapping[str, Any]
    question_version: int
    guideline_version: int
    messages: tuple[Message, ...]
    replies: tuple[str, ...]
    cut: tuple[bool, ...]
    expires: datetime
    revision: int = 0
    earlier: Mapping[str, Any] | None = None
    hidden: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Past:
    """A line of a person's own history."""

    assignment: str
    item: int
    revision: int
    verdict: Verdict
    strength: int
    excerpt: str
    at: datetime


@dataclass(frozen=True)
class Saved:
    """An acknowledged judgement. replayed: it was here already; late: its lease had run out, which costs it nothing."""

    assignment: str
    revision: int
    replayed: bool
    late: bool


@dataclass(frozen=True)
class Effort:
    """What an answer took: active_ms is the time seen and touched, wall_ms from showing to sending."""

    active_ms: int = 0
    wall_ms: int = 0
    input: Literal["key", "pointer", "touch", "api"] = "api"


@dataclass(frozen=True)
class Vote:
    """A judgement that stands (the last of its revisions), with what statistics need.

    answer: what it says in terms of the better reply, whatever was asked; given: as the person gave it, None: the same.
    version: of the question; direction: the question's. display: the slot shown at each place; display[0] was left, or
    on top.
    """

    judgement: int
    assignment: str
    item: int
    account: int
    question: int
    guideline: int
    answer: Answer
    display: tuple[int, ...]
    active_ms: int
    wall_ms: int
    late: bool
    at: datetime
    given: Answer | None = None
    version: int = 1
    direction: str = "better"

    @property
    def as_given(self) -> Answer:
        """The answer to the question as it was asked."""
        return self.answer if self.given is None else self.given


@dataclass(frozen=True)
class ItemFacts:
    """What statistics need of an item: who wrote each slot (generator ids), how long it is (characters), and of an item
    whose answer is known that answer, in terms of the better reply.
    """

    item: int
    kind: str
    role: ItemRole
    generators: tuple[int, ...]
    lengths: tuple[int, ...]
    gold: Answer | None = None


@dataclass(frozen=True)
class NewItem:
    """What is to be judged. `chosen_by` says who picked these replies and how: {"policy": "random"} or
    {"policy": "uncertain", "of": 10, "propensity": 0.1, …}. `gold` is the right answer where there is one; `line` is
    where it stood in its file.
    """

    messages: tuple[Message, ...]
    replies: tuple[Reply, ...] = ()
    name: str = ""
    priority: float = 0.0
    target: int | None = None
    role: ItemRole = "work"
    gold: Answer | None = None
    chosen_by: Mapping[str, Any] = field(default_factory=dict)
    conversation: str | None = None
    line: int = field(default=0, compare=False)


@dataclass
class Added:
    """What came of new items: how many are new, how many were there already, (place, why) of those refused, and of
    those accepted, new or not, the ids in their order.
    """

    created: int = 0
    existing: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Texts:
    """What an item puts before people, replies in the order of its slots, each with its generator."""

    item: int
    name: str
    conversation: str | None
    chosen_by: Mapping[str, Any]
    messages: tuple[Message, ...]
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class ItemRecord:
    """An item with its counters; `gold` is the right answer as kept, None if nobody knows it."""

    id: int
    project_id: int
    prompt_id: int
    question_id: int
    conversation_id: str | None
    key: str
    priority: float
    target: int
    n_live: int
    n_done: int
    n_skip: int
    state: ItemState
    role: ItemRole
    gold: Mapping[str, Any] | None
    chosen_by: Mapping[str, Any]
    created: datetime


@dataclass(frozen=True)
class Event:
    """A line of the audit log; `digest` covers it and the digest of the line before."""

    id: int
    at: datetime
    account_id: int | None
    project_id: int | None
    action: str
    data: Mapping[str, Any]
    previous: str
    digest: str
