"""Accounts: who may make them, what opens them, and what shuts them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any, Literal

import pytest
from argon2 import Parameters, PasswordHasher, Type, extract_parameters
from sqlalchemy import select

from collect_world import Clock, person, project_of_pairs
from thumbs.collect import passwords
from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.passwords import hash_password, is_password
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import ACCOUNTS, API_TOKENS, LOGINS

PASSWORD = "correct horse battery"  # noqa: S105


@pytest.fixture(autouse=True)
def _quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test of the hash needs its cost."""
    monkeypatch.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    monkeypatch.setattr(passwords, "_NOBODY", passwords.HASHER.hash("nobody"))


def kept(store: CollectStore, table: Any) -> str:
    """Everything the table holds, as text."""
    with store.db.reading() as db:
        return repr(db.execute(select(table)).all())


def test_an_account_is_found_by_its_name_in_whatever_letters(store: CollectStore):
    made = store.people.add(" Ann ", "Ann B.", "reviewer")
    assert (made.handle, made.name, made.role, made.disabled) == ("ann", "Ann B.", "reviewer", False)
    assert store.people.find("ANN") == store.people.get(made.id) == made
    assert [account.handle for account in store.people.all()] == ["ann"]
    with pytest.raises(NotFound, match="there is no account 'ben'"):
        store.people.find("ben")


@pytest.mark.parametrize("handle", ["", "a b", "x" * 65, "prolific:1", "<i>", "a\nb", "a\0", "../etc"])
def test_names_that_are_refused(store: CollectStore, handle: str):
    with pytest.raises(CollectError, match="an account's name has"):
        store.people.add(handle, "", "annotator")


def test_a_name_is_given_once_and_a_role_must_be_known(store: CollectStore):
    person(store, "ann")
    with pytest.raises(CollectError, match="there is an account 'ann' already"):
        store.people.add("Ann", "", "owner")
    with pytest.raises(CollectError, match="the role must be one of owner, admin"):
        store.people.add("ben", "", "king")  # type: ignore[arg-type]


def test_a_hash_is_argon2id_with_the_parameters_it_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    made = hash_password(PASSWORD)
    kept = extract_parameters(made)
    assert kept.type is Type.ID
    assert (kept.memory_cost, kept.time_cost, kept.parallelism) == (19 * 1024, 2, 1)  # OWASP's least
    assert made != hash_password(PASSWORD)  # a salt of its own
    assert extract_parameters(passwords._NOBODY) == kept  # so that who is unknown takes as long
    assert not is_password(PASSWORD, None)


def test_a_hash_of_an_unreleased_version_opens_nothing_and_is_named(caplog: pytest.LogCaptureFixture):
    assert not is_password(PASSWORD, "scrypt$16384$8$5$c2FsdA==$aGFzaA==")
    assert "thumbs collect account password" in caplog.text


def test_only_the_same_password_fits_its_hash():
    made = hash_password(PASSWORD)
    assert is_password(PASSWORD, made)
    assert not any(is_password(other, made) for other in ("", PASSWORD.upper(), PASSWORD + " ", PASSWORD + "x" * 200))
    assert not is_password(PASSWORD, None)


@pytest.mark.parametrize("password", ["", "short-one", "x" * 201])
def test_passwords_that_are_refused(store: CollectStore, password: str):
    with pytest.raises(CollectError, match="a password has 10 to 200 characters"):
        store.people.add("ann", "", "annotator", password)


