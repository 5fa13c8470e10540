"""Items from a file or from pasted lines."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import FormData, UploadFile
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.importing import import_items
from thumbs.collect.web.admin_site import Content, changes, reads, text
from thumbs.collect.web.visits import Visit
from thumbs.data.load import ignored_text

_MOST_PROBLEMS = 50


def routes() -> list[Route]:
    """One page."""
    page = ("/admin/p/{slug}/import", "admin/import.html", "items", form_page)
    return [reads(*page), changes(*page, add, ("file", "pasted", "source"))]


def form_page(visit: Visit) -> Content:
    """An empty form, and what the project asks, since that says which lines fit."""
    question = visit.store.projects.question(visit.project.id)[1]
    return {"question": question, "added": None, "problems": (), "bad": 0, "ignored": ()}


def add(visit: Visit, form: FormData) -> Content:
    """Adds what can be read; the rest is told line by line."""
    source = text(form, "source") or "upload"
    found = import_items(visit.store, visit.project.id, _lines(form), source=source, by=visit.account)
    shown = {"problems": found.problems[:_MOST_PROBLEMS], "bad": len(found.problems)}
    return {"added": found.added, "ignored": ignored_text(found.ignored), **shown}


def _lines(form: FormData) -> Iterable[str | bytes]:
    file = form.get("file")
    if isinstance(file, UploadFile) and file.filename:
        return file.file
    pasted = text(form, "pasted")
    if not pasted:
        raise CollectError("choose a file, or paste lines of JSON")
    return pasted.splitlines()
