"""What comes in and what goes out: bodies as checked records, refusals as one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from starlette.requests import Request
from starlette.responses import Response

from thumbs.errors import DataError
from thumbs.service.keys import UnknownKeyError, check_keys, present

B = TypeVar("B", bound="Body")

_PEEK = "peek"
MOST_TEXT, MOST_METADATA_BYTES = 1024, 2**16


def _check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(value).encode()) > MOST_METADATA_BYTES:
        raise ValueError(f"is longer than {MOST_METADATA_BYTES} bytes as JSON")
    return value


Metadata = Annotated[dict[str, str], AfterValidator(_check_metadata)]
"""What clients note down about their things."""
Text = Annotated[str, Field(max_length=MOST_TEXT)]
"""Names and the like."""
Int64 = Annotated[int, Field(ge=0, lt=2**63)]
"""Sequence ids; those of pickled sampling clients reach 10¹⁸."""


class Body(BaseModel):
    """A JSON object from a client; see keys.py for what becomes of keys that are not fields.

    harmless: such keys that the SDKs send, by the request's name in HARMLESS.
    """

    # What `_keys` lets through and is not a field is harmless: anything else was refused there, by its name.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())
    harmless: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, dict):
            return given
        given = present(given)
        if info.context != _PEEK:
            check_keys(given, {*cls.model_fields, *cls.harmless})
        return given


class NoFields(Body):
    """No field at all."""


def parse(kind: type[B], raw: bytes) -> B:
    """`raw` as a `kind`; raises DataError that names the first field that is wrong, UnknownKeyError one too many."""
    return _parsed(kind, raw, None)


def peek(kind: type[B], raw: bytes) -> B:
    """The fields of a `kind` in `raw`, whatever else is there; raises as `parse`."""
    return _parsed(kind, raw, _PEEK)


def _parsed(kind: type[B], raw: bytes, context: object) -> B:
    try:
        return kind.model_validate_json(raw or b"{}", context=context)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        cause = first.get("ctx", {}).get("error")
        if first["type"] == "extra_forbidden" or isinstance(cause, UnknownKeyError):
            raise UnknownKeyError(explain(error)) from None
        raise DataError(explain(error)) from None


async def read(request: Request, kind: type[B]) -> B:
    """The request's body as a `kind`; raises as `parse`."""
    return parse(kind, await request.body())


def explain(error: ValidationError) -> str:
    """The first complaint in one sentence, with the place of the value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    words = first["msg"].removeprefix("Value error, ")
    return f"the request is not as expected: {place + ': ' if place else ''}{words}"


def owner_of(request: Request) -> str:
    """Whose token came with the request."""
    return request.state.owner


def answer(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response without the members that are None, which the SDKs read like absent ones."""
    return Response(to_json(value), status, headers, media_type="application/json")


def to_json(value: Mapping[str, Any]) -> bytes:
    """`value` as UTF-8 JSON, top-level members that are None left out."""
    kept = {key: item for key, item in value.items() if item is not None}
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def page(request: Request, default: int = 20, most: int = 1000) -> tuple[int, int]:
    """`limit` and `offset` of a listing, from the query; raises DataError unless they are numbers."""
    try:
        limit = int(request.query_params.get("limit", default))
        offset = int(request.query_params.get("offset", 0))
    except ValueError:
        raise DataError("limit and offset are whole numbers") from None
    return min(max(limit, 0), most), min(max(offset, 0), 2**62)


def version(sdk: str) -> tuple[int, ...]:
    """Major and minor number of an SDK; one that cannot be read counts as new."""
    found = re.match(r"(\d+)\.(\d+)", sdk)
    return tuple(map(int, found.groups())) if found else (999, 0)
