"""Settings of training a policy on preferences directly: DPO and its family."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.direct_methods import DIRECT_METHODS, SETTINGS, DirectMethod
from thumbs.config.losses import PairLoss, ReplyLoss
from thumbs.config.methods import preset
from thumbs.config.optim import AdamConfig
from thumbs.config.reward_parts import RewardPart, reward_misfit
from thumbs.config.sampling import SamplingConfig
from thumbs.errors import ConfigError


class OnlineConfig(Frozen):
    """Pairs that the policy makes itself: the best and the worst of its replies to a prompt, by a reward."""

    prompts: DataConfig
    """Prompts to reply to."""
    reward: tuple[RewardPart, ...] = ()
    """Parts of a reply's score (a judge, a model, a function, a rule), added up; none: the run's reward model."""
    steps: int = Field(default=40, ge=1)
    """Rounds of replies and update; each round takes `batch_size` prompts."""
    replies_per_prompt: int = Field(default=2, ge=2)
    """Replies to one prompt."""
    sampling: SamplingConfig = SamplingConfig()
    """How the replies are drawn."""


class DirectConfig(Frozen):
    """A policy from preferences, without a reward model; `method` names the preset, null is the method's own value."""

    method: str = "dpo"
    """Name of a method of docs/guides/direct.md: dpo, simpo, orpo, kto, online_dpo and so on."""
    beta: float | None = Field(default=None, gt=0)
    """Price of a nat of distance from the reference (score units); for methods without one, the scale of logprobs."""
    label_smoothing: float | None = Field(default=None, gt=0, lt=0.5)
    """Share of the labels that is taken to be wrong (cdpo, robust, exo)."""
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] | None = None
    """Distance from the reference (dpo, cdpo, rpo, online_dpo)."""
    alpha: float | None = Field(default=None, gt=0, lt=1)
    """α of the alpha divergence: near 0 it is the reverse KL, near 1 the forward KL."""
    gamma: float | None = Field(default=None, ge=0)
    """Margin that simpo asks for (score units)."""
    tau: float | None = Field(default=None, gt=0)
    """Width of discopop's blend (score units)."""
    sft_coef: float | None = Field(default=None, ge=0)
    """Weight of the chosen reply's mean negative logprob per token (nats)."""
    desirable_weight: float | None = Field(default=None, gt=0)
    """kto: weight of the good replies."""
    undesirable_weight: float | None = Field(default=None, gt=0)
    """kto: weight of the bad replies."""
    unpaired: DataConfig | None = None
    """kto: single replies with a label; null: the sides of the run's pairs."""
    online: OnlineConfig | None = None
    """online_dpo: where its own replies come from."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the data; for online_dpo over the pairs of a round."""
    batch_size: int = Field(default=16, ge=1)
    """Pairs an optimizer step; for kto single replies."""
    ties: Literal["drop", "half"] = "drop"
    """Pairs judged equal: leave them out, or count each side one half."""
    optim: AdamConfig = AdamConfig(learning_rate=2e-5)
    """Optimizer; 5e-7 to 5e-6 for full training, about ten times that for LoRA."""
    eval_every: int = Field(default=20, ge=1)
    """Steps between held-out evaluations, and between checkpoints."""
    keep: Literal["best", "last"] = "best"
    """Weights that stay: of the lowest held-out loss, or the last; online and without held-out data it is the last."""

    @property
    def preset(self) -> DirectMethod:
        """The method."""
        return preset(self.method, DIRECT_METHODS)

    def settings(self) -> dict[str, float | str]:
        """Value of each setting that the method reads."""
        return {name: getattr(self, name) if self.given(name) else value for name, value in self.preset.reads.items()}

    def given(self, name: str) -> bool:
        """Whether the config says something about a setting."""
        return getattr(self, name) is not None

    def pair_loss(self) -> PairLoss:
        """The loss of pairs that the method is."""
        return PairLoss.of(self.preset.formula, **self.settings())

    def reply_loss(self) -> ReplyLoss:
        """The loss of single replies that the method is."""
        return ReplyLoss.of(self.preset.formula, **self.settings())

    @model_validator(mode="after")
    def _fits(self) -> DirectConfig:
        method = self.preset
        known = [*method.reads, *{"replies": ("unpaired",), "rollouts": ("online",)}.get(method.data, ())]
        strange = [name for name in (*SETTINGS, "unpaired", "online") if self.given(name) and name not in known]
        if strange:
            raise ConfigError(f"method={self.method} does not read {', '.join(strange)}; it reads {', '.join(known)}")
        if method.data == "rollouts" and self.online is None:
            raise ConfigError(f"method={self.method} needs `online`, which says what prompts it replies to")
        if self.online is not None and (
            found := reward_misfit("direct.online", self.online.reward, has_environment=False)
        ):
            raise ConfigError(found)
        if self.given("alpha") and self.divergence != "alpha":
            raise ConfigError("alpha belongs to divergence=alpha; set that too")
        if method.ready.startswith("sorted") and self.ties == "half":
            raise ConfigError(
                f"method={self.method} compares chosen with rejected replies; a tie is neither: ties=drop"
            )
        return self
