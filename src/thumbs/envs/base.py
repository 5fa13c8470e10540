"""What a policy can talk to: conversations of several turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from thumbs.records import Message, Prompt


@dataclass(frozen=True)
class Turn:
    """What an environment answers to a reply: a reward (score units), whether the conversation is done, and where it is
    not the messages that follow.
    """

    reward: float = 0.0
    done: bool = True
    messages: tuple[Message, ...] = ()


class MessageEnv(Protocol):
    """One conversation."""

    def first(self) -> tuple[Message, ...]:
        """The messages that await the policy's first reply."""
        ...

    def step(self, reply: str) -> Turn:
        """What follows from a reply, its text without the end token."""
        ...


MakeEnv: TypeAlias = Callable[[Prompt], MessageEnv]
"""An environment for a prompt; one for each rollout, so it may keep what it needs."""


class SingleTurn:
    """A prompt and one reply, with a reward where `score` gives one."""

    def __init__(self, prompt: Prompt, score: Callable[[Prompt, str], float] | None = None) -> None:
        self.prompt, self.score = prompt, score

    def first(self) -> tuple[Message, ...]:
        """The prompt's messages."""
        return self.prompt.messages

    def step(self, reply: str) -> Turn:
        """The end."""
        return Turn(0.0 if self.score is None else self.score(self.prompt, reply))
