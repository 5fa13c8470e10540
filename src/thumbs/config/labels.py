"""Settings of the pairs: where they come from, or how they are sampled and judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.sampling import SamplingConfig


class PeopleConfig(Frozen):
    """People who judge the sampled pairs in the browser, in place of the simulated annotators."""

    pairs: int = Field(default=30, ge=2)
    """Pairs to be judged; the run goes on when it has so many, or when the project is closed."""
    overlap: int = Field(default=1, ge=1, le=100)
    """Judgements wanted of each pair, by different people."""
    project: str = Field(default="", pattern=r"^([a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?)?$")
    """The project that the pairs are put into; empty: one with the name of the run's folder."""
    db: str = ""
    """Where the judgements are kept: a file, or the URL of a PostgreSQL database; empty: thumbs-collect/collect.db."""
    serve: bool = True
    """Whether the run serves the page itself; false: `thumbs collect serve` does, the run adds pairs and waits."""
    host: str = "127.0.0.1"
    """Address of the page; the default is seen from this machine alone."""
    port: int = Field(default=8100, ge=0, le=65535)
    """Its port, or the next one that is free; 0: any."""
    active: Literal["uncertain", "disagreement"] | None = None
    """Which pair of a prompt's replies people are asked about: the one whose verdict a reward model is least sure of,
    or its ensemble disagrees most about. null, and where there is no reward model yet: as they were drawn. Prompts that
    are held out always get the pair that was drawn, so that accuracies stay honest.
    """
    reward_model: str | None = None
    """active: the folder of a trained reward model, for the first iteration too; null: that of the iteration before."""
    random_share: float = Field(default=0.25, gt=0, le=1)
    """active: probability that a pair is drawn at random all the same."""


class LabelsConfig(Frozen):
    """Pairs for the reward model: either a file of preferences, or sampled from the SFT model and judged."""

    data: DataConfig | None = None
    """Preferences that exist already; null: sample pairs from the SFT model and ask the annotators."""
    form: Literal["pairs", "rankings", "ratings"] = "pairs"
    """What the rows of `data` are; of rankings, and of rated replies to one prompt, all pairs are taken."""
    prompts: DataConfig | None = None
    """Prompts to sample replies for."""
    replies_per_prompt: int = Field(default=4, ge=2)
    """Replies sampled a prompt."""
    pairs_per_prompt: int = Field(default=3, ge=1)
    """Pairs made of them."""
    sampling: SamplingConfig = SamplingConfig()
    """How the replies are drawn."""
    judge: str = "vader"
    """The gold judge that the simulated annotators look at."""
    judge_model: str | None = None
    """A model (catalog name or folder) that judges the pairs, by the probability of its answers, instead of simulated
    annotators.
    """
    annotators: int = Field(default=3, ge=1)
    """Simulated annotators, one per pair in turn."""
    label_noise: float = Field(default=0.05, ge=0, lt=0.5)
    """Probability that an annotator prefers the worse reply."""
    tie_below: float = Field(default=0.05, ge=0)
    """Differences of gold scores smaller than this are judged a tie."""
    people: PeopleConfig | None = None
    """People who judge the pairs; null: simulated annotators, or `judge_model`."""

    @property
    def simulated(self) -> bool:
        """Whether simulated annotators judge the pairs."""
        return self.data is None and self.people is None and self.judge_model is None

    @model_validator(mode="after")
    def _check(self) -> LabelsConfig:
        if self.people is not None and (self.data is not None or self.judge_model is not None):
            other = "data" if self.data is not None else "judge_model"
            raise ValueError(f"`people` judge pairs that are sampled; leave out either `people` or `{other}`")
        return self
