"""A conversation with one or two policies of a run, and what the person thinks of their replies."""

from __future__ import annotations

import datetime
import getpass
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from thumbs.data.preferences import PreferenceStore, content_id
from thumbs.errors import RunError
from thumbs.pipeline.reply_source import PolicySource
from thumbs.records import Judgement, Message, Preference, Reply

VOTES = "votes.jsonl"
"""The file in a run folder in which votes are kept; `labels.data.path` reads it."""

_TURNS = 1_000_003
"""Seeds of replies lie so far apart that no two chats of nearby seeds draw alike."""

Verdict = Literal["first", "second", "tie", "both_bad"]


@dataclass
class Dialogue:
    """One policy, or two whose replies are shown in an order that their names cannot be told from.

    votes: where votes are kept; None if there is nothing to compare. The same seed and the same words give the same
    replies in the same order.
    """

    policies: Sequence[PolicySource]
    votes: PreferenceStore | None = None
    seed: int = 0
    messages: list[Message] = field(default_factory=list)
    _turn: int = 0
    _replies: list[Reply] = field(default_factory=list)

    def ask(self, text: str) -> list[Reply]:
        """A reply of each policy, in the order in which they are to be shown.

        A message that no policy can answer, because the conversation has become too long, is not kept.
        """
        return self._answer([*self.messages, Message("user", text)])

    def again(self) -> list[Reply]:
        """Other replies to the last message; raises RunError before the first."""
        if not self.messages:
            raise RunError("there is no message yet that could be answered again")
        return self._answer(self.messages[:-1])

    def _answer(self, asked: list[Message]) -> list[Reply]:
        self._turn += 1
        order = [int(i) for i in np.random.default_rng([self.seed, self._turn]).permutation(len(self.policies))]
        draws = self.seed * _TURNS + self._turn
        self._replies = [self.policies[i].write(asked, 1, draws)[0] for i in order]
        self.messages = [*asked, Message("assistant", self._replies[0].text)]
        return list(self._replies)

    def vote(self, verdict: Verdict) -> bool:
        """Keeps a vote on the two last replies; the conversation goes on from the better one.

        False if the replies are the same, and nothing can be learned from them. A pair has one vote: the first.
        """
        if self.votes is None or len(self._replies) != 2:
            raise RunError("there are no two replies to vote on; start with --against STAGE")
        first, second = self._replies
        if verdict == "second":
            self.messages[-1] = Message("assistant", second.text)
        if first.text.strip() == second.text.strip() or not first.text.strip() or not second.text.strip():
            return False
        asked = tuple(self.policies[0].asked(self.messages[:-1]))
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        who = getpass.getuser()
        if verdict in ("first", "second"):
            judgement = Judgement(who, at, "prefer", -1 if verdict == "first" else 1)
        else:
            judgement = Judgement(who, at, verdict)
        identity = content_id(asked, (first.text, second.text))
        self.votes.append([Preference(identity, asked, (first, second), (judgement,))])
        return True

    def forget(self) -> None:
        """Starts a new conversation."""
        self.messages.clear()
        self._replies.clear()
