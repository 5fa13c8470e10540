"""OpenAI's completion API, so that any chat program can talk to a base model or to a policy in training."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial

from pydantic import JsonValue
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from thumbs.clients import types
from thumbs.clients.bases import Base
from thumbs.clients.sample_call import SampleCall
from thumbs.clients.sampling import FullError
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import CheckpointError, ConfigError, ModelError
from thumbs.models.base import Trunk
from thumbs.models.trunk import open_tokenizer
from thumbs.records import Message
from thumbs.service.completions import Shape
from thumbs.service.openai_errors import CONTEXT, RefusedError
from thumbs.service.openai_requests import ChatBody, CompletionBody, SamplingBody, read_body
from thumbs.service.requests import answer, owner_of
from thumbs.service.state import Routes, Service, route
from thumbs.service.streaming import News, SampleBatch, stream

PREFIXES = ("/v1", "/oai/api/v1")
_PATHS = ("tinker://", "mint://")
_MOST_SAMPLERS, _MOST_TEMPLATES = 64, 16


@dataclass(frozen=True)
class _Found:
    """A model by name. path, version: of a checkpoint; a new one may take the path of one that was deleted."""

    base: Base
    path: str | None = None
    version: str = ""
    created: int = 0


class OpenAIRoutes(Routes):
    """Completions, chat completions and the list of models."""

    prefixes = PREFIXES

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._samplers: OrderedDict[tuple[str, str, str], tuple[str, str]] = OrderedDict()
        self._with_variables = lru_cache(_MOST_TEMPLATES)(self._opened)

    @route("GET", "/models")
    async def models(self, request: Request) -> Response:
        """The base models, and the caller's newest checkpoints to sample from."""
        bases = await self._work(self._backend.bases.supported)
        records, _ = await self._record(self._store.checkpoints.page, owner_of(request), 200, 0)
        found = [(model.model_name or "", 0) for model in bases]
        found += [(r.path, int(r.created.timestamp())) for r in records if r.kind == "sampler_weights"]
        return answer({"object": "list", "data": [_model(*each) for each in found]})

    @route("GET", "/models/{name:path}")
    async def model(self, request: Request) -> Response:
        """One base model, or one checkpoint that the caller may sample from."""
        name = request.path_params["name"]
        found = await self._find(name, owner_of(request))
        return answer(_model(found.path or name, found.created))

    @route("POST", "/completions")
    async def completions(self, request: Request) -> Response:
        """Goes on with texts or tokens."""
        body = await read_body(request, CompletionBody, "/v1/completions")
        sampler_id, base = await self._sampler(body.model, owner_of(request))
        prompts = await self._work(body.prompts, base.tokenizer)
        shape = Shape(False, body.model, base.tokenizer, body.stop, body.logprobs)
        batch = SampleBatch(prompts, body.n, body.echo, body.max_tokens == 0)
        return await self._reply(request, body, shape, sampler_id, base, batch, body.max_tokens)

    @route("POST", "/chat/completions")
    async def chat(self, request: Request) -> Response:
        """Answers a conversation."""
        body = await read_body(request, ChatBody, "/v1/chat/completions")
        sampler_id, base = await self._sampler(body.model, owner_of(request))
        tokenizer = await self._work(self._tokenizer, base, body.chat_template_kwargs)
        prompt = await self._work(body.prompt, tokenizer)
        shape = Shape(True, body.model, tokenizer, body.stop, body.top_logprobs if body.logprobs else None)
        return await self._reply(
            request, body, shape, sampler_id, base, SampleBatch([prompt], body.n), body.most_tokens, body.talk()
        )

    async def _reply(
        self,
        request: Request,
        body: SamplingBody,
        shape: Shape,
        sampler_id: str,
        base: Base,
        batch: SampleBatch,
        max_tokens: int | None,
        talk: Sequence[Message] | None = None,
    ) -> Response:
        params = types.SamplingParams(
            # A prompt is looked at on the way to a token: where none is wanted, one is drawn and dropped.
            max_tokens=1 if batch.empty else max_tokens,
            seed=body.seed,
            stop=body.stops(shape.tokenizer),
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
        )
        news, top = News(body.n), shape.logprobs or 0
        echoed = batch.echo and shape.logprobs is not None
        incremental = body.stream and not batch.echo and not batch.empty and self._service.screen is None
        try:
            for number, prompt in enumerate(batch.prompts):
                _check_prompt(prompt, params.max_tokens, base.shape, "messages" if shape.chat else "prompt")
                told = partial(news.tell, number) if incremental else None
                tokens = types.ModelInput.from_ints(prompt)
                call = SampleCall(tokens, body.n, params, echoed, top if echoed else 0, top)
                begin = partial(self._backend.samplers.sample, sampler_id, call, told)
                batch.futures.append(await self._work(self._screened, shape.tokenizer, talk, prompt, begin))
            if body.stream:
                usage = body.stream_options.include_usage
                return StreamingResponse(stream(batch, shape, news, usage), media_type="text/event-stream")
            await batch.finish(request)
        except BaseException as error:
            batch.cancel()
            if isinstance(error, FullError):
                raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
            raise
        return answer(shape.whole(batch.all_replies(), batch.prompt_tokens))

    def _screened(
        self,
        tokenizer: Tokenizer,
        talk: Sequence[Message] | None,
        prompt: Sequence[int],
        begin: Callable[[], Future[types.SampleResponse]],
    ) -> Future[types.SampleResponse]:
        """Samples that the server's filters have seen; talk: the conversation that the prompt is, if it is one."""
        if (screen := self._service.screen) is None:
            return begin()
        asked = [Message("user", tokenizer.decode(prompt))] if talk is None else talk
        return screen.sample(asked, tokenizer.decode, begin, together=False)

    def _tokenizer(self, base: Base, variables: Mapping[str, JsonValue]) -> Tokenizer:
        """The base's tokenizer, opened anew for other variables of its template."""
        return self._with_variables(base.name, json.dumps(variables, sort_keys=True)) if variables else base.tokenizer

    def _opened(self, base: str, variables: str) -> Tokenizer:
        """Raises RefusedError for a variable that the base's template never reads."""
        config = self._backend.bases[base].config
        template = {"variables": {**config.template.variables, **json.loads(variables)}}
        try:
            return open_tokenizer(config.model_copy(update={"template": config.template.model_copy(update=template)}))
        except (ConfigError, ModelError) as error:
            raise RefusedError(str(error), "chat_template_kwargs", "unsupported_value") from None

    async def _find(self, model: str, owner: str) -> _Found:
        """What a model's name stands for; raises RefusedError if that is nothing that the caller may use."""
        try:
            if model.startswith(_PATHS):
                record = await self._record(self._store.checkpoints.find, model, owner)
                base = self._backend.bases[record.base_model]
                found = _Found(base, record.path, record.id, int(record.created.timestamp()))
            else:
                found = _Found(self._backend.bases[model])
            await self._work(lambda: found.base.tokenizer)
        except (CheckpointError, ModelError) as error:
            raise RefusedError(str(error), "model", "model_not_found", 404) from None
        return found

    async def _sampler(self, model: str, owner: str) -> tuple[str, Base]:
        """A sampler of the base model or path, opened at its first use, and its base."""
        store = self._store
        found = await self._find(model, owner)
        key = (owner, model, found.version)
        session_id, sampler_id = self._samplers.pop(key, ("", ""))
        session = await self._record(store.session, session_id) if session_id else None
        if session is None or session.finished is not None:
            session_id = await self._record(store.add_session, owner, tags=("openai",), display_name=model[:200])
            sampler_id = f"{session_id}:sample:0"
            opened = partial(self._backend.samplers.open, sampler_id, session_id, owner)
            await self._work(opened, base_model=None if found.path else model, path=found.path)
        await self._record(store.touch_session, session_id)
        self._samplers[key] = session_id, sampler_id
        while len(self._samplers) > _MOST_SAMPLERS:
            _, (oldest, _) = self._samplers.popitem(last=False)
            await self._work(self._backend.end_session, oldest, "not used")
        return sampler_id, found.base


def _model(name: str, created: int) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": created, "owned_by": "thumbs"}


def _check_prompt(prompt: Sequence[int], max_tokens: int | None, shape: Trunk, param: str) -> None:
    """Raises RefusedError if the context leaves no room for a reply, in the words that clients look for, or where a
    token is none of the model's.
    """
    if len(prompt) > shape.context or (len(prompt) == shape.context and max_tokens != 1):
        raise RefusedError(
            f"This model's maximum context length is {shape.context} tokens. However, there are {len(prompt)} in the "
            f"{param}, which leaves no room for a reply; send less",
            param,
            CONTEXT,
        )
    if (wrong := next((token for token in prompt if not 0 <= token < shape.vocab_size), None)) is not None:
        raise RefusedError(
            f"token {wrong} in the {param} is none of this model's; ids are 0 to {shape.vocab_size - 1}",
            param,
            "invalid_value",
        )
