"""Exports from the browser: what would be in one, making it in the background, fetching the file."""

from __future__ import annotations

import json
import logging
import shlex
import threading
from dataclasses import dataclass, field

from starlette.datastructures import FormData, QueryParams
from starlette.responses import Response
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.exports.formats import FORMATS
from thumbs.collect.exports.select import Filters
from thumbs.collect.exports.write import kept_exports, preview, record_export
from thumbs.collect.overview_numbers import AT_ONCE
from thumbs.collect.web.admin_forms import read_fields
from thumbs.collect.web.admin_site import Content, changes, reads, text
from thumbs.collect.web.api import export_file, exported
from thumbs.collect.web.requests import READ
from thumbs.collect.web.visits import Visit, person
from thumbs.errors import ThumbsError

log = logging.getLogger(__name__)

_ROWS, _LOOKED_THROUGH = 5, 100
"""Rows shown, and items that a preview reads: a page must not wait for all."""
_SHOWN_CHARS = 2000
_OTHERS = {"format", "csrf", "done", "lang"}
"""What else may stand in the page's address and form."""


@dataclass
class Job:
    """An export under way, or why it failed; one that is made is of the record."""

    project_id: int
    format: str
    failed: str = ""


@dataclass
class Jobs:
    """The export jobs of a server."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    listed: list[Job] = field(default_factory=list)

    def start(self, visit: Visit, name: str, filters: Filters) -> None:
        """Begins an export; a failed one of the same project and format before it is forgotten."""
        job, store, by = Job(visit.project.id, name), visit.store, visit.account

        def make() -> None:
            try:
                record_export(store, job.project_id, name, filters, by=by)
            except ThumbsError as error:
                job.failed = str(error)
            except Exception as error:  # a thread of its own: nobody else would hear of it
                log.exception("the export of project %d failed", job.project_id)
                job.failed = f"{type(error).__name__}: {error}"
            else:
                with self.lock:
                    self.listed.remove(job)

        with self.lock:
            again = (job.project_id, name)
            self.listed = [one for one in self.listed if not one.failed or (one.project_id, one.format) != again]
            self.listed.append(job)
        threading.Thread(target=make, daemon=True).start()


def routes() -> list[Route]:
    """One page and the files."""
    page = ("/admin/p/{slug}/export", "admin/export.html", "export", form_page)
    fields = ("format", *Filters.model_fields)
    return [reads(*page), changes(*page, create, fields), person(f"{page[0]}/{{export:int}}", fetch, roles=READ)]


def form_page(visit: Visit) -> Content:
    """The choices, what they would give, the exports of now and of before."""
    name = visit.choice("format", FORMATS) or "preferences"
    content: Content = {
        "formats": FORMATS,
        "format": name,
        "question": visit.store.projects.question(visit.project.id)[1],
        "filters": Filters(),
        "counts": None,
        "looked_through": _LOOKED_THROUGH,
        "refused": "",
        "jobs": [job for job in _jobs(visit).listed if job.project_id == visit.project.id],
        "earlier": kept_exports(visit.store, visit.project.id),
    }
    try:
        filters = read_filters(visit.request.query_params)
        numbers = visit.numbers().numbers
        small = numbers is not None and numbers.votes <= AT_ONCE
        looked = filters if small else _without_share(filters)
        most = None if small else _LOOKED_THROUGH
        seen = preview(visit.store, visit.project.id, name, looked, _ROWS, most_items=most)
    except (ThumbsError, ValueError) as error:
        return content | {"refused": str(error)}
    chosen = filters.model_dump(exclude_defaults=True)
    return content | {
        "filters": filters,
        "chosen": {name: " ".join(v) if isinstance(v, tuple) else str(v).lower() for name, v in chosen.items()},
        "rows": [json.dumps(row, ensure_ascii=False, indent=1)[:_SHOWN_CHARS] for row in seen.rows],
        "counts": seen.counts,
        "whole": seen.whole,
        "share_later": looked != filters,
        "command": command_line(visit.project.slug, name, filters),
    }


def create(visit: Visit, form: FormData) -> str:
    """Begins an export; the page shows when it is there."""
    filters, name = read_filters(form), text(form, "format")
    # Says at once what does not fit, before the work begins.
    preview(visit.store, visit.project.id, name, _without_share(filters), 0, most_items=1)
    _jobs(visit).start(visit, name, filters)
    return f"{visit.home}/export?format={name}&done=export#made"


def fetch(visit: Visit) -> Response:
    """The file of an export, or with ?manifest its manifest."""
    kept = exported(visit)
    if "manifest" not in visit.request.query_params:
        return export_file(visit.store, kept)
    content = json.dumps(kept.manifest, ensure_ascii=False, indent=2) + "\n"
    name = f'attachment; filename="{visit.project.slug}-{kept.format}.manifest.json"'
    return Response(content, media_type="application/json", headers={"Content-Disposition": name})


def read_filters(given: FormData | QueryParams) -> Filters:
    """The filters of a form or of an address; raises pydantic's ValidationError, which is a ValueError, and
    CollectError for a name that is no filter.
    """
    if unknown := sorted(set(given.keys()) - set(Filters.model_fields) - _OTHERS):
        raise CollectError(f"there is no filter {', '.join(map(repr, unknown))[:200]}")
    return Filters.model_validate(read_fields(Filters, given), strict=False)


def command_line(slug: str, name: str, filters: Filters) -> str:
    """What makes the same file in a terminal."""
    chosen = [f"{key}={_yaml(value)}" for key, value in filters.model_dump(exclude_defaults=True).items()]
    return shlex.join(["thumbs", "collect", "export", slug, "--format", name, *chosen])


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _without_share(filters: Filters) -> Filters:
    """To know who gave too many, all judgements must be read."""
    return filters.model_copy(update={"per_person": None})


def _jobs(visit: Visit) -> Jobs:
    return visit.request.app.state.exports
