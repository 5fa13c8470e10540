"""What is asked, by which guidelines, and how the work is dealt out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

from starlette.datastructures import FormData
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.records import ProjectState, Version
from thumbs.collect.web.admin_forms import (
    QUESTION_FIELDS,
    SETTINGS_FIELDS,
    axes_text,
    read_question_form,
    read_settings_form,
)
from thumbs.collect.web.admin_site import Content, changes, reads, text
from thumbs.collect.web.visits import Visit

_STATES: tuple[ProjectState, ...] = get_args(ProjectState)
_AROUND = 3


@dataclass(frozen=True)
class DiffLine:
    """A line of a difference: added, removed, kept, or skipped (lines left out between)."""

    kind: str
    text: str


def routes() -> list[Route]:
    """One page, a form for each part of it."""
    path, shown = "/admin/p/{slug}/settings", ("admin/settings.html", "settings", settings)
    return [
        reads(path, *shown),
        changes(path, *shown, configure, SETTINGS_FIELDS),
        changes(f"{path}/question", *shown, ask, QUESTION_FIELDS),
        changes(f"{path}/guidelines", *shown, {"preview": _preview, "save": _advise}, ("guidelines",)),
        changes(f"{path}/state", *shown, set_state, ("state",)),
    ]


def settings(visit: Visit) -> Content:
    """All that can be set, as it is now; ?compare=N shows what changed from version N of the guidelines to the next."""
    project = visit.project
    version, question = visit.store.projects.question(project.id)
    versions = visit.store.projects.versions("guidelines", project.id)
    earlier = min(max(visit.number("compare", len(versions) - 1), 1), len(versions))
    return {
        "settings": visit.store.projects.settings(project.id),
        "question": question,
        "question_version": version.version,
        "axes": axes_text(question),
        "guidelines": versions[-1],
        "versions": versions,
        "earlier": earlier,
        "diff": _between(versions, earlier),
        "draft": None,
        "draft_diff": (),
        "states": _STATES,
    }


def configure(visit: Visit, form: FormData) -> str:
    """Settings; a new overlap also holds for the items that are there."""
    store, by, project = visit.store, visit.account, visit.project
    now = store.projects.settings(project.id)
    wanted = read_settings_form(form, now)
    store.projects.configure(project.id, wanted, by)
    if wanted.overlap != now.overlap:
        store.items.set_target(project.id, wanted.overlap, by)
    return f"{visit.home}/settings?done=saved"


def ask(visit: Visit, form: FormData) -> str:
    """A new version of the question, where it differs."""
    visit.store.projects.ask(visit.project.id, read_question_form(form), visit.account)
    return f"{visit.home}/settings?done=saved#question"


def _preview(visit: Visit, form: FormData) -> Content:
    """What the guidelines would look like, and what would change."""
    now, markdown = visit.store.projects.guidelines(visit.project.id), _guidelines(form)
    return {"draft": markdown, "draft_diff": diff(now.body, markdown)}


def _advise(visit: Visit, form: FormData) -> str:
    """A new version of the guidelines."""
    visit.store.projects.advise(visit.project.id, _guidelines(form), visit.account)
    return f"{visit.home}/settings?done=saved#guidelines"


def _guidelines(form: FormData) -> str:
    given = form.get("guidelines")
    return given.replace("\r\n", "\n") if isinstance(given, str) else ""


def set_state(visit: Visit, form: FormData) -> str:
    """Opens, pauses or closes the project."""
    state = text(form, "state")
    if state not in _STATES:
        raise CollectError(f"a project is {', '.join(_STATES)}, got {state!r}"[:200])
    visit.store.projects.set_state(visit.project.id, cast("ProjectState", state), visit.account)
    return f"{visit.home}/settings?done=saved"


def diff(old: str, new: str) -> list[DiffLine]:
    """What changed from one text to the other, line by line, with a few lines around."""
    kinds = {"+": "added", "-": "removed", " ": "kept", "@": "skipped"}
    found = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=_AROUND)
    return [DiffLine(kinds[line[0]], "" if line[0] == "@" else line[1:]) for line in list(found)[2:]]


def _between(versions: Sequence[Version], earlier: int) -> list[DiffLine]:
    if earlier >= len(versions):
        return []
    return diff(versions[earlier - 1].body, versions[earlier].body)
