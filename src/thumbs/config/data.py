"""Where training data comes from and what is refused."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from thumbs.config.base import Frozen


class DataSource(Frozen):
    """One of several sources; a path alone is short for a source with that path."""

    path: str = Field(min_length=1)
    """A file, hub:NAME or builtin:NAME, as for a single source."""
    weight: float | None = Field(default=None, gt=0)
    """This source's share of the rows, relative to the others' weights; null for all: every row once."""

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_path(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given


class DataConfig(Frozen):
    """Data and the limits that it must satisfy; a path, or a list of them, is short for data with that path."""

    path: Annotated[
        Annotated[str, Tag("(one)")] | Annotated[tuple[DataSource, ...], Tag("(several)")],
        Discriminator(lambda given: "(several)" if isinstance(given, list | tuple) else "(one)"),
    ]
    """A JSONL, JSON, text, Parquet, CSV or TSV file (also .gz, .zst, .bz2), hub:NAME[@REVISION][[:CONFIGURATION]:SPLIT]
    for a data set of the `datasets` library, builtin:NAME for packaged data, or a list of these."""
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

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_path(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str | list | tuple) else given

    @model_validator(mode="after")
    def _is_one_mixture(self) -> DataConfig:
        if not self.path:
            raise ValueError("no data is named; give a path, or a list of them")
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and not all(weighted):
            without = ", ".join(source.path for source in self.sources if source.weight is None)
            raise ValueError(f"some sources have a weight and {without} has none; give every source one, or none")
        return self

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Every source, in order."""
        return (DataSource(path=self.path),) if isinstance(self.path, str) else self.path

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of every source, in order."""
        return tuple(source.path for source in self.sources)
