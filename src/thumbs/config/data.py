"""Where training data comes from and what is refused."""

from __future__ import annotations

from pydantic import Field

from thumbs.config.base import Frozen


class DataConfig(Frozen):
    """A data source and the limits it must satisfy."""

    path: str
    """JSONL, JSON lines of plain text, Parquet, a `datasets` name (hub:NAME), or builtin:NAME for packaged data."""
    max_tokens: int = Field(default=1024, ge=8)
    """A conversation longer than this is left out and counted, tokens."""
    min_rows: int = Field(default=1, ge=1)
    """The run refuses to start with fewer usable rows."""
    min_kept: float = Field(default=0.5, ge=0, le=1)
    """The run refuses to start when less than this fraction of the rows is usable."""
    holdout: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the rows kept for evaluation, chosen by a hash of the prompt."""
    axis: str | None = None
    """Which of several judgements of a row to go by, such as `safety`; rows with one need none."""
