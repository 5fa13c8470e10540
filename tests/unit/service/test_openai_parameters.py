"""Every key of a request is used, changes nothing, or is refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_backend import MODEL
from pydantic import BaseModel
from service_caller import Caller

from thumbs.service import openai_parameters as parameters
from thumbs.service.openai_requests import ChatBody, ChatMessage, CompletionBody, OpenAIBody, StreamOptions, TextPart

PAGE = Path(__file__).resolve().parents[3] / "docs" / "service.md"
ROUTES = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody}
SMALLEST: dict[type[BaseModel], dict[str, Any]] = {
    ChatBody: {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    CompletionBody: {"model": MODEL, "prompt": "Hi"},
}
PLACES: dict[type[BaseModel], tuple[str | int, ...]] = {
    ChatBody: (),
    CompletionBody: (),
    ChatMessage: ("messages", 0),
    TextPart: ("messages", 0, "content", 0),
    StreamOptions: ("stream_options",),
}
SOME = {int: 1, float: 0.5, bool: True, str: "a"}


def _body(kind: type[BaseModel], place: tuple[str | int, ...], key: str, value: Any) -> dict[str, Any]:
    """A request that is right but for one key, at a place in it."""
    import copy

    body = copy.deepcopy(SMALLEST[kind])
    inner: Any = body
    for step in place:
        inner = inner.setdefault(step, {}) if isinstance(inner, dict) else inner[step]
    if place == ("stream_options",):
        body["stream"] = True
    inner[key] = value
    return body


def _objects() -> Iterator[tuple[str, type[BaseModel], tuple[str | int, ...], type[OpenAIBody]]]:
    """Each route with each object that its requests may hold."""
    for route, kind in ROUTES.items():
        for nested, place in PLACES.items():
            if (not place and nested is kind) or (place and str(place[0]) in kind.model_fields):
                assert issubclass(nested, OpenAIBody)
                yield route, kind, place, nested


def _all_bodies(kind: type[Any] = OpenAIBody) -> set[type[Any]]:
    below = {each for child in kind.__subclasses__() for each in _all_bodies(child)}
    return below or {kind}


def test_every_object_of_a_request_is_looked_at_here() -> None:
    assert _all_bodies() == set(PLACES)
    assert {nested for _, _, _, nested in _objects()} == set(PLACES)


@pytest.mark.parametrize(("route", "kind", "place", "nested"), list(_objects()))
def test_an_unknown_key_is_named(caller: Caller, route: str, kind: Any, place: Any, nested: Any) -> None:
    for value in (1, False, "", {}, []):
        refused = caller.http.post(route, json=_body(kind, place, "unheard_of", value))
        assert refused.status_code == 400
        error = refused.json()["error"]
        name = ".".join(map(str, [*place, "unheard_of"]))
        assert (error["param"], error["code"]) == (name, "unknown_parameter")
        assert name in error["message"]
    assert caller.http.post(route, json=_body(kind, place, "unheard_of", None)).status_code == 200  # null is absent


@pytest.mark.parametrize(("route", "kind", "place", "nested"), list(_objects()))
def test_keys_without_a_meaning_change_nothing_or_are_refused(
    caller: Caller, route: str, kind: Any, place: Any, nested: Any
) -> None:
    for key, row in nested.neutral.items():
        assert key not in nested.model_fields
        values = ["x", 7] if parameters.ANY in row.values else row.values
        for value in (*values, None):
            taken = caller.http.post(route, json=_body(kind, place, key, value))
            assert taken.status_code == 200, (key, value, taken.text)
        if parameters.ANY not in row.values:
            for value in ({"odd": 1}, 0.3):
                refused = caller.http.post(route, json=_body(kind, place, key, value))
                assert refused.status_code == 400, key
                error = refused.json()["error"]
                assert error["param"] == ".".join(map(str, [*place, key]))
                assert row.reason in error["message"]


@pytest.mark.parametrize(("route", "kind"), ROUTES.items())
def test_null_is_absent(caller: Caller, route: str, kind: Any) -> None:
    for key, field in kind.model_fields.items():
        answer = caller.http.post(route, json=_body(kind, (), key, None))
        if field.is_required():
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == key
        else:
            assert answer.status_code == 200, key


@pytest.mark.parametrize(
    "changes",
    [
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2},
        {"logit_bias": {"65": 100}},
        {"response_format": {"type": "json_object"}},
        {"functions": [{"name": "f"}]},
        {"tool_choice": "required"},
        {"min_p": 0.5},
        {"min_tokens": 24},
        {"guided_choice": ["yes", "no"]},
        {"modalities": ["audio"]},
        {"reasoning_effort": "high"},
        {"prediction": {"type": "content", "content": "x"}},
        {"store": True},
        {"service_tier": "flex"},
        {"presence_penalty": False},
    ],
)
def test_what_other_servers_do_and_this_one_does_not(caller: Caller, changes: dict[str, Any]) -> None:
    refused = caller.http.post("/v1/chat/completions", json={**SMALLEST[ChatBody], **changes})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == next(iter(changes))


def test_the_page_says_what_the_code_does() -> None:
    """A row for each parameter that is served, and for each that is taken because it changes nothing."""
    page = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", page, re.MULTILINE))
    for kind in (ChatBody, CompletionBody):
        assert [key for key in kind.model_fields if key not in rows] == []
    for place, table in parameters.TABLES.items():
        for key, row in table.items():
            told = rows[key if place.endswith("completions") else f"{_prefix(place)}{key}"]
            assert told == f"{row.allowed} | {row.reason}", key


def _prefix(place: str) -> str:
    return {"a message": "messages.", "a part of a message": "messages.content.", "stream_options": "stream_options."}[
        place
    ]
