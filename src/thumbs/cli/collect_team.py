"""`thumbs collect new`, `import`, `export`, `account`, `token` and what keeps a database well."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import IO, Annotated, Literal

import typer

from thumbs.cli.collect import Db, Overlap, QuestionFile, Slug, add_file, app, opened_store, read_question
from thumbs.cli.shell import printable
from thumbs.errors import ConfigError, RunError

RoleName = Literal["owner", "admin", "reviewer", "annotator", "viewer"]
Kind = Literal["pair", "rank", "rate", "write", "rewrite", "chat"]
Handle = Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account's name.")]
RoleOption = Annotated[RoleName, typer.Option(help="What the account may do.")]
BaseUrl = Annotated[str, typer.Option(metavar="URL", help="The site's address as people type it, for whole links.")]
AskPassword = Annotated[bool, typer.Option("--password", help="Ask for the password here, instead of an invitation.")]

accounts = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="People who may log in.")
tokens = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Keys of scripts.")
app.add_typer(accounts, name="account")
app.add_typer(tokens, name="token")


@app.command()
def new(
    project: Slug,
    *,
    name: Annotated[str, typer.Option(help="What people read above their tasks.", show_default="the short name")] = "",
    kind: Annotated[Kind, typer.Option(help="The task, where no question is given.")] = "pair",
    question: QuestionFile = None,
    guidelines: Annotated[Path | None, typer.Option(metavar="FILE", help="Guidelines, as Markdown.")] = None,
    overlap: Overlap = 1,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Further settings, such as quota=50.")
    ] = None,
    db: Db = "",
) -> None:
    """Make a project.

    \b
    Example:
      thumbs collect new helpful --guidelines guide.md --overlap 2
      thumbs collect new study --question question.yaml quota=40 prolific_code=C1A2B3
    """
    from thumbs.collect.importing import QUALITY
    from thumbs.collect.question import Question
    from thumbs.collect.settings import ProjectSettings
    from thumbs.config.base import apply_overrides, build_config

    asked = read_question(question) or Question(kind=kind, axes=(QUALITY,) if kind == "rate" else ())
    text = _read_text(guidelines)
    with opened_store(db) as store:
        given = {"overlap": overlap, "invited_only": bool(store.people.all())}  # a team has accounts
        chosen = build_config(ProjectSettings, apply_overrides(given, settings or []), source="settings")
        made = store.projects.create(project, name or project, asked, guidelines=text, settings=chosen)
        typer.echo(f"{made.slug}: a project of kind {asked.kind}; add tasks: thumbs collect import {made.slug} FILE")
        if chosen.invited_only:
            typer.echo(
                "people get its tasks once they are added on its page People; invited_only=false opens it to all"
            )


@app.command("import")
def import_(
    project: Slug,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What is to be judged, in any form that training reads.")],
    db: Db = "",
) -> None:
    """Add the tasks of a file to a project; the same ones again change nothing.

    \b
    Example:
      thumbs collect import helpful pairs.jsonl
    """
    with opened_store(db) as store:
        add_file(store, store.projects.find(project), file)


@app.command()
def export(
    project: Slug,
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTER=VALUE", help="Which judgements, such as min_strength=2 drop_ties=true."),
    ] = None,
    *,
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="preferences, trl, ranked, votes, csv, …: docs/collect.md.")
    ] = "preferences",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file.", show_default="PROJECT-FORMAT")] = None,
    watermark: Annotated[int | None, typer.Option(help="Make an earlier export again: its manifest says it.")] = None,
    db: Db = "",
) -> None:
    """Write the judgements of a project as a file, with a manifest that says what is in it.

    \b
    Example:
      thumbs collect export helpful --format preferences -o prefs.jsonl
      thumbs collect export helpful --format trl -o trl.jsonl min_strength=2 aggregate=majority
    """
    from thumbs.collect.exports.formats import find_format
    from thumbs.collect.exports.select import Filters
    from thumbs.collect.exports.write import export as write
    from thumbs.config.base import apply_overrides, build_config

    chosen = build_config(Filters, apply_overrides({}, filters or []), source="filters")
    with opened_store(db) as store:
        found = store.projects.find(project)
        suffix = find_format(form, store.projects.question(found.id)[1], chosen).suffix
        out = out or Path(f"{found.slug}-{form}{suffix}")
        manifest = write(store, found.id, form, chosen, out, watermark=watermark)
    counts = manifest.counts
    dropped = "".join(f", {number} {reason}" for reason, number in counts.dropped.items() if number)
    typer.echo(f"{out}: {counts.rows} rows of {counts.kept} judgements ({counts.read} read{dropped})")


@accounts.command("add")
def add_account(
    account: Handle,
    *,
    role: RoleOption = "annotator",
    name: Annotated[str, typer.Option(help="The person's own name.", show_default="the account's")] = "",
    password: AskPassword = False,
    base_url: BaseUrl = "",
    db: Db = "",
) -> None:
    """Make an account and print the invitation with which the person chooses a password.

    \b
    Example:
      thumbs collect account add ann --role annotator
      thumbs collect account add olga --role owner --password
    """
    chosen = _ask_password() if password else None
    with opened_store(db) as store:
        made = store.people.add(account, name, role, chosen)
        if chosen is None:
            _tell_invitation(made.handle, store.people.invite(made.id), base_url)
        else:
            typer.echo(f"{made.handle} may log in as {made.role}")


@accounts.command("list")
def list_accounts(db: Db = "") -> None:
    """Print all accounts."""
    with opened_store(db) as store:
        for one in store.people.all():
            typer.echo(f"{one.handle}  {one.role}{'  disabled' if one.disabled else ''}  {printable(one.name)}")


@accounts.command("invite")
def invite(account: Handle, base_url: BaseUrl = "", db: Db = "") -> None:
    """Print a new invitation, for a first password or a forgotten one."""
    with opened_store(db) as store:
        found = store.people.find(account)
        _tell_invitation(found.handle, store.people.invite(found.id), base_url)


@accounts.command("invite-all")
def invite_all(
    people: Annotated[Path, typer.Argument(metavar="FILE", help="CSV with the columns account, name and role.")],
    *,
    base_url: BaseUrl,
    project: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="Give them tasks of this project.", show_default="none")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="A new CSV file with everybody's link, which only you can read.")
    ] = Path("invitations.csv"),
    db: Db = "",
) -> None:
    """Make accounts for all people of a table, and write the links with which they choose passwords.

    \b
    Example:
      thumbs collect account invite-all people.csv --base-url https://collect.example.org --project helpful
    """
    from thumbs.collect.invitations import checked_base, invite_all, read_people
    from thumbs.web.tables import table_lines

    base, wanted = checked_base(base_url), read_people(people)
    with opened_store(db) as store:
        into = None if project is None else store.projects.find(project).id
        with _private(out) as file:
            invited = list(invite_all(store.people, wanted, base, into))
            file.writelines(table_lines(vars(one) for one in invited))
    new = sum(bool(one.link) for one in invited)
    typer.echo(f"{out}: {new} new accounts with links that work once; {len(invited) - new} had accounts before")


@accounts.command("password")
def set_password(account: Handle, db: Db = "") -> None:
    """Ask for a new password; the account is logged out everywhere."""
    with opened_store(db) as store:
        found = store.people.find(account)
        store.people.set_password(found.id, _ask_password())


@accounts.command("role")
def set_role(account: Handle, role: Annotated[RoleName, typer.Argument(metavar="ROLE")], db: Db = "") -> None:
    """Give an account another role: owner, admin, reviewer, annotator or viewer."""
    with opened_store(db) as store:
        store.people.set_role(store.people.find(account).id, role)


@accounts.command("disable")
def disable(
    account: Handle, *, undo: Annotated[bool, typer.Option("--undo", help="Let them in again.")] = False, db: Db = ""
) -> None:
    """Shut an account out at once; its judgements stay."""
    with opened_store(db) as store:
        found = store.people.find(account)
        (store.people.enable if undo else store.people.disable)(found.id)


@tokens.command("add")
def add_token(
    account: Handle,
    *,
    scope: Annotated[
        Literal["ingest", "export", "admin"], typer.Option(help="What it may do; admin: both.")
    ] = "export",
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    db: Db = "",
) -> None:
    """Print a new API token that speaks for an account.

    \b
    Example:
      thumbs collect token add ann --scope export
      curl -H "Authorization: Bearer tc-…" http://localhost:8765/api/v1/projects/helpful/stats
    """
    with opened_store(db) as store:
        secret = store.people.add_token(store.people.find(account).id, scope, note)
        typer.echo(f"{secret}\nThis token cannot be shown again.")


@tokens.command("list")
def list_tokens(db: Db = "") -> None:
    """Print all tokens' numbers, accounts and scopes."""
    with opened_store(db) as store:
        for one in store.people.tokens():
            handle = store.people.get(one.account_id).handle
            state = "  revoked" if one.revoked else ""
            typer.echo(f"{one.id}  {one.created:%Y-%m-%d}  {handle}  {one.scope}{state}  {printable(one.note)}")


