"""Refusals in the shape of OpenAI's API, which clients read for the parameter and the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from thumbs.errors import DataError

CONTEXT = "context_length_exceeded"
"""The code on which clients shorten a conversation or take a model with a longer context."""

_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
_SHOWN = 80


class RefusedError(DataError):
    """A request to the OpenAI-compatible API that cannot be served; param: the parameter that is wrong."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def error_body(message: str, status: int, error: Exception | None = None) -> Mapping[str, Any]:
    """What a refusal says; param and code are those of a RefusedError, else what the status means."""
    param, code = (error.param, error.code) if isinstance(error, RefusedError) else (None, _CODES.get(status))
    kind = "server_error" if status >= 500 or status == 422 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal_of(error: ValidationError, known: str) -> RefusedError:
    """The first complaint, with the parameter's name, what was got, and the names that are `known` where it is none."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return RefusedError(f"unknown parameter {param!r}; {known}", param, "unknown_parameter")
    if first["type"] == "missing":
        return RefusedError(f"{param!r} is missing", param, "missing_required_parameter")
    if first["type"] in ("unsupported", "value_error"):
        return RefusedError(
            f"{param}: {first['msg'].removeprefix('Value error, ')}", param or None, "unsupported_value"
        )
    shown = repr(first["input"])[:_SHOWN]
    place = f"{param}: " if param else "the request is not as expected: "
    return RefusedError(f"{place}{first['msg']} (got {shown})", param or None, "invalid_value")
