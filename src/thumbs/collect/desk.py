"""A project opened for whoever sits at this machine: served, waited for, its labels taken.

`Desk` is how a run asks people (thumbs.stages.people.People); `open_run` and `open_prompts` are what `thumbs collect`
works on: a project, a model that writes replies for it, and a supply that keeps tasks ahead of people.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from thumbs.collect.asking import Asking
from thumbs.collect.errors import NotFound
from thumbs.collect.question import Question
from thumbs.collect.records import Project
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.collect.supply import ItemSupply, ReplySource, Score, SupplyPlan
from thumbs.config.data import DataConfig
from thumbs.config.labels import PeopleConfig
from thumbs.errors import ConfigError
from thumbs.records import Prompt
from thumbs.tracking.progress import Progress
from thumbs.web.listening import is_loopback, listen, server_of, url_of
from thumbs.web.signing import load_key

if TYPE_CHECKING:
    from thumbs.stages.people import Candidate, Labels

DATABASE = Path("thumbs-collect") / "collect.db"
"""Where judgements are kept unless something else is said: next to the run folders, so that they outlive them."""
_PORTS = 20
_POLL_S = 0.3


@dataclass(frozen=True)
class Desk:
    """Asks people for a run. tell: is given what a person must read; show: opens the page for them."""

    tell: Callable[[str], None] = print
    show: Callable[[str], object] = lambda _: None
    poll_s: float = _POLL_S

    def ask(self, settings: PeopleConfig, run: Path, iteration: int, candidates: Iterator[Candidate]) -> Labels:
        """Labels of the first settings.pairs candidates that people judge, skipped ones apart, or of as many as were
        judged when the project was closed.

        The same candidates are the same items, so nothing is asked twice. Open items of the run's earlier policies are
        retired; a closed project opens again where this policy has something new to ask.
        """
        where = database(settings.db)
        with contextlib.closing(CollectStore(where)) as store:
            slug = settings.project or slug_of(run.name)
            project = project_of(store, slug, f"{run}", settings.overlap, invited_only=not settings.serve)
            asking = Asking(store, project, settings, candidates, str(run), iteration, shown(where))
            self.tell(f"people: sampling {settings.pairs} pairs for project {project.slug!r}")
            if asking.fill() and store.projects.get(project.id).state == "closed":
                store.projects.set_state(project.id, "open")
            asking.retire_stale()
            if not asking.is_over():
                self._wait(store, settings, asking)
            return asking.labels()

    def _wait(self, store: CollectStore, settings: PeopleConfig, asking: Asking) -> None:
        with contextlib.ExitStack() as stack:
            if settings.serve:
                slug, where = asking.project.slug, database(settings.db)
                url = stack.enter_context(serving(store, settings.host, settings.port, where, slug))
                self.tell(f"\n{settings.pairs} pairs wait to be judged:\n\n    {url}\n")
                self.tell("Closing the project there ends it sooner; Ctrl-C interrupts, and the same command goes on.")
                self.show(url)
            else:
                self.tell(
                    f"the pairs wait to be judged in project {asking.project.slug!r}; people other than owners and "
                    "admins get them once they are added to it, on its page People"
                )
            bar = stack.enter_context(Progress("people", settings.pairs, ("pairs",)))
            told = 0
            while True:
                bar.advance(asking.judged - told)
                told = asking.judged
                if asking.is_over():
                    return
                time.sleep(self.poll_s)
                asking.refresh()


def database(given: str) -> Path | str:
    """The database that settings name: a path, or a URL as it is."""
    if "://" in given:
        return given
    return Path(given) if given else DATABASE


def shown(where: Path | str) -> str:
    """The database's address without a password."""
    return str(where) if isinstance(where, Path) else make_url(where).render_as_string(hide_password=True)


def open_page(url: str) -> None:
    """Opens the page in a browser, where somebody sits in front of one."""
    graphical = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and graphical:
        webbrowser.open(url)


