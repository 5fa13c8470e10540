"""What scripts do with an API token: add items, read numbers, make exports; and whether the server is well."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from thumbs.collect.errors import NotFound
from thumbs.collect.exports.select import Filters
from thumbs.collect.exports.write import export_again, export_temporarily
from thumbs.collect.importing import rows_to_items
from thumbs.collect.overview import progress
from thumbs.collect.overview_numbers import Numbers
from thumbs.collect.records import NewItem, Project
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import EXPORTS, SCHEMA
from thumbs.collect.web.admin_site import snapshots_of
from thumbs.collect.web.requests import Caller, answer, json_body, problem, site_of, threaded
from thumbs.collect.web.site import root_of
from thumbs.config.base import build_config

_NDJSON = ("application/x-ndjson", "application/jsonl")
_MOST_REJECTED = 1000


def routes() -> list[Route]:
    """The API of tokens."""
    project = "/api/v1/projects/{slug}"
    return [
        Route(f"{project}/items", add_items, methods=["PUT"]),
        Route(f"{project}/stats", stats, methods=["GET"]),
        Route(f"{project}/agreement", agreement, methods=["GET"]),
        Route(f"{project}/leaderboard", leaderboard, methods=["GET"]),
        Route(f"{project}/exports", make_export, methods=["POST"]),
        Route(f"{project}/exports/{{export:int}}", show_export, methods=["GET"]),
        Route(f"{project}/exports/{{export:int}}/file", export_file, methods=["GET"]),
        Route("/healthz", health, methods=["GET"]),
    ]


def token_of(request: Request, scope: Literal["ingest", "export"]) -> Caller:
    """Whose API token came, where it may do that; raises HTTPException 401, 403. Scope admin may do all."""
    caller: Caller | None = request.state.caller
    if caller is None or caller.scope == "page":
        raise HTTPException(401, "send an API token: `Authorization: Bearer tc-…`", {"WWW-Authenticate": "Bearer"})
    if caller.scope not in (scope, "admin"):
        raise HTTPException(403, f"this needs a token with scope {scope}; yours has {caller.scope}")
    return caller


async def add_items(request: Request) -> Response:
    """Adds the items of JSON lines (see `rows_to_items`); the same ones again change nothing."""
    caller = token_of(request, "ingest")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _NDJSON:
        raise HTTPException(415, f"the content type must be {_NDJSON[0]}, got {kind or 'none'}"[:200])
    raw = await request.body()
    project = await threaded(_project, request)
    return answer(await threaded(_add, site_of(request).store, project, raw, caller.account.id))


async def stats(request: Request) -> Response:
    """How far the project is, and what its judgements say of it."""
    token_of(request, "export")
    project = await threaded(_project, request)
    numbers = await threaded(_numbers, request, project)
    done = await threaded(progress, site_of(request).store.db, project.id)
    told = {verdict: _plain(numbers.share_of(verdict)) for verdict in ("tie", "both_bad", "skip")}
    return answer(
        {
            "project": project.slug,
            "state": project.state,
            "progress": _plain(done.get(project.id)),
            "watermark": numbers.watermark,
            "judgements": numbers.votes,
            "shares": told,
            "position": _plain(numbers.position),
            "length": _plain(numbers.length),
        }
    )


async def agreement(request: Request) -> Response:
    """How far people say the same, overall and on each axis."""
    token_of(request, "export")
    numbers = await threaded(_numbers, request, await threaded(_project, request))
    axes = {axis: _plain(one) for axis, one in numbers.axes.items()}
    return answer({"watermark": numbers.watermark, "overall": _plain(numbers.overall), "axes": axes})


async def leaderboard(request: Request) -> Response:
    """Which generators write the better replies, overall ("") and on each axis; `direction` says what was asked, and
    answers to `more_harmful` are turned round.
    """
    token_of(request, "export")
    project = await threaded(_project, request)
    numbers = await threaded(_numbers, request, project)
    question = (await threaded(site_of(request).store.projects.question, project.id))[1]
    known = await threaded(site_of(request).store.generators)
    boards = {axis: [_plain(standing) for standing in board] for axis, board in numbers.boards.items()}
    shown = {standing.generator for board in numbers.boards.values() for standing in board}
    generators = {str(key): _plain(made) for key, made in known.items() if key in shown}
    content = {"watermark": numbers.watermark, "direction": question.direction, "first_is": "better"}
    return answer({**content, "generators": generators, "boards": boards})


async def make_export(request: Request) -> Response:
    """Makes an export of what is there now: {"format": …, "filters": {…}}; it keeps its content for ever."""
    caller = token_of(request, "export")
    body = await json_body(request, "format", "filters")
    form, filters = body.get("format", "preferences"), body.get("filters") or {}
    if not isinstance(form, str) or not isinstance(filters, dict):
        raise HTTPException(400, "`format` must be text and `filters` an object")
    project = await threaded(_project, request)
    store = site_of(request).store
    export_id = await threaded(_make, store, project, form, filters, caller.account.id)
    where = f"/api/v1/projects/{project.slug}/exports/{export_id}"
    return answer(await threaded(_told, request, project, export_id), 201, {"Location": root_of(request) + where})


async def show_export(request: Request) -> Response:
    """What an export holds."""
    token_of(request, "export")
    project = await threaded(_project, request)
    return answer(await threaded(_told, request, project, request.path_params["export"]))


async def export_file(request: Request) -> Response:
    """The file of an export, with the bytes that its manifest tells of."""
    token_of(request, "export")
    project = await threaded(_project, request)
    store, export_id = site_of(request).store, request.path_params["export"]
    await threaded(_told, request, project, export_id)
    path: Path = await threaded(export_again, store, export_id)
    clean = BackgroundTask(shutil.rmtree, path.parent, ignore_errors=True)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name, background=clean)


async def health(request: Request) -> Response:
    """200 where the database takes writes and its tables are this version's, else 503."""
    version = await threaded(_version, site_of(request).store)
    if version != SCHEMA.version:
        detail = f"the database's tables have version {version}, this server expects {SCHEMA.version}; restart it"
        return problem(503, "Service Unavailable", detail)
    return answer({"status": "ok"})


