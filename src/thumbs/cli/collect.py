"""`thumbs collect`: people judge replies, at this machine or as a team."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from thumbs.cli.shell import printable
from thumbs.errors import ConfigError, RunError, needs

if TYPE_CHECKING:
    from thumbs.collect.question import Question
    from thumbs.collect.records import Project
    from thumbs.collect.store import CollectStore
    from thumbs.collect.supply import ItemSupply, SupplyPlan

_OPEN = "open"
_POLL_S = 0.5

Db = Annotated[
    str,
    typer.Option(
        "--db",
        metavar="FILE|URL",
        envvar="THUMBS_COLLECT_DB",
        help="Where judgements are kept: a SQLite file, or postgresql+psycopg://USER@HOST/NAME.",
        show_default="thumbs-collect/collect.db",
    ),
]
Slug = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's short name.")]
QuestionFile = Annotated[
    Path | None,
    typer.Option("--question", metavar="FILE", help="What is asked, as YAML; docs/collect.md has all of it."),
]
Overlap = Annotated[int, typer.Option(min=1, max=100, help="Judgements wanted of each task.")]
File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="Pairs, rankings or ratings to judge; prompts to answer, with --model.",
        show_default=False,
    ),
]
Run = Annotated[Path | None, typer.Option(help="A run folder, whose model writes the replies.")]
Stage = Annotated[str, typer.Option(help="The stage of the run whose model writes.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="A model that answers the prompts of FILE.")]
ProjectName = Annotated[
    str,
    typer.Option("--project", metavar="SLUG", help="The project's short name.", show_default="made of what is opened"),
]
Active = Annotated[
    Literal["uncertain", "disagreement"] | None,
    typer.Option(help="Choose pairs by the run's reward model: where it is unsure, or where its members disagree."),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed samples the same replies.")]
Host = Annotated[str, typer.Option(help="Address to listen on. Others than this machine can reach 0.0.0.0.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Browser = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


class Commands(TyperGroup):
    """The commands; a first word that is none of them is the file, or an option, of `open`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the word `open` in where it was left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_OPEN, *args]
        return super().parse_args(ctx, args)

    @needs("collect", "`thumbs collect`")
    def invoke(self, ctx: Any) -> Any:
        """What the command returns; raises MissingExtra if the libraries of the site are not installed."""
        return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def collect() -> None:
    """Have people judge replies: on a page at this machine, or as a team on a server.

    \b
    Example:
      thumbs collect --run runs/demo --stage sft                     sample pairs of that model as they are needed
      thumbs collect prompts.jsonl --model smollm2-135m --overlap 2  sample pairs of that model for these prompts
      thumbs collect prefs.jsonl                                     judge what there is
      thumbs collect export runs-demo-sft -o prefs.jsonl             a file that training reads
      thumbs collect serve --db postgresql+psycopg://thumbs@db/prefs a team, accounts, several projects
    """


@app.command(_OPEN)
def open_(
    file: File = "",
    *,
    run: Run = None,
    stage: Stage = "sft",
    model: Model = None,
    project: ProjectName = "",
    question: QuestionFile = None,
    overlap: Overlap = 1,
    active: Active = None,
    seed: Seed = 0,
    db: Db = "",
    host: Host = "127.0.0.1",
    port: Port = 8765,
    browser: Browser = False,
) -> None:
    """Open a page for whoever sits here; the word `open` may be left out.

    With --run or --model, pairs are sampled while people judge. A FILE alone is judged as it is: preferences become
    pairs, rankings are ranked, ratings rated, prompts answered. Ctrl-C ends it; the same command goes on.

    \b
    Example:
      thumbs collect --run runs/demo --stage sft --active uncertain
      thumbs collect prompts.jsonl --model smollm2-135m --overlap 2
      thumbs collect prefs.jsonl --open
    """
    from thumbs.collect.desk import database
    from thumbs.collect.supply import SupplyPlan

    _check_given(file, run, model)
    with opened_store(db) as store:
        asked = read_question(question)
        if run is None and model is None:
            made = _open_file(store, file, project, overlap, asked)
            _serve_here(store, made, None, database(db), host, port, browser)
            return
        plan = SupplyPlan(overlap=overlap, active=active, seed=seed)
        opened, supply = _open_model(store, file, run, stage, model, project, plan, asked)
        _serve_here(store, opened, supply, database(db), host, port, browser)


