"""What filters keep from a server's clients: prompts are refused, replies are withheld, each with its reason."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from thumbs.clients.futures import after
from thumbs.clients.types import SampledSequence, SampleResponse
from thumbs.errors import RewardError, ThumbsError
from thumbs.records import Message
from thumbs.safety.filters import FILTERED, FilterSet, Hit
from thumbs.service.openai_errors import RefusedError
from thumbs.tracking.files import StepLog

CODE: Any = "content_filter"
"""How OpenAI's API names a refusal by a filter, and the end of a reply that one withholds."""
_JUDGED_AT_ONCE = 4


class Screen:
    """The filters of a server, and the file of what they found; methods may be called from any thread that may wait.

    A filter that fails, such as a judge that does not answer, is an error of the request: nothing passes unseen.
    """

    def __init__(self, filters: FilterSet, folder: Path) -> None:
        self.found: Counter[tuple[str, str]] = Counter()
        """Texts by place (prompt, reply) and filter, since the server started."""
        self._filters, self._log, self._lock = filters, StepLog(folder / FILTERED), threading.Lock()
        self._judges = ThreadPoolExecutor(_JUDGED_AT_ONCE, "thumbs-screen")

    def sample(
        self,
        talk: Sequence[Message],
        text_of: Callable[[Sequence[int]], str],
        begin: Callable[[], Future[SampleResponse]],
        *,
        together: bool,
    ) -> Future[SampleResponse]:
        """The response of `begin()`, with replies that are withheld empty and ended by `CODE`.

        together: one that is withheld takes the others with it, as an error, for clients that would take an empty reply
        for one. Raises RefusedError if a filter finds something in the conversation; then nothing is drawn.
        """
        if (hit := self._noted("prompt", _joined(talk), self._found([talk])[0])) is not None:
            raise _refusal(f"the prompt is refused by a filter of this server: {hit}")
        drawn = begin()

        def screened() -> SampleResponse:
            response = drawn.result()
            texts = [text_of(sequence.tokens) for sequence in response.sequences]
            hits = self._found([talk] * len(texts), texts)
            for text, hit in zip(texts, hits, strict=True):
                self._noted("reply", text, hit)
            caught = [hit for hit in hits if hit is not None]
            if caught and together:
                raise _refusal(
                    f"{len(caught)} of {len(hits)} replies are withheld by a filter of this server: {caught[0]}"
                )
            pairs = zip(response.sequences, hits, strict=True)
            return replace(response, sequences=[SampledSequence(CODE) if hit else each for each, hit in pairs])

        result = after(drawn, lambda: self._judges.submit(screened))
        result.add_done_callback(lambda ended: drawn.cancel() if ended.cancelled() else None)
        return result

    def close(self) -> None:
        """Judges nothing more."""
        self._judges.shutdown(wait=False, cancel_futures=True)

    def _found(self, talks: Sequence[Sequence[Message]], texts: Sequence[str] | None = None) -> list[Hit | None]:
        try:
            return self._filters.of_prompts(talks) if texts is None else self._filters.of_replies(talks, texts)
        except RewardError as error:  # of a judge: it may pass, and clients ask again
            raise RefusedError(f"a filter of this server cannot judge now: {error}", None, CODE, 503) from None

    def _noted(self, place: Literal["prompt", "reply"], text: str, hit: Hit | None) -> Hit | None:
        if hit is not None:
            with self._lock:
                self.found[place, hit.filter] += 1
                number = sum(self.found.values())
                self._log.append(
                    number, {"time": datetime.now(UTC).isoformat(timespec="seconds"), **hit.row(place, text)}
                )
        return hit


def _refusal(words: str) -> ThumbsError:
    return RefusedError(words, None, CODE)


def _joined(talk: Sequence[Message]) -> str:
    return "\n".join(message.content for message in talk)
