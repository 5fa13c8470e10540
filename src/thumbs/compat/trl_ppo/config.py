"""`PPOConfig` with every field that TRL 0.4 to 0.11 had, and what becomes of those that mean nothing here."""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from thumbs.compat.settings import CheckedSettings, Count, Positive
from thumbs.errors import ConfigError

Share = Annotated[float, Field(ge=0, le=1)]

ADAPTIVE_TARGET = 6.0
"""Nats per sequence that the adaptive KL coefficient aims at unless `target` says otherwise."""

LOOKS_LIKE_TARGET = 3.0
"""A `target_kl` of this many nats and more makes no sense as a threshold per token, but does as an adaptive target."""

_RENAMED = {
    "num_ppo_epochs": "ppo_epochs",
    "num_mini_batches": "mini_batch_size",
    "per_device_train_batch_size": "mini_batch_size",
    "kl_coef": "init_kl_coef",
    "kl_estimator": "kl_penalty",
    "report_to": "log_with",
    "total_episodes": "steps",
    "adaptive_kl_ctrl": "adap_kl_ctrl",
    "clip_range": "cliprange",
    "value_clip": "cliprange_value",
    "gae_lambda": "lam",
    "lambda_": "lam",
    "lr": "learning_rate",
}

UNUSED = {
    "optimize_cuda_cache": "memory is not kept between passes anyway",
    "optimize_device_cache": "memory is not kept between passes anyway",
    "gradient_checkpointing": "sequences are packed and logits never held, which is where the memory went",
    "accelerator_kwargs": "training runs in one process without accelerate",
    "push_to_hub_if_best_kwargs": "nothing is pushed; call save_pretrained and upload the folder",
    "use_text_environment": "for tools and several turns see thumbs.envs",
}
"""Fields that are taken and do nothing, with the reason that the warning gives."""