def test_who_is_unknown_costs_as_many_hashes_as_who_is_known(store: CollectStore, monkeypatch: pytest.MonkeyPatch):
    store.people.add("ann", "", "annotator", PASSWORD)
    person(store, "ben")  # has no password
    store.people.disable(store.people.add("cleo", "", "annotator", PASSWORD).id)
    made: list[Parameters] = []

    class Counted(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            made.append(extract_parameters(str(hash)))
            return super().verify(hash, password)

    monkeypatch.setattr(passwords, "HASHER", Counted())
    found = [store.people.authenticate(handle, PASSWORD) for handle in ("ann", "ben", "cleo", "nobody")]
    assert [account and account.handle for account in found] == ["ann", None, None, None]
    assert store.people.authenticate("ann", PASSWORD + "!") is None
    assert len(made) == 5
    assert all(one == made[0] for one in made)


def test_a_session_ends_after_thirty_days_or_when_it_is_left(store: CollectStore, clock: Clock):
    ann = person(store, "ann")
    first, second = store.people.log_in(ann), store.people.log_in(ann)
    assert first != second
    clock.forward(30 * 86_400 - 1)
    assert store.people.who(first) == store.people.get(ann)
    store.people.log_out(first)
    assert store.people.who(first) is None
    assert store.people.who(second) is not None
    clock.forward(1)
    assert store.people.who(second) is None
    store.people.log_in(ann)
    assert len(store.db.values(select(LOGINS.c.digest))) == 1  # the old ones are gone


@pytest.mark.parametrize("secret", ["", "x", "\0", "\ud800", "x" * 10_000])
def test_nonsense_opens_nothing(store: CollectStore, secret: str):
    person(store, "ann")
    people = store.people
    assert [people.who(secret), people.token(secret), people.invited(secret)] == [None, None, None]


def test_secrets_are_not_in_the_database(store: CollectStore):
    owner = store.people.add("olga", "", "owner", PASSWORD).id
    secrets = [store.people.log_in(owner), store.people.invite(owner), store.people.add_token(owner, "admin")]
    everything = "".join(kept(store, table) for table in (ACCOUNTS, LOGINS, API_TOKENS)) + repr(store.audit.events())
    assert not [secret for secret in [*secrets, PASSWORD] if secret in everything]
    assert hashlib.sha256(secrets[0].encode()).hexdigest() in everything


def test_an_invitation_works_once_and_the_newest_only(store: CollectStore):
    ann = person(store, "ann")
    old, new = store.people.invite(ann), store.people.invite(ann)
    session = store.people.log_in(ann)
    with pytest.raises(CollectError, match="used already or replaced"):
        store.people.accept(old, PASSWORD)
    with pytest.raises(CollectError, match="10 to 200"):
        store.people.accept(new, "short")
    assert store.people.invited(new) == store.people.accept(new, PASSWORD)
    assert store.people.who(session) is None  # a password that is new ends what went before
    assert store.people.authenticate("ann", PASSWORD) is not None
    with pytest.raises(CollectError, match="used already or replaced"):
        store.people.accept(new, PASSWORD + "2")
    assert store.people.authenticate("ann", PASSWORD + "2") is None


def test_a_new_password_ends_all_sessions(store: CollectStore):
    ann = store.people.add("ann", "", "annotator", PASSWORD).id
    session = store.people.log_in(ann)
    store.people.set_password(ann, "another long password")
    assert store.people.who(session) is None
    assert store.people.authenticate("ann", PASSWORD) is None


def test_whoever_is_disabled_is_out_at_once_and_by_every_door(store: CollectStore):
    owner, ann = person(store, "olga", "owner"), store.people.add("ann", "", "admin", PASSWORD).id
    session, token, invitation = (
        store.people.log_in(ann),
        store.people.add_token(ann, "export"),
        store.people.invite(ann),
    )
    store.people.disable(ann, by=owner)
    assert store.people.get(ann).disabled
    assert [store.people.who(session), store.people.token(token), store.people.invited(invitation)] == [None] * 3
    assert store.people.authenticate("ann", PASSWORD) is None
    with pytest.raises(CollectError, match="used already"):
        store.people.accept(invitation, PASSWORD)
    with pytest.raises(CollectError, match="is disabled"):
        store.people.invite(ann)
    store.people.enable(ann, by=owner)
    assert store.people.authenticate("ann", PASSWORD) is not None
    assert [store.people.who(session), store.people.token(token), store.people.invited(invitation)] == [None] * 3


OWNERS_ONLY: dict[str, Callable[[CollectStore, int, int, int], object]] = {
    "make an owner": lambda store, by, ann, owner: store.people.add("new", "", "owner", by=by),
    "promote to owner": lambda store, by, ann, owner: store.people.set_role(ann, "owner", by=by),
    "promote oneself": lambda store, by, ann, owner: store.people.set_role(by, "owner", by=by),
    "demote an owner": lambda store, by, ann, owner: store.people.set_role(owner, "viewer", by=by),
    "disable an owner": lambda store, by, ann, owner: store.people.disable(owner, by=by),
    "enable an owner": lambda store, by, ann, owner: store.people.enable(owner, by=by),
    "reset an owner's password": lambda store, by, ann, owner: store.people.invite(owner, by=by),
    "set an owner's password": lambda store, by, ann, owner: store.people.set_password(owner, PASSWORD, by=by),
    "speak for an owner": lambda store, by, ann, owner: store.people.add_token(owner, "admin", by=by),
}


@pytest.mark.parametrize("what", OWNERS_ONLY)
def test_only_owners_make_owners_and_touch_their_accounts(store: CollectStore, what: str):
    first, second = person(store, "olga", "owner"), person(store, "otto", "owner")
    admin, ann = person(store, "adam", "admin"), person(store, "ann")
    before = len(store.audit.events())
    with pytest.raises(CollectError, match="only an owner"):
        OWNERS_ONLY[what](store, admin, ann, second)
    assert len(store.audit.events()) == before
    OWNERS_ONLY[what](store, first, ann, second)
    event = store.audit.events()[0]
    assert (event.account_id, len(store.audit.events())) == (first, before + 1)
    assert store.audit.broken() is None


def test_the_last_owner_stays(store: CollectStore):
    first, second = person(store, "olga", "owner"), person(store, "otto", "owner")
    store.people.disable(second)
    for act in (lambda: store.people.disable(first), lambda: store.people.set_role(first, "admin")):
        with pytest.raises(CollectError, match="'olga' is the last owner"):
            act()
    store.people.set_role(first, "owner")  # changes nothing
    store.people.enable(second)
    store.people.set_role(first, "admin")
    assert store.people.get(first).role == "admin"


def test_two_owners_who_demote_each_other_at_once_leave_one(store: CollectStore):
    ids = [person(store, "olga", "owner"), person(store, "otto", "owner")]
    start = threading.Barrier(2)
    refused: list[str] = []

    def demote(victim: int, by: int) -> None:
        start.wait()
        try:
            store.people.set_role(victim, "viewer", by=by)
        except CollectError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=demote, args=pair) for pair in (ids, ids[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(store.people.get(one).role for one in ids) == ["owner", "viewer"]
    assert len(refused) == 1


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("owner", ["ingest", "export", "admin"]),
        ("admin", ["ingest", "export", "admin"]),
        ("reviewer", ["export"]),
        ("viewer", ["export"]),
        ("annotator", []),
    ],
)
def test_a_token_may_no_more_than_its_account(store: CollectStore, role: Any, allowed: list[str]):
    who = person(store, "sam", role)
    for scope in ("ingest", "export", "admin"):
        if scope in allowed:
            assert store.people.token(store.people.add_token(who, scope)) == (store.people.get(who), scope)
        else:
            with pytest.raises(CollectError, match="needs an account that may log in as owner"):
                store.people.add_token(who, scope)
    with pytest.raises(CollectError, match="the scope must be one of"):
        store.people.add_token(who, "root")  # type: ignore[arg-type]


