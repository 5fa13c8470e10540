"""The annotator's pages and what their script asks: tasks, answers, the own history, conversations.

Nothing here tells who wrote what: replies have places, in the order shown, and no other name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.collect.errors import CollectError, Conflict
from thumbs.collect.projects import read_settings
from thumbs.collect.records import Effort, NoTask, Project, Task
from thumbs.collect.web.join import completion_link
from thumbs.collect.web.login import enter
from thumbs.collect.web.render import fragment, language_of, page, static
from thumbs.collect.web.requests import ANNOTATE, answer, caller_of, problem, redirect
from thumbs.collect.web.site import root_of, site_of
from thumbs.collect.web.visits import Visit, person
from thumbs.collect.web.words import script_words

SKIP_WORDS = ("unclear", "expertise", "language", "broken", "other")
"""Reasons for skipping that the pages have words for; a project's own are shown as they are."""
_DAY_MS = 86_400_000
_JUDGEMENT = ("answer", "active_ms", "wall_ms", "input")


@dataclass(frozen=True)
class Key:
    """A line of the table that drives keys, buttons and the help. does: what the script calls the action;
    kinds: of tasks that have it, empty: all.
    """

    shown: str
    does: str
    kinds: tuple[str, ...] = ()


_PAIR = ("pair", "chat")
KEYS = (
    Key("1–8", "strength", _PAIR),
    Key("0–9", "number", ("rank", "rate")),
    Key("T", "tie", _PAIR),
    Key("B", "both_bad", _PAIR),
    Key("⏎", "submit"),
    Key("S", "skip"),
    Key("U", "undo"),
    Key("E", "write"),
    Key("R", "raw"),
    Key("D", "diff", _PAIR),
    Key("G", "guidelines"),
    Key("?", "help"),
)


def routes() -> list[Route]:
    """The first page, the annotator's page, and their API."""
    own, project = "/api/assignments/{id}", "/api/projects/{slug}"
    return [
        Route("/", front, methods=["GET"]),
        person("/p/{slug}", annotate),
        person("/api/session", session),
        person(f"{project}/claim", claim, "POST"),
        person(f"{project}/history", history),
        person(f"{project}/guidelines", guidelines),
        person(f"{project}/help", explain),
        person(f"{project}/chat", begin, "POST", "goal", "text", slow=True),
        person("/api/chat/{id}/turns", turn, "POST", "text", slow=True),
        person("/api/chat/{id}/end", end, "POST", "success"),
        person(own, show_task),
        person(f"{own}/judgement", judge, "PUT", *_JUDGEMENT),
        person(f"{own}/revisions", revise, "POST", *_JUDGEMENT),
        person(f"{own}/release", release, "POST"),
        person(f"{own}/heartbeat", heartbeat, "POST"),
    ]


async def front(request: Request) -> Response:
    """The caller's projects; at this machine, also the way in."""
    token = request.query_params.get("token")
    if token is not None and site_of(request).local:
        return await enter(request, token)
    return await run_in_threadpool(home, Visit(request, caller_of(request)))


def home(visit: Visit) -> Response:
    """The caller's projects; where there is one, that one."""
    judges = visit.caller.account.role in ANNOTATE
    ending, projects = "" if judges else "/results", visit.store.projects.all()
    if judges:  # they know of all projects but those by invitation, which they were not added to
        access = visit.store.work.access
        projects = [one for one in projects if access(one.id, visit.account).closed != "not_invited"]
    if len(projects) == 1 and not visit.asked("lang"):
        return redirect(visit.request, f"/p/{projects[0].slug}{ending}")
    return page(visit.request, "home.html", projects=projects, ending=ending)


def annotate(visit: Visit) -> Response:
    """The page, with the first task in it."""
    request, project = visit.request, visit.project
    setup = {
        "project": project.slug,
        "root": root_of(request),
        "account": visit.account,
        "csrf": visit.caller.csrf,
        "local": visit.site.local,
        "quick": read_settings(project).submit_on_key,
        "keys": {key.shown.lower(): key.does for key in KEYS if len(key.shown) == 1 and key.shown.isascii()},
        "words": script_words(language_of(request)),
        "kinds": root_of(request) + static("kinds.js"),
        "differences": root_of(request) + static("differences.js"),
    }
    part = _next(visit, project)
    return page(
        request,
        "annotate.html",
        project=project,
        question=visit.store.projects.question(project.id)[1],
        given=visit.store.work.given(project.id, visit.account),
        html=part["task"]["html"] if "task" in part else part["html"],
        setup=setup,
    )


