"""No door leads past who a project is open to; the doors are all routes of the site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from collect_visitor import Visitor, team_app
from collect_world import ON_SQLITE, model, person
from thumbs.collect.errors import Closed
from thumbs.collect.question import Question
from thumbs.collect.records import Answer, NewItem, Project, Task
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.records import Message, Reply

pytestmark = ON_SQLITE

SECRET = "secret-words"  # noqa: S105 - in every text of the project
PATHS = {"slug": "secret", "export:int": "1", "item:int": "1", "job:int": "1", "secret": "none"}
OWN = ("/api/assignments/{id}", "/api/projects/{slug}/history")
"""What shows a person their own answers again; a used-up quota leaves that open."""


class Live:
    """A policy."""

    name = "live"

    def write(self, messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
        return [Reply(f"{'ab'[i]} {SECRET} {seed}", model("live", seed + i)) for i in range(n)]


def secret_item(number: int, **more: object) -> NewItem:
    texts = (f"{SECRET} one {number}", f"{SECRET} two {number}")
    replies = tuple(Reply(text, model("m", number)) for text in texts)
    return NewItem((Message("user", f"{SECRET} question {number}"),), replies, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Scene:
    """Eve, and what she has in a project that is about to be closed to her."""

    store: CollectStore
    project: Project
    eve: int
    assignment: str
    conversation: str


def uninvited(scene: Scene) -> None:
    scene.store.projects.configure(scene.project.id, ProjectSettings(invited_only=True))


def paused_member(scene: Scene) -> None:
    scene.store.people.enrol(scene.project.id, scene.eve)
    scene.store.people.set_member(scene.project.id, scene.eve, paused=True)


def paused_project(scene: Scene) -> None:
    scene.store.projects.set_state(scene.project.id, "paused")


def closed_project(scene: Scene) -> None:
    scene.store.projects.set_state(scene.project.id, "closed")


def used_up(scene: Scene) -> None:
    task = scene.store.work.claim(scene.project.id, scene.eve)
    if not isinstance(task, Task):
        task = scene.store.chat.say(scene.conversation, scene.eve, "hello", Live().write)
    scene.store.work.submit(task.assignment, scene.eve, "key-of-eve", {"verdict": "tie"})
    scene.store.projects.configure(scene.project.id, ProjectSettings(quota=1))


def failed_test(scene: Scene) -> None:
    gold = secret_item(90, role="qualification", gold=Answer("prefer", 2))
    scene.store.items.add(scene.project.id, [gold])
    scene.store.projects.configure(scene.project.id, ProjectSettings(qualify_items=1, qualify_share=1.0))
    if scene.assignment:
        scene.store.work.release(scene.assignment, scene.eve)
    task = scene.store.work.claim(scene.project.id, scene.eve)
    assert isinstance(task, Task)
    scene.store.work.submit(task.assignment, scene.eve, "key-of-eve", {"verdict": "tie"})
    scene.store.work.claim(scene.project.id, scene.eve)


CLOSED: list[Callable[[Scene], None]] = [
    uninvited,
    paused_member,
    paused_project,
    closed_project,
    used_up,
    failed_test,
]


def scene_of(store: CollectStore, kind: str, close: Callable[[Scene], None]) -> Scene:
    question = Question(kind=kind)  # type: ignore[arg-type]
    project = store.projects.create("secret", "Secret", question, guidelines=f"{SECRET} guide")
    if kind == "pair":
        store.items.add(project.id, [secret_item(n) for n in range(4)])
    eve, assignment, conversation = person(store, "eve"), "", ""
    if kind == "chat":
        conversation = store.chat.start(project.id, eve)
    elif close is not uninvited:  # a task on her screen, which she is about to answer
        task = store.work.claim(project.id, eve)
        assert isinstance(task, Task)
        assignment = task.assignment
    scene = Scene(store, project, eve, assignment, conversation)
    close(scene)
    return scene


def requests(app: Starlette, scene: Scene) -> Iterator[tuple[str, str, str]]:
    """(method, route, address) of everything that the site answers."""
    for route in app.routes:
        if isinstance(route, Route):
            address = route.path
            identity = scene.conversation if "/chat/" in address else scene.assignment
            for name, value in {**PATHS, "id": identity or "none"}.items():
                address = address.replace(f"{{{name}}}", value)
            for method in sorted(route.methods or ()):
                yield method, route.path, address


@pytest.mark.parametrize("kind", ["pair", "chat"])
@pytest.mark.parametrize("close", CLOSED, ids=lambda close: close.__name__)
def test_no_route_hands_anything_out_to_whom_the_project_is_closed(
    store: CollectStore, close: Callable[[Scene], None], kind: str
):
    scene = scene_of(store, kind, close)
    app = team_app(store, sources={"secret": Live()})
    visitor = Visitor(app, scene.eve)
    answered = {"answer": {"verdict": "tie"}}
    seen = 0
    for method, route, address in requests(app, scene):
        if close is used_up and route in OWN:
            continue
        if method in ("GET", "HEAD"):
            response = visitor.http.request(method, address)
        elif "{id}" in route and ("judgement" in route or "revisions" in route):
            more = {"Idempotency-Key": f"key-{route[-9:]}", "If-Match": "1"}
            response = visitor.json(address, answered, method=method, **more)
        elif route == "/logout":
            continue
        else:
            response = visitor.json(address, {"text": "hello"} if "chat" in route else {}, method=method)
        assert SECRET not in response.text, (method, address, response.status_code)
        seen += 1
    assert seen > 40
    assert visitor.get("/api/session").status_code == 200  # she was logged in all the time


@pytest.mark.parametrize("close", CLOSED, ids=lambda close: close.__name__)
def test_the_store_itself_gives_no_task_and_no_turn(store: CollectStore, close: Callable[[Scene], None]):
    scene = scene_of(store, "chat", close)
    assert isinstance(store.work.claim(scene.project.id, scene.eve), str)
    with pytest.raises(Closed):
        store.chat.start(scene.project.id, scene.eve)
    with pytest.raises(Closed):
        store.chat.say(scene.conversation, scene.eve, "hello", Live().write)


def test_a_paused_member_with_a_task_on_the_screen_gets_no_other_one(store: CollectStore):
    scene = scene_of(store, "pair", paused_member)
    assert store.work.claim(scene.project.id, scene.eve) == "paused"
    store.work.submit(scene.assignment, scene.eve, "key-of-eve", {"verdict": "tie"})  # kept: it was on its way
    assert store.work.claim(scene.project.id, scene.eve) == "paused"
    store.people.set_member(scene.project.id, scene.eve, paused=False)
    assert isinstance(store.work.claim(scene.project.id, scene.eve), Task)


def test_guidelines_of_a_project_by_invitation_are_for_its_members(store: CollectStore):
    scene = scene_of(store, "pair", uninvited)
    visitor, path = Visitor(team_app(store), scene.eve), "/api/projects/secret/guidelines"
    refused = visitor.get(path)
    assert (refused.status_code, SECRET in refused.text) == (403, False)
    store.people.enrol(scene.project.id, scene.eve)
    assert SECRET in visitor.get(path).text


def test_owners_and_admins_need_no_invitation(store: CollectStore):
    scene = scene_of(store, "pair", uninvited)
    assert isinstance(store.work.claim(scene.project.id, person(store, "olga", "owner")), Task)
    assert store.work.claim(scene.project.id, person(store, "rita", "reviewer")) == "not_invited"


def test_an_entry_link_opens_its_own_project_alone(store: CollectStore):
    scene = scene_of(store, "pair", lambda _: None)
    store.projects.create("study", "Study", Question(), settings=ProjectSettings(prolific_code="C0DE"))
    app = team_app(store)
    worker = Visitor(app)
    ids = {"PROLIFIC_PID": "made-up", "STUDY_ID": "s", "SESSION_ID": "t"}
    assert worker.get("/join/study", params=ids).headers["location"] == "/p/study"
    assert SECRET not in worker.get("/p/secret").text
    assert "/p/secret" not in worker.get("/", params={"lang": "en"}).text
    account = store.people.find("prolific:made-up").id
    assert store.work.claim(scene.project.id, account) == "not_invited"


def test_projects_of_a_team_begin_by_invitation(store: CollectStore):
    owner = Visitor(team_app(store), person(store, "olga", "owner"))
    form = {"slug": "closed", "name": "n", "kind": "pair", "tie": "on"}
    assert owner.form("/admin/new", **form).status_code == 303
    assert owner.form("/admin/new", **{**form, "slug": "open"}, open_to_all="on").status_code == 303
    found = {one.slug: store.projects.settings(one.id).invited_only for one in store.projects.all()}
    assert found == {"closed": True, "open": False}


def test_few_accounts_are_made_from_one_address(store: CollectStore):
    store.projects.create("study", "Study", Question(), settings=ProjectSettings(prolific_code="C0DE"))
    app = team_app(store)
    app.state.limits.door._rate = 1e9  # the door itself is always free: this is of new accounts
    ids = {"STUDY_ID": "s", "SESSION_ID": "t"}
    codes = [Visitor(app).get("/join/study", params={**ids, "PROLIFIC_PID": f"p{n}"}).status_code for n in range(62)]
    assert codes == [303] * 60 + [429] * 2
    assert Visitor(app).get("/join/study", params={**ids, "PROLIFIC_PID": "p1"}).status_code == 303  # she has one


def test_few_workers_of_mechanical_turk_come_from_one_address(store: CollectStore):
    store.projects.create("hits", "Hits", Question(), settings=ProjectSettings(mturk=True))
    app = team_app(store)
    app.state.limits.newcomers._burst = 2
    ids = {"assignmentId": "A", "hitId": "H", "turkSubmitTo": "https://workersandbox.mturk.com"}
    workers = ("w1", "w2", "w3", "w1")
    codes = [Visitor(app).get("/join/hits/mturk", params={**ids, "workerId": w}).status_code for w in workers]
    assert codes == [303, 303, 429, 303]