def test_a_token_ends_with_the_role_or_when_it_is_revoked(store: CollectStore):
    person(store, "olga", "owner")
    adam = person(store, "adam", "admin")
    ingest, export = store.people.add_token(adam, "ingest", "nightly"), store.people.add_token(adam, "export")
    store.people.set_role(adam, "reviewer")
    assert store.people.token(ingest) is None
    assert store.people.token(export) is not None
    store.people.revoke(store.people.tokens()[1].id)
    assert store.people.token(export) is None
    assert [(one.scope, one.note, one.revoked is None) for one in store.people.tokens()] == [
        ("ingest", "nightly", True),
        ("export", "", False),
    ]
    with pytest.raises(NotFound, match="no API token 99"):
        store.people.revoke(99)


def test_a_worker_has_one_account_in_all_studies(store: CollectStore):
    people = store.people
    first = people.identity("prolific", "5f3a", "study1")
    assert (first.role, first.name) == ("annotator", "5f3a")
    assert people.identity("prolific", "5f3a", "study1") == people.identity("prolific", "5f3a", "study2") == first
    assert people.identity("mturk", "5f3a", "study1") != first
    assert people.sources(first.id) == ["prolific"]
    assert [people.knows("prolific", "5f3a", study) for study in ("study1", "study2", "study3")] == [True, True, False]


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 65, "a/b", "a\0b", "<script>", "é"])
def test_ids_of_workers_are_plain(store: CollectStore, wrong: str):
    for worker, study in ((wrong, "s"), ("w", wrong)):
        with pytest.raises(CollectError, match="not as expected"):
            store.people.identity("prolific", worker, study)
    assert store.people.all() == []


