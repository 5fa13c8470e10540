"""Settings of the reward model, and the losses that it may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.methods import Method, preset
from thumbs.config.optim import AdamConfig

Form = Literal["pairs", "rankings", "ratings", "steps", "safety"]


@dataclass(frozen=True)
class RewardMethod(Method):
    """A way to train a reward model.

    form: what its rows are; formula: the name of its loss, whose settings are those of RewardModelConfig with the same
    names, or come from the data; by_token: whether a pair is compared at every token from where its replies part.
    """

    form: Form = "pairs"
    formula: str = "bradley_terry"
    by_token: bool = False


_LISTED = (
    RewardMethod(
        "bradley_terry",
        "Bradley–Terry",
        "Stiennon et al. 2020, arXiv:2009.01325, eq. 1; margin: arXiv:2307.09288, eq. 2",
        "pairs; the log-odds of a preference are the difference of two scores",
    ),
    RewardMethod(
        "token_bradley_terry",
        "Token-wise Bradley–Terry",
        "safe-rlhf, values/reward/trainer.py (arXiv:2310.12773 uses the model)",
        "pairs; the difference at every token from where the replies part",
        by_token=True,
    ),
    RewardMethod(
        "ranked_pairs",
        "All pairs of a ranking",
        "Ouyang et al. 2022, arXiv:2203.02155, eq. 1",
        "rankings; the mean over the K(K - 1)/2 pairs of a prompt, in one batch",
        "rankings",
    ),
    RewardMethod(
        "plackett_luce",
        "Plackett–Luce",
        "Plackett 1975, Applied Statistics 24, p. 193",
        "rankings; the best is chosen from all, the next from the rest; a tie is the mean over its orders",
        "rankings",
        "plackett_luce",
    ),
    RewardMethod(
        "best_of_k",
        "Best-of-K softmax",
        "Ziegler et al. 2019, arXiv:1909.08593, eq. 1",
        "rankings; only which reply is best",
        "rankings",
        "best_of_k",
    ),
    RewardMethod(
        "regression",
        "Regression on ratings",
        "Huber 1964, Annals of Mathematical Statistics 35, p. 73",
        "ratings, standardised; squares, or Huber's loss with huber_delta",
        "ratings",
        "regression",
    ),
    RewardMethod(
        "ordinal",
        "Ordinal ratings",
        "McCullagh 1980, Journal of the Royal Statistical Society B 42, p. 109",
        "ratings; their order only, by cumulative logits",
        "ratings",
        "ordinal",
    ),
    RewardMethod(
        "process",
        "Process reward",
        "Lightman et al. 2023, arXiv:2305.20050, section 2.6",
        "steps; whether each is right, at its last token",
        "steps",
        "binary",
    ),
    RewardMethod(
        "process_regression",
        "Process reward, regression",
        "Wang et al. 2023, Math-Shepherd, arXiv:2312.08935 (soft labels)",
        "steps; the label of each as a number",
        "steps",
        "regression",
    ),
)

REWARD_METHODS: Mapping[str, RewardMethod] = {method.name: method for method in _LISTED}
"""What `reward_model.loss` may be."""


class RewardModelConfig(Frozen):
    """Reward model: a scalar head on the last token, from the SFT weights."""

    loss: str = "bradley_terry"
    """What is learned: bradley_terry and token_bradley_terry from pairs; ranked_pairs, plackett_luce, best_of_k from
    rankings; regression, ordinal from ratings; process, process_regression from labelled steps
    (docs/guides/reward_model.md).
    """
    data: DataConfig | None = None
    """Rankings, ratings or steps; null for the losses of pairs, which come from the section `labels`."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the rows."""
    batch_size: int = Field(default=16, ge=1)
    """Rows (pairs, rankings, ratings or replies in steps) an optimizer step."""
    optim: AdamConfig = AdamConfig(learning_rate=2e-4, head_learning_rate=1e-3)
    """Optimizer; the head is new, so it takes a higher rate."""
    center_coef: float = Field(default=0.01, ge=0)
    """Weight of (score_a + score_b)² in the losses of pairs."""
    use_margin: bool = False
    """Subtract the margin of each pair inside the sigmoid, as Llama 2 does."""
    ties: Literal["drop", "half"] = "half"
    """A tied pair either leaves the data or pulls the two scores together (target probability one half)."""
    huber_delta: float | None = Field(default=None, gt=0)
    """regression, process_regression: error from which the loss is linear (deviations of the ratings; units of the step
    labels); null: squares.
    """
    ordinal_spread: float = Field(default=3.0, gt=0)
    """ordinal: distance of the thresholds between levels, in units of the logits of their shares; the larger, the more
    certain of one level the model can be.
    """
    heads: int = Field(default=1, ge=1)
    """Heads on one trunk; more than one is an ensemble: each starts elsewhere and weighs the rows in its own way."""
    adapters: int = Field(default=1, ge=1)
    """Adapters (without model.lora: whole models) with a head each; more than one is an ensemble, at as many times the
    time.
    """
    combine: Literal["mean", "mean_minus_std", "worst"] = "mean"
    """What an ensemble answers: the mean of its normalised scores, less std_coef deviations, or the lowest."""
    std_coef: float = Field(default=1.0, ge=0)
    """λ of mean - λ · std."""
    freeze_backbone: bool = False
    """Train the head alone."""
    eval_every: int = Field(default=10, ge=1)
    """Steps between held-out accuracies."""
    patience: int = Field(default=10, ge=1)
    """Stop after this many held-out evaluations without a lower loss."""

    @property
    def method(self) -> RewardMethod:
        """The preset that `loss` names."""
        return preset(self.loss, REWARD_METHODS)

    @property
    def form(self) -> Form:
        """What the rows of this loss are."""
        return self.method.form

    @property
    def members(self) -> int:
        """Scores that the reward model gives a reply; 1 unless it is an ensemble."""
        return self.heads * self.adapters

    @model_validator(mode="after")
    def _check(self) -> RewardModelConfig:
        if self.form == "pairs" and self.data is not None:
            raise ValueError(f"loss {self.loss} learns from pairs; put data into the section `labels`")
        if self.form != "pairs" and self.data is None:
            raise ValueError(f"loss {self.loss} learns from {self.form}; give reward_model.data, a file of them")
        if self.heads > 1 and self.adapters > 1:
            raise ValueError("an ensemble has either several heads or several adapters; set one of them to 1")
        if self.form == "steps" and self.members > 1:
            raise ValueError("process rewards have no ensembles; set heads and adapters to 1")
        return self