@tokens.command("revoke")
def revoke(token: Annotated[int, typer.Argument(metavar="NUMBER", help="As listed.")], db: Db = "") -> None:
    """Make a token void."""
    with opened_store(db) as store:
        store.people.revoke(token)


@app.command()
def check(db: Db = "") -> None:
    """Count everything again and follow the audit log; exit code 1 where something does not fit.

    \b
    Example:
      thumbs collect check --db thumbs-collect/collect.db
    """
    with opened_store(db) as store:
        drifted, broken = store.work.recount(), store.audit.broken()
    if drifted:
        raise RunError(f"the counters of items {drifted[:20]} are not what their tasks say; the database was changed")
    if broken is not None:
        raise RunError(f"line {broken} of the audit log is not as it was written; the database was changed")
    typer.echo("all counters and the audit log are as they should be")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy; must not be there yet.")], db: Db = ""
) -> None:
    """Copy a SQLite database while it is in use; the file itself must not be copied without its -wal.

    \b
    Example:
      thumbs collect backup collect-2026-01-02.db
    """
    from sqlalchemy import make_url

    from thumbs.collect.desk import database
    from thumbs.tracking.files import sync

    where = database(db)
    if isinstance(where, str):
        url = make_url(where)
        if url.get_backend_name() != "sqlite" or not url.database:
            raise ConfigError("only SQLite files are copied here; use pg_dump for PostgreSQL")
        where = Path(url.database)
    if not where.exists():
        raise ConfigError(f"there is no database {where}; choose it with --db")
    if file.exists():
        raise ConfigError(f"{file} is there already; choose another name")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        copy = Path(folder) / file.name
        with contextlib.closing(sqlite3.connect(where)) as source:
            source.execute("VACUUM INTO ?", (str(copy),))
        copy.chmod(0o600)
        sync(copy)
        os.link(copy, file)  # refuses a file that came meanwhile, as rename does not
    sync(file.parent)
    typer.echo(f"{file}: {file.stat().st_size} bytes")


