"""A judge's questions answered by any service with OpenAI's chat API, and answers that are kept.

The probabilities of the two words are read from the alternatives to the first token where the service gives them, and
otherwise from the text, which is then worth one or the other.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import math
import os
import reprlib
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from thumbs.errors import ConfigError, RewardError
from thumbs.tracking.files import writing

log = logging.getLogger(__name__)

CERTAIN = 10.0
"""Log-odds (nats) of an answer whose probability is not told, and the largest ones."""
AT_ONCE = 8
"""Questions that are out at the same time."""
TRIES = 5
"""Times that a question is asked before its failure ends the evaluation; waits double from a second on."""

MANY = 8
"""So many answers that are all unclear come from no judge."""


class Answers(Protocol):
    """Whoever answers a judge's questions with one of two words."""

    def log_odds(self, questions: Sequence[str], yes: str, no: str) -> list[float]:
        """log P(yes) - log P(no) as the answer to each question, nats."""
        ...


@dataclass(frozen=True)
class EndpointAnswers:
    """The model of that name at a base URL such as `http://localhost:8000/v1`; the key is the value of a variable of
    the environment, if it is set.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    wait_s: float = 1.0

    def log_odds(self, questions: Sequence[str], yes: str, no: str) -> list[float]:
        """What `Answers` asks for; an answer that is neither word counts as a tie, and the log says how many were.

        Raises RewardError if the service does not answer, or if none of `MANY` answers or more is one of the words.
        """
        with ThreadPoolExecutor(AT_ONCE) as threads:
            replies = list(threads.map(self.ask, questions))
        found = [read_odds(reply, yes, no) for reply in replies]
        unclear = sum(value is None for value in found)
        if unclear == len(found) >= MANY:
            raise RewardError(
                f"judge {self.model}: none of {unclear} answers was {yes} or {no} (the first one: "
                f"{_text(replies[0])[:60]!r}), so it judges nothing; take another model, or another rubric"
            )
        if unclear:
            log.warning(
                "judge %s: %d of %d answers were neither %s nor %s; they count as ties",
                self.model, unclear, len(found), yes, no,
            )  # fmt: skip
        return [0.0 if value is None else value for value in found]

    def ask(self, question: str) -> Mapping[str, Any]:
        """The first choice of the service's answer; raises RewardError that says what it said instead."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 4,
            "temperature": 0,
        }
        asked = body | {"logprobs": True, "top_logprobs": 20}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        problem = ""
        for number in range(TRIES):
            request = urllib.request.Request(address, json.dumps(asked).encode(), headers)  # noqa: S310 (http or https)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as response:  # noqa: S310
                    return _checked(json.load(response)["choices"][0])
            except urllib.error.HTTPError as error:
                said = error.read(300).decode("utf-8", "replace")
                if "logprobs" in asked and error.code < 500 and "logprob" in said:
                    asked = body  # a service that tells no probabilities
                    continue
                if error.code not in (408, 409, 429) and error.code < 500:
                    raise ConfigError(f"{address} refused the judge's question ({error.code}): {said}") from None
                problem = f"{error.code}: {said}"
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
            if number < TRIES - 1:
                time.sleep(self.wait_s * 2**number)
        raise RewardError(f"{address} gave no answer in {TRIES} tries ({problem}); what was answered is kept")


def read_odds(choice: Mapping[str, Any], yes: str, no: str) -> float | None:
    """log P(yes) - log P(no) of a choice of a chat completion, nats; None if it is neither word."""
    told = _alternatives(choice)
    if any(token in (yes, no) for token, _ in told):
        every = [p for _, p in told]
        most = min(*every, 1 - sum(every))  # of a word that is not among the alternatives
        yes_p, no_p = (sum(p for token, p in told if token == word) or most for word in (yes, no))
        odds = math.log(max(yes_p, 1e-300)) - math.log(max(no_p, 1e-300))
        return max(-CERTAIN, min(CERTAIN, odds))
    words = _text(choice).strip().strip(".:()*\"'").split()
    return {yes: CERTAIN, no: -CERTAIN}.get(words[0].strip(".:()*\"'") if words else "")


def _checked(choice: Any) -> Mapping[str, Any]:
    """The choice; raises ValueError if it has no message."""
    if not isinstance(choice, Mapping) or not isinstance(choice.get("message"), Mapping):
        raise ValueError(f"{reprlib.repr(choice)} has no message")
    return choice


def _text(choice: Mapping[str, Any]) -> str:
    said = (choice.get("message") or {}).get("content")
    return said if isinstance(said, str) else ""


def _alternatives(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What the first token might have been, without space around it, and how likely; none if that cannot be read."""
    try:
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        told = [(str(each["token"]).strip(), math.exp(each["logprob"])) for each in first]
    except (LookupError, TypeError, OverflowError):
        return []
    return told if all(0 <= p <= 1 + 1e-3 for _, p in told) else []


@dataclass(frozen=True)
class KeptAnswers:
    """Answers that are asked for once: a file of JSON lines holds each as soon as it is there.

    name: who answers; another one's answers are not taken.
    """

    answers: Answers
    path: Path
    name: str
    _known: dict[str, float] = field(default_factory=dict)
    batch: int = 32

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    self._known[str(row["key"])] = float(row["log_odds"])
                except (ValueError, LookupError, TypeError):
                    continue  # a line that a kill cut short is asked again

    def log_odds(self, questions: Sequence[str], yes: str, no: str) -> list[float]:
        """What `Answers` asks for."""
        keys = [self._key(question, yes, no) for question in questions]
        asked = dict(zip(keys, questions, strict=True))
        missing = [key for key in asked if key not in self._known]
        for begin in range(0, len(missing), self.batch):
            group = missing[begin : begin + self.batch]
            found = self.answers.log_odds([asked[key] for key in group], yes, no)
            self._known.update(zip(group, found, strict=True))
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps({"key": key, "log_odds": value}) + "\n" for key, value in zip(group, found, strict=True)
                )
        return [self._known[key] for key in keys]

    def _key(self, question: str, yes: str, no: str) -> str:
        text = json.dumps([self.name, question, yes, no])
        return hashlib.sha256(text.encode()).hexdigest()[:32]
