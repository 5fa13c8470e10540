"""OpenAI's completion API, so that any chat program can talk to a base model or to a policy in training."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from thumbs.clients import types
from thumbs.clients.sampling import FullError
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import DataError, ModelError, ThumbsError
from thumbs.records import Message
from thumbs.service.completions import Shape, Speech
from thumbs.service.requests import Body, answer, owner_of, read, to_json
from thumbs.service.state import Service

PREFIXES = ("/v1", "/oai/api/v1")
_PATHS = ("tinker://", "mint://")
_MOST_SAMPLERS = 64
_ALIVE_S = 5.0


class _Part(Body):
    type: str
    text: str = ""


class _Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    def plain(self) -> Message:
        """With its text in one piece; raises DataError where a part is no text."""
        if isinstance(self.content, str):
            text = self.content
        else:
            if wrong := next((part.type for part in self.content if part.type != "text"), None):
                raise DataError(f"a message holds a part of type {wrong!r}; only text is read here")
            text = "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class _StreamOptions(Body):
    include_usage: bool = False


class _Common(Body):
    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = -1
    n: int = Field(default=1, ge=1, le=128)
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()

    def stops(self) -> list[str]:
        """Texts that end a reply, beside the model's own end."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class _Completion(_Common):
    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=1)
    logprobs: int | None = Field(default=None, ge=0, le=20)

    def prompts(self, tokenizer: Tokenizer) -> list[list[int]]:
        """The prompts as tokens."""
        given = self.prompt if isinstance(self.prompt, list) and not _is_tokens(self.prompt) else [self.prompt]
        return [tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in given]  # type: ignore[arg-type]


class _Chat(_Common):
    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    tools: list[Any] | None = None


class OpenAIRoutes:
    """Completions, chat completions and the list of models."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._backend = service.backend
        self._samplers: OrderedDict[tuple[str, str, str], tuple[str, str]] = OrderedDict()

    def routes(self) -> list[Route]:
        """The routes, at the root, under both of their prefixes."""
        return [
            route
            for prefix in PREFIXES
            for route in (
                Route(f"{prefix}/models", self.models, methods=["GET"]),
                Route(f"{prefix}/completions", self.completions, methods=["POST"]),
                Route(f"{prefix}/chat/completions", self.chat, methods=["POST"]),
            )
        ]

    async def models(self, request: Request) -> Response:
        """The base models, and the caller's newest checkpoints to sample from."""
        bases = await self._service.threads.work(self._backend.supported_models)
        records, _ = await self._service.threads.record(self._backend.store.checkpoints, owner_of(request), 200, 0)
        found = [(model.model_name, 0) for model in bases]
        found += [(r.path, int(r.created.timestamp())) for r in records if r.kind == "sampler_weights"]
        data = [{"id": name, "object": "model", "created": created, "owned_by": "thumbs"} for name, created in found]
        return answer({"object": "list", "data": data})

    async def completions(self, request: Request) -> Response:
        """Goes on with texts or tokens."""
        body = await read(request, _Completion)
        sampler_id, tokenizer = await self._sampler(body.model, owner_of(request))
        prompts = await self._service.threads.work(body.prompts, tokenizer)
        shape = Shape(False, body.model, tokenizer, body.stops(), body.logprobs)
        return await self._reply(request, body, shape, sampler_id, prompts, body.max_tokens)

    async def chat(self, request: Request) -> Response:
        """Answers a conversation."""
        body = await read(request, _Chat)
        if body.tools:
            raise DataError("tools are not served; leave them out")
        sampler_id, tokenizer = await self._sampler(body.model, owner_of(request))
        messages = [message.plain() for message in body.messages]
        prompt = await self._service.threads.work(tokenizer.render_prompt, messages)
        shape = Shape(True, body.model, tokenizer, body.stops(), body.top_logprobs if body.logprobs else None)
        return await self._reply(
            request, body, shape, sampler_id, [prompt], body.max_completion_tokens or body.max_tokens
        )

    async def _reply(
        self,
        request: Request,
        body: _Common,
        shape: Shape,
        sampler_id: str,
        prompts: Sequence[list[int]],
        max_tokens: int | None,
    ) -> Response:
        params = types.SamplingParams(
            max_tokens=max_tokens,
            seed=body.seed,
            stop=_stops(body.stops(), shape.tokenizer),
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
        )
        futures: list[Future[types.SampleResponse]] = []
        news = _News(body.n)
        try:
            for number, prompt in enumerate(prompts):
                tokens, top = types.ModelInput.from_ints(prompt), shape.logprobs or 0
                told = partial(news.tell, number) if body.stream else None
                sample = partial(self._backend.sample, topk_sample_logprobs=top, heard=told)
                futures.append(await self._service.threads.work(sample, sampler_id, tokens, body.n, params))
            if body.stream:
                counted = sum(map(len, prompts)) if body.stream_options.include_usage else None
                return StreamingResponse(_stream(futures, shape, news, counted), media_type="text/event-stream")
            sequences = await _all(futures, request)
        except BaseException as error:
            for future in futures:
                future.cancel()
            if isinstance(error, FullError):
                raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
            raise
        return answer(shape.whole(sequences, sum(map(len, prompts))))

    async def _sampler(self, model: str, owner: str) -> tuple[str, Tokenizer]:
        """A sampler of the base model or path, opened at its first use, and its tokenizer."""
        threads, store = self._service.threads, self._backend.store
        if model.startswith(_PATHS):
            record = await self._service.checkpoint(model, owner)
            run = await threads.record(store.run, record.run_id)
            base, path, version = run.base_model if run else "", record.path, record.id
        else:
            base, path, version = model, None, ""
        try:
            tokenizer = await threads.work(lambda: self._backend.bases[base].tokenizer)
        except ModelError as error:  # chat programs take a 404 for a model that is not there
            raise HTTPException(404, str(error)) from None
        key = (owner, model, version)
        session_id, sampler_id = self._samplers.pop(key, ("", ""))
        session = await threads.record(store.session, session_id) if session_id else None
        if session is None or session.finished is not None:
            session_id = await threads.record(store.add_session, owner, tags=("openai",), display_name=model[:200])
            sampler_id = f"{session_id}:sample:0"
            await threads.work(self._backend.open_sampler, sampler_id, session_id, owner, base_model=base, path=path)
        await threads.record(store.touch_session, session_id)
        self._samplers[key] = session_id, sampler_id
        while len(self._samplers) > _MOST_SAMPLERS:
            _, (oldest, _) = self._samplers.popitem(last=False)
            await self._service.end_session(oldest, "not used")
        return sampler_id, tokenizer


