"""Every route that takes a body is given a key that it does not know, and says which."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from starlette.routing import Route

from collect_visitor import Script, Visitor, team_app
from collect_world import ON_SQLITE, person, project_of_pairs
from thumbs.collect.question import Question
from thumbs.collect.records import Task
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore

pytestmark = ON_SQLITE

UNKNOWN = "no_such_key"
TOKENS = ("/api/v1/",)
NDJSON = "/api/v1/projects/{slug}/items"


def test_every_route_names_the_key_that_it_does_not_know(store: CollectStore):
    project = project_of_pairs(store, 2)
    chat = store.projects.create("chat", "Chat", Question(kind="chat"))
    owner = person(store, "olga", "owner")
    task = store.work.claim(project.id, owner)
    assert isinstance(task, Task)
    ids = {"assignments": task.assignment, "chat": store.chat.start(chat.id, owner)}
    app = team_app(store)
    visitor = Visitor(app, owner)
    script = Script(app, store.people.add_token(owner, "admin"))
    seen = []
    for number, route in enumerate(app.routes):
        if not isinstance(route, Route) or not (route.methods or set()) & {"POST", "PUT"}:
            continue
        (method,) = (route.methods or set()) & {"POST", "PUT"}
        path = route.path.replace("{slug}", "chat" if route.path.endswith("/chat") else "work").replace(
            "{item:int}", "1"
        )
        path = path.replace("{id}", ids["chat" if "/chat/" in path else "assignments"])
        path = path.replace("{secret}", store.people.invite(person(store, f"new{number}")))
        if route.path == NDJSON:  # rows of files: below
            continue
        if path.startswith(TOKENS):
            response = script.http.request(method, path, json={UNKNOWN: 1})
        elif path.startswith("/api/"):
            headers = {"If-Match": "1", "Idempotency-Key": "key-of-olga"}
            body = {"answer": {"verdict": "tie"}, UNKNOWN: 1} if "{id}" in route.path else {UNKNOWN: 1}
            response = visitor.json(path, body, method=method, **headers)
        else:
            response = visitor.form(path, **{UNKNOWN: "1"})
        assert UNKNOWN in response.text, (path, response.status_code, response.text[:300])
        assert response.status_code == 400, path
        seen.append(route.path)
    assert len(seen) > 20


def test_what_is_null_is_absent(store: CollectStore):
    project_of_pairs(store, 2)
    ann = person(store, "ann")
    visitor = Visitor(team_app(store), ann)
    task = visitor.json("/api/projects/work/claim", {"anything": None}).status_code
    assert task == 400  # a key that is not known is no better for being null
    assignment = visitor.json("/api/projects/work/claim").json()["task"]["id"]
    nulls = dict.fromkeys(("strength", "axes", "ranks", "ratings", "flags", "text", "reason", "skip_reason"))
    body = {"answer": {"verdict": "tie", **nulls}, "active_ms": None, "wall_ms": None, "input": None}
    address = f"/api/assignments/{assignment}/judgement"
    assert visitor.json(address, body, method="PUT", **{"Idempotency-Key": "key-of-ann"}).status_code == 201
    script = Script(visitor.http.app, store.people.add_token(person(store, "olga", "owner"), "export"))  # type: ignore[arg-type]
    filters = {"axis": None, "exclude_late": None, "min_strength": None}
    made = script.http.post("/api/v1/projects/work/exports", json={"format": None, "filters": filters})
    assert made.status_code == 201, made.text


def test_settings_and_filters_refuse_names_that_they_do_not_know(store: CollectStore):
    with pytest.raises(ValidationError, match=UNKNOWN):
        ProjectSettings.model_validate({UNKNOWN: 1})
    project_of_pairs(store, 2)
    owner = Visitor(team_app(store), person(store, "olga", "owner"))
    page = owner.get("/admin/p/work/export", params={"min_strenght": "2"})
    assert "there is no filter &#39;min_strenght&#39;" in page.text
