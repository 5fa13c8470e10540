"""The methods of the group family: how scores become advantages, the loss, its normaliser, and the price of KL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from thumbs.config.losses import TokenLoss
from thumbs.config.methods import Method

Advantage = Literal["group", "centred", "leave_one_out", "batch", "centred_batch"]
"""A reply's score less the mean of its group, over the group's deviation (group) or not (centred); less the mean of
the others (leave_one_out); what is still to come at each token, normalised over all tokens of the step (batch); the
centred ones normalised so (centred_batch).
"""

Normaliser = Literal["token", "sequence", "constant", "sum"]
"""What a minibatch is averaged over: all its tokens; the means of its replies; replies · max_new_tokens; replies."""

KlPlace = Literal["none", "reward", "loss"]
"""Where distance from the reference is paid for."""

CLIP = TokenLoss.of("ppo_clip", clip_range=0.2, clip_range_high=None)


@dataclass(frozen=True)
class GroupMethod(Method):
    """A preset of the group family; units of the numbers are those of the settings of the same names.

    The settings that stand in `loss` are those that a run may change.
    """

    advantage: Advantage = "group"
    loss: TokenLoss = CLIP
    normaliser: Normaliser = "token"
    kl: KlPlace = "none"
    kl_coef: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    dynamic_sampling: int = 0
    overlong_buffer: float = 0.0
    overlong_penalty: float = 0.0

    @property
    def compares(self) -> bool:
        """Whether replies to one prompt are compared, which takes two."""
        return self.advantage != "batch"


_LISTED = (
    GroupMethod(
        "grpo",
        "GRPO",
        "Shao et al. 2024, arXiv:2402.03300, section 4.1.2, eq. 3 and 4",
        "advantages in deviations of the group, every reply weighs the same, KL (k3) in the loss",
        normaliser="sequence",
        kl="loss",
        kl_coef=0.04,
        kl_estimator="k3",
    ),
    GroupMethod(
        "dr_grpo",
        "Dr. GRPO",
        "Liu et al. 2025, arXiv:2503.20783, section 3.1",
        "neither the group's deviation nor a reply's length divides: both favour what they should not",
        advantage="centred",
        normaliser="constant",
    ),
    GroupMethod(
        "dapo",
        "DAPO",
        "Yu et al. 2025, arXiv:2503.14476, eq. 8 to 13",
        "wider clip above, every token weighs the same, groups without signal replaced, long replies punished softly",
        loss=CLIP.having(clip_range_high=0.28),
        dynamic_sampling=10,
        overlong_buffer=0.2,
        overlong_penalty=1.0,
    ),
    GroupMethod(
        "rloo",
        "RLOO",
        "Ahmadian et al. 2024, arXiv:2402.14740, the RLOO estimator",
        "the mean of the other replies is the baseline, KL is paid out of the score, a reply is one action",
        advantage="leave_one_out",
        normaliser="sum",
        kl="reward",
        kl_coef=0.05,
    ),
    GroupMethod(
        "reinforce_pp",
        "REINFORCE++",
        "Hu et al. 2025, arXiv:2501.03262, REINFORCE++",
        "no groups: score less the KL still to come, normalised over all tokens of the step",
        advantage="batch",
        kl="reward",
        kl_coef=0.01,
    ),
    GroupMethod(
        "reinforce_pp_baseline",
        "REINFORCE++-baseline",
        "Hu et al. 2025, arXiv:2501.03262, REINFORCE++ with baseline",
        "less the mean of the group, normalised over the step; KL (k2) in the loss",
        advantage="centred_batch",
        kl="loss",
        kl_coef=0.01,
        kl_estimator="k2",
    ),
    GroupMethod(
        "gspo",
        "GSPO",
        "Zheng et al. 2025, arXiv:2507.18071, eq. 5 to 7 and 13 to 15",
        "one ratio per reply, the geometric mean of its tokens', clipped narrowly",
        loss=TokenLoss.of("gspo", clip_range=3e-4, clip_range_high=4e-4),
        normaliser="sequence",
    ),
    GroupMethod(
        "cispo",
        "CISPO",
        "MiniMax 2025, arXiv:2506.13585, eq. 4 and 5",
        "the ratio is a clipped weight of the policy gradient, so no token loses its gradient",
        loss=TokenLoss.of("cispo", clip_range=1.0, clip_range_high=3.0),
    ),
    GroupMethod(
        "importance_sampling",
        "Importance sampling",
        "the off-policy policy gradient; Williams 1992 where the sampler is the policy",
        "nothing is clipped and nothing divides: unbiased and unbounded",
        advantage="centred",
        loss=TokenLoss.of("importance_sampling"),
        normaliser="constant",
    ),
    GroupMethod(
        "dro",
        "DRO",
        "Richemond et al. 2024, arXiv:2405.19107, the policy's part",
        "policy gradient with a square penalty on the distance from the sampler; the group's mean is the value",
        advantage="centred",
        loss=TokenLoss.of("dro", beta=0.05),
    ),
)

GROUP_METHODS: Mapping[str, GroupMethod] = {method.name: method for method in _LISTED}
"""The presets, by `method=`."""