@dataclass
class PPOConfig(CheckedSettings):
    """Settings of a `PPOTrainer`. Rates are per optimizer step, KL in nats, scores in the unit of your rewards.

    batch_size: samples of one `step`; mini_batch_size: samples of one forward and backward pass;
    gradient_accumulation_steps: passes that make one optimizer step, of mini_batch_size *
    gradient_accumulation_steps = `backward_batch_size` samples. batch_size must be a multiple of that.
    kl_penalty: "kl" log π - log π_ref of the sampled token (k1), "abs" its absolute value, "mse" half its square (k2),
    "full" the exact KL(π ‖ π_ref) over the vocabulary.
    init_kl_coef, adap_kl_ctrl, target, horizon: the KL coefficient, and how it follows the KL of whole sequences
    (target in nats per sequence, 6.0 unless given; horizon in sequences).
    target_kl with early_stopping: epochs end once the last minibatch's `policykl` is above 1.5 times it, nats per
    token. A target_kl of 3 and more is meant per sequence, and is `stop_at`: once the responses are farther than that
    from the reference, nothing is updated any more. Without early_stopping and `target` it is read as the adaptive
    target, with a warning.
    max_grad_norm: None clips to 1.0 (nothing is clipped with reproduce_trl); float("inf") never clips.
    ratio_threshold: a minibatch with a larger mean ratio is left out, with a warning.
    use_score_scaling, use_score_norm, score_clip: scores divided by their running deviation (and freed of their
    running mean), then clipped.
    reproduce_trl: True restores the arithmetic of TRL 0.11.4 for comparison; docs/guides/trl_ppo.md lists what differs.

    Raises ConfigError for unknown names, with the nearest known one, and for values that do not fit each other.
    """

    renamed = _RENAMED

    exp_name: str = field(default_factory=lambda: Path(sys.argv[0]).stem if sys.argv else "")
    seed: int = 0
    log_with: str | None = None
    task_name: str | None = None
    model_name: str = "gpt2"
    query_dataset: str = "imdb"
    reward_model: str = ""
    remove_unused_columns: bool = True
    tracker_kwargs: dict = field(default_factory=dict)
    accelerator_kwargs: dict = field(default_factory=dict)
    project_kwargs: dict = field(default_factory=dict)
    tracker_project_name: str = "trl"
    push_to_hub_if_best_kwargs: dict = field(default_factory=dict)
    steps: int = 20000
    learning_rate: float = 1.41e-5
    adap_kl_ctrl: bool = True
    init_kl_coef: float = 0.2
    kl_penalty: Literal["kl", "abs", "mse", "full"] = "kl"
    target: float | None = None
    horizon: Positive = 10000.0
    gamma: Share = 1.0
    lam: Share = 0.95
    cliprange: Positive = 0.2
    cliprange_value: Positive = 0.2
    vf_coef: float = 0.1
    batch_size: Count = 128
    forward_batch_size: int | None = None
    mini_batch_size: Count = 128
    gradient_accumulation_steps: Count = 1
    world_size: int | None = None
    ppo_epochs: Count = 4
    max_grad_norm: float | None = None
    optimize_cuda_cache: bool | None = None
    optimize_device_cache: bool = False
    early_stopping: bool = False
    target_kl: float = 1.0
    compare_steps: int = 1
    ratio_threshold: Positive = 10.0
    use_score_scaling: bool = False
    use_score_norm: bool = False
    score_clip: float | None = None
    whiten_rewards: bool = False
    gradient_checkpointing: bool = False
    use_text_environment: bool = False
    is_encoder_decoder: bool | None = None
    is_peft_model: bool | None = None
    backward_batch_size: int | None = None
    global_backward_batch_size: int | None = None
    global_batch_size: int | None = None
    dataset_num_proc: int | None = None
    reproduce_trl: bool = False

    def __post_init__(self) -> None:
        if self.forward_batch_size is not None:
            warnings.warn("forward_batch_size is deprecated; it sets mini_batch_size, use that name", stacklevel=3)
            self.mini_batch_size = self.forward_batch_size
        for name, reason in UNUSED.items():
            if getattr(self, name):
                warnings.warn(f"PPOConfig({name}=…) does nothing here: {reason}", stacklevel=3)
        if self.is_encoder_decoder:
            raise ConfigError("is_encoder_decoder=True: only decoders are trained here; take a causal language model")
        self._settle_target()
        self.backward_batch_size = self.mini_batch_size * self.gradient_accumulation_steps
        if self.batch_size % self.backward_batch_size:
            raise ConfigError(
                "`batch_size` must be a multiple of `mini_batch_size * gradient_accumulation_steps`; got "
                f"{self.batch_size} and {self.mini_batch_size} * {self.gradient_accumulation_steps}"
            )
        self.world_size = 1
        self.global_backward_batch_size, self.global_batch_size = self.backward_batch_size, self.batch_size

    @property
    def total_ppo_epochs(self) -> int:
        """Rounds in which `steps` samples are seen."""
        return math.ceil(self.steps / self.batch_size)

    @property
    def grad_norm_limit(self) -> float:
        """L2 norm that gradients are scaled down to; infinite for no clipping."""
        if self.max_grad_norm is not None:
            return self.max_grad_norm
        return math.inf if self.reproduce_trl else 1.0

    @property
    def stop_at(self) -> float | None:
        """Nats per sequence from the reference past which nothing is updated; None: that is not asked for."""
        asked = self.early_stopping and self.target_kl >= LOOKS_LIKE_TARGET and not self.reproduce_trl
        return float(self.target_kl) if asked else None

    def to_dict(self) -> dict[str, Any]:
        """The settings, settings of trackers flattened to `tracker_kwargs/name`."""
        flat: dict[str, Any] = {}
        for name, value in vars(self).items():
            flat |= {f"{name}/{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        return flat

    def _settle_target(self) -> None:
        if self.target is None and self.target_kl >= LOOKS_LIKE_TARGET and not self.early_stopping:
            warnings.warn(
                f"target_kl={self.target_kl} is the threshold of early stopping (nats per token), which is off; it is "
                "taken as the target of the adaptive KL coefficient. Write target=… for that, or early_stopping=True "
                f"to stop once responses are more than {self.target_kl} nats per sequence from the reference",
                stacklevel=4,
            )
            self.target = float(self.target_kl)
        if self.target is None:
            self.target = ADAPTIVE_TARGET
