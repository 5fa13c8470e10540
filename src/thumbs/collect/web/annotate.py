"""The annotator's pages and what their script asks: tasks, answers, the own history, conversations.

Nothing here tells who wrote what: replies have places, in the order shown, and no other name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyio.to_thread import run_sync
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from thumbs.collect.errors import CollectError, Conflict
from thumbs.collect.projects import read_settings
from thumbs.collect.records import Effort, Nothing, Project, Task
from thumbs.collect.web.join import completion_link
from thumbs.collect.web.keys import KEYS
from thumbs.collect.web.render import fragment, language_of, page, static
from thumbs.collect.web.requests import (
    ANNOTATE,
    Caller,
    answer,
    caller_of,
    json_body,
    problem,
    redirect,
    site_of,
    threaded,
)
from thumbs.collect.web.site import root_of
from thumbs.collect.web.words import script_words

SKIP_WORDS = ("unclear", "expertise", "language", "broken", "other")
"""Reasons for skipping that the pages have words for; a project's own are shown as they are."""
_DAY_MS = 86_400_000


def routes() -> list[Route]:
    """The first page, the annotator's page, and their API."""
    own, project = "/api/assignments/{id}", "/api/projects/{slug}"
    return [
        Route("/", home),
        Route("/p/{slug}", annotate),
        Route("/api/session", session),
        Route(f"{project}/claim", claim, methods=["POST"]),
        Route(f"{project}/history", history),
        Route(f"{project}/guidelines", guidelines),
        Route(f"{project}/help", explain),
        Route(f"{project}/chat", begin, methods=["POST"]),
        Route("/api/chat/{id}/turns", turn, methods=["POST"]),
        Route("/api/chat/{id}/end", end, methods=["POST"]),
        Route(own, look),
        Route(f"{own}/judgement", judge, methods=["PUT"]),
        Route(f"{own}/revisions", revise, methods=["POST"]),
        Route(f"{own}/release", release, methods=["POST"]),
        Route(f"{own}/heartbeat", heartbeat, methods=["POST"]),
    ]


async def home(request: Request) -> Response:
    """The caller's projects; where there is one, that one."""
    caller = caller_of(request)
    ending = "" if caller.account.role in ANNOTATE else "/results"
    projects = await threaded(_projects_of, request, caller)
    if len(projects) == 1 and "lang" not in request.query_params:
        return redirect(request, f"/p/{projects[0].slug}{ending}")
    return page(request, "home.html", projects=projects, ending=ending)


async def annotate(request: Request) -> Response:
    """The page, with the first task in it."""
    caller = caller_of(request, *ANNOTATE)
    return await threaded(_page, request, caller)


async def session(request: Request) -> Response:
    """Who is logged in, and the token that their requests must carry; a page asks when its own is out of date."""
    caller = caller_of(request, *ANNOTATE)
    return answer({"account": caller.account.id, "csrf": caller.csrf})


async def claim(request: Request) -> Response:
    """The caller's task, or why there is none."""
    caller = caller_of(request, *ANNOTATE)
    await json_body(request)
    return answer(await threaded(_next, request, _project(request), caller))


async def judge(request: Request) -> Response:
    """Keeps an answer; 201 where it is new, 200 where it was here already. Comes with the next task."""
    return await _keep(request, expected=None)


async def revise(request: Request) -> Response:
    """Keeps an answer in place of the one named by If-Match; 412 where another one stands."""
    named = request.headers.get("if-match", "").strip('"')
    if not (named.isascii() and named.isdigit() and len(named) < 10):
        return problem(428, "Precondition Required", "If-Match must name the revision that is changed")
    try:
        return await _keep(request, expected=int(named))
    except Conflict as conflict:
        return problem(412, "Precondition Failed", str(conflict), revision=conflict.revision)


async def look(request: Request) -> Response:
    """An own task again, with the answer that stands."""
    caller = caller_of(request, *ANNOTATE)

    def found() -> dict[str, Any]:
        store, mine = site_of(request).store, (request.path_params["id"], caller.account.id)
        return {"task": _task(request, store.work.look(*mine), store.projects.get(store.work.project_of(*mine)))}

    return answer(await threaded(found))


async def history(request: Request) -> Response:
    """The own last answers: which task, what kind of verdict, of what question, when. No item and no sign of strength:
    these would tell in which order replies are kept.
    """
    caller = caller_of(request, *ANNOTATE)

    def found() -> list[dict[str, Any]]:
        past = site_of(request).store.work.history(_project(request).id, caller.account.id)
        return [
            {"assignment": one.assignment, "verdict": one.verdict, "excerpt": one.excerpt, "at": one.at.isoformat()}
            for one in past
        ]

    return answer({"history": await threaded(found)})


