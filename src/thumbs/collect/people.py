"""Accounts and what opens them: passwords, invitations, sessions, API tokens, and the ids of hired workers.

Secrets are random and only their SHA-256 is kept; passwords are kept as Argon2id hashes (RFC 9106).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import EllipsisType
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, insert, select, update

from thumbs.collect.audit import Audit
from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.passwords import hash_password, is_password
from thumbs.collect.records import ROLES, Account, Role, Source, TokenScope
from thumbs.collect.tables import ACCOUNTS, API_TOKENS, IDENTITIES, LOGINS, MEMBERS
from thumbs.storage import Database, digest, inserted_id, new_secret

LOGIN_DAYS = 30
"""How long a session lasts, days."""
EXTERNAL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids of workers and studies: what Prolific and Mechanical Turk use, and nothing that could be more than a name."""
SCOPE_ROLES: dict[str, tuple[Role, ...]] = {
    "ingest": ("owner", "admin"),
    "export": ("owner", "admin", "reviewer", "viewer"),
    "admin": ("owner", "admin"),
}
"""Roles whose accounts a token of that scope may speak for."""
_HANDLE = re.compile(r"[\w][\w.@+-]{0,63}")
_ACCOUNT = tuple(ACCOUNTS.c[name] for name in ("id", "handle", "name", "role", "disabled", "created"))
_TURN = -2
"""The lock under which accounts change, so that two owners cannot demote each other at once; projects start at 1."""


@dataclass(frozen=True)
class Token:
    """An API token; the secret itself was shown once."""

    id: int
    account_id: int
    scope: TokenScope
    note: str
    created: datetime
    revoked: datetime | None


@dataclass(frozen=True)
class Member:
    """A person's part in a project. quota: None is the project's; qualified: None if no test was finished."""

    project_id: int
    account_id: int
    quota: int | None
    paused: bool
    qualified: bool | None
    created: datetime


