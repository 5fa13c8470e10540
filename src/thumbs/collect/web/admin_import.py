"""Items from a file or from pasted lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from starlette.datastructures import FormData, UploadFile
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.importing import read_items
from thumbs.collect.records import NewItem
from thumbs.collect.web.admin_site import Content, Visit, changes, reads, text
from thumbs.data.load import ignored_text
from thumbs.data.sources import Problem

_MOST_PROBLEMS = 50


def routes() -> list[Route]:
    """One page."""
    path = "/admin/p/{slug}/import"
    return [
        Route(path, reads("admin/import.html", "items", form_page), methods=["GET"]),
        Route(
            path, changes(add, "admin/import.html", "items", form_page, ("file", "pasted", "source")), methods=["POST"]
        ),
    ]


def form_page(visit: Visit) -> Content:
    """An empty form, and what the project asks, since that says which lines fit."""
    question = visit.store.projects.question(visit.project.id)[1]
    return {"question": question, "added": None, "problems": (), "unread": 0, "ignored": ()}


def add(visit: Visit, form: FormData) -> Content:
    """Adds what can be read; the rest is told line by line."""
    question = visit.store.projects.question(visit.project.id)[1]
    source = text(form, "source") or "upload"
    problems: list[Problem] = []

    def good(found: Iterable[NewItem | Problem]) -> Iterator[NewItem]:
        for one in found:
            if isinstance(one, Problem):
                problems.append(one)
            else:
                yield one

    ignored: Counter[str] = Counter()
    items = good(read_items(_lines(form), question, source=source, ignored=ignored))
    added = visit.store.items.add(visit.project.id, items, visit.caller.account.id)
    return {
        "added": added,
        "problems": problems[:_MOST_PROBLEMS],
        "unread": len(problems),
        "ignored": ignored_text(ignored),
    }


def _lines(form: FormData) -> Iterable[str | bytes]:
    file = form.get("file")
    if isinstance(file, UploadFile) and file.filename:
        return file.file
    pasted = text(form, "pasted")
    if not pasted:
        raise CollectError("choose a file, or paste lines of JSON")
    return pasted.splitlines()
