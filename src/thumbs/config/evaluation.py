"""Settings of the held-out evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.labels import PeopleConfig
from thumbs.config.sampling import SamplingConfig

GOLDS = ("rule", "function", "verifier", "model", "judge", "people")


class GoldConfig(Frozen):
    """What is trusted to say which reply is better: one of rule, function, verifier, model, judge or people.

    In short: a rule's name, `module:function`, the path or hub name of a reward model, or `people`.
    """

    rule: str | None = None
    """A rule that comes with thumbs: vader (sentiment by lexicon) or tiny-mood (the toy task)."""
    function: str | None = None
    """A Python function (`module:name`) of one of the signatures that rewards have; a higher number is better."""
    verifier: Literal["exact", "contains", "numeric", "regex"] | None = None
    """A rule that compares the reply with the `answer` of its prompt: 1 or 0."""
    pattern: str | None = None
    """The regular expression of verifier regex."""
    model: str | None = None
    """Another reward model: a run's `reward_model` folder, or the folder or hub name of a sequence classifier."""
    judge: str | None = None
    """A language model that compares pairs in both orders: a catalog name or folder, or its name at `endpoint`."""
    endpoint: str | None = Field(default=None, pattern=r"^https?://")
    """judge: base URL of an OpenAI-compatible service, such as http://localhost:8000/v1; null: the model runs here."""
    key_variable: str = "OPENAI_API_KEY"
    """endpoint: the environment variable that holds the key; without one, none is sent."""
    rubric: str | None = None
    """judge: a text file that says what makes a reply better; null: helpful, honest and harmless."""
    people: PeopleConfig | None = None
    """People who judge blind pairs in the browser; `people: {}` for the defaults."""

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, given: Any) -> Any:
        return gold_settings(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check(self) -> GoldConfig:
        given = [kind for kind in GOLDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a gold is one of {', '.join(GOLDS)}; got {' and '.join(given) or 'none'}")
        if self.judge is None and (self.endpoint is not None or self.rubric is not None):
            raise ValueError(f"`endpoint` and `rubric` belong to `judge`, not to `{given[0]}`")
        if self.endpoint is None and self.key_variable != "OPENAI_API_KEY":
            raise ValueError("`key_variable` belongs to `endpoint`")
        if (self.verifier == "regex") != (self.pattern is not None):
            raise ValueError("`pattern` belongs to verifier: regex, which needs it")
        return self

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(kind for kind in GOLDS if getattr(self, kind) is not None)

    @property
    def title(self) -> str:
        """Its name in reports."""
        return "people" if self.people is not None else str(getattr(self, self.kind))


def gold_settings(word: str) -> dict[str, Any]:
    """The settings that a gold is short for."""
    if word == "people":
        return {"people": {}}
    if ":" in word:
        return {"function": word}
    return {"model": word} if "/" in word or Path(word).exists() else {"rule": word}


class EvaluationConfig(Frozen):
    """What is measured on held-out prompts."""

    prompts: DataConfig | None = None
    """Prompts that no stage trained on; null: those of the run's own data that are held out."""
    gold: GoldConfig | None = None
    """What is trusted; only the evaluation and the simulated annotators see it. null: nobody says what people would
    prefer; a reward model of the held-out pairs, which no method was paid by, gives a second opinion in its place.
    """
    sampling: SamplingConfig = SamplingConfig()
    """How replies are drawn; the same for every model. Top-k, top-p and temperature 0 are refused: they falsify KL."""
    best_of: int = Field(default=4, ge=1)
    """Answers of SFT and PPO to each prompt; also n of best-of-n from SFT, chosen by the reward model."""
    pool: int | None = Field(default=None, ge=1)
    """Answers of SFT from which best-of-n is chosen, for every n up to it; null: best_of. A larger pool reaches the KL
    of a trained policy: log n - (n-1)/n nats.
    """
    frontier: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """KL levels (nats per sequence): a method keeps the policy whose replies pass one, and it is judged too."""

    @model_validator(mode="after")
    def _check(self) -> EvaluationConfig:
        if self.pool is not None and self.pool < self.best_of:
            raise ValueError(f"pool={self.pool} is less than best_of={self.best_of}, which are drawn in any case")
        return self
