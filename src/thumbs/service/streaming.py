"""Samples for the OpenAI-compatible API: awaited, or told as server-sent events while they are drawn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request

from thumbs.clients.types import SampledSequence, SampleResponse
from thumbs.errors import ThumbsError
from thumbs.service.completions import Shape
from thumbs.service.openai_errors import error_body
from thumbs.service.requests import to_json
from thumbs.service.speech import DrawnToken, Top, heard

_ALIVE_S = 5.0
"""Pause after which a caller is looked for, seconds."""


@dataclass(frozen=True)
class SampleBatch:
    """`n` samples of each prompt. echo: the prompt is repeated before each; empty: they are to have no tokens."""

    prompts: Sequence[Sequence[int]]
    n: int
    echo: bool = False
    empty: bool = False
    futures: list[Future[SampleResponse]] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.prompts))

    def replies(self, number: int) -> tuple[Sequence[SampledSequence], list[DrawnToken] | None]:
        """The samples of a prompt, complete by now, and the prompt if it is to be repeated."""
        response = self.futures[number].result()
        sequences = [SampledSequence("length")] * self.n if self.empty else response.sequences
        if not self.echo:
            return sequences, None
        return sequences, heard(self.prompts[number], response.prompt_logprobs, response.topk_prompt_logprobs)

    def all_replies(self) -> list[tuple[SampledSequence, list[DrawnToken] | None]]:
        """Every sample with its prompt, in order."""
        found = map(self.replies, range(len(self.futures)))
        return [(sequence, prompt) for sequences, prompt in found for sequence in sequences]

    async def finish(self, request: Request) -> None:
        """Waits for all; gives up, with HTTPException 499, when the caller has gone."""
        waiting = [asyncio.wrap_future(future) for future in self.futures]
        while (await asyncio.wait(waiting, timeout=_ALIVE_S))[1]:
            if await request.is_disconnected():
                raise HTTPException(499, "the caller has gone")
        for future in waiting:
            future.result()

    def cancel(self) -> None:
        """Ends what is still being sampled."""
        for future in self.futures:
            future.cancel()


class News:
    """Tokens on their way from the worker's thread to the stream; n: samples of each prompt."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, DrawnToken | None]]()

    def tell(self, prompt: int, sample: int, token: int, logprob: float, top: Top) -> None:
        """A token of a sample of a prompt."""
        self.put(prompt * self.n + sample, DrawnToken(token, logprob, top))

    def put(self, which: int, token: DrawnToken | None) -> None:
        """A choice and its new token; None after the number of a prompt whose samples are complete, or will not be."""
        with contextlib.suppress(RuntimeError):  # the server has stopped, and its loop with it
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (which, token))

    async def next(self) -> tuple[int, DrawnToken | None]:
        """What was put first of what is left; raises TimeoutError after a while."""
        return await asyncio.wait_for(self._queue.get(), _ALIVE_S)


async def stream(batch: SampleBatch, shape: Shape, news: News, tells_usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events, a token's text in each as it is drawn; at the end what was used, if that is to be told."""
    speeches = [shape.speech() for _ in range(len(batch.futures) * batch.n)]
    for number, future in enumerate(batch.futures):
        future.add_done_callback(lambda _, number=number: news.put(number, None))
    left = len(batch.futures)
    try:
        for index in range(len(speeches)):
            yield shape.begin(index)
        while left:
            try:
                which, token = await news.next()
            except TimeoutError:
                yield b": sampling\n\n"
                continue
            if token is not None:
                yield shape.said(which, speeches[which].add(token))
                continue
            left -= 1
            sequences, prompt = batch.replies(which)
            for index, sequence in enumerate(sequences, which * batch.n):
                speech = speeches[index] if prompt is None else shape.speech(prompt)
                yield shape.said(index, speech.end(sequence))
                yield shape.end(index, sequence)
        if tells_usage:
            yield shape.used(batch.prompt_tokens, [sequence for sequence, _ in batch.all_replies()])
        yield b"data: [DONE]\n\n"
    except ThumbsError as error:
        yield b"data: " + to_json(error_body(str(error), 500)) + b"\n\n"
    finally:
        batch.cancel()
