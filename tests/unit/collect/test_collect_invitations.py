"""A table of people becomes accounts, and a table of links that work."""

from __future__ import annotations

import csv
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collect_visitor import Visitor, team_app
from thumbs.cli.main import app
from thumbs.collect.store import CollectStore

SITE = "https://collect.example.org/label"


def invite(folder: Path, table: str, *more: str) -> tuple[int, str]:
    (folder / "people.csv").write_text(table, encoding="utf-8")
    base = () if "--base-url" in more else ("--base-url", f"{SITE}/")
    files = ("--db", str(folder / "c.db"), "-o", str(folder / "links.csv"))
    result = CliRunner().invoke(
        app, ["collect", "account", "invite-all", str(folder / "people.csv"), *base, *files, *more]
    )
    return result.exit_code, " ".join(f"{result.output} {result.exception or ''}".split())


def links(folder: Path) -> list[dict[str, str]]:
    with (folder / "links.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_everybody_gets_a_link_that_opens_their_account(tmp_path: Path):
    CliRunner().invoke(app, ["collect", "new", "helpful", "--db", str(tmp_path / "c.db")])
    table = "account,name,role\nAnn@Example.org,Ann Lee,\nbob,=1+1,reviewer\n"
    code, said = invite(tmp_path, table, "--project", "helpful")
    assert (code, "2 new accounts with links that work once; 0 had accounts before" in said) == (0, True)
    found = links(tmp_path)
    assert [(row["account"], row["role"]) for row in found] == [("ann@example.org", "annotator"), ("bob", "reviewer")]
    assert found[1]["name"] == "'=1+1"  # no formula
    assert stat.S_IMODE((tmp_path / "links.csv").stat().st_mode) == 0o600
    store = CollectStore(tmp_path / "c.db")
    project = store.projects.find("helpful")
    visitor = Visitor(team_app(store))
    for row in found:
        path = row["link"].removeprefix(SITE)
        assert path.startswith("/invite/")
        assert visitor.get(path).status_code == 200
        assert store.people.member(project.id, store.people.find(row["account"]).id) is not None
    store.close()
    code, said = invite(tmp_path, table + "cleo,,\n", "-o", str(tmp_path / "more.csv"))
    assert (code, "1 new accounts with links that work once; 2 had accounts before" in said) == (0, True)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("account,name\nann,Ann\nann,Other\n", "people.csv:3: 'ann' stands there twice"),
        ("account,role\nann,annotator\nbob,king\n", "people.csv:3: role 'king'; use one of owner"),
        ("account\nann\nb b\n", "people.csv:3: an account's name has letters"),
        ("name\nAnn\n", "there is no column `account`"),
        ("account,mail\nann,x\n", "unknown column 'mail'; there are account, name, role"),
        ("account,name\n,Ann\n", "people.csv:2: the row has no `account`"),
        ("account,name\nann,Ann,more\n", "people.csv:2: the row has more cells"),
        ("account\n", "has no people"),
        ("", "has no people"),
    ],
)
def test_a_table_that_is_wrong_makes_no_account(table: str, told: str, tmp_path: Path):
    code, said = invite(tmp_path, table)
    assert (code != 0, told in said) == (True, True), said
    assert not (tmp_path / "links.csv").exists()
    store = CollectStore(tmp_path / "c.db")
    assert store.people.all() == []
    store.close()


def test_links_are_never_lost_to_what_is_there(tmp_path: Path):
    (tmp_path / "links.csv").write_text("mine", encoding="utf-8")
    code, said = invite(tmp_path, "account\nann\n")
    assert (code != 0, "name another file with -o" in said) == (True, True)
    store = CollectStore(tmp_path / "c.db")
    assert store.people.all() == []
    store.close()
    code, said = invite(tmp_path, "account\nann\n", "--base-url", "collect.example.org")
    assert "give the address that people type" in said
