"""Every error thumbs raises on purpose.

ThumbsError
├── DataError (ValueError)            a file or a record that the user gave is wrong; names file and line
├── ConfigError (ValueError)          a setting is unknown, out of range, or does not fit another
├── ModelError (ValueError)           a model, tokenizer or adapter cannot be found, read or used
├── CheckpointError (OSError)         a checkpoint is missing, unreadable or of another run
├── HubError (OSError)                the hub cannot be reached, or does not let this account do what was asked
├── RunError (RuntimeError)           a run folder cannot be used as asked
├── RewardError (RuntimeError)        a reward or an environment failed, or gave no number; names the rollout
├── MissingExtra (ImportError)        a library of an extra is not installed; names the command that installs it
├── NonFiniteError (ArithmeticError)  a loss, gradient or score became NaN or infinite; the batch was saved
└── WorkerError (RuntimeError)        code in another process failed; names worker, host, method; quotes its log
    └── WorkerLost                    that process is gone
        └── WorkerStuck               it showed no progress for longer than allowed, and was ended

A message says what was got, what is allowed, and what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "HubError",
    "MissingExtra",
    "ModelError",
    "NonFiniteError",
    "RewardError",
    "RunError",
    "ThumbsError",
    "WorkerError",
    "WorkerLost",
    "WorkerStuck",
    "needs",
]


class ThumbsError(Exception):
    """Base of all errors that thumbs raises on purpose; the command line prints its text alone."""


class DataError(ThumbsError, ValueError):
    """A file or record that the user gave is wrong."""


class ConfigError(ThumbsError, ValueError):
    """A setting is unknown, out of range, or does not fit another one."""


class ModelError(ThumbsError, ValueError):
    """A model, tokenizer or adapter cannot be found, read or used."""


class CheckpointError(ThumbsError, OSError):
    """A checkpoint is missing, unreadable or belongs to another run."""


class HubError(ThumbsError, OSError):
    """The hub cannot be reached, or does not let this account do what was asked."""


class RunError(ThumbsError, RuntimeError):
    """A run folder cannot be used as asked."""


class RewardError(ThumbsError, RuntimeError):
    """A reward or an environment failed, or gave what is not a number."""


class NonFiniteError(ThumbsError, ArithmeticError):
    """A loss, gradient or score became NaN or infinite."""


class WorkerError(ThumbsError, RuntimeError):
    """Code in another process failed."""


class WorkerLost(WorkerError):  # noqa: N818 - reads as what it is in an except clause
    """Another process is gone, and with it what it held."""


class WorkerStuck(WorkerLost):
    """Another process showed no progress for longer than allowed, and was ended."""


class MissingExtra(ThumbsError, ImportError):  # noqa: N818 - reads as what it is in an except clause
    """A library that only an extra brings is not installed."""


@contextlib.contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Raises MissingExtra, with the command that helps, if what runs inside imports a library that is not installed.

    purpose: what the library is for, as the subject of a sentence ("reading Parquet files"). Around a lazy import, or
    as a decorator of the function that does it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "thumbs"):
            raise
        command = f"pip install 'thumbs[{extra}]'"
        raise MissingExtra(f"{purpose} needs {library}, which is not installed; run {command}") from error