async def guidelines(request: Request) -> Response:
    """The project's guidelines as they are now."""
    caller = caller_of(request, *ANNOTATE)

    def found() -> dict[str, Any]:
        project = _project(request)
        site_of(request).store.work.access(project.id, caller.account.id).check()
        version = site_of(request).store.projects.guidelines(project.id)
        html = fragment(request, "guidelines.html", version=version.version, body=version.body)
        return {"version": version.version, "html": html}

    return answer(await threaded(found))


async def explain(request: Request) -> Response:
    """The keys that the project's tasks have."""
    caller_of(request, *ANNOTATE)

    def found() -> dict[str, Any]:
        kind = site_of(request).store.projects.question(_project(request).id)[1].kind
        keys = [key for key in KEYS if not key.kinds or kind in key.kinds]
        return {"html": fragment(request, "help.html", keys=keys)}

    return answer(await threaded(found))


async def release(request: Request) -> Response:
    """Gives a task back."""
    caller = caller_of(request, *ANNOTATE)
    await json_body(request)
    await threaded(site_of(request).store.work.release, request.path_params["id"], caller.account.id)
    return answer({"released": True})


async def heartbeat(request: Request) -> Response:
    """Renews a task's lease."""
    caller = caller_of(request, *ANNOTATE)
    await json_body(request)
    expires = await threaded(site_of(request).store.work.heartbeat, request.path_params["id"], caller.account.id)
    return answer({"expires": expires.isoformat()})


async def begin(request: Request) -> Response:
    """A new conversation with its first message: the choice between two replies to it."""
    caller = caller_of(request, *ANNOTATE)
    body = await json_body(request, "goal", "text")

    def said() -> dict[str, Any]:
        project, goal = _project(request), _text(body, "goal")
        waiting = _waiting(request, project, caller)
        conversation = "" if waiting else site_of(request).store.chat.start(project.id, caller.account.id, goal)
        return waiting or _said(request, project, conversation, caller, body)

    return answer(await run_sync(said, limiter=request.app.state.writers), 201)


async def turn(request: Request) -> Response:
    """The next message of a conversation: the choice between two replies to it, or the one that still waits."""
    caller = caller_of(request, *ANNOTATE)
    body = await json_body(request, "text")
    conversation = request.path_params["id"]

    def said() -> dict[str, Any]:
        store = site_of(request).store
        project = store.projects.get(store.chat.project_of(conversation, caller.account.id))
        return _waiting(request, project, caller) or _said(request, project, conversation, caller, body)

    return answer(await run_sync(said, limiter=request.app.state.writers), 201)


async def end(request: Request) -> Response:
    """Ends a conversation; what comes next."""
    caller = caller_of(request, *ANNOTATE)
    body = await json_body(request, "success")
    success = body.get("success")
    if success is not None and (not isinstance(success, int) or isinstance(success, bool)):
        raise HTTPException(400, "`success` must be a number from 0 to 4")

    def ended() -> dict[str, Any]:
        store, conversation = site_of(request).store, request.path_params["id"]
        project = store.projects.get(store.chat.project_of(conversation, caller.account.id))
        store.chat.end(conversation, caller.account.id, success)
        return {"next": _next(request, project, caller)}

    return answer(await threaded(ended))


def _project(request: Request) -> Project:
    return site_of(request).store.projects.find(request.path_params["slug"])


def _projects_of(request: Request, caller: Caller) -> list[Project]:
    """Those that the caller may know of: all but those by invitation, which they were not added to."""
    store = site_of(request).store
    if caller.account.role not in ANNOTATE:  # those who only read results
        return store.projects.all()
    return [
        project
        for project in store.projects.all()
        if store.work.access(project.id, caller.account.id).closed != "not_invited"
    ]


def _page(request: Request, caller: Caller) -> Response:
    site, project = site_of(request), _project(request)
    language = language_of(request)
    setup = {
        "project": project.slug,
        "root": root_of(request),
        "account": caller.account.id,
        "csrf": caller.csrf,
        "local": site.local,
        "quick": read_settings(project).submit_on_key,
        "keys": {key.shown.lower(): key.does for key in KEYS if len(key.shown) == 1 and key.shown.isascii()},
        "words": script_words(language),
        "kinds": root_of(request) + static("kinds.js"),
        "differences": root_of(request) + static("differences.js"),
    }
    part = _next(request, project, caller)
    return page(
        request,
        "annotate.html",
        project=project,
        question=site.store.projects.question(project.id)[1],
        given=site.store.work.given(project.id, caller.account.id),
        html=part["task"]["html"] if "task" in part else part["html"],
        setup=setup,
    )


