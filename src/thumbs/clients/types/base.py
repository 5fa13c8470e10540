"""The two kinds of records: what a user writes, and what a service answers."""

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """Written by users: frozen, and an unknown field is an error, so that a typing mistake shows at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Response(BaseModel):
    """Answered by a service: frozen, and unknown fields are dropped, so that a newer service can say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
