"""Entry links of Prolific and Mechanical Turk, and what sends their workers back.

The ids in such a link are claims and no proof: they open an annotator's account without a password and nothing else,
and the way back is shown after the judgements are stored. https://docs.prolific.com,
https://docs.aws.amazon.com/AWSMechTurk (ExternalQuestion).
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.collect.errors import NotFound
from thumbs.collect.people import EXTERNAL_ID
from thumbs.collect.projects import read_settings
from thumbs.collect.records import Account, NoTask, Project, Source
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.collect.web.login import begin_session
from thumbs.collect.web.render import page
from thumbs.collect.web.requests import Caller, address_of
from thumbs.collect.web.sessions import cookie_name, set_cookie
from thumbs.collect.web.site import site_of
from thumbs.web.signing import Signer

MTURK = ("https://www.mturk.com", "https://workersandbox.mturk.com")
"""Where Mechanical Turk takes assignments back."""
PREVIEW = "ASSIGNMENT_ID_NOT_AVAILABLE"
"""The assignment of somebody who only looks."""
_PROLIFIC_DONE = "https://app.prolific.com/submissions/complete?cc="
_HIT = "hit"
NO_CODE = "NOCODE"
"""What Prolific takes from somebody who has no code; the researcher then decides, or they return the submission."""
_FINISHED: tuple[NoTask, ...] = ("quota", "done", "closed")


def routes() -> list[Route]:
    """The two entry links."""
    return [
        Route("/join/{slug}", join_prolific, methods=["GET"]),
        Route("/join/{slug}/mturk", join_mturk, methods=["GET"]),
    ]


async def join_prolific(request: Request) -> Response:
    """Lets a participant in; Prolific fills PROLIFIC_PID, STUDY_ID and SESSION_ID in."""
    request.app.state.limits.door.take(address_of(request))
    site = site_of(request)
    project = await run_in_threadpool(site.store.projects.find, request.path_params["slug"])
    if read_settings(project).prolific_code is None:
        raise HTTPException(404, "this project takes no participants of Prolific")
    ids = _ids(request, "PROLIFIC_PID", "STUDY_ID", "SESSION_ID")
    _check_free(request)
    await run_in_threadpool(_check_newcomer, request, "prolific", ids["PROLIFIC_PID"])
    account = await run_in_threadpool(_enrolled, site.store, project, "prolific", ids["PROLIFIC_PID"], ids["STUDY_ID"])
    return await begin_session(request, account, f"/p/{project.slug}")


async def join_mturk(request: Request) -> Response:
    """Lets a worker in, within Mechanical Turk's page; a preview shows what the work is and claims nothing."""
    request.app.state.limits.door.take(address_of(request))
    site = site_of(request)
    project = await run_in_threadpool(site.store.projects.find, request.path_params["slug"])
    if not read_settings(project).mturk:
        raise HTTPException(404, "this project takes no workers of Mechanical Turk")
    request.state.embedded = True
    if request.query_params.get("assignmentId") == PREVIEW:
        guidelines = await run_in_threadpool(site.store.projects.guidelines, project.id)
        body = guidelines.body if project.state == "open" else ""
        return page(request, "join_preview.html", project=project, guidelines=body)
    ids = _ids(request, "assignmentId", "hitId", "workerId")
    back = request.query_params.get("turkSubmitTo", "").removesuffix("/")
    if back not in MTURK:
        raise HTTPException(400, f"turkSubmitTo must be {' or '.join(MTURK)}")
    _check_free(request)
    await run_in_threadpool(_check_newcomer, request, "mturk", ids["workerId"])
    account = await run_in_threadpool(_enrolled, site.store, project, "mturk", ids["workerId"], ids["hitId"])
    response = await begin_session(request, account, f"/p/{project.slug}", embedded=True)
    claims = {"back": back, "assignment": ids["assignmentId"]}
    set_cookie(response, request, "hit", Signer(site.key).sign(_HIT, claims))
    return response


def completion_link(request: Request, project: Project, caller: Caller, reason: NoTask) -> dict[str, str] | None:
    """How a hired worker gets back, if there is nothing for them to do now; None for everybody else.

    {"kind": "link", "url"} is Prolific's page, "leave" the same without a code; {"kind": "form", "url", "assignmentId"}
    is to be sent to Mechanical Turk as a POST, {"kind": "return"} is for those who have nothing to send. Waits for the
    database.
    """
    site = site_of(request)
    answered = _answered(site.store, project, caller.account.id)
    if reason == "quota" and not answered:  # a share is used up by answers alone
        return None
    hit = hit_of(request) if request.state.embedded else None
    if hit is not None:
        sent = {"kind": "form", "url": f"{hit[0]}/mturk/externalSubmit", "assignmentId": hit[1]}
        return sent if answered else {"kind": "return"}
    settings = read_settings(project)
    if settings.prolific_code is None or "prolific" not in site.store.people.sources(caller.account.id):
        return None
    code = _code(settings, reason, answered, site.store.work.given(project.id, caller.account.id))
    return {"kind": "leave" if code == NO_CODE else "link", "url": _PROLIFIC_DONE + code}


def _code(settings: ProjectSettings, reason: NoTask, answered: int, given: int) -> str:
    """The code for how it ended: the share is done, the test was failed, or neither, whatever the reason."""
    otherwise = settings.prolific_code if answered and settings.prolific_code else NO_CODE
    if reason == "not_qualified":
        return settings.prolific_screen_out_code or otherwise
    if reason in _FINISHED and answered and given:
        return settings.prolific_code or NO_CODE
    return settings.prolific_early_code or otherwise


def _answered(store: CollectStore, project: Project, account_id: int) -> int:
    """How many tasks the worker answered for this study, those passed on among them."""
    share, member = read_settings(project).quota, store.people.member(project.id, account_id)
    before = member.quota - share if share and member and member.quota else 0
    return max(store.work.answered(project.id, account_id) - max(before, 0), 0)


def _check_newcomer(request: Request, source: Source, worker: str) -> None:
    """Raises HTTPException 429 if too many accounts are made from one address."""
    try:
        site_of(request).store.people.find(f"{source}:{worker}")
    except NotFound:
        request.app.state.limits.newcomers.take(address_of(request))


def hit_of(request: HTTPConnection) -> tuple[str, str] | None:
    """Where the assignment of Mechanical Turk that is worked on goes back to, and its id."""
    claims = Signer(site_of(request).key).read(_HIT, request.cookies.get(cookie_name(request, "hit"), ""))
    return None if claims is None else (claims["back"], claims["assignment"])


def _enrolled(store: CollectStore, project: Project, source: Source, worker: str, study: str) -> Account:
    """The worker's account, with a share of the project's work for each study that they come from."""
    new = not store.people.knows(source, worker, study)
    account = store.people.identity(source, worker, study)
    share = read_settings(project).quota
    if new and share is not None:
        share += store.work.given(project.id, account.id, "work")
    store.people.enrol(project.id, account.id, share if new else None)
    return account


def _ids(request: Request, *names: str) -> dict[str, str]:
    found = {name: request.query_params.get(name, "") for name in names}
    for name, value in found.items():
        if not EXTERNAL_ID.fullmatch(value):
            raise HTTPException(400, f"the link needs {name}, of letters, digits, - and _; open it from the study")
    return found


def _check_free(request: Request) -> None:
    """A link must not throw somebody out who logged in with a password."""
    caller: Caller | None = request.state.caller
    if caller is not None and not caller.account.handle.startswith(("prolific:", "mturk:")):
        raise HTTPException(409, f"you are logged in as {caller.account.handle}; log out first, or use another browser")