def slug_of(name: str) -> str:
    """A project's short name made of any name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64].strip("-") or "run"


def project_of(
    store: CollectStore,
    slug: str,
    name: str,
    overlap: int = 1,
    question: Question | None = None,
    *,
    invited_only: bool = False,
) -> Project:
    """The project of that short name, made if need be; raises ConfigError if it asks something else."""
    question = question or Question()
    try:
        found = store.projects.find(slug)
    except NotFound:
        return store.projects.create(
            slug, name[-200:], question, settings=ProjectSettings(overlap=overlap, invited_only=invited_only)
        )
    kind = store.projects.question(found.id)[1].kind
    if kind != question.kind:
        raise ConfigError(f"project {slug!r} asks people to {kind!r}, not {question.kind!r}; name another project")
    return found


def open_run(
    store: CollectStore, run: Path, stage: str, plan: SupplyPlan, *, project: str = "", prompts: str | None = None
) -> tuple[Project, ItemSupply]:
    """A project for a stage's model, with the prompts that the run samples its pairs for, or those of a file; and the
    supply of its tasks, to be entered.

    Raises RunError if there is no such model, ConfigError if the run names no prompts.
    """
    from thumbs.data.load import load_prompts
    from thumbs.pipeline.artifacts import open_run as open_folder
    from thumbs.pipeline.reply_source import open_stage

    config = open_folder(run).config
    sections = (config.labels, config.ppo, config.group, config.rejection)
    named = [section.prompts for section in sections if section is not None and section.prompts is not None]
    data = DataConfig(path=prompts) if prompts else next(iter(named), None)
    if data is None:
        raise ConfigError(f"the config of {run} names no prompts; give a file of them")
    source = open_stage(run, stage, plan.sampling)
    rows = load_prompts(data, source.tokenizer, config.system).rows
    score = None if source.scores is None else source.score
    return _opened(store, project or slug_of(f"{run.name}-{stage}"), run.name, source, rows, plan, score)


def open_prompts(
    store: CollectStore, prompts: str, model: str, plan: SupplyPlan, *, project: str = ""
) -> tuple[Project, ItemSupply]:
    """The same for a model by name and a file of prompts (any source that training reads).

    People read the name of a project above their tasks, so it says nothing of the model.
    """
    from thumbs.data.load import load_prompts
    from thumbs.pipeline.reply_source import open_model

    source = open_model(model, plan.sampling)
    rows = load_prompts(DataConfig(path=prompts), source.tokenizer).rows
    return _opened(store, project or slug_of(Path(prompts).stem), Path(prompts).name, source, rows, plan)


def _opened(
    store: CollectStore,
    slug: str,
    name: str,
    source: ReplySource,
    prompts: Sequence[Prompt],
    plan: SupplyPlan,
    score: Score | None = None,
) -> tuple[Project, ItemSupply]:
    project = project_of(store, slug, name, plan.overlap, plan.question)
    return project, ItemSupply(store, project.id, source, prompts, plan, score=score)


@contextlib.contextmanager
def serving(
    store: CollectStore,
    host: str,
    port: int,
    where: Path | str,
    slug: str,
    sources: Mapping[str, ReplySource] | None = None,
) -> Iterator[str]:
    """Serves the site to the person at this machine, from a thread; gives the address of a project, with its token.

    where: the store's database; next to a file lies the key that keeps open pages logged in when the server starts
    anew.
    """
    from thumbs.collect.web.app import create_app
    from thumbs.collect.web.site import Site

    listener, token = listen(host, port, _PORTS), secrets.token_urlsafe(24)
    key = load_key(where.with_name("site.key")) if isinstance(where, Path) else secrets.token_bytes(32)
    site = Site(store, key, local=True, token=token, sources=sources or {})
    if not is_loopback(host):
        site = replace(site, hosts=("*",))
    server = server_of(create_app(site), timeout_graceful_shutdown=2)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="desk", daemon=True)
    thread.start()
    try:
        yield f"{url_of(listener, host)}/?next=/p/{slug}&token={token}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