@app.command()
def simulate(
    project: Slug,
    *,
    people: Annotated[int, typer.Option(min=1, max=100, help="How many people.")] = 3,
    judge: Annotated[Literal["vader", "tiny-mood"], typer.Option(help="What they look for: a warm tone.")] = "vader",
    noise: Annotated[float, typer.Option(min=0, max=1, help="Share of their preferences that is turned round.")] = 0.1,
    most: Annotated[int | None, typer.Option(min=1, help="Tasks each of them answers at most.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")] = 0,
    db: Db = "",
) -> None:
    """Let simulated people work on a project, to see what its pages and exports look like.

    \b
    Example:
      thumbs collect simulate helpful --people 5 --db trial.db
    """
    from thumbs.collect.errors import NotFound
    from thumbs.collect.simulate import SimulatedPerson, work_through
    from thumbs.evaluation.judges import gold_judge

    with opened_store(db) as store:
        found = store.projects.find(project)
        for number in range(1, people + 1):
            handle = f"simulated-{number}"
            try:
                account = store.people.find(handle)
            except NotFound:
                account = store.people.add(handle, f"Simulated {number}", "annotator")
            store.people.enrol(found.id, account.id)
            person = SimulatedPerson(handle, gold_judge(judge), seed, noise)
            typer.echo(f"{handle}: {work_through(store, found.id, account.id, person, most)} tasks")


def _tell_invitation(handle: str, secret: str, base_url: str) -> None:
    from thumbs.collect.invitations import checked_base

    what = "this link" if base_url else "the server's address with this path"
    base = checked_base(base_url) if base_url else ""
    typer.echo(f"{base}/invite/{secret}\nSend {handle} {what}. It works once, to choose a password.")


def _private(path: Path) -> IO[str]:
    """A new text file that only its owner reads; raises RunError if there is one of that name."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); name another file with -o") from None
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="")


def _ask_password() -> str:
    return typer.prompt("password", hide_input=True, confirmation_prompt=True)


def _read_text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; it must be a UTF-8 text file") from None
