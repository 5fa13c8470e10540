"""What may go wrong between a person and the store; the web turns each into a status of its own."""

from __future__ import annotations

from thumbs.errors import ThumbsError


class CollectError(ThumbsError, ValueError):
    """What was asked for is not allowed; says what is."""


class NotFound(CollectError, LookupError):  # noqa: N818 - reads as what it says
    """There is no such thing, or it belongs to somebody else."""


class Conflict(CollectError):  # noqa: N818 - reads as what it says
    """It was decided already, elsewhere; `revision` is the answer that stands."""

    def __init__(self, message: str, revision: int = 0) -> None:
        super().__init__(message)
        self.revision = revision


class Closed(CollectError):  # noqa: N818 - reads as what it says
    """The project is not open to this person."""
