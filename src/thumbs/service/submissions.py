"""Operations of one model, in the order of their numbers.

A submission that could be read takes its place in that order even where it is wrong: it then fails by itself, and those
after it do not wait for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import model_validator
from starlette.requests import Request
from starlette.responses import Response

from thumbs.errors import ThumbsError
from thumbs.service.keys import UnknownKeyError
from thumbs.service.promises import Encode, PromisedOperation
from thumbs.service.requests import Body, Int64, answer, owner_of, parse, peek, to_json
from thumbs.service.state import Routes


class Numbered(Body):
    """What every operation of a model carries; without a number it is ordered by its arrival."""

    model_id: str
    seq_id: Int64 | None = None


N = TypeVar("N", bound=Numbered)


class Optimizer(Body):
    """Which optimizer a client wants; another one than ours is refused, whatever its settings."""

    type: str = "adamw"

    @model_validator(mode="before")
    @classmethod
    def _served(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("type", "adamw") != "adamw":
            raise ValueError(f"optimizer {given['type']!r} is not served; use adamw")
        return given


class ModelOperations(Routes):
    """Endpoints that promise an operation of a model."""

    async def _submit(
        self,
        request: Request,
        kind: str,
        body: type[N],
        start: Callable[[N], Any],
        describe: Callable[[Any], Mapping[str, Any]],
    ) -> Response:
        """The promise of what `start` begins with the request's body; the result is the JSON that `describe` makes."""
        raw = await request.body()
        numbered, unknown = peek(Numbered, raw), unknown_key(body, raw)
        begin, encode = lambda: start(parse(body, raw)), encode_json(describe)
        return await self._accept(request, kind, numbered, raw, begin, encode, unknown=unknown)

    async def _accept(
        self,
        request: Request,
        kind: str,
        numbered: Numbered,
        raw: bytes,
        start: Callable[[], Any],
        encode: Encode,
        *,
        unknown: UnknownKeyError | None = None,
    ) -> Response:
        """The promise of an operation; raises MissingError unless the model is the caller's.

        `start` runs in a worker thread. Where it raises an error of the user, the number is used up all the same. A key
        that is `unknown` is refused at once, and uses up the number too.
        """
        owner, number, backend = owner_of(request), numbered.seq_id, self._backend
        run = await self._record(self._store.run, numbered.model_id, owner)
        if unknown is not None:
            if number is not None:
                with contextlib.suppress(ThumbsError):
                    await self._work(backend.skip, run.id, number, unknown)
            raise unknown
        await self._record(self._store.touch_run, run.id)

        def start_or_skip() -> Any:
            try:
                return start()
            except ThumbsError as error:
                if number is None:
                    raise
                return backend.skip(run.id, number, error)

        key = None if number is None else (run.id, number)
        operation = PromisedOperation(kind, owner, run.session_id, key, raw, start_or_skip, encode)
        return answer({"request_id": await self._service.promises.submit(operation), "model_id": run.id})


def unknown_key(kind: type[Body], raw: bytes) -> UnknownKeyError | None:
    """What is wrong with the keys of `raw` as a `kind`; whatever else is wrong is for later."""
    try:
        parse(kind, raw)
    except UnknownKeyError as error:
        return error
    except ThumbsError:
        pass
    return None


def encode_json(describe: Callable[[Any], Mapping[str, Any]]) -> Encode:
    """Writes a result as the JSON object that `describe` makes of it."""
    return lambda result: (to_json(describe(result)), "application/json")