def _next(request: Request, project: Project, caller: Caller) -> dict[str, Any]:
    """{"task"} or {"nothing", "html"}: what the page shows now."""
    site = site_of(request)
    found = site.store.work.claim(project.id, caller.account.id)
    if isinstance(found, Task):
        return {"task": _task(request, found, project)}
    if found == "your_turn":
        return {"nothing": found, "html": _your_turn(request, project, caller)}
    reason: Nothing = "waiting" if found == "done" and project.slug in site.sources else found
    html = fragment(
        request,
        "nothing.html",
        reason=reason,
        completion=completion_link(request, project, caller, reason),
        given=site.store.work.given(project.id, caller.account.id),
    )
    return {"nothing": reason, "html": html}


def _task(request: Request, task: Task, project: Project | None = None) -> dict[str, Any]:
    guideline: int | str = task.guideline_version
    if project is not None and not site_of(request).store.projects.advice(project.id, guideline).strip():
        guideline = ""
    html = fragment(request, "task.html", task=task, guideline=guideline, skip_words=SKIP_WORDS)
    return {"id": task.assignment, "revision": task.revision, "earlier": task.earlier, "html": html}


async def _keep(request: Request, expected: int | None) -> JSONResponse:
    """Stores an answer (of revision `expected`, None: the first) and finds the next task."""
    caller = caller_of(request, *ANNOTATE)
    body = await json_body(request, "answer", "active_ms", "wall_ms", "input")
    key, assignment = request.headers.get("idempotency-key", ""), request.path_params["id"]
    given, effort = body.get("answer"), _effort(body)
    if not isinstance(given, dict):
        raise HTTPException(400, "`answer` must be an object")

    def kept() -> tuple[bool, dict[str, Any]]:
        work, account = site_of(request).store.work, caller.account.id
        if expected is None:
            saved = work.submit(assignment, account, key, given, effort)
        else:
            saved = work.revise(assignment, account, key, expected, given, effort)
        project = site_of(request).store.projects.get(work.project_of(assignment, account))
        shown = {"assignment": saved.assignment, "revision": saved.revision, "replayed": saved.replayed}
        return saved.replayed, {"saved": shown, "next": _next(request, project, caller)}

    replayed, content = await run_in_threadpool(kept)
    return answer(content, 200 if replayed else 201)


def _effort(body: Mapping[str, Any]) -> Effort:
    def milliseconds(name: str) -> int:
        value = body.get(name, 0)
        return min(value, _DAY_MS) if isinstance(value, int) and value > 0 else 0

    given = body.get("input")
    return Effort(
        milliseconds("active_ms"),
        milliseconds("wall_ms"),
        given if given in ("key", "pointer", "touch") else "api",
    )


def _your_turn(request: Request, project: Project, caller: Caller) -> str:
    store = site_of(request).store
    conversation = store.chat.current(project.id, caller.account.id)
    question = store.projects.question(project.id)[1]
    guideline = store.projects.guidelines(project.id)
    return fragment(
        request,
        "chat.html",
        conversation=conversation or "",
        messages=store.chat.messages(conversation, caller.account.id) if conversation else (),
        harmful=question.direction == "more_harmful",
        guideline=guideline.version if guideline.body.strip() else "",
    )


def _waiting(request: Request, project: Project, caller: Caller) -> dict[str, Any] | None:
    """The task that comes before the next message: a choice that still waits (the answer to an earlier try got lost),
    or a test; raises Closed if the project is not open to the person.
    """
    work = site_of(request).store.work
    found = work.claim(project.id, caller.account.id)
    if isinstance(found, Task):
        return {"task": _task(request, found, project)}
    work.access(project.id, caller.account.id).check()
    return None


def _said(
    request: Request, project: Project, conversation: str, caller: Caller, body: Mapping[str, Any]
) -> dict[str, Any]:
    """Has the policy answer."""
    site = site_of(request)
    source = site.sources.get(project.slug)
    if source is None:
        raise CollectError("no model is connected to this project; whoever runs it has to start one")
    task = site.store.chat.say(conversation, caller.account.id, _text(body, "text"), source.write)
    return {"task": _task(request, task, project)}


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise HTTPException(400, f"`{name}` must be text")
    return value
