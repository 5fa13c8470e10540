"""How a project deals out its work."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from thumbs.collect.judgement import Counting
from thumbs.config.safety import FilterConfig, GuardConfig, SafetyConfig

_FILTERS = ("secrets", "cards", "emails", "words", "guard")


class ProjectSettings(Counting):
    """Kept with the project; each change is in the audit log. Runs, exports and statistics leave out alike what the
    settings of `Counting` leave out.
    """

    overlap: int = Field(default=1, ge=1, le=100)
    """Judgements wanted an item."""
    lease_s: int = Field(default=1800, ge=5, le=604_800)
    """How long a task stays with a person before others may have it too, seconds. A late answer is kept."""
    gold_every: int = Field(default=0, ge=0)
    """One task in so many is a gold item, never a person's first; 0: none."""
    qualify_items: int = Field(default=0, ge=0)
    """Gold items that a new person answers first; 0: no test."""
    qualify_share: float = Field(default=0.75, ge=0, le=1)
    """Share of them that must be right."""
    quota: int | None = Field(default=None, ge=1)
    """Judgements that one person may give; null: as many as there are."""
    invited_only: bool = False
    """Whether people need to be added to the project by name; owners and admins do not. A project that is made
    on a team's site, or by `thumbs collect new` once there are accounts, begins with true.
    """
    submit_on_key: bool = False
    """Whether a strength key sends at once, with a few seconds to undo."""
    prolific_code: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]{1,40}$")
    """Completion code of a Prolific study; null: its entry links do not work."""
    prolific_screen_out_code: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]{1,40}$")
    """Code for people who failed the test; null: `prolific_code`, as they answered."""
    prolific_early_code: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]{1,40}$")
    """Code for people who must stop before their share is done, because the project is paused or nothing is left for
    them; null: `prolific_code` if they answered something, else no code, and they return their submission.
    """
    mturk: bool = False
    """Whether Mechanical Turk may embed the project's pages."""
    filters: tuple[FilterConfig, ...] = ()
    """What hides texts behind a click, on all pages: secrets, cards, emails, words with `terms`, guard. Items that are
    there already keep what was found when they were made.
    """
    guard: GuardConfig | None = None
    """The judge of filter `guard`, at an endpoint."""

    @model_validator(mode="after")
    def _filters_fit(self) -> Self:
        for each in self.filters:
            if each.name not in _FILTERS:
                raise ValueError(f"filters: {each.name!r} is none of {', '.join(_FILTERS)}")
            if each.path is not None:  # settings can be changed from other machines than the one that has the file
                raise ValueError("filters: write the words as `terms`; a project reads no files")
        if self.guard is not None and self.guard.endpoint is None:
            raise ValueError(
                f"guard: no model runs here; serve it with `thumbs serve --model {self.guard.model}` and "
                "give its address as guard.endpoint"
            )
        SafetyConfig(filters=self.filters, guard=self.guard)
        return self
