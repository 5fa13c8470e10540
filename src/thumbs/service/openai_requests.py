"""What OpenAI's completion API takes: each field is used; see openai_parameters.py for those that may come as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, from_json
from starlette.requests import Request

from thumbs.data.tokenizers import Tokenizer
from thumbs.records import Message
from thumbs.service.openai_errors import RefusedError, refusal_of
from thumbs.service.openai_parameters import CHAT, COMPLETION, MESSAGE, PART, STREAM, Neutral

B = TypeVar("B", bound="OpenAIBody")

MOST_STOPS, MOST_PROMPTS, MOST_SAMPLES = 64, 2048, 4096
"""Stops of a request, prompts of a request, and replies to all of its prompts together."""


class OpenAIBody(BaseModel):
    """An object of a request: null is absent, an unknown key is refused, and so is one of `neutral` that matters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
    neutral: ClassVar[Mapping[str, Neutral]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kept = {key: value for key, value in given.items() if value is not None}
        wrong: list[InitErrorDetails] = []
        for key in kept.keys() & cls.neutral.keys():
            value, row = kept.pop(key), cls.neutral[key]
            if not row.takes(value):
                words = "{got} is not served: {reason}; leave it out, or send {allowed}"
                context = {"got": repr(value)[:80], "reason": row.reason, "allowed": row.allowed}
                fault = PydanticCustomError("unsupported", words, context)
                wrong.append(InitErrorDetails(type=fault, loc=(key,), input=value))
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return kept


class TextPart(OpenAIBody):
    """A piece of a message's text."""

    neutral = PART
    type: Literal["text"]
    text: str


class ChatMessage(OpenAIBody):
    """One turn. `content`: a text, or its parts; a developer is a system by another name."""

    neutral = MESSAGE
    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextPart]

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    def plain(self) -> Message:
        """With its text in one piece."""
        text = "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(OpenAIBody):
    """What a stream holds next to the reply."""

    neutral = STREAM
    include_usage: bool = False


class SamplingBody(OpenAIBody):
    """What both APIs take. top_k: 0 and -1 are off; stop_token_ids and ignore_eos as in vLLM."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=-1, ge=-1)
    n: int = Field(default=1, ge=1, le=128)
    stop: list[str] = Field(default=[], max_length=MOST_STOPS)
    stop_token_ids: list[int] = Field(default=[], max_length=MOST_STOPS)
    ignore_eos: bool = False
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @field_validator("stop", mode="before")
    @classmethod
    def _list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @model_validator(mode="after")
    def _fits(self) -> SamplingBody:
        if self.stream_options.include_usage and not self.stream:
            raise _wrong("stream_options", "usage at the end is for streams; set stream to true, or leave it out")
        return self

    def stops(self, tokenizer: Tokenizer) -> list[str | int]:
        """Texts and tokens that end a reply; the model's own end tokens among them, unless they are ignored."""
        ends = () if self.ignore_eos else tokenizer.stop_ids
        return [*filter(None, self.stop), *self.stop_token_ids, *ends]


class CompletionBody(SamplingBody):
    """A text, or tokens, to go on with. logprobs: how many alternatives to tell with each token's."""

    neutral = COMPLETION
    prompt: list[str] | list[list[int]]
    max_tokens: int | None = Field(default=16, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool = False
    best_of: int | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _listed(cls, prompt: Any) -> Any:
        """One of four forms becomes a list of texts, or of lists of tokens."""
        prompts = prompt if isinstance(prompt, list) and not _are(prompt, int) else [prompt]
        if not prompts or not (_are(prompts, str) or all(_are(each, int) for each in prompts)):
            raise ValueError(
                "it is a text, a list of texts, a list of token ids, or a list of such lists; none is empty"
            )
        if len(prompts) > MOST_PROMPTS or not all(prompts):
            raise ValueError(f"{len(prompts)} prompts; needed are 1 to {MOST_PROMPTS}, each with one token at least")
        return prompts

    @model_validator(mode="after")
    def _can_be(self) -> CompletionBody:
        if self.best_of not in (None, self.n):
            raise _wrong("best_of", f"it is {self.best_of}; replies are not ranked here: leave it out, or send n")
        if len(self.prompt) * self.n > MOST_SAMPLES:
            raise _wrong("n", f"{len(self.prompt)} prompts with {self.n} replies each; {MOST_SAMPLES} are allowed")
        return self

    def prompts(self, tokenizer: Tokenizer) -> list[list[int]]:
        """The prompts as tokens, just as they are: no BOS is put before them."""
        return [tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in self.prompt]


class ChatBody(SamplingBody):
    """A conversation to answer, or whose last turn to go on with. top_logprobs need logprobs.

    chat_template_kwargs: variables of the model's template, as in vLLM; one that it never reads is refused.
    """

    neutral = CHAT
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    chat_template_kwargs: dict[str, JsonValue] = {}
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise _wrong("top_logprobs", "alternatives come with logprobs; set logprobs to true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise _wrong("max_completion_tokens", f"it is {self.max_completion_tokens}, and max_tokens another number")
        rule = "a last message of the assistant is continued, any other is answered"
        if self.add_generation_prompt is self.continues:
            raise _wrong("add_generation_prompt", rule)
        if self.continue_final_message not in (None, self.continues):
            raise _wrong("continue_final_message", rule)
        return self

    @property
    def continues(self) -> bool:
        """Whether the last message is the beginning of the reply."""
        return self.messages[-1].role == "assistant"

    @property
    def most_tokens(self) -> int | None:
        """Longest reply, tokens; None for what the context leaves."""
        return self.max_completion_tokens or self.max_tokens

    def talk(self) -> list[Message]:
        """The conversation."""
        return [message.plain() for message in self.messages]

    def prompt(self, tokenizer: Tokenizer) -> list[int]:
        """The tokens before the reply: up to where it begins, or through the text that it continues."""
        messages = self.talk()
        if not self.continues:
            return tokenizer.render_prompt(messages)
        if not messages[-1].content:
            return tokenizer.render_prompt(messages[:-1])
        tokens, own = tokenizer.render_turns(messages)
        _, end = own[len(messages) - 1]
        return tokens[: end - 1]  # the last of a turn's own tokens ends it


async def read_body(request: Request, kind: type[B], path: str) -> B:
    """The request's body; raises RefusedError that names the first parameter that is wrong."""
    try:
        given = from_json(await request.body() or b"{}", allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(given, dict):
        raise RefusedError(f"the body is a JSON object with the parameters of {path}, not {type(given).__name__}")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise refusal_of(error, f"docs/service.md lists those of {path}") from None


def _wrong(param: str, message: str) -> ValidationError:
    fault = PydanticCustomError("unsupported", "{message}", {"message": message})
    return ValidationError.from_exception_data("request", [InitErrorDetails(type=fault, loc=(param,), input=None)])


def _are(values: Any, kind: type) -> bool:
    """Whether it is a list of such values, and not an empty one; true and false are not numbers."""
    return isinstance(values, list) and bool(values) and all(type(value) is kind for value in values)
