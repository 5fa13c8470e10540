"""Where the score of a reply comes from: a weighted mix of models, functions, rules and judges."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from thumbs.config.base import Frozen
from thumbs.config.former_names import REWARD_MODELS

RUNS_OWN = "reward_model"
"""The name of the run's own reward model."""

OWN_COST = "cost_model"
"""The name of the run's own cost model."""

COST = "cost"
"""The part of a score that a constraint limits."""

KINDS = ("model", "function", "verifier", "judge", "environment")


class RewardPart(Frozen):
    """One part of a score: one of model, function, verifier, judge or environment, and what it counts."""

    name: str | None = Field(default=None, pattern=r"^[\w-]+$")
    """Name in the metrics; null: that of the kind."""
    weight: float = 1.0
    """What the part is multiplied by before the parts are added (score units)."""
    model: str | None = None
    """A trained reward model: `reward_model` for that of the run, the `reward_model` folder of another run, or the
    folder or hub name of a sequence classifier with one label. Other models than the run's read text with their own
    tokenizer.
    """
    function: str | None = None
    """A Python function (`module:name`). f(rollout) gives a number, or one number for each sampled token; as in TRL,
    f(prompts, completions, **columns) gives a number for each reply, or None for one that it has nothing to say of.
    """
    time_limit_s: float = Field(default=600.0, gt=0)
    """function, verifier: what one call may take, seconds; then the run stops and names the function and the reply."""
    concurrency: int = Field(default=1, ge=1)
    """function: calls f(rollout) at the same time, in threads; the function must be made for it if above 1."""
    verifier: Literal["exact", "contains", "numeric", "regex"] | None = None
    """A rule that compares the reply with the `answer` of its prompt: 1 or 0."""
    pattern: str | None = None
    """The regular expression of verifier regex; with a group, what it finds must be the prompt's answer."""
    judge: str | None = None
    """A model (catalog name or folder) that grades the reply."""
    environment: bool = False
    """The rewards that the environment gave, each at the end of its turn."""

    @field_validator("model", mode="before")
    @classmethod
    def _current_name(cls, given: Any) -> Any:
        return REWARD_MODELS.get(given, given) if isinstance(given, str) else given

    @property
    def kind(self) -> str:
        """Which of the kinds it is; the first that is given."""
        return next((kind for kind in KINDS if getattr(self, kind)), "")

    @property
    def title(self) -> str:
        """Its name in metrics."""
        return self.name or (self.verifier or "" if self.kind == "verifier" else self.kind)

    def misfit(self) -> str | None:
        """What is wrong with it; None if it can be used."""
        given = [kind for kind in KINDS if getattr(self, kind)]
        if len(given) != 1:
            return f"a reward is one of {', '.join(KINDS)}; got {' and '.join(given) or 'none'}"
        if self.concurrency > 1 and self.function is None:
            return f"`concurrency` belongs to a function; a {given[0]} scores a batch at once"
        if (self.verifier == "regex") != (self.pattern is not None):
            return "`pattern` belongs to verifier: regex, which needs it"
        return None


def reward_misfit(section: str, parts: tuple[RewardPart, ...], *, has_environment: bool) -> str | None:
    """What is wrong with the rewards of a section; None if they fit."""
    for number, part in enumerate(parts):
        if misfit := part.misfit():
            return f"{section}.reward[{number}]: {misfit}"
        if part.environment and not has_environment:
            return f"{section}.reward[{number}]: environment needs {section}.environment"
    titles = [part.title for part in parts]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        return f"{section}.reward: {', '.join(twice)} comes twice; give each part a `name`"
    return None
