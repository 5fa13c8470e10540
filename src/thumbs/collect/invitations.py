"""Invitations in bulk: a table of people goes in, a table with their links comes out."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.people import Accounts, checked_handle
from thumbs.collect.records import ROLES, Role

COLUMNS = ("account", "name", "role")


@dataclass(frozen=True)
class Invited:
    """A person of the table; link: with which they choose a password, "" if they had an account before."""

    account: str
    name: str
    role: Role
    link: str = ""


def read_people(path: Path) -> list[Invited]:
    """The people of a CSV file with the column `account` and perhaps `name` and `role` (annotator if it is empty).

    Raises CollectError, with the line, for the first row that cannot be an account; nothing is made before all can be.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restkey="", restval="")
            names, rows = table.fieldnames or (), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CollectError(f"{path} cannot be read as a CSV file: {error}") from None
    if unknown := [name for name in names if name not in COLUMNS]:
        raise CollectError(f"{path}: unknown column {unknown[0]!r}; there are {', '.join(COLUMNS)}")
    people: dict[str, Invited] = {}
    for line, row in enumerate(rows, start=2):
        try:
            one = _person(row)
        except CollectError as error:
            raise CollectError(f"{path}:{line}: {error}") from None
        if one.account in people:
            raise CollectError(f"{path}:{line}: {one.account!r} stands there twice")
        people[one.account] = one
    if not people:
        raise CollectError(
            f"{path} has no people; write a line with the columns {', '.join(COLUMNS)}, and one for each"
        )
    return list(people.values())


def invite_all(people: Accounts, wanted: list[Invited], base_url: str, project: int | None = None) -> Iterator[Invited]:
    """Makes the accounts that are missing, with links below `base_url`; all get tasks of `project`."""
    for one in wanted:
        try:
            account, link = people.find(one.account), ""
        except NotFound:
            account = people.add(one.account, one.name, one.role)
            link = f"{base_url}/invite/{people.invite(account.id)}"
        if project is not None:
            people.enrol(project, account.id)
        yield Invited(account.handle, account.name, account.role, link)


def checked_base(url: str) -> str:
    """The address without a slash at its end; raises CollectError for one that links could not begin with."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise CollectError(
            f"--base-url {url!r}: give the address that people type, such as https://collect.example.org"
        )
    return url.rstrip("/")


def _person(row: dict[str, str]) -> Invited:
    if "" in row:
        raise CollectError("the row has more cells than there are columns")
    if not row.get("account"):
        raise CollectError("the row has no `account`" if "account" in row else "there is no column `account`")
    role = (row.get("role") or "annotator").strip().lower()
    if role not in ROLES:
        raise CollectError(f"role {role!r}; use one of {', '.join(ROLES)}")
    return Invited(checked_handle(row["account"]), (row.get("name") or "").strip(), cast("Role", role))