def session(visit: Visit) -> dict[str, Any]:
    """Who is logged in, and the token that their requests must carry; a page asks when its own is out of date."""
    return {"account": visit.account, "csrf": visit.caller.csrf}


def claim(visit: Visit) -> dict[str, Any]:
    """The caller's task, or why there is none."""
    return _next(visit, visit.project)


def judge(visit: Visit) -> Response:
    """Keeps an answer; 201 where it is new, 200 where it was here already. Comes with the next task."""
    return _keep(visit, expected=None)


def revise(visit: Visit) -> Response:
    """Keeps an answer in place of the one named by If-Match; 412 where another one stands."""
    named = visit.request.headers.get("if-match", "").strip('"')
    if not (named.isascii() and named.isdigit() and len(named) < 10):
        return problem(428, "Precondition Required", "If-Match must name the revision that is changed")
    try:
        return _keep(visit, expected=int(named))
    except Conflict as conflict:
        return problem(412, "Precondition Failed", str(conflict), revision=conflict.revision)


def show_task(visit: Visit) -> dict[str, Any]:
    """One of the caller's own tasks, with the answer that stands."""
    mine = visit.path("id"), visit.account
    task = visit.store.work.show(*mine)
    return {"task": _task(visit, task, visit.store.projects.get(visit.store.work.project_of(*mine)))}


def history(visit: Visit) -> dict[str, Any]:
    """The own last answers: which task, what kind of verdict, of what question, when. No item and no sign of strength:
    these would tell in which order replies are kept.
    """
    past = visit.store.work.history(visit.project.id, visit.account)
    lines = [
        {"assignment": one.assignment, "verdict": one.verdict, "excerpt": one.excerpt, "at": one.at.isoformat()}
        for one in past
    ]
    return {"history": lines}


def guidelines(visit: Visit) -> dict[str, Any]:
    """The project's guidelines as they are now."""
    visit.store.work.access(visit.project.id, visit.account).check()
    version = visit.store.projects.guidelines(visit.project.id)
    html = fragment(visit.request, "guidelines.html", version=version.version, body=version.body)
    return {"version": version.version, "html": html}


def explain(visit: Visit) -> dict[str, Any]:
    """The keys that the project's tasks have."""
    kind = visit.store.projects.question(visit.project.id)[1].kind
    keys = [key for key in KEYS if not key.kinds or kind in key.kinds]
    return {"html": fragment(visit.request, "help.html", keys=keys)}


def release(visit: Visit) -> dict[str, Any]:
    """Gives a task back."""
    visit.store.work.release(visit.path("id"), visit.account)
    return {"released": True}


def heartbeat(visit: Visit) -> dict[str, Any]:
    """Renews a task's lease."""
    return {"expires": visit.store.work.heartbeat(visit.path("id"), visit.account).isoformat()}


def begin(visit: Visit) -> Response:
    """A new conversation with its first message: the choice between two replies to it."""
    goal, waiting = visit.text("goal"), _waiting(visit, visit.project)
    if waiting:
        return answer(waiting, 201)
    conversation = visit.store.chat.start(visit.project.id, visit.account, goal)
    return _said(visit, visit.project, conversation)


def turn(visit: Visit) -> Response:
    """The next message of a conversation: the choice between two replies to it, or the one that still waits."""
    project = _project_of_chat(visit)
    waiting = _waiting(visit, project)
    return answer(waiting, 201) if waiting else _said(visit, project, visit.path("id"))


def end(visit: Visit) -> dict[str, Any]:
    """Ends a conversation; what comes next."""
    success = visit.body.get("success")
    if success is not None and (not isinstance(success, int) or isinstance(success, bool)):
        raise HTTPException(400, "`success` must be a number from 0 to 4")
    project = _project_of_chat(visit)
    visit.store.chat.end(visit.path("id"), visit.account, success)
    return {"next": _next(visit, project)}


