"""Tables of a database: how they are made, which version they have, and which of their rows never change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import (
    DDL,
    Column,
    Connection,
    DateTime,
    Dialect,
    MetaData,
    String,
    Table,
    TypeDecorator,
    event,
    func,
    insert,
    select,
)

from thumbs.errors import ConfigError


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime; SQLite keeps no time zone, so UTC goes in and comes out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value and dialect.name == "sqlite":
            return value.replace(tzinfo=UTC)
        return value.astimezone(UTC) if value else None


@dataclass(frozen=True)
class Schema:
    """A set of tables with the version of their form, which the database keeps in `version_table`.

    Several sets may share a database. The version is kept as Alembic does it, so that Alembic's scripts can take over
    with the first change of tables that were released; until then a new version has a new number and no way from the
    old one.
    """

    tables: MetaData
    version_table: str
    version: str = "0001"

    @property
    def stamp(self) -> Table:
        """The table that holds the version, in Alembic's form."""
        return Table(self.version_table, MetaData(), Column("version_num", String(32), primary_key=True))

    def prepare(self, connection: Connection) -> None:
        """Makes the tables in an empty database; raises ConfigError if there are those of another version."""
        stamp = self.stamp
        if connection.dialect.name == "postgresql":  # two servers may open an empty database at the same time
            connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(self.version_table))))
        stamp.create(connection, checkfirst=True)
        version = connection.scalar(select(stamp))
        if version is None:
            # Without a look at what is there: tables of the same names and no version are somebody else's.
            self.tables.create_all(connection, checkfirst=False)
            connection.execute(insert(stamp).values(version_num=self.version))
        elif version != self.version:
            raise ConfigError(
                f"its tables have version {version!r} and this thumbs works with {self.version!r}; use the thumbs that "
                "made it, or begin a new database"
            )


def keep_rows(metadata: MetaData, names: Iterable[str]) -> None:
    """Has triggers made with these tables that refuse changes of their rows, whoever has the database's password."""
    function = DDL(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'rows of %% stay as they are', TG_TABLE_NAME; END $$"
    )
    event.listen(metadata, "before_create", function.execute_if(dialect="postgresql"))
    for name in names:
        table = metadata.tables[name]
        for change in ("UPDATE", "DELETE"):
            trigger = DDL(
                f"CREATE TRIGGER %(table)s_no_{change.lower()} BEFORE {change} ON %(table)s "
                "BEGIN SELECT RAISE(ABORT, 'rows of %(table)s stay as they are'); END"
            )
            event.listen(table, "after_create", trigger.execute_if(dialect="sqlite"))
        trigger = DDL(
            "CREATE TRIGGER %(table)s_no_change BEFORE UPDATE OR DELETE ON %(table)s "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        event.listen(table, "after_create", trigger.execute_if(dialect="postgresql"))
