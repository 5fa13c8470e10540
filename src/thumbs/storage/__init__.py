"""What the service and the labelling site share: a database, its tables' versions, times in UTC, secrets."""

from __future__ import annotations

from thumbs.storage.database import (
    Database,
    MissingError,
    StoreError,
    inserted_id,
    is_away,
    newest_first,
    oldest_first,
    utc_now,
)
from thumbs.storage.schema import Schema, UtcTime, keep_rows
from thumbs.storage.secrets import digest, new_secret

__all__ = [
    "Database",
    "MissingError",
    "Schema",
    "StoreError",
    "UtcTime",
    "digest",
    "inserted_id",
    "is_away",
    "keep_rows",
    "new_secret",
    "newest_first",
    "oldest_first",
    "utc_now",
]
