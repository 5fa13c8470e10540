"""Run by Alembic: applies the migrations in the transaction that `clients/database.py` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
