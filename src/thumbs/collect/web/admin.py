"""The team's pages: all projects, one project's overview, its log. Its other pages are in admin_*.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.datastructures import FormData
from starlette.routing import Route

from thumbs.collect.overview import ProjectProgress, progress
from thumbs.collect.overview_numbers import Numbers
from thumbs.collect.quality.annotators import Finding
from thumbs.collect.question import Question
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.web import admin_export, admin_items, admin_people, admin_settings
from thumbs.collect.web.admin_forms import QUESTION_FIELDS, read_question_form
from thumbs.collect.web.admin_site import Content, changes, handles, log_lines, number, reads, text
from thumbs.collect.web.charts import Column
from thumbs.collect.web.render import language_of
from thumbs.collect.web.visits import Visit
from thumbs.collect.web.words import Words, translator

_DAYS = 7
_NEW_FIELDS = ("slug", "name", "overlap", "guidelines", "open_to_all", *QUESTION_FIELDS)
_LINES = 100


def routes() -> list[Route]:
    """Everything under /admin."""
    new = ("/admin/new", "admin/new.html", "", new_project)
    return [
        reads("/admin", "admin/home.html", "", home),
        reads(*new),
        changes(*new, create, _NEW_FIELDS),
        reads("/admin/p/{slug}", "admin/overview.html", "overview", overview),
        reads("/admin/p/{slug}/log", "admin/log.html", "log", lambda visit: log_lines(visit, visit.project.id, _LINES)),
        *admin_people.routes(),
        *admin_items.routes(),
        *admin_export.routes(),
        *admin_settings.routes(),
    ]


def home(visit: Visit) -> Content:
    """All projects with their progress."""
    known = progress(visit.store.db)
    return {"projects": [(one, known.get(one.id, ProjectProgress())) for one in visit.store.projects.all()]}


def new_project(_visit: Visit) -> Content:
    """An empty form."""
    return {"question": Question(), "settings": ProjectSettings()}


def create(visit: Visit, form: FormData) -> str:
    """Makes the project, and goes to where items are added."""
    team = not visit.site.local
    settings = ProjectSettings(
        overlap=1 if (overlap := number(form, "overlap")) is None else overlap,
        invited_only=team and "open_to_all" not in form,
    )
    project = visit.store.projects.create(
        text(form, "slug"),
        text(form, "name"),
        read_question_form(form),
        guidelines=text(form, "guidelines"),
        settings=settings,
        by=visit.account,
    )
    return f"/admin/p/{project.slug}/import?done=created"


def overview(visit: Visit) -> Content:
    """How far the project is, how fast, and what to worry about."""
    now = datetime.now(UTC)
    how_far = progress(visit.store.db, visit.project.id).get(visit.project.id, ProjectProgress())
    shown = visit.numbers()
    content: Content = {
        "progress": how_far,
        "shown": shown,
        "handles": handles(visit),
    }
    if shown.numbers is None:
        return content
    t = translator(language_of(visit.request))
    told = [_told(finding, content["handles"], t) for finding in shown.numbers.findings]
    return content | {"warnings": told} | _paced(shown.numbers, how_far, now)


def _told(finding: Finding, handles: Mapping[int, str], t: Words) -> str:
    """A finding as a sentence."""
    shown = {name: f"{value:.3g}" for name, value in finding.numbers.items()}
    shown |= {name: f"{100 * finding.numbers[name]:.0f}" for name in ("share", "usual") if name in finding.numbers}
    return t(f"admin.finding.{finding.code}", who=handles.get(finding.account or 0, ""), **shown)


def _paced(numbers: Numbers, how_far: ProjectProgress, now: datetime) -> Content:
    hours = numbers.tape.hours(now, _DAYS)
    rate = numbers.tape.rate(now)
    columns = [
        Column(_day(now, ago) if ago and not ago % 24 else "", count, f"{_hour(now, ago)}: {count}")
        for ago, count in zip(range(len(hours) - 1, -1, -1), hours, strict=True)
    ]
    left = how_far.wanted - how_far.given
    days = [(_day(now, 24 * day), sum(hours[-24 * (day + 1) : len(hours) - 24 * day])) for day in range(_DAYS)]
    return {
        "numbers": numbers,
        "agreements": [("", numbers.overall), *numbers.axes.items()],
        "rate": rate,
        "eta_h": left / rate if rate and left else None,
        "pace": columns,
        "total": sum(hours),
        "days": days[::-1],
        "quartiles": numbers.tape.quartiles,
    }


def _day(now: datetime, hours_ago: int) -> str:
    return datetime.fromtimestamp(now.timestamp() - 3600 * hours_ago, UTC).strftime("%m-%d")


def _hour(now: datetime, hours_ago: int) -> str:
    return datetime.fromtimestamp(now.timestamp() - 3600 * hours_ago, UTC).strftime("%m-%d %H:%M")
