"""However it ends, a hired worker finds the way back, with the code for how it ended."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from collect_visitor import Visitor, team_app
from collect_world import ON_SQLITE, first_is_better, pair, person
from thumbs.collect.question import Question
from thumbs.collect.records import Answer, Project, Task
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore

pytestmark = ON_SQLITE

DONE, SCREENED, EARLY = "D0NE", "SCREEN", "EARLY"
SKIP = {"verdict": "skip", "skip_reason": "unclear"}


@dataclass(frozen=True)
class Scene:
    store: CollectStore
    project: Project
    worker: int

    def judge(self, how_many: int = 1, body: dict[str, object] | None = None) -> None:
        for _ in range(how_many):
            task = self.store.work.claim(self.project.id, self.worker)
            assert isinstance(task, Task), task
            given = body or first_is_better(task)
            self.store.work.submit(task.assignment, self.worker, f"key-{task.assignment}", given)

    def others_hold_the_rest(self) -> None:
        number = 0
        while isinstance(self.store.work.claim(self.project.id, person(self.store, f"other{number}")), Task):
            number += 1


def quota(scene: Scene) -> None:
    scene.judge(3)


def all_judged(scene: Scene) -> None:
    scene.store.items.retire([3, 4])
    scene.judge(2)


def screened_out(scene: Scene) -> None:
    gold = pair(90, role="qualification", gold=Answer("prefer", 2))
    scene.store.items.add(scene.project.id, [gold])
    now = scene.store.projects.settings(scene.project.id)
    wanted = now.model_copy(update={"qualify_items": 1, "qualify_share": 1.0})
    scene.store.projects.configure(scene.project.id, wanted)
    scene.judge(1, {"verdict": "tie"})


def project_paused(scene: Scene) -> None:
    scene.judge(1)
    scene.store.projects.set_state(scene.project.id, "paused")


def worker_paused(scene: Scene) -> None:
    scene.judge(1)
    scene.store.people.set_member(scene.project.id, scene.worker, paused=True)


def project_closed(scene: Scene) -> None:
    scene.judge(1)
    scene.store.projects.set_state(scene.project.id, "closed")


def held_by_others(scene: Scene) -> None:
    scene.judge(1)
    scene.others_hold_the_rest()


def all_skipped(scene: Scene) -> None:
    scene.judge(4, SKIP)


def nothing_at_all(scene: Scene) -> None:
    scene.others_hold_the_rest()


def paused_before_the_first(scene: Scene) -> None:
    scene.store.projects.set_state(scene.project.id, "paused")


OUTCOMES: list[tuple[Callable[[Scene], None], str, str]] = [
    (quota, DONE, DONE),
    (all_judged, DONE, DONE),
    (project_closed, DONE, DONE),
    (screened_out, SCREENED, DONE),
    (project_paused, EARLY, DONE),
    (worker_paused, EARLY, DONE),
    (held_by_others, EARLY, DONE),
    (all_skipped, EARLY, DONE),
    (nothing_at_all, EARLY, "NOCODE"),
    (paused_before_the_first, EARLY, "NOCODE"),
]


@pytest.mark.parametrize("own_codes", [True, False])
@pytest.mark.parametrize(("ends", "code", "without"), OUTCOMES, ids=lambda one: getattr(one, "__name__", ""))
def test_prolific(store: CollectStore, ends: Callable[[Scene], None], code: str, without: str, own_codes: bool):
    more = {"prolific_screen_out_code": SCREENED, "prolific_early_code": EARLY} if own_codes else {}
    settings = ProjectSettings(prolific_code=DONE, quota=3, **more)
    project = store.projects.create("study", "Study", Question(), settings=settings)
    store.items.add(project.id, [pair(n) for n in range(4)])
    visitor = Visitor(team_app(store))
    visitor.get("/join/study", params={"PROLIFIC_PID": "p1", "STUDY_ID": "s", "SESSION_ID": "t"})
    scene = Scene(store, project, store.people.find("prolific:p1").id)
    ends(scene)
    page = visitor.get("/p/study").text
    expected = code if own_codes else without
    assert re.findall(r'href="https://app\.prolific\.com/submissions/complete\?cc=(\w+)"', page) == [expected]


@pytest.mark.parametrize("ends", [one for one, _, _ in OUTCOMES], ids=lambda one: one.__name__)
def test_mechanical_turk(store: CollectStore, ends: Callable[[Scene], None]):
    project = store.projects.create("study", "Study", Question(), settings=ProjectSettings(mturk=True, quota=3))
    store.items.add(project.id, [pair(n) for n in range(4)])
    visitor = Visitor(team_app(store, secure=True), url="https://localhost")
    ids = {"assignmentId": "A1", "hitId": "H1", "workerId": "w1", "turkSubmitTo": "https://www.mturk.com"}
    visitor.get("/join/study/mturk", params=ids)
    ends(Scene(store, project, store.people.find("mturk:w1").id))
    page = visitor.get("/p/study").text
    nothing = ends in (nothing_at_all, paused_before_the_first)
    assert ("mturk.com/mturk/externalSubmit" in page) != nothing
    assert ("Return this HIT" in page) == nothing
