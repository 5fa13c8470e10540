"""The methods that learn from preferences directly: presets of a formula, its settings, and how a batch is made ready.

A new one is a formula in `functional/preference_losses.py`, its name in FORMULAS there, and a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from thumbs.config.methods import Method

Ready = Literal["plain", "baseline", "sorted_margins", "sorted_sides"]


@dataclass(frozen=True)
class DirectMethod(Method):
    """A method of this family.

    reads: the settings that it knows and their defaults; the first is always beta. formula: the name of its loss.
    data: pairs, single replies, or rollouts of its own. reference: whether it needs one. per_token: whether it compares
    means a token instead of sums. ready: what a batch needs that depends on more than one pair.
    """

    reads: Mapping[str, float | str] = field(default_factory=dict)
    formula: str = "dpo"
    data: Literal["pairs", "replies", "rollouts"] = "pairs"
    reference: bool = True
    per_token: bool = False
    ready: Ready = "plain"


_SFT = {"sft_coef": 0.0}
_DIVERGENCE = {"divergence": "reverse_kl", "alpha": 0.5}

_LISTED = (
    DirectMethod(
        "dpo",
        "Direct preference optimisation",
        "arXiv:2305.18290, eq. 7; divergences arXiv:2309.16240",
        "logistic loss on log-ratios against the reference; the one to start with",
        {"beta": 0.1, **_DIVERGENCE, **_SFT},
    ),
    DirectMethod(
        "cdpo",
        "Conservative DPO",
        "Mitchell 2023, A note on DPO with noisy preferences",
        "a share of the labels is taken to be wrong, so margins stop growing",
        {"beta": 0.1, "label_smoothing": 0.1, **_DIVERGENCE, **_SFT},
    ),
    DirectMethod(
        "robust",
        "Robust DPO",
        "arXiv:2403.00409",
        "unbiased under random label flips, at the price of variance",
        {"beta": 0.1, "label_smoothing": 0.1, **_SFT},
        formula="robust",
    ),
    DirectMethod(
        "rpo",
        "DPO with likelihood (iterative RPO)",
        "arXiv:2404.19733, eq. 1",
        "DPO plus the likelihood of the chosen reply, which keeps it from falling",
        {"beta": 0.1, **_DIVERGENCE, "sft_coef": 1.0},
    ),
    DirectMethod(
        "mpo",
        "Mixed preference optimisation",
        "arXiv:2411.10442",
        "0.8 DPO, 0.2 BCO and the likelihood of the chosen reply",
        {"beta": 0.1, "sft_coef": 1.0},
        formula="mpo",
        ready="baseline",
    ),
    DirectMethod(
        "dpo_norm",
        "Length-normalised DPO",
        "arXiv:2411.15124, section 5",
        "mean log-ratios per token, so long replies do not dominate; beta is about 50 times DPO's",
        {"beta": 5.0, **_SFT},
        formula="dpo_norm",
        per_token=True,
    ),
    DirectMethod(
        "hinge",
        "SLiC hinge",
        "arXiv:2309.06657",
        "stops at a margin of 1 / beta nats",
        {"beta": 0.1, **_SFT},
        formula="hinge",
    ),
    DirectMethod(
        "ipo",
        "Identity preference optimisation",
        "arXiv:2310.12036, eq. 17",
        "pulls the margin to 1 / (2 beta) nats, so certain labels do not overfit",
        {"beta": 0.1, **_SFT},
        formula="ipo",
    ),
    DirectMethod(
        "ipo_norm",
        "IPO per token",
        "arXiv:2310.12036, eq. 17, as its authors ran it",
        "IPO on mean log-ratios per token, which is TRL's `ipo`",
        {"beta": 0.5, **_SFT},
        formula="ipo_norm",
        per_token=True,
    ),
    DirectMethod(
        "exo",
        "Exact optimisation",
        "arXiv:2402.00856, eq. 16",
        "reverse KL to the labels, which seeks the mode",
        {"beta": 0.1, "label_smoothing": 1e-3, **_SFT},
        formula="exo",
    ),
    DirectMethod(
        "nca",
        "Noise-contrastive alignment",
        "arXiv:2402.05369",
        "each reply against the reference, so the chosen one's likelihood holds",
        {"beta": 0.01, **_SFT},
        formula="nca",
    ),
    DirectMethod(
        "bco",
        "Binary classifier optimisation",
        "arXiv:2404.04656",
        "each reply classified as good or bad, rewards less their running mean",
        {"beta": 0.1, **_SFT},
        formula="bco",
        ready="baseline",
    ),
    DirectMethod(
        "sppo",
        "Self-play preference optimisation",
        "arXiv:2405.00675, eq. 4.7",
        "each log-ratio is fitted to its probability of winning",
        {"beta": 1e-3, **_SFT},
        formula="sppo",
    ),
    DirectMethod(
        "aot",
        "Alignment by optimal transport, paired",
        "arXiv:2406.05882",
        "the k-th smallest margin of the batch must exceed the reference's k-th smallest",
        {"beta": 0.1, **_SFT},
        ready="sorted_margins",
    ),
    DirectMethod(
        "aot_unpaired",
        "Alignment by optimal transport, unpaired",
        "arXiv:2406.05882",
        "the k-th smallest log-ratio of the chosen must exceed that of the rejected",
        {"beta": 0.1, **_SFT},
        ready="sorted_sides",
    ),
    DirectMethod(
        "apo_zero",
        "Anchored preference optimisation, zero",
        "arXiv:2408.06266, eq. 7",
        "chosen up, rejected down; for data better than the model",
        {"beta": 0.1, **_SFT},
        formula="apo_zero",
    ),
    DirectMethod(
        "apo_down",
        "Anchored preference optimisation, down",
        "arXiv:2408.06266, eq. 8",
        "both down, rejected further; for data worse than the model",
        {"beta": 0.1, **_SFT},
        formula="apo_down",
    ),
    DirectMethod(
        "discopop",
        "Discovered preference optimisation",
        "arXiv:2406.08414, eq. 5",
        "a blend of logistic and exponential loss that a search found",
        {"beta": 0.05, "tau": 0.05, **_SFT},
        formula="discopop",
    ),
    DirectMethod(
        "cpo",
        "Contrastive preference optimisation",
        "arXiv:2401.08417, eq. 3",
        "DPO without a reference, plus the likelihood of the chosen reply",
        {"beta": 0.1, "sft_coef": 1.0},
        formula="cpo",
        reference=False,
    ),
    DirectMethod(
        "simpo",
        "Simple preference optimisation",
        "arXiv:2405.14734, eq. 6",
        "mean logprobs per token with a target margin, no reference",
        {"beta": 2.0, "gamma": 1.0, **_SFT},
        formula="simpo",
        reference=False,
        per_token=True,
    ),
    DirectMethod(
        "orpo",
        "Odds-ratio preference optimisation",
        "arXiv:2403.07691, eq. 6 and 7",
        "likelihood of the chosen reply and an odds ratio, no reference; may start from the base model",
        {"beta": 0.1, "sft_coef": 1.0},
        formula="orpo",
        reference=False,
        per_token=True,
    ),
    DirectMethod(
        "kto",
        "Kahneman–Tversky optimisation",
        "arXiv:2402.01306, eq. 8",
        "single replies that are good or bad; needs no pairs",
        {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        formula="kto",
        data="replies",
    ),
    DirectMethod(
        "online_dpo",
        "Online DPO",
        "arXiv:2402.04792",
        "the policy's own replies, compared by the run's reward",
        {"beta": 0.1, **_DIVERGENCE, **_SFT},
        data="rollouts",
    ),
)

DIRECT_METHODS: Mapping[str, DirectMethod] = {method.name: method for method in _LISTED}
"""All of them by name."""

SETTINGS = tuple(dict.fromkeys(name for method in _LISTED for name in method.reads))
"""Settings that only some methods read."""