@contextlib.contextmanager
def opened_store(db: str) -> Iterator[CollectStore]:
    """The database of --db; raises RunError if it stops to answer."""
    from sqlalchemy.exc import OperationalError

    from thumbs.collect.desk import database
    from thumbs.collect.store import CollectStore, why_no_answer

    store = CollectStore(database(db))
    try:
        yield store
    except OperationalError as error:
        raise RunError(why_no_answer(error)) from error
    finally:
        store.close()


def read_question(path: Path | None) -> Question | None:
    """The question of a YAML file; None if none is given."""
    from thumbs.collect.question import Question
    from thumbs.config.base import load_config

    return None if path is None else load_config(Question, path)


def add_file(store: CollectStore, project: Project, file: str) -> None:
    """Adds the items of a file to a project and says what came of it; raises DataError if none can be used."""
    from thumbs.collect.importing import import_items
    from thumbs.data.load import ignored_text
    from thumbs.errors import DataError

    found = import_items(store, project.id, file, source=Path(file).name)
    for told in (*ignored_text(found.ignored), *map(str, found.problems[:20])):
        typer.echo(printable(told), err=True)
    added, bad = found.added, len(found.problems)
    if not added.created + added.existing:
        raise DataError(f"{file} holds nothing to judge: {bad} rows could not be used")
    typer.echo(f"{file}: {added.created} new tasks, {added.existing} there already, {bad} rows that could not be used")


def _check_given(file: str, run: Path | None, model: str | None) -> None:
    if run is not None and model is not None:
        raise ConfigError("--run has a model already; give --run or --model")
    if model is not None and not file:
        raise ConfigError("--model needs a FILE of prompts; for example `thumbs collect prompts.jsonl --model NAME`")
    if run is None and not file:
        raise ConfigError("give --run FOLDER or a FILE; `thumbs collect --help` shows examples")


def _open_file(store: CollectStore, file: str, slug: str, overlap: int, question: Question | None) -> Project:
    from thumbs.collect.desk import project_of, slug_of
    from thumbs.collect.importing import question_for
    from thumbs.data.lint import detect_kind

    if not Path(file).exists() and ":" not in file:
        raise ConfigError(f"there is no file {file!r}; `thumbs collect --help` lists the commands")
    question = question or question_for(detect_kind(file))
    project = project_of(store, slug or slug_of(Path(file).stem), Path(file).name, overlap, question)
    add_file(store, project, file)
    return project


def _open_model(
    store: CollectStore,
    file: str,
    run: Path | None,
    stage: str,
    model: str | None,
    slug: str,
    plan: SupplyPlan,
    question: Question | None,
) -> tuple[Project, ItemSupply]:
    from dataclasses import replace

    from thumbs.collect.desk import open_prompts, open_run

    if question is not None:
        plan = replace(plan, question=question)
    if run is not None:
        return open_run(store, run, stage, plan, project=slug, prompts=file or None)
    return open_prompts(store, file, model or "", plan, project=slug)


def _serve_here(
    store: CollectStore,
    project: Project,
    supply: ItemSupply | None,
    where: Path | str,
    host: str,
    port: int,
    browser: bool,
) -> None:
    """Serves the project until Ctrl-C, or until its supply fails."""
    from thumbs.collect.desk import open_page, serving

    sources = {} if supply is None else {project.slug: supply.source}
    is_chat = store.projects.question(project.id)[1].kind == "chat"
    before = store.votes.watermark(project.id)
    try:
        with contextlib.ExitStack() as stack:
            if supply is not None and not is_chat:
                stack.enter_context(supply)
            url = stack.enter_context(serving(store, host, port, where, project.slug, sources))
            typer.echo(f"\n    {url}\n\nOpen it in a browser to judge {printable(project.name)}. Ctrl-C ends.")
            if browser:
                open_page(url)
            while supply is None or supply.error is None:
                time.sleep(_POLL_S)
            raise supply.error
    except KeyboardInterrupt:
        pass
    finally:
        _tell_end(store, project, before)


def _tell_end(store: CollectStore, project: Project, before: int) -> None:
    """The last line: what was collected, and how to get it."""
    from thumbs.collect.overview import progress

    done = progress(store.db, project.id).get(project.id)
    given = 0 if done is None else done.given
    new = ", none of them new" if given and store.votes.watermark(project.id) == before else ""
    typer.echo(
        f"\n{given} judgements collected{new}. To train on them: "
        f"thumbs collect export {project.slug} --format preferences -o {project.slug}-labels.jsonl"
    )