def _project_of_chat(visit: Visit) -> Project:
    return visit.store.projects.get(visit.store.chat.project_of(visit.path("id"), visit.account))


def _next(visit: Visit, project: Project) -> dict[str, Any]:
    """{"task"} or {"nothing", "html"}: what the page shows now."""
    found = visit.store.work.claim(project.id, visit.account)
    if isinstance(found, Task):
        return {"task": _task(visit, found, project)}
    if found == "your_turn":
        return {"nothing": found, "html": _your_turn(visit, project)}
    reason: NoTask = "waiting" if found == "done" and project.slug in visit.site.sources else found
    html = fragment(
        visit.request,
        "nothing.html",
        reason=reason,
        completion=completion_link(visit.request, project, visit.caller, reason),
        given=visit.store.work.given(project.id, visit.account),
    )
    return {"nothing": reason, "html": html}


def _task(visit: Visit, task: Task, project: Project) -> dict[str, Any]:
    guideline: int | str = task.guideline_version
    if not visit.store.projects.advice(project.id, guideline).strip():
        guideline = ""
    html = fragment(visit.request, "task.html", task=task, guideline=guideline, skip_words=SKIP_WORDS)
    return {"id": task.assignment, "revision": task.revision, "earlier": task.earlier, "html": html}


def _keep(visit: Visit, expected: int | None) -> Response:
    """Stores an answer (of revision `expected`, None: the first) and finds the next task."""
    work, given = visit.store.work, visit.body.get("answer")
    if not isinstance(given, dict):
        raise HTTPException(400, "`answer` must be an object")
    mine = visit.path("id"), visit.account
    key, effort = visit.request.headers.get("idempotency-key", ""), _effort(visit)
    if expected is None:
        saved = work.submit(*mine, key, given, effort)
    else:
        saved = work.revise(*mine, key, expected, given, effort)
    shown = {"assignment": saved.assignment, "revision": saved.revision, "replayed": saved.replayed}
    project = visit.store.projects.get(work.project_of(*mine))
    return answer({"saved": shown, "next": _next(visit, project)}, 200 if saved.replayed else 201)


def _effort(visit: Visit) -> Effort:
    def milliseconds(name: str) -> int:
        value = visit.body.get(name, 0)
        return min(value, _DAY_MS) if isinstance(value, int) and value > 0 else 0

    given = visit.body.get("input")
    by = given if given in ("key", "pointer", "touch") else "api"
    return Effort(milliseconds("active_ms"), milliseconds("wall_ms"), by)


def _your_turn(visit: Visit, project: Project) -> str:
    store = visit.store
    conversation = store.chat.current(project.id, visit.account)
    question = store.projects.question(project.id)[1]
    guideline = store.projects.guidelines(project.id)
    return fragment(
        visit.request,
        "chat.html",
        conversation=conversation or "",
        messages=store.chat.messages(conversation, visit.account) if conversation else (),
        hidden=store.chat.hidden(conversation, visit.account) if conversation else {},
        harmful=question.direction == "more_harmful",
        guideline=guideline.version if guideline.body.strip() else "",
    )


def _waiting(visit: Visit, project: Project) -> dict[str, Any] | None:
    """The task that comes before the next message: a choice that still waits (the answer to an earlier try got lost),
    or a test; raises Closed if the project is not open to the person.
    """
    found = visit.store.work.claim(project.id, visit.account)
    if isinstance(found, Task):
        return {"task": _task(visit, found, project)}
    visit.store.work.access(project.id, visit.account).check()
    return None


def _said(visit: Visit, project: Project, conversation: str) -> Response:
    """Has the policy answer."""
    source = visit.site.sources.get(project.slug)
    if source is None:
        raise CollectError("no model is connected to this project; whoever runs it has to start one")
    task = visit.store.chat.say(conversation, visit.account, visit.text("text"), source.write)
    return answer({"task": _task(visit, task, project)}, 201)
