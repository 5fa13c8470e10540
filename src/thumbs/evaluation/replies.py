"""Every reply that an evaluation drew, so that all of it can be paired, clustered and analysed again.

`evaluation/replies.jsonl` holds one JSON object per line and reply, with the fields of `EvaluatedReply`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from thumbs.errors import CheckpointError
from thumbs.records import Message
from thumbs.tracking.files import plain, write_text

REPLIES = "replies.jsonl"
"""Name of the file in the folder of the evaluation."""


@dataclass(frozen=True)
class EvaluatedReply:
    """One reply of one system to one prompt.

    system: `base`, `sft`, `ppo`, `ppo@2` …; draw: which of its replies to this prompt (from 0); tokens: how many were
    sampled; cut: whether the limit of length ended it. gold: the gold score, None if the gold does not score single
    replies or none was given; proxies: scores of the rewards by name; log_ratio: log π(y) - log π_reference(y), nats.
    judged: for each system that a judge compared it with, P(this one is better) with this reply shown first, and with
    it shown second; None in an order that was not asked.
    """

    system: str
    prompt: tuple[Message, ...]
    prompt_id: str
    draw: int
    text: str
    tokens: int
    cut: bool
    gold: float | None = None
    proxies: Mapping[str, float | None] = field(default_factory=dict)
    log_ratio: float | None = None
    judged: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


def write(path: str | Path, rows: Sequence[EvaluatedReply]) -> None:
    """Writes the rows as JSON lines, whole or not at all; what is not finite becomes null."""
    lines = [json.dumps(plain(_as_json(row)), ensure_ascii=False) for row in rows]
    write_text(path, "".join(f"{line}\n" for line in lines))


def read(path: str | Path) -> list[EvaluatedReply]:
    """The rows of a file; raises CheckpointError, which names the line, for one that is damaged."""
    path, found = Path(path), []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); measure again with `thumbs eval`") from None
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            found.append(_row(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"{path}, line {number}: no reply of an evaluation ({error}); measure again with `thumbs eval`"
            ) from None
    return found


def table(rows: Sequence[EvaluatedReply], system: str) -> list[list[EvaluatedReply]]:
    """The replies of a system by prompt (in the order of the file) and draw: [P][D]."""
    by_prompt: dict[str, list[EvaluatedReply]] = {}
    for row in rows:
        if row.system == system:
            by_prompt.setdefault(row.prompt_id, []).append(row)
    return [sorted(draws, key=lambda row: row.draw) for draws in by_prompt.values()]


def column(replies: Sequence[Sequence[EvaluatedReply]], name: str) -> np.ndarray:
    """A number of each reply [P, D]: `gold`, `tokens`, `cut`, `log_ratio`, or a proxy by its name; NaN for none."""
    own = {item.name for item in fields(EvaluatedReply)}
    values = [[getattr(row, name) if name in own else row.proxies.get(name) for row in draws] for draws in replies]
    return np.array([[np.nan if value is None else float(value) for value in draws] for draws in values])


def judged_share(replies: Sequence[Sequence[EvaluatedReply]], other: str) -> np.ndarray:
    """P(better than `other`) of each reply, the mean of the orders that were asked, [P, D]; NaN for none."""
    told = [[[p for p in row.judged.get(other, ()) if p is not None] for row in draws] for draws in replies]
    return np.array([[sum(orders) / len(orders) if orders else np.nan for orders in draws] for draws in told])


def _as_json(row: EvaluatedReply) -> dict[str, object]:
    prompt = [{"role": message.role, "content": message.content} for message in row.prompt]
    return {**asdict(row), "prompt": prompt}


def _row(given: dict[str, object]) -> EvaluatedReply:
    strange = set(given) - {item.name for item in fields(EvaluatedReply)}
    if strange:
        raise ValueError(f"unknown {', '.join(sorted(strange))}")
    prompt = tuple(Message(m["role"], m["content"]) for m in given["prompt"])  # type: ignore[attr-defined]
    judged = {name: (first, second) for name, (first, second) in given.get("judged", {}).items()}  # type: ignore[attr-defined]
    return EvaluatedReply(**{**given, "prompt": prompt, "judged": judged})  # type: ignore[arg-type]
