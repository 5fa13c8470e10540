"""Exports from the browser: what would be in one, making it beside the requests, fetching the file."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from starlette.datastructures import FormData, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.exports import DROPS, FORMATS, Filters, Manifest, export_temporarily, preview
from thumbs.collect.exports.formats import UNFIT
from thumbs.collect.overview_cache import AT_ONCE
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import EXPORTS
from thumbs.collect.web.admin_site import Content, Visit, changes, reads, text
from thumbs.collect.web.requests import READ, caller_of
from thumbs.errors import ThumbsError

log = logging.getLogger(__name__)

_ROWS, _LOOKED_THROUGH = 5, 100
"""Rows shown, and items that a preview reads: a page must not wait for all."""
_MOST_FILES = 8
"""Exports whose files are kept for fetching; the database knows how to make any of them again."""
_LOCK = threading.Lock()
_SHOWN_CHARS = 2000
_OTHERS = {"format", "csrf", "done", "lang"}
"""What else may stand in the page's address and form."""


@dataclass
class Job:
    """An export under way: at its end a file with its manifest, or what went wrong."""

    number: int
    project_id: int
    format: str
    file: Path | None = None
    manifest: Manifest | None = None
    failed: str = ""


def routes() -> list[Route]:
    """One page and the files."""
    path = "/admin/p/{slug}/export"
    return [
        Route(path, reads("admin/export.html", "export", form_page), methods=["GET"]),
        Route(
            path,
            changes(create, "admin/export.html", "export", form_page, ("format", *Filters.model_fields)),
            methods=["POST"],
        ),
        Route(f"{path}/{{job:int}}", fetch, methods=["GET"]),
    ]


def form_page(visit: Visit) -> Content:
    """The choices, what they would give, the exports of now and of before."""
    question = visit.store.projects.question(visit.project.id)[1]
    name = visit.asked("format") if visit.asked("format") in FORMATS else "preferences"
    content: Content = {
        "formats": FORMATS,
        "format": name,
        "question": question,
        "filters": Filters(),
        "drops": {**DROPS, **UNFIT},
        "rows": (),
        "counts": None,
        "whole": True,
        "looked_through": _LOOKED_THROUGH,
        "share_later": False,
        "refused": "",
        "command": "",
        "jobs": [job for job in reversed(_jobs(visit.request)) if job.project_id == visit.project.id],
        "earlier": _earlier(visit),
    }
    try:
        filters = read_filters(visit.request.query_params)
        small = _is_small(visit)
        looked = filters if small else _without_share(filters)
        most = None if small else _LOOKED_THROUGH
        seen = preview(visit.store, visit.project.id, name, looked, _ROWS, most_items=most)
    except (ThumbsError, ValueError) as error:
        return content | {"refused": str(error)}
    shown = [json.dumps(row, ensure_ascii=False, indent=1)[:_SHOWN_CHARS] for row in seen.rows]
    command = command_line(visit.project.slug, name, filters)
    return content | {
        "filters": filters,
        "chosen": {name: _field(value) for name, value in filters.model_dump(exclude_defaults=True).items()},
        "rows": shown,
        "counts": seen.counts,
        "whole": seen.whole,
        "share_later": looked != filters,
        "command": command,
    }


def create(visit: Visit, form: FormData) -> str:
    """Begins an export; the page shows when it is there."""
    filters, name = read_filters(form), text(form, "format")
    # Says at once what does not fit, before the work begins.
    preview(visit.store, visit.project.id, name, _without_share(filters), 0, most_items=1)
    jobs = _jobs(visit.request)
    with _LOCK:
        job = Job(max((one.number for one in jobs), default=0) + 1, visit.project.id, name)
        jobs.append(job)
        old = [one for one in jobs if one.file or one.failed][: max(len(jobs) - _MOST_FILES, 0)]
        for one in old:
            jobs.remove(one)
            _forget(one)
    given = (job, visit.store, visit.project.id, filters, visit.caller.account.id)
    threading.Thread(target=_make, args=given, daemon=True).start()
    return f"{visit.home}/export?format={name}&done=export#made"


async def fetch(request: Request) -> Response:
    """The file of an export, or with ?manifest its manifest."""
    caller_of(request, *READ)
    visit_slug, number = request.path_params["slug"], request.path_params["job"]
    job = next((one for one in _jobs(request) if one.number == number), None)
    if job is None or job.manifest is None or job.file is None or job.manifest.project != visit_slug:
        raise HTTPException(404, "there is no such file any more; make the export again, it will be the same")
    if "manifest" in request.query_params:
        content = json.dumps(asdict(job.manifest), ensure_ascii=False, indent=2) + "\n"
        name = f'attachment; filename="{job.file.name}.manifest.json"'
        return Response(content, media_type="application/json", headers={"Content-Disposition": name})
    return FileResponse(job.file, filename=job.file.name)


def read_filters(given: FormData | QueryParams) -> Filters:
    """The filters of a form or of an address; raises pydantic's ValidationError, which is a ValueError, and
    CollectError for a name that is no filter.
    """
    if unknown := sorted(set(given.keys()) - set(Filters.model_fields) - _OTHERS):
        raise CollectError(f"there is no filter {', '.join(map(repr, unknown))[:200]}")
    plain = {name: str(value).strip() for name, value in given.items() if name in Filters.model_fields}
    values: dict[str, Any] = {name: value for name, value in plain.items() if value}
    if "exclude_people" in values:
        values["exclude_people"] = tuple(values["exclude_people"].replace(",", " ").split())
    return Filters.model_validate(values, strict=False)


def command_line(slug: str, name: str, filters: Filters) -> str:
    """What makes the same file in a terminal."""
    chosen = [f"{key}={_shown(value)}" for key, value in filters.model_dump(exclude_defaults=True).items()]
    return shlex.join(["thumbs", "collect", "export", slug, "--format", name, *chosen])


def _shown(value: object) -> str:
    """As the command reads it: YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_small(visit: Visit) -> bool:
    numbers = visit.numbers().numbers
    return numbers is not None and numbers.votes <= AT_ONCE


def _without_share(filters: Filters) -> Filters:
    """To know who gave too many, all judgements must be read."""
    return filters.model_copy(update={"per_person": None})


def _field(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value).lower()


def _make(job: Job, store: CollectStore, project_id: int, filters: Filters, by: int) -> None:
    try:
        file, manifest = export_temporarily(store, project_id, job.format, filters, by=by)
    except ThumbsError as error:
        job.failed = str(error)
    except Exception as error:  # a thread of its own: nobody else would hear of it
        log.exception("the export of project %d failed", project_id)
        job.failed = f"{type(error).__name__}: {error}"
    else:
        job.file, job.manifest = file, manifest


def _jobs(request: Request) -> list[Job]:
    with _LOCK:
        if not hasattr(request.app.state, "exports"):
            request.app.state.exports = []
        return request.app.state.exports


def _forget(job: Job) -> None:
    if job.file is not None:
        shutil.rmtree(job.file.parent, ignore_errors=True)


def _earlier(visit: Visit) -> list[Mapping[str, Any]]:
    query = select(EXPORTS).where(EXPORTS.c.project_id == visit.project.id).order_by(EXPORTS.c.id.desc()).limit(10)
    with visit.store.db.reading() as db:
        return [dict(row._mapping) for row in db.execute(query)]
