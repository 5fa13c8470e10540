"""What scripts do with an API token: add items, read numbers, make exports; and whether the server is well."""

from __future__ import annotations

import shutil
from dataclasses import asdict, is_dataclass
from typing import Any

from sqlalchemy import select
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from thumbs.collect.exports.select import Filters
from thumbs.collect.exports.write import Kept, export_again, kept_export, record_export
from thumbs.collect.importing import import_items
from thumbs.collect.overview import progress
from thumbs.collect.overview_numbers import Numbers
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import SCHEMA
from thumbs.collect.web.requests import answer, check_kind, problem
from thumbs.collect.web.site import root_of, site_of
from thumbs.collect.web.visits import Visit, script, token_of
from thumbs.config.base import build_config

_MOST_REJECTED = 1000


def routes() -> list[Route]:
    """The API of tokens."""
    project = "/api/v1/projects/{slug}"
    export = f"{project}/exports/{{export:int}}"
    return [
        Route(f"{project}/items", add_items, methods=["PUT"]),
        script(f"{project}/stats", stats),
        script(f"{project}/agreement", agreement),
        script(f"{project}/leaderboard", leaderboard),
        script(f"{project}/exports", make_export, "POST", "format", "filters"),
        script(export, lambda visit: _described(visit, exported(visit))),
        script(f"{export}/file", lambda visit: export_file(visit.store, exported(visit))),
        Route("/healthz", health, methods=["GET"]),
    ]


async def add_items(request: Request) -> Response:
    """Adds the items of JSON lines (see `read_items`); the same ones again change nothing."""
    caller = token_of(request, "ingest")
    check_kind(request, "application/x-ndjson", "application/jsonl")
    return answer(await run_in_threadpool(_add, Visit(request, caller), await request.body()))


def stats(visit: Visit) -> dict[str, Any]:
    """How far the project is, and what its judgements say of it."""
    project, numbers = visit.project, _numbers(visit)
    return {
        "project": project.slug,
        "state": project.state,
        "progress": _plain(progress(visit.store.db, project.id).get(project.id)),
        "watermark": numbers.watermark,
        "judgements": numbers.votes,
        "shares": {verdict: _plain(numbers.share_of(verdict)) for verdict in ("tie", "both_bad", "skip")},
        "position": _plain(numbers.position),
        "length": _plain(numbers.length),
    }


def agreement(visit: Visit) -> dict[str, Any]:
    """How far people say the same, overall and on each axis."""
    numbers = _numbers(visit)
    axes = {axis: _plain(one) for axis, one in numbers.axes.items()}
    return {"watermark": numbers.watermark, "overall": _plain(numbers.overall), "axes": axes}


def leaderboard(visit: Visit) -> dict[str, Any]:
    """Which generators write the better replies, overall ("") and on each axis; `direction` says what was asked, and
    answers to `more_harmful` are turned round.
    """
    numbers = _numbers(visit)
    question = visit.store.projects.question(visit.project.id)[1]
    boards = {axis: [_plain(standing) for standing in board] for axis, board in numbers.boards.items()}
    shown = {standing.generator for board in numbers.boards.values() for standing in board}
    generators = {str(key): _plain(made) for key, made in visit.store.generators().items() if key in shown}
    content = {"watermark": numbers.watermark, "direction": question.direction, "first_is": "better"}
    return {**content, "generators": generators, "boards": boards}


def make_export(visit: Visit) -> Response:
    """Makes an export of what is there now: {"format": …, "filters": {…}}; it keeps its content for ever."""
    form, filters = visit.body.get("format", "preferences"), visit.body.get("filters") or {}
    if not isinstance(form, str) or not isinstance(filters, dict):
        raise HTTPException(400, "`format` must be text and `filters` an object")
    given = {name: value for name, value in filters.items() if value is not None}
    asked = build_config(Filters, given, source="filters")
    described = _described(visit, record_export(visit.store, visit.project.id, form, asked, by=visit.account))
    return answer(described, 201, {"Location": described["file"].removesuffix("/file")})


def exported(visit: Visit) -> Kept:
    """The export in the address; raises NotFound if the project has none of that number."""
    return kept_export(visit.store, visit.path_number("export"), visit.project.id)


def export_file(store: CollectStore, kept: Kept) -> Response:
    """The file of an export, with the bytes that its manifest tells of."""
    path = export_again(store, kept)
    clean = BackgroundTask(shutil.rmtree, path.parent, ignore_errors=True)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name, background=clean)


async def health(request: Request) -> Response:
    """200 where the database takes writes and its tables are this version's, else 503."""
    version = await run_in_threadpool(_version, site_of(request).store)
    if version != SCHEMA.version:
        detail = f"the database's tables have version {version}, this server expects {SCHEMA.version}; restart it"
        return problem(503, "Service Unavailable", detail)
    return answer({"status": "ok"})


def _add(visit: Visit, raw: bytes) -> dict[str, Any]:
    found = import_items(visit.store, visit.project.id, raw.split(b"\n"), source="api", by=visit.account)
    rejected = [{"line": problem.line, "error": problem.text} for problem in found.problems]
    return {
        "created": found.added.created,
        "existing": found.added.existing,
        "rejected": rejected[:_MOST_REJECTED],
        "n_rejected": len(rejected),
        "ignored": dict(found.ignored),
    }


def _numbers(visit: Visit) -> Numbers:
    numbers = visit.snapshots.wait(visit.project.id).numbers
    if numbers is None:
        raise HTTPException(503, "the numbers cannot be made; the server's log tells why", {"Retry-After": "60"})
    return numbers


def _described(visit: Visit, kept: Kept) -> dict[str, Any]:
    file = f"{root_of(visit.request)}/api/v1/projects/{visit.project.slug}/exports/{kept.id}/file"
    return {"id": kept.id, "created": kept.created.isoformat(), "manifest": kept.manifest, "file": file}


def _version(store: CollectStore) -> str | None:
    """The version of the database's tables, asked in a transaction that writes."""
    with store.db.transaction() as db:
        return db.scalar(select(SCHEMA.stamp))


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