class Accounts:
    """`by` is the account that does it, None the command line. Changes are in the audit log.

    Only owners make owners or change what is an owner's, and one owner who can log in always stays.
    """

    def __init__(self, db: Database, audit: Audit, clock: Callable[[], datetime]) -> None:
        self._db, self._audit, self._clock = db, audit, clock

    def add(self, handle: str, name: str, role: Role, password: str | None = None, by: int | None = None) -> Account:
        """A new account; without a password it is opened by an invitation. Raises CollectError if it cannot be."""
        handle = checked_handle(handle)
        _check_role(role)
        hashed = None if password is None else hash_password(password)
        with self._db.transaction(durable=True, turn=_TURN) as db:
            self._check_owner(db, by, role)
            if db.scalar(select(exists().where(ACCOUNTS.c.handle == handle))):
                raise CollectError(f"there is an account {handle!r} already; choose another name")
            made = self._insert(db, handle, name.strip()[:200] or handle, role, hashed)
            self._audit.note(db, "account.add", by, None, {"account": made, "handle": handle, "role": role})
        return self.get(made)

    def at_home(self, user: str) -> Account:
        """The account of whoever sits at this machine, made when they come first: an owner without a password."""
        handle = re.sub(r"[^\w.@+-]", "-", user.strip().lower())[:64].lstrip(".@+-") or "me"
        with self._db.transaction(durable=True, turn=_TURN) as db:
            made = db.scalar(select(ACCOUNTS.c.id).where(ACCOUNTS.c.handle == handle))
            if made is None:
                made = self._insert(db, handle, user.strip()[:200] or handle, "owner", None)
                self._audit.note(db, "account.add", None, None, {"account": made, "handle": handle, "role": "owner"})
        account = self.get(made)
        if account.disabled:
            raise CollectError(f"the account {handle!r} is disabled: thumbs collect account disable {handle} --undo")
        return account

    def get(self, account_id: int) -> Account:
        """The account of that id; raises NotFound."""
        return self._db.the(Account, _one(account_id), NotFound(f"there is no account {account_id}"))

    def find(self, handle: str) -> Account:
        """The account of that name; raises NotFound."""
        query = select(*_ACCOUNT).where(ACCOUNTS.c.handle == handle.strip().lower())
        return self._db.the(Account, query, NotFound(f"there is no account {handle!r}"[:200]))

    def all(self) -> list[Account]:
        """Every account, oldest first."""
        return self._db.all(Account, select(*_ACCOUNT).order_by(ACCOUNTS.c.id))

    def set_role(self, account_id: int, role: Role, by: int | None = None) -> None:
        """Gives another role; raises CollectError if it would take the last owner away, or `by` may not."""
        _check_role(role)
        with self._changing(account_id, by) as (db, account):
            self._check_owner(db, by, role)
            if role != "owner":
                self._keep_an_owner(db, account)
            _set(db, account_id, role=role)
            self._audit.note(db, "account.role", by, None, {"account": account_id, "from": account.role, "to": role})

    def disable(self, account_id: int, by: int | None = None) -> None:
        """Shuts the person out at once: sessions end, tokens and an open invitation are void. Judgements stay."""
        with self._changing(account_id, by) as (db, account):
            self._keep_an_owner(db, account)
            _set(db, account_id, disabled=True, invitation=None)
            db.execute(delete(LOGINS).where(LOGINS.c.account_id == account_id))
            mine = (API_TOKENS.c.account_id == account_id) & API_TOKENS.c.revoked.is_(None)
            db.execute(update(API_TOKENS).where(mine).values(revoked=self._clock()))
            self._audit.note(db, "account.disable", by, None, {"account": account_id})

    def enable(self, account_id: int, by: int | None = None) -> None:
        """Lets the person in again, with the password of before; tokens stay revoked."""
        with self._changing(account_id, by) as (db, _):
            _set(db, account_id, disabled=False)
            self._audit.note(db, "account.enable", by, None, {"account": account_id})

    def invite(self, account_id: int, by: int | None = None) -> str:
        """A secret with which the person chooses a password, once; an earlier invitation is void."""
        secret = new_secret()
        with self._changing(account_id, by) as (db, account):
            if account.disabled:
                raise CollectError(f"the account {account.handle!r} is disabled; enable it first")
            _set(db, account_id, invitation=digest(secret))
            self._audit.note(db, "account.invite", by, None, {"account": account_id})
        return secret

    def invited(self, secret: str) -> Account | None:
        """Whose invitation that is, None if it was used or never was."""
        return self._db.one(Account, select(*_ACCOUNT).where(_open_invitation(secret)))

    def accept(self, secret: str, password: str) -> Account:
        """Uses up the invitation: sets the password and ends all sessions. Raises CollectError if it is void."""
        hashed = hash_password(password)
        with self._db.transaction(durable=True, turn=_TURN) as db:
            account_id = db.scalar(select(ACCOUNTS.c.id).where(_open_invitation(secret)))
            if account_id is None:
                raise CollectError("this invitation was used already or replaced; ask for a new one")
            self._set_password(db, account_id, hashed)
            self._audit.note(db, "account.accept", account_id, None, {"account": account_id})
        return self.get(account_id)

    def set_password(self, account_id: int, password: str, by: int | None = None) -> None:
        """Sets the password and ends all sessions of the account."""
        hashed = hash_password(password)
        with self._changing(account_id, by) as (db, _):
            self._set_password(db, account_id, hashed)
            self._audit.note(db, "account.password", by, None, {"account": account_id})

    def authenticate(self, handle: str, password: str) -> Account | None:
        """The account, where the password is right and it is not disabled; takes equally long in every other case."""
        query = select(*_ACCOUNT, ACCOUNTS.c.password).where(ACCOUNTS.c.handle == handle.strip().lower())
        with self._db.reading() as db:
            row = db.execute(query).first()
        right = is_password(password, row.password if row else None)
        if row is None or not right or row.disabled:
            return None
        return Account(*row[: len(_ACCOUNT)])

    def has_owner(self) -> bool:
        """Whether an owner can log in with a password."""
        able = (ACCOUNTS.c.role == "owner") & ~ACCOUNTS.c.disabled & ACCOUNTS.c.password.is_not(None)
        return bool(self._db.values(select(exists().where(able)))[0])

    def log_in(self, account_id: int) -> str:
        """The secret of a new session. It ends after LOGIN_DAYS, however much it is used."""
        secret, now = new_secret(), self._clock()
        with self._db.transaction() as db:
            db.execute(delete(LOGINS).where(LOGINS.c.expires <= now))
            row = {"account_id": account_id, "created": now, "expires": now + timedelta(days=LOGIN_DAYS)}
            db.execute(insert(LOGINS).values(digest=digest(secret), **row))
        return secret

    def who(self, secret: str) -> Account | None:
        """Whose session that is; None if it ended, never was, or the account is disabled."""
        query = select(*_ACCOUNT).join(LOGINS, LOGINS.c.account_id == ACCOUNTS.c.id)
        query = query.where(LOGINS.c.digest == digest(secret), LOGINS.c.expires > self._clock(), ~ACCOUNTS.c.disabled)
        return self._db.one(Account, query)

    def log_out(self, secret: str) -> None:
        """Ends the session."""
        self._db.execute(delete(LOGINS).where(LOGINS.c.digest == digest(secret)))

    def add_token(self, account_id: int, scope: TokenScope, note: str = "", by: int | None = None) -> str:
        """A new API token, which cannot be shown again. Raises CollectError if the role does not allow the scope."""
        secret = new_secret("tc-")
        with self._changing(account_id, by) as (db, account):
            if scope not in SCOPE_ROLES:
                raise CollectError(f"the scope must be one of {', '.join(SCOPE_ROLES)}, got {scope!r}"[:200])
            if account.disabled or account.role not in SCOPE_ROLES[scope]:
                needed = " or ".join(SCOPE_ROLES[scope])
                raise CollectError(f"a token with scope {scope} needs an account that may log in as {needed}")
            row = {"account_id": account_id, "scope": scope, "note": note[:200], "created": self._clock()}
            made = db.execute(insert(API_TOKENS).values(digest=digest(secret), **row))
            noted = {"account": account_id, "token": inserted_id(made), "scope": scope}
            self._audit.note(db, "token.add", by, None, noted)
        return secret

    def token(self, secret: str) -> tuple[Account, TokenScope] | None:
        """Who the API token speaks for, and for what; None if it is revoked, unknown, or the account may no more."""
        query = select(*_ACCOUNT, API_TOKENS.c.scope).join(API_TOKENS, API_TOKENS.c.account_id == ACCOUNTS.c.id)
        good = (API_TOKENS.c.digest == digest(secret)) & API_TOKENS.c.revoked.is_(None) & ~ACCOUNTS.c.disabled
        with self._db.reading() as db:
            row = db.execute(query.where(good)).first()
        if row is None or row.role not in SCOPE_ROLES[row.scope]:
            return None
        return Account(*row[: len(_ACCOUNT)]), row.scope

    def tokens(self) -> list[Token]:
        """All API tokens, revoked ones too, oldest first."""
        columns = (API_TOKENS.c[name] for name in ("id", "account_id", "scope", "note", "created", "revoked"))
        return self._db.all(Token, select(*columns).order_by(API_TOKENS.c.id))

    def revoke(self, token_id: int, by: int | None = None) -> None:
        """Makes an API token void; raises NotFound."""
        owners = self._db.values(select(API_TOKENS.c.account_id).where(API_TOKENS.c.id == token_id))
        if not owners:
            raise NotFound(f"there is no API token {token_id}")
        with self._changing(owners[0], by) as (db, account):
            live = (API_TOKENS.c.id == token_id) & API_TOKENS.c.revoked.is_(None)
            db.execute(update(API_TOKENS).where(live).values(revoked=self._clock()))
            self._audit.note(db, "token.revoke", by, None, {"account": account.id, "token": token_id})

    def identity(self, source: Source, external_id: str, study: str) -> Account:
        """The annotator account of a hired worker, made when they come first.

        The id in a link is a claim and no proof. One worker has one account in all studies, so that they see no item
        twice. Raises CollectError if the ids are none, or the account has a password or another role by now: a
        link does not open those.
        """
        if not EXTERNAL_ID.fullmatch(external_id) or not EXTERNAL_ID.fullmatch(study):
            raise CollectError("the link's ids of worker and study are not as expected; open it from the study's page")
        handle = f"{source}:{external_id}"
        ids = {"source": source, "external_id": external_id, "study": study}
        with self._db.transaction(durable=True, turn=_TURN) as db:
            row = db.execute(select(*_ACCOUNT, ACCOUNTS.c.password).where(ACCOUNTS.c.handle == handle)).first()
            account_id = self._insert(db, handle, external_id, "annotator", None) if row is None else row.id
            if row is not None and (row.disabled or row.password is not None or row.role != "annotator"):
                raise CollectError("this account cannot be opened by a link; ask those who run the study")
            if not db.scalar(_is_known(**ids)):
                db.execute(insert(IDENTITIES).values(account_id=account_id, **ids))
        return self.get(account_id)

    def knows(self, source: Source, external_id: str, study: str) -> bool:
        """Whether that worker came from that study before."""
        return bool(self._db.values(_is_known(source=source, external_id=external_id, study=study))[0])

    def sources(self, account_id: int) -> list[Source]:
        """Where a hired worker comes from; empty for everybody else."""
        return self._db.values(select(IDENTITIES.c.source).where(IDENTITIES.c.account_id == account_id).distinct())

    def member(self, project_id: int, account_id: int) -> Member | None:
        """A person's part in a project, None if they have not been added."""
        return self._db.one(Member, select(MEMBERS).where(_part(project_id, account_id)))

    def members(self, project_id: int) -> list[Member]:
        """Everybody who was added to the project."""
        query = select(MEMBERS).where(MEMBERS.c.project_id == project_id)
        return self._db.all(Member, query.order_by(MEMBERS.c.account_id))

    def enrol(self, project_id: int, account_id: int, quota: int | None = None, by: int | None = None) -> Member:
        """Adds a person to a project. Who is there already stays, with the new quota where one is given."""
        with self._db.transaction(durable=True, turn=project_id) as db:
            new = not db.scalar(select(exists().where(_part(project_id, account_id))))
            if new:
                row = {"project_id": project_id, "account_id": account_id, "quota": _checked_quota(quota)}
                db.execute(insert(MEMBERS).values(**row, paused=False, created=self._clock()))
                self._audit.note(db, "member.enrol", by, project_id, {"account": account_id, "quota": quota})
        if not new and quota is not None:
            self.set_member(project_id, account_id, quota=quota, by=by)
        return cast("Member", self.member(project_id, account_id))

    def set_member(
        self,
        project_id: int,
        account_id: int,
        *,
        quota: int | EllipsisType | None = ...,
        paused: bool | EllipsisType = ...,
        by: int | None = None,
    ) -> None:
        """Changes what is given of a person's part; raises NotFound if they have none."""
        values: dict[str, Any] = {}
        if not isinstance(quota, EllipsisType):
            values["quota"] = _checked_quota(quota)
        if not isinstance(paused, EllipsisType):
            values["paused"] = paused
        if not values:
            return
        with self._db.transaction(durable=True, turn=project_id) as db:
            if not db.execute(update(MEMBERS).where(_part(project_id, account_id)).values(values)).rowcount:
                raise NotFound(f"the account {account_id} was not added to this project")
            self._audit.note(db, "member.change", by, project_id, {"account": account_id, **values})

    def _insert(self, db: Connection, handle: str, name: str, role: Role, password: str | None) -> int:
        row = {"handle": handle, "name": name, "role": role, "password": password, "disabled": False}
        return inserted_id(db.execute(insert(ACCOUNTS).values(**row, created=self._clock())))

    def _set_password(self, db: Connection, account_id: int, hashed: str) -> None:
        _set(db, account_id, password=hashed, invitation=None)
        db.execute(delete(LOGINS).where(LOGINS.c.account_id == account_id))

    @contextmanager
    def _changing(self, account_id: int, by: int | None) -> Iterator[tuple[Connection, Account]]:
        """A transaction with the account that `by` changes in it; raises CollectError if it is an owner's and theirs is
        not.
        """
        with self._db.transaction(durable=True, turn=_TURN) as db:
            row = db.execute(_one(account_id)).first()
            if row is None:
                raise NotFound(f"there is no account {account_id}")
            self._check_owner(db, by, row.role)
            yield db, Account(*row)

    def _check_owner(self, db: Connection, by: int | None, role: str) -> None:
        if role != "owner" or by is None:
            return
        row = db.execute(_one(by)).first()
        if row is None or row.disabled or row.role != "owner":
            raise CollectError("only an owner can make owners and change their accounts")

    def _keep_an_owner(self, db: Connection, account: Account) -> None:
        others = (ACCOUNTS.c.role == "owner") & ~ACCOUNTS.c.disabled & (ACCOUNTS.c.id != account.id)
        if account.role == "owner" and not db.scalar(select(exists().where(others))):
            raise CollectError(f"{account.handle!r} is the last owner; make another one first")


