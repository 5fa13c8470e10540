"""What a model reads: chunks of tokens laid end to end."""

from __future__ import annotations

import base64
import reprlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PlainSerializer, PlainValidator, field_serializer, field_validator

from thumbs.clients.types.base import Request
from thumbs.errors import DataError

Tokens = Sequence[int] | np.ndarray


def _integers(tokens: Any) -> list[int] | np.ndarray:
    """A copy, a list of a list and else an array; raises ValueError unless it is a row of integers.

    One check by numpy: a validation of every token in Python would cost more than the rest of a submission.
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"tokens are a flat list of integers, got {reprlib.repr(tokens)}")
    return list(tokens) if isinstance(tokens, list) else array.copy()


class EncodedTextChunk(Request):
    """Text as token ids."""

    tokens: Annotated[Tokens, PlainValidator(_integers), PlainSerializer(lambda tokens: np.asarray(tokens).tolist())]
    type: Literal["encoded_text"] = "encoded_text"

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedTextChunk) and np.array_equal(self.tokens, other.tokens)


class _Image(Request):
    format: Literal["png", "jpeg"]
    expected_tokens: int | None = None

    @property
    def length(self) -> int:
        """Number of tokens it stands for; raises DataError unless `expected_tokens` says so."""
        if self.expected_tokens is None:
            raise DataError("the length of an image in tokens is unknown; set its expected_tokens")
        return self.expected_tokens


class ImageChunk(_Image):
    """An image by its bytes; base64 text is decoded."""

    data: bytes
    type: Literal["image"] = "image"

    @field_validator("data", mode="before")
    @classmethod
    def _from_base64(cls, value: Any) -> Any:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else value

    @field_serializer("data")
    def _to_base64(self, value: bytes) -> str:
        return base64.b64encode(value).decode("ascii")


class ImageAssetPointerChunk(_Image):
    """An image by its path or URL."""

    location: str
    type: Literal["image_asset_pointer"] = "image_asset_pointer"


ModelInputChunk = Annotated[EncodedTextChunk | ImageChunk | ImageAssetPointerChunk, Field(discriminator="type")]


class ModelInput(Request):
    """A sequence of chunks. `append` and `append_int` return a longer copy."""

    chunks: list[ModelInputChunk]

    @classmethod
    def from_ints(cls, tokens: Tokens) -> ModelInput:
        """One chunk of token ids."""
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def empty(cls) -> ModelInput:
        """No chunk."""
        return cls(chunks=[])

    def append(self, chunk: ModelInputChunk) -> ModelInput:
        """With one more chunk."""
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> ModelInput:
        """With one more token, as a chunk of its own."""
        return self.append(EncodedTextChunk(tokens=[token]))

    def to_numpy(self) -> np.ndarray:
        """The token ids, int64 [N]; raises DataError if a chunk is not a text."""
        for index, chunk in enumerate(self.chunks):
            if not isinstance(chunk, EncodedTextChunk):
                raise DataError(f"chunk {index} of the model input is of type {chunk.type!r}; only text has token ids")
        texts = [chunk.tokens for chunk in self.chunks if isinstance(chunk, EncodedTextChunk)]
        return np.concatenate([np.empty(0, np.int64), *(np.asarray(tokens, np.int64) for tokens in texts)])

    def to_ints(self) -> list[int]:
        """The token ids; raises DataError if a chunk is not a text."""
        return self.to_numpy().tolist()

    @property
    def length(self) -> int:
        """Number of tokens, images included."""
        return sum(chunk.length for chunk in self.chunks)