def _is_tokens(prompt: list[Any]) -> bool:
    return bool(prompt) and isinstance(prompt[0], int)


def _stops(texts: Sequence[str], tokenizer: Tokenizer) -> list[str] | None:
    """What a sampler is to stop at: a list of texts takes the place of the model's own end, so that is put in."""
    if not texts:
        return None
    return [*texts, *(tokenizer.decode([token], skip_special=False) for token in tokenizer.stop_ids)]


async def _all(futures: Sequence[Future[types.SampleResponse]], request: Request) -> list[types.SampledSequence]:
    """What was sampled; gives up, with HTTPException 499, when the caller has gone."""
    waiting = [asyncio.wrap_future(future) for future in futures]
    while (await asyncio.wait(waiting, timeout=_ALIVE_S))[1]:
        if await request.is_disconnected():
            raise HTTPException(499, "the caller has gone")
    return [sequence for future in waiting for sequence in future.result().sequences]


class _News:
    """Tokens on their way from the worker's thread to the stream; n: samples of each prompt."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, int | None]]()

    def tell(self, prompt: int, sample: int, token: int) -> None:
        """A token of a sample of a prompt."""
        self._put(prompt * self.n + sample, token)

    def finished(self, prompt: int) -> None:
        """All samples of a prompt are complete, or will not be."""
        self._put(prompt, None)

    async def next(self) -> tuple[int, int | None]:
        """A choice and its new token, or a prompt that is finished and None; raises TimeoutError after a while."""
        return await asyncio.wait_for(self._queue.get(), _ALIVE_S)

    def _put(self, which: int, token: int | None) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped, and its loop with it
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (which, token))


async def _stream(
    futures: Sequence[Future[types.SampleResponse]], shape: Shape, news: _News, counted: int | None
) -> AsyncIterator[bytes]:
    """Server-sent events, a token's text in each as it is drawn; at the end what was used, if prompt tokens are
    `counted`.
    """
    speeches = [Speech(shape) for _ in range(len(futures) * news.n)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: news.finished(number))
    left = len(futures)
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
            for index, sequence in enumerate(futures[which].result().sequences, which * news.n):
                yield shape.said(index, speeches[index].end(sequence))
                yield shape.end(index, sequence)
        if counted is not None:
            yield shape.used(counted, sum(len(s.tokens) for future in futures for s in future.result().sequences))
        yield b"data: [DONE]\n\n"
    except ThumbsError as error:
        yield b"data: " + to_json({"error": {"message": str(error), "type": "server_error"}}) + b"\n\n"
    finally:
        for future in futures:
            future.cancel()