def test_a_link_opens_no_account_that_is_more_than_a_workers(store: CollectStore):
    people = store.people
    ways = {
        "locked": lambda one: people.set_password(one, PASSWORD),
        "promoted": lambda one: people.set_role(one, "admin"),
        "barred": people.disable,
    }
    for worker, change in ways.items():
        change(people.identity("prolific", worker, "s").id)
        with pytest.raises(CollectError, match="cannot be opened by a link"):
            people.identity("prolific", worker, "s")


def test_many_first_visits_of_a_worker_make_one_account(store: CollectStore):
    found: list[int] = []
    start = threading.Barrier(6)

    def join() -> None:
        start.wait()
        found.append(store.people.identity("mturk", "W1", "H1").id)

    threads = [threading.Thread(target=join) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def test_members(store: CollectStore):
    project, other = project_of_pairs(store, 1), project_of_pairs(store, 0, "other")
    ann, ben = person(store, "ann"), person(store, "ben")
    assert store.people.member(project.id, ann) is None
    member = store.people.enrol(project.id, ann, quota=5)
    assert (member.quota, member.paused, member.qualified) == (5, False, None)
    assert store.people.enrol(project.id, ann).quota == 5
    assert store.people.enrol(project.id, ann, quota=6).quota == 6
    store.people.set_member(project.id, ann, paused=True)
    changed = store.people.member(project.id, ann)
    assert changed is not None
    assert (changed.quota, changed.paused) == (6, True)
    store.people.set_member(project.id, ann, quota=None, paused=False)
    store.people.enrol(project.id, ben)
    assert [(m.account_id, m.quota) for m in store.people.members(project.id)] == [(ann, None), (ben, None)]
    assert store.people.members(other.id) == []
    with pytest.raises(NotFound, match="was not added"):
        store.people.set_member(other.id, ann, paused=True)
    with pytest.raises(CollectError, match="a quota is at least 1"):
        store.people.enrol(other.id, ann, quota=0)


def test_the_person_at_this_machine_is_its_owner(store: CollectStore):
    made = store.people.at_home("Ann Lee")
    assert (made.handle, made.name, made.role) == ("ann-lee", "Ann Lee", "owner")
    assert store.people.at_home("ann lee") == made
    assert store.people.at_home("...").handle == "me"
    assert not store.people.has_owner()  # nobody could log in from elsewhere
    store.people.set_password(made.id, PASSWORD)
    assert store.people.has_owner()


def test_a_disabled_account_is_not_opened_at_this_machine(store: CollectStore):
    person(store, "olga", "owner")
    store.people.disable(store.people.at_home("ann").id)
    with pytest.raises(CollectError, match="is disabled: thumbs collect account disable ann --undo"):
        store.people.at_home("ann")