def _project(request: Request) -> Project:
    return site_of(request).store.projects.find(request.path_params["slug"])


def _add(store: CollectStore, project: Project, raw: bytes, by: int) -> dict[str, Any]:
    question = store.projects.question(project.id)[1]
    rejected: list[dict[str, Any]] = []
    places: list[int] = []
    ignored: Counter[str] = Counter()
    at = 0

    def lines() -> Iterator[bytes]:
        nonlocal at
        for at, line in enumerate(raw.split(b"\n"), start=1):  # noqa: B007 - read by `items`, a line later
            yield line

    def items() -> Iterator[NewItem]:
        for read in rows_to_items(lines(), question, ignored=ignored):
            if isinstance(read, NewItem):
                places.append(at)
                yield read
            else:
                rejected.append({"line": read.line, "error": read.text})

    added = store.items.add(project.id, items(), by)
    rejected += [{"line": places[place], "error": why} for place, why in added.refused]
    rejected.sort(key=lambda one: one["line"])
    return {
        "created": added.created,
        "existing": added.existing,
        "rejected": rejected[:_MOST_REJECTED],
        "n_rejected": len(rejected),
        "ignored": dict(ignored),
    }


def _numbers(request: Request, project: Project) -> Numbers:
    shown = snapshots_of(request).wait(project.id)
    if shown.numbers is None:
        raise HTTPException(503, "the numbers cannot be made; the server's log tells why", {"Retry-After": "60"})
    return shown.numbers


def _make(store: CollectStore, project: Project, form: str, filters: dict[str, Any], by: int) -> int:
    """Makes the export once, to see that it can be made and what is in it; its number."""
    given = {name: value for name, value in filters.items() if value is not None}
    asked = build_config(Filters, given, source="filters")
    path, manifest = export_temporarily(store, project.id, form, asked, by=by)
    shutil.rmtree(path.parent, ignore_errors=True)
    query = select(EXPORTS.c.id, EXPORTS.c.manifest).where(EXPORTS.c.project_id == project.id, EXPORTS.c.format == form)
    with store.db.reading() as db:
        rows = db.execute(query.where(EXPORTS.c.watermark == manifest.watermark).order_by(EXPORTS.c.id.desc()))
        return next(row.id for row in rows if row.manifest["sha256"] == manifest.sha256)


def _told(request: Request, project: Project, export_id: int) -> dict[str, Any]:
    query = select(EXPORTS).where(EXPORTS.c.id == export_id, EXPORTS.c.project_id == project.id)
    with site_of(request).store.db.reading() as db:
        row = db.execute(query).first()
    if row is None:
        raise NotFound(f"there is no export {export_id} of this project")
    file = f"{root_of(request)}/api/v1/projects/{project.slug}/exports/{export_id}/file"
    return {"id": row.id, "created": row.created.isoformat(), "manifest": row.manifest, "file": file}


def _version(store: CollectStore) -> str | None:
    """The version of the database's tables, asked in a transaction that writes."""
    with store.db.transaction() as db:
        return db.scalar(select(SCHEMA.stamp))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
