"""Operations of one model, in the order of their numbers.

A submission that could be read takes its place in that order even where it is wrong: it then fails by itself, and those
after it do not wait for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from pydantic import model_validator
from starlette.requests import Request
from starlette.responses import Response

from thumbs.errors import ConfigError, ThumbsError
from thumbs.service import wire
from thumbs.service.keys import UnknownKeyError
from thumbs.service.promises import Encode, PromisedOperation
from thumbs.service.requests import Body, Int64, answer, owner_of, parse, to_json
from thumbs.service.state import Service


class Numbered(Body):
    """What every operation of a model carries; without a number it is ordered by its arrival."""

    model_id: str
    seq_id: Int64 | None = None


class Optimizer(Body):
    """Which optimizer a client wants; of another one than ours the settings do not matter."""

    type: str = "adamw"

    @model_validator(mode="before")
    @classmethod
    def _other(cls, given: Any) -> Any:
        other = isinstance(given, dict) and given.get("type", "adamw") != "adamw"
        return {"type": given["type"]} if other else given

    def check(self) -> None:
        """Raises ConfigError unless it is the one that is served."""
        if self.type != "adamw":
            raise ConfigError(f"optimizer {self.type!r} is not served; use adamw")


async def submit(
    service: Service,
    request: Request,
    kind: str,
    numbered: Numbered,
    raw: bytes,
    start: Callable[[], Future[Any]],
    encode: Encode,
    *,
    unknown: UnknownKeyError | None = None,
) -> Response:
    """The promise of an operation; raises MissingError unless the model is the caller's.

    `start` runs in a worker thread. Where it raises an error of the user, the number is used up all the same. A key
    that is `unknown` is refused at once, and uses up the number too.
    """
    owner = owner_of(request)
    run = await service.threads.record(service.backend.store.run, numbered.model_id, owner)
    if unknown is not None:
        if numbered.seq_id is not None:
            with contextlib.suppress(ThumbsError):
                await service.threads.work(service.backend.skip, run.id, numbered.seq_id, unknown)
        raise unknown
    await service.threads.record(service.backend.store.touch_run, run.id)

    def start_or_skip() -> Future[Any]:
        try:
            return start()
        except ThumbsError as error:
            if numbered.seq_id is None:
                raise
            return service.backend.skip(run.id, numbered.seq_id, error)

    key = None if numbered.seq_id is None else (run.id, numbered.seq_id)
    operation = PromisedOperation(kind, owner, run.session_id, key, raw, start_or_skip, encode)
    request_id = await service.promises.submit(operation)
    return answer({"request_id": request_id, "model_id": run.id})


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


def encode_binary(result: Any) -> tuple[bytes, str]:
    """Writes the output of a pass or a sample as protobuf, which every SDK reads."""
    return wire.encode_result(result), wire.PROTOBUF