def checked_handle(handle: str) -> str:
    """The name as it is kept; raises CollectError if no account can have it."""
    kept = handle.strip().lower()
    if not _HANDLE.fullmatch(kept):
        raise CollectError(f"an account's name has letters, digits and . @ + - _, 64 at most; got {kept!r}"[:200])
    return kept


def _one(account_id: int) -> Select[Any]:
    return select(*_ACCOUNT).where(ACCOUNTS.c.id == account_id)


def _set(db: Connection, account_id: int, **values: Any) -> None:
    db.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == account_id).values(values))


def _open_invitation(secret: str) -> ColumnElement[bool]:
    return (ACCOUNTS.c.invitation == digest(secret)) & ~ACCOUNTS.c.disabled


def _is_known(**ids: str) -> Select[Any]:
    return select(exists().where(*(IDENTITIES.c[name] == value for name, value in ids.items())))


def _part(project_id: int, account_id: int) -> ColumnElement[bool]:
    return (MEMBERS.c.project_id == project_id) & (MEMBERS.c.account_id == account_id)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise CollectError(f"the role must be one of {', '.join(ROLES)}, got {role!r}"[:200])


def _checked_quota(quota: int | None) -> int | None:
    if quota is not None and not 1 <= quota < 2**31:
        raise CollectError(f"a quota is at least 1, got {quota}")
    return quota
