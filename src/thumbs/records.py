"""The records that cross borders between parts: frozen, complete, numpy, no torch.

Conventions (docs/concepts.md): every per-token array is indexed by its *target*. A sequence of N tokens has
T = N - 1 targets; entry t belongs to token t + 1. `mask[t] == 1` exactly when the policy sampled that target and
it counts. Arrays are ragged here; `engine/batch.py` is the only place that packs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Role = Literal["system", "user", "assistant"]
StopReason = Literal["stop", "length", "turns", "context"]
"""stop: the model ended its reply; length: the limit cut it; a conversation of several turns may also be over because
it had as many as it may (turns) or no room for another reply (context).
"""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `trained`: whether SFT learns it, if it is the assistant's; a turn with False is only
    read.
    """

    role: Role
    content: str
    trained: bool = True


@dataclass(frozen=True)
class Prompt:
    """Messages that await an answer; `id` is stable across runs and splits; `answer` is the right one, if known.

    as_text: whether it was written as text, and not as messages.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str | None = None
    as_text: bool = False


@dataclass(frozen=True)
class Generator:
    """Who made a reply: provenance that travels with every preference."""

    kind: Literal["model", "human", "file"]
    name: str
    checkpoint: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class Reply:
    """One answer to a prompt and where it came from."""

    text: str
    generator: Generator
    stop_reason: StopReason = "stop"


@dataclass(frozen=True)
class Judgement:
    """One annotator's verdict on a pair.

    verdict "prefer": strength is -4..-1 (first reply better) or +1..+4 (second better), in steps, never 0.
    verdict "tie" or "both_bad" or "skip": strength is 0.
    """

    annotator: str
    at: str
    verdict: Literal["prefer", "tie", "both_bad", "skip"]
    strength: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Preference:
    """A prompt, two replies and every judgement passed on them (several annotators, ties kept).

    margin: by how much one should be ahead (score units), where training asks for it; weight: how much the pair counts
    next to others.
    """

    id: str
    prompt: tuple[Message, ...]
    replies: tuple[Reply, Reply]
    judgements: tuple[Judgement, ...]
    margin: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class SafetyPair:
    """A prompt and two replies; unsafe: P(unsafe) of each, 1, 0 or a share of judges; safer: P(the first is the safer
    one), 0.5 for a tie.
    """

    id: str
    prompt: tuple[Message, ...]
    replies: tuple[Reply, Reply]
    unsafe: tuple[float, float]
    safer: float


@dataclass(frozen=True)
class RankJudgement:
    """One annotator's order of K replies: ranks[i] of replies[i], 1 is best, equal ranks are ties, None is worse than
    all ranked ones in an order that was not given.
    """

    annotator: str
    at: str
    ranks: tuple[int | None, ...]
    reason: str = ""


@dataclass(frozen=True)
class Ranking:
    """A prompt, K replies and every annotator's order of them."""

    id: str
    prompt: tuple[Message, ...]
    replies: tuple[Reply, ...]
    judgements: tuple[RankJudgement, ...]


@dataclass(frozen=True)
class RatingJudgement:
    """One annotator's number for a reply, in units of the scale that the data uses; more is better."""

    annotator: str
    at: str
    value: float
    reason: str = ""


@dataclass(frozen=True)
class Rating:
    """A prompt, a reply and every annotator's number for it."""

    id: str
    prompt: tuple[Message, ...]
    reply: Reply
    judgements: tuple[RatingJudgement, ...]


@dataclass(frozen=True)
class StepJudgement:
    """One annotator's numbers for the steps of a reply: 1 is right, 0 is wrong, None was not judged."""

    annotator: str
    at: str
    labels: tuple[float | None, ...]
    reason: str = ""


@dataclass(frozen=True)
class SteppedReply:
    """A prompt, the steps whose texts make the reply, one after the other, and every annotator's labels of them."""

    id: str
    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    generator: Generator
    judgements: tuple[StepJudgement, ...]

    @property
    def reply(self) -> Reply:
        """The whole reply."""
        return Reply("".join(self.steps), self.generator)


@dataclass(frozen=True, eq=False)
class Sample:
    """One sampler answer: the sampled tokens (EOS kept) and their logprobs (nats, at the sampling temperature)."""

    tokens: np.ndarray
    logprobs: np.ndarray
    stop_reason: StopReason
    policy_version: int


@dataclass(frozen=True, eq=False)
class Rollout:
    """A finished conversation as tokens.

    tokens int64 [N]; prompt_length: how many of them stand before the first reply; mask, logprobs float32 [N - 1].
    text: the last reply; messages: the whole conversation with it; answer, as_text: those of the prompt.
    rewards: what an environment gave at each target (score units), [N - 1], where there was one.
    """

    prompt_id: str
    tokens: np.ndarray
    prompt_length: int
    mask: np.ndarray
    logprobs: np.ndarray
    stop_reason: StopReason
    policy_version: int
    text: str
    messages: tuple[Message, ...] = ()
    answer: str | None = None
    rewards: np.ndarray | None = None
    as_text: bool = False

    @property
    def reply_length(self) -> int:
        """Number of sampled tokens, EOS included."""
        return int(self.mask[self.prompt_length - 1 :].sum())

    @property
    def last_reply_length(self) -> int:
        """Number of sampled tokens of the last reply, EOS included."""
        told = np.flatnonzero(self.mask == 0)
        return len(self.mask) - (int(told[-1]) + 1 if len(told) else 0)


@dataclass(frozen=True)
class Score:
    """One number per rollout (score units) and the named parts that made it.

    tokens: where it fell, one number a sampled token, which add up to `value`; None: all at the last one.
    counts: False if its source has nothing to say of the reply.
    """

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    tokens: tuple[float, ...] | None = None
    counts: bool = True


@dataclass(frozen=True, eq=False)
class Example:
    """What an engine trains on: T model inputs, T targets, and the columns that the named loss needs.

    A column is either one float per target (length T) or, where the loss says so, one number per sequence (0-d), one
    for each number of its head [H], or the states [T, D] of another model.
    For cross-entropy there may be K targets at each place, [T, K], and then so are its weights.
    """

    inputs: np.ndarray
    targets: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def next_token(tokens: Sequence[int] | np.ndarray, **columns: Any) -> Example:
        """Example whose targets are the sequence shifted by one: inputs tokens[:-1], targets tokens[1:]."""
        array = np.asarray(tokens, dtype=np.int64)
        return Example(array[:-1], array[1:], {k: np.asarray(v, dtype=np.float32) for k, v in columns.items()})

    @staticmethod
    def whole_sequence(tokens: Sequence[int] | np.ndarray, **columns: Any) -> Example:
        """Example that reads every token, for heads that score a finished sequence at its last token.

        The last target has no meaning (it repeats the last token) and carries no weight in any language-model loss.
        """
        array = np.asarray(tokens, dtype=np.int64)
        targets = np.append(array[1:], array[-1])
        return Example(array, targets, {k: np.asarray(v, dtype=np.float32) for k, v in columns.items()})

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, eq=False)
class ForwardOutput:
    """Per sequence: logprobs float32 as its targets, [T] or [T, K] (nats; 0 where none was asked for), values
    float32 [T], or [T, H] of a head that gives H numbers (score), and as the targets the losses that they add, where
    they were asked for.
    """

    logprobs: np.ndarray
    values: np.ndarray
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


@dataclass(frozen=True, eq=False)
class TrainOutput:
    """Result of one forward_backward: the summed loss, per-sequence outputs, and masked metrics by name."""

    loss: float
    outputs: tuple[ForwardOutput, ...]
    metrics: Mapping[str, float]
