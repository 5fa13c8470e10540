"""What scripts do with tokens: add items, read numbers, fetch exports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from collect_visitor import Script, Visitor, team_app
from collect_world import first_is_better, person, project_of_pairs
from thumbs.collect.people import TokenScope
from thumbs.collect.records import Task
from thumbs.collect.store import CollectStore

WORK = "/api/v1/projects/work"
NDJSON = {"Content-Type": "application/x-ndjson"}


def script(store: CollectStore, scope: TokenScope = "admin") -> Script:
    owner = next((one.id for one in store.people.all() if one.handle == "olga"), None)
    owner = person(store, "olga", "owner") if owner is None else owner
    return Script(team_app(store), store.people.add_token(owner, scope))


def line(number: int, **more: Any) -> str:
    replies = [{"text": f"reply {letter}{number}", "generator": {"kind": "model", "name": letter}} for letter in "ab"]
    return json.dumps({"prompt": f"question {number}", "replies": replies, **more})


def judged(store: CollectStore, pairs: int = 6) -> int:
    """A project with so many pairs, each judged by two people; its id."""
    project = project_of_pairs(store, pairs, overlap=2)
    for who in (person(store, "ann"), person(store, "ben")):
        while isinstance(task := store.work.claim(project.id, who), Task):
            store.work.submit(task.assignment, who, f"key-{task.assignment}", first_is_better(task))
    return project.id


def test_items_are_added_once_and_bad_lines_are_named(store: CollectStore):
    project = project_of_pairs(store, 0)
    sent = "\n".join(
        [line(1), "", line(2), "{", line(1), json.dumps({"prompt": "x", "replies": ["same", "same"]}), "[]"]
    )
    api = script(store, "ingest")
    first = api.http.put(f"{WORK}/items", content=sent, headers=NDJSON)
    assert first.status_code == 200, first.text
    told = first.json()
    assert (told["created"], told["existing"]) == (2, 1)
    assert [one["line"] for one in told["rejected"]] == [4, 6, 7]
    assert told["n_rejected"] == 3
    assert all(one["error"] for one in told["rejected"])
    again = api.http.put(f"{WORK}/items", content=sent, headers=NDJSON).json()
    assert (again["created"], again["existing"], len(again["rejected"])) == (0, 3, 3)
    assert len(store.items.page(project.id)) == 2


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\xff\xfe\xfa", "UTF-8"),
        (b"[" * 100_000, ""),
        (b'{"prompt": "a\\u0000b", "replies": ["x", "y"]}', ""),
        (b'{"prompt": "p", "replies": ["x", "\\ud800"]}', ""),
        (b'{"prompt": "p", "replies": ["x", "y"], "priority": 1e999}', ""),
        (b'{"prompt": "p", "replies": ["x", "y"], "target": ' + b"9" * 30 + b"}", ""),
        (b'{"prompt": "p", "replies": ["x"]}', ""),
    ],
)
def test_items_that_cannot_be_kept_are_refused(store: CollectStore, content: bytes, error: str):
    project = project_of_pairs(store, 0)
    response = script(store).http.put(f"{WORK}/items", content=content, headers=NDJSON)
    assert response.status_code == 200, response.text
    (rejected,) = response.json()["rejected"]
    assert rejected["line"] == 1
    assert error in rejected["error"]
    assert store.items.page(project.id) == []


def test_items_come_as_lines_of_json(store: CollectStore):
    project_of_pairs(store, 0)
    api = script(store)
    for kind in ("application/json", "text/plain", ""):
        assert api.http.put(f"{WORK}/items", content=line(1), headers={"Content-Type": kind}).status_code == 415
    assert api.http.put("/api/v1/projects/none/items", content=line(1), headers=NDJSON).status_code == 404


def test_numbers_are_those_of_the_judgements(store: CollectStore):
    judged(store)
    api = script(store, "export")
    stats = api.http.get(f"{WORK}/stats").json()
    assert stats["judgements"] == 12
    assert (stats["progress"]["done"], stats["progress"]["given"], stats["progress"]["open"]) == (6, 12, 0)
    assert stats["shares"]["tie"]["value"] == 0
    agreement = api.http.get(f"{WORK}/agreement").json()["overall"]
    assert (agreement["items"], agreement["same"]["value"]) == (6, 1.0)
    board = api.http.get(f"{WORK}/leaderboard").json()
    (best, worst) = board["boards"][""]
    assert [board["generators"][str(one["generator"])]["name"] for one in (best, worst)] == ["alpha", "beta"]
    assert best["strength"]["n"] == 12


def test_numbers_of_nothing_are_none(store: CollectStore):
    project_of_pairs(store, 1)
    api = script(store, "export")
    for path in ("stats", "agreement", "leaderboard"):
        response = api.http.get(f"{WORK}/{path}")
        assert response.status_code == 200
        assert "NaN" not in response.text


def test_an_export_stays_as_it_was(store: CollectStore):
    project = judged(store)
    api = script(store, "export")
    made = api.http.post(f"{WORK}/exports", json={"format": "preferences", "filters": {"min_strength": 2}})
    assert made.status_code == 201, made.text
    told = made.json()
    assert made.headers["location"] == f"{WORK}/exports/{told['id']}"
    file = api.http.get(told["file"])
    assert hashlib.sha256(file.content).hexdigest() == told["manifest"]["sha256"]
    assert len(file.text.splitlines()) == told["manifest"]["counts"]["rows"] == 6
    assert file.headers["content-disposition"] == 'attachment; filename="work-preferences.jsonl"'
    late = person(store, "cleo")
    store.items.set_target(project, 3)
    task = store.work.claim(project, late)
    assert isinstance(task, Task)
    store.work.submit(task.assignment, late, "key-of-cleo", first_is_better(task))
    before = store.audit.events(), len(store.db.values(text("SELECT id FROM exports")))  # type: ignore[arg-type]
    assert api.http.get(told["file"]).content == file.content
    assert api.http.get(f"{WORK}/exports/{told['id']}").json() == told
    after = store.audit.events(), len(store.db.values(text("SELECT id FROM exports")))  # type: ignore[arg-type]
    assert after == before
    second = api.http.post(f"{WORK}/exports", json={"format": "preferences", "filters": {"min_strength": 2}}).json()
    assert second["id"] != told["id"]
    assert second["manifest"]["counts"]["kept"] == 13


def test_exports_leave_no_files_behind(store: CollectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    judged(store, 2)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    api = script(store)
    told = api.http.post(f"{WORK}/exports", json={}).json()
    assert api.http.get(told["file"]).status_code == 200
    assert api.http.post(f"{WORK}/exports", json={"filters": {"exclude_people": ["ann", "ben"]}}).status_code == 400
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"format": "xml"}, "no format 'xml'"),
        ({"format": 3}, "`format` must be text"),
        ({"filters": {"min_strenght": 2}}, "min_strength"),
        ({"filters": {"min_strength": 9}}, "min_strength"),
        ({"filter": {}}, "unknown: filter"),
        ({"filters": {"exclude_people": ["nobody"]}}, "nobody"),
    ],
)
def test_exports_that_cannot_be_made_say_why(store: CollectStore, body: dict[str, Any], said: str):
    judged(store, 1)
    response = script(store).http.post(f"{WORK}/exports", json=body)
    assert response.status_code == 400
    assert said in response.json()["detail"]


def test_an_export_is_of_its_own_project(store: CollectStore):
    judged(store, 1)
    project_of_pairs(store, 0, "other")
    api = script(store)
    number = api.http.post(f"{WORK}/exports", json={}).json()["id"]
    for path in (f"/api/v1/projects/other/exports/{number}", f"{WORK}/exports/{number + 1}", f"{WORK}/exports/0"):
        assert api.http.get(path).status_code == 404
        assert api.http.get(f"{path}/file").status_code == 404
    assert api.http.get(f"{WORK}/exports/{'9' * 30}").status_code in (400, 404)


def test_a_token_is_no_session_and_a_session_no_token(store: CollectStore):
    project_of_pairs(store, 1)
    api = script(store)
    for path in ("/admin", "/", "/p/work", "/api/session"):
        assert api.http.get(path, follow_redirects=False).status_code == 403
    owner = Visitor(team_app(store), store.people.find("olga").id)
    assert owner.get(f"{WORK}/stats").status_code == 401


@pytest.mark.parametrize(
    "given", ["", "x", "Bearer", "Bearer ", "Bearer x", "bearer \xff", "Basic eDp5", "Bearer " + "x" * 9000]
)
def test_tokens_that_are_none(store: CollectStore, given: str):
    project_of_pairs(store, 1)
    visitor = Visitor(team_app(store))
    response = visitor.get(f"{WORK}/stats", headers={"Authorization": given.encode("latin-1")})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"


def test_a_revoked_token_is_out_at_once(store: CollectStore):
    project_of_pairs(store, 1)
    api = script(store)
    assert api.http.get(f"{WORK}/stats").status_code == 200
    store.people.revoke(store.people.tokens()[0].id)
    assert api.http.get(f"{WORK}/stats").status_code == 401


def test_health(store: CollectStore):
    visitor = Visitor(team_app(store))
    assert visitor.get("/healthz").json() == {"status": "ok"}
    with store.db.transaction() as db:
        db.execute(text("UPDATE collect_version SET version_num = '9999'"))
    ill = visitor.get("/healthz")
    assert ill.status_code == 503
    assert "9999" in ill.json()["detail"]


def test_a_database_that_is_gone_is_said_to_be(tmp_path: Path):
    store = CollectStore(tmp_path / "collect.db")
    project_of_pairs(store, 1)
    visitor = Visitor(team_app(store), person(store, "ann"))
    store.close()
    for name in ("collect.db", "collect.db-wal", "collect.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "collect.db").mkdir()
    for path in ("/healthz", "/p/work"):
        response = visitor.get(path)
        assert response.status_code == 503
        assert "does not answer" in response.text
        assert str(tmp_path) not in response.text
