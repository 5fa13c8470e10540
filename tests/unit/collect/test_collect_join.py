"""Workers who come by links of Prolific and Mechanical Turk, and what sends them back."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from collect_visitor import Visitor, team_app
from collect_world import first_is_better, pair, person, project_of_pairs
from thumbs.collect.records import Answer, Task
from thumbs.collect.store import CollectStore
from thumbs.collect.web.join import completion_link
from thumbs.collect.web.requests import answer, caller_of
from thumbs.collect.web.site import site_of

PROLIFIC = {"PROLIFIC_PID": "5f3a", "STUDY_ID": "study1", "SESSION_ID": "s1"}
MTURK = {
    "assignmentId": "A-1",
    "hitId": "HIT1",
    "workerId": "W1",
    "turkSubmitTo": "https://workersandbox.mturk.com",
}
DONE = {"kind": "link", "url": "https://app.prolific.com/submissions/complete?cc=C0DE"}


async def _link(request: Any) -> Any:
    """What the page of no more tasks is given."""
    project = site_of(request).store.projects.find("work")
    reason = request.query_params["reason"]
    return answer({"link": await run_in_threadpool(completion_link, request, project, caller_of(request), reason)})


def site(store: CollectStore, pairs: int = 4, **settings: Any) -> Starlette:
    """The site with one project of so many pairs, and a window on completion_link."""
    project_of_pairs(store, pairs, **settings)
    app = team_app(store, secure=False)
    app.routes.insert(0, Route("/api/link", _link))
    return app


def link(visitor: Visitor, reason: str = "quota") -> dict[str, str] | None:
    return visitor.get("/api/link", params={"reason": reason}).json()["link"]


def judge(visitor: Visitor, how_many: int) -> None:
    """Judges so many tasks with the account of the session."""
    store = visitor.store
    account = visitor.get("/api/session").json()["account"]
    for _ in range(how_many):
        task = store.work.claim(store.projects.find("work").id, account)
        assert isinstance(task, Task), task
        store.work.submit(task.assignment, account, f"key-{task.assignment}", first_is_better(task))


def enter(app: Starlette, path: str = "/join/work", **ids: str) -> tuple[Visitor, httpx.Response]:
    """A browser that followed the link."""
    visitor = Visitor(app)
    return visitor, visitor.get(path, params=ids)


def test_a_participant_works_and_is_sent_back(store: CollectStore):
    app = site(store, prolific_code="C0DE", quota=2)
    visitor, entered = enter(app, **PROLIFIC)
    assert (entered.status_code, entered.headers["location"]) == (303, "/p/work")
    assert visitor.get("/p/work").status_code == 200
    assert link(visitor) is None  # nothing is judged yet
    judge(visitor, 2)
    assert link(visitor) == DONE
    assert link(visitor, "paused") == DONE  # she must be able to go, and is paid for what she gave
    page = visitor.get("/p/work")
    assert f'href="{DONE["url"]}"' in page.text
    assert store.people.all()[0].role == "annotator"
    assert visitor.get("/admin").status_code == 403


def test_the_way_back_is_for_those_who_came_that_way(store: CollectStore):
    app = site(store, prolific_code="C0DE")
    other = Visitor(app, person(store, "ann"))
    judge(other, 1)
    assert link(other, "done") is None


def test_a_second_visit_is_the_same_person_and_another_study_is_more_work(store: CollectStore):
    app = site(store, 9, prolific_code="C0DE", quota=2)
    first, _ = enter(app, **PROLIFIC)
    judge(first, 2)
    again, _ = enter(app, **PROLIFIC)
    assert link(again) == DONE
    later, _ = enter(app, **{**PROLIFIC, "STUDY_ID": "study2"})
    assert len(store.people.all()) == 1
    judge(later, 2)  # four different pairs in all
    project = store.projects.find("work")
    assert store.work.claim(project.id, store.people.all()[0].id) == "quota"
    assert len({vote.item for vote in store.votes.all(project.id)}) == 4


def test_another_study_adds_to_what_this_person_was_given_and_nobody_else(store: CollectStore):
    """The numbers of accounts and projects differ here."""
    for handle in ("ann", "bob"):
        person(store, handle)
    app = site(store, 9, prolific_code="C0DE", quota=2)
    first, _ = enter(app, **PROLIFIC)
    judge(first, 2)
    later, _ = enter(app, **{**PROLIFIC, "STUDY_ID": "study2"})
    project, worker = store.projects.find("work").id, store.people.find("prolific:5f3a").id
    assert store.people.member(project, worker).quota == 4
    judge(later, 2)
    assert store.work.claim(project, worker) == "quota"


def test_without_a_quota_the_first_answer_counts(store: CollectStore):
    app = site(store, prolific_code="C0DE")
    visitor, _ = enter(app, **PROLIFIC)
    judge(visitor, 1)
    assert link(visitor, "done") == DONE


@pytest.mark.parametrize("path", ["/join/work", "/join/work/mturk", "/join/none", "/join/none/mturk"])
def test_links_work_only_where_the_project_wants_them(store: CollectStore, path: str):
    _, response = enter(site(store), path, **PROLIFIC, **MTURK)
    assert response.status_code == 404
    assert store.people.all() == []


@pytest.mark.parametrize("name", PROLIFIC)
@pytest.mark.parametrize("value", ["", "a b", "{{%PROLIFIC_PID%}}", "x" * 65, "a\0", "é", "<b>", "a\r\nb: c"])
def test_participants_ids_that_are_refused(store: CollectStore, name: str, value: str):
    _, response = enter(site(store, 1, prolific_code="C0DE"), **{**PROLIFIC, name: value})
    assert response.status_code == 400
    assert "set-cookie" not in response.headers
    assert store.people.all() == []


def test_a_link_takes_over_no_account_with_a_password(store: CollectStore):
    app = site(store, prolific_code="C0DE")
    enter(app, **PROLIFIC)
    store.people.set_password(store.people.all()[0].id, "correct horse battery")
    visitor, response = enter(app, **PROLIFIC)
    assert response.status_code == 400
    assert visitor.get("/p/work").status_code == 303  # to the login


def test_a_link_throws_nobody_out_who_is_logged_in(store: CollectStore):
    app = site(store, prolific_code="C0DE")
    owner = Visitor(app, person(store, "olga", "owner"))
    assert owner.get("/join/work", params=PROLIFIC).status_code == 409
    assert owner.get("/admin").status_code == 200
    worker, _ = enter(app, **PROLIFIC)
    assert worker.get("/join/work", params={**PROLIFIC, "PROLIFIC_PID": "other"}).status_code == 303


def test_links_are_tried_slowly(store: CollectStore):
    app = site(store, 1, prolific_code="C0DE")
    codes = [enter(app, **{**PROLIFIC, "PROLIFIC_PID": f"p{n}"})[1].status_code for n in range(62)]
    assert (codes[:60], codes[-1]) == ([303] * 60, 429)


def test_a_project_by_invitation_takes_whoever_has_the_link(store: CollectStore):
    app = site(store, prolific_code="C0DE", invited_only=True)
    visitor, _ = enter(app, **PROLIFIC)
    judge(visitor, 1)


def test_a_preview_shows_the_guidelines_and_claims_nothing(store: CollectStore):
    app = site(store, mturk=True)
    project = store.projects.find("work")
    store.projects.advise(project.id, "Prefer the *kinder* reply.")
    _, page = enter(app, "/join/work/mturk", assignmentId="ASSIGNMENT_ID_NOT_AVAILABLE", hitId="HIT1")
    assert page.status_code == 200
    assert "<em>kinder</em>" in page.text
    assert "frame-ancestors https://*.mturk.com;" in page.headers["content-security-policy"]
    assert "question 0" not in page.text
    assert store.people.all() == []
    assert store.items.page(project.id)[0].n_live == 0


def test_a_worker_is_embedded_and_sends_the_assignment_back(store: CollectStore):
    app = site(store, mturk=True, quota=1)
    visitor, entered = enter(app, "/join/work/mturk", **MTURK)
    assert entered.headers["location"] == "/p/work"
    for line in entered.headers.get_list("set-cookie"):
        assert "SameSite=none; Secure; Partitioned" in line
        assert "HttpOnly" in line
    visitor = within_mturk(app, entered)
    policy = visitor.get("/p/work").headers["content-security-policy"]
    assert "frame-ancestors https://*.mturk.com;" in policy
    assert "form-action 'self' https://workersandbox.mturk.com;" in policy
    judge(visitor, 1)
    expected = {
        "kind": "form",
        "url": "https://workersandbox.mturk.com/mturk/externalSubmit",
        "assignmentId": "A-1",
    }
    assert link(visitor) == expected
    page = visitor.get("/p/work").text
    assert f'action="{expected["url"]}"' in page
    assert re.search(r'name="assignmentId" value="A-1"', page)


def within_mturk(app: Starlette, entered: httpx.Response) -> Visitor:
    """The browser with the cookies that came, sent by http too, which only tests do."""
    visitor = Visitor(app)
    for line in entered.headers.get_list("set-cookie"):
        name, _, value = line.partition(";")[0].partition("=")
        visitor.http.cookies.set(name, value.strip('"'))
    return visitor


@pytest.mark.parametrize(
    "back",
    [
        "",
        "http://www.mturk.com",
        "https://evil.example",
        "https://www.mturk.com.evil.example",
        "https://www.mturk.com@evil.example",
        "https://www.mturk.com/x",
        "javascript:alert(1)//www.mturk.com",
        "https://www.mturk.com; script-src *",
    ],
)
def test_assignments_go_back_to_mechanical_turk_alone(store: CollectStore, back: str):
    _, response = enter(site(store, 1, mturk=True), "/join/work/mturk", **{**MTURK, "turkSubmitTo": back})
    assert response.status_code == 400
    assert store.people.all() == []


def test_an_assignment_that_somebody_made_up_is_not_sent_back(store: CollectStore):
    app = site(store, mturk=True, quota=1)
    _, entered = enter(app, "/join/work/mturk", **MTURK)
    visitor = within_mturk(app, entered)
    judge(visitor, 1)
    good = visitor.http.cookies["collect_hit"]
    assert link(visitor) is not None
    head, body, signature = good.split(".")
    claims = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)).replace(b"A-1", b"A-2")
    other = base64.urlsafe_b64encode(claims).decode().rstrip("=")
    for forged in ("", "..", f"{head}.{other}.{signature}", f"{head}.{body}.", good + "0"):
        visitor = within_mturk(app, entered)
        visitor.http.cookies.set("collect_hit", forged)
        assert link(visitor) is None, forged


def test_pages_that_are_not_embedded_cannot_be_framed(store: CollectStore):
    app = site(store, prolific_code="C0DE", mturk=True)
    visitor, _ = enter(app, **PROLIFIC)
    assert "frame-ancestors 'none'" in visitor.get("/p/work").headers["content-security-policy"]


def test_tests_that_a_worker_answered_are_not_work_of_the_next_study(store: CollectStore):
    app = site(store, 9, prolific_code="C0DE", quota=2, gold_every=1)
    project = store.projects.find("work")
    gold = pair(100, role="gold", gold=Answer("prefer", strength=-1))
    assert store.items.add(project.id, [gold]).created == 1
    visitor, _ = enter(app, **PROLIFIC)
    judge(visitor, 3)  # one of them is the gold item
    worker = store.people.all()[0].id
    assert (store.work.given(project.id, worker), store.work.given(project.id, worker, "work")) == (3, 2)
    enter(app, **{**PROLIFIC, "STUDY_ID": "study2"})
    member = store.people.member(project.id, worker)
    assert member is not None
    assert member.quota == 4
