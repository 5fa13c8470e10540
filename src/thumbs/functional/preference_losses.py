"""Losses of policies on pairs of replies, through their logprobs, and on single replies.

A formula takes two sides of P pairs and gives one loss for each pair [P]; settings are keywords. `preference_loss`
weighs it by the probability that a reply is the better one, so a tie never counts as a preference. Rewards are
beta · (policy's logprob - reference's logprob), Rafailov et al. 2023, arXiv:2305.18290, eq. 5. Losses are sums (the
weights carry the normaliser).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from thumbs.functional.formulas import Formula, by_name

MAX_EXPONENT = 30.0
"""Exponents are bounded by this, so that the squares of what they give stay finite in a gradient's norm."""


@dataclass(frozen=True)
class Side:
    """One side of P pairs, each [P]: sums over the reply of the policy's and the reference's logprobs (nats; 0 for
    methods without a reference), its length (tokens), and where rewards count from (score units; BCO alone).
    """

    logprob: Tensor
    reference: Tensor
    length: Tensor
    baseline: Tensor

    @property
    def ratio(self) -> Tensor:
        """log π/π_ref of the reply, nats."""
        return self.logprob - self.reference

    @property
    def mean(self) -> Tensor:
        """The policy's logprob, nats per token."""
        return self.logprob / self.length

    def where(self, rows: Tensor, other: Side) -> Side:
        """This side in `rows` [P] (bool), the other one elsewhere."""
        ours, theirs = vars(self), vars(other)
        return Side(**{name: torch.where(rows, ours[name], theirs[name]) for name in ours})

    def __getitem__(self, rows: Tensor) -> Side:
        return Side(**{name: values[rows] for name, values in vars(self).items()})


def preference_loss(
    formula: Formula, first: Side, second: Side, preferred: Tensor, weights: Tensor, sft_coef: float = 0.0
) -> Tensor:
    """Σ w · [ p · M(first, second) + (1 - p) · M(second, first) ], M = L(better, worse) - sft_coef · logprob per token.

    p = `preferred` [P] is the probability that the first reply is better; at 0.5 both sides are treated alike. The
    second term, likelihood of the better reply, is that of Pang et al. 2024, arXiv:2404.19733, eq. 1 (RPO).
    """

    def mixed(better: Side, worse: Side) -> Tensor:
        loss = formula(better, worse)
        return loss if sft_coef == 0 else loss - sft_coef * better.mean

    is_first = preferred >= 0.5
    better, worse = first.where(is_first, second), second.where(is_first, first)
    share = torch.where(is_first, preferred, 1.0 - preferred)
    total = (weights * share * mixed(better, worse)).sum()
    doubted = share < 1.0  # 0 · L would be NaN if L overflows
    if doubted.any():
        turned = mixed(worse[doubted], better[doubted])
        total = total + (weights[doubted] * (1.0 - share[doubted]) * turned).sum()
    return total


def dpo(
    chosen: Side,
    rejected: Side,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    divergence: str = "reverse_kl",
    alpha: float = 0.5,
) -> Tensor:
    """-(1 - ε) log σ(h) - ε log σ(-h), h = beta · (f'(u_chosen) - f'(u_rejected)), u = π/π_ref.

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7; ε = `label_smoothing`: Mitchell 2023, A note on DPO with noisy
    preferences; divergences other than reverse KL: Wang et al. 2023, arXiv:2309.16240, table 1.
    """
    return _logistic(beta * _gap(chosen, rejected, divergence, alpha), label_smoothing)


def robust(chosen: Side, rejected: Side, *, beta: float, label_smoothing: float) -> Tensor:
    """[ -(1 - ε) log σ(h) + ε log σ(-h) ] / (1 - 2ε): unbiased where a share ε of the labels is wrong.

    Chowdhury et al. 2024, arXiv:2403.00409 (rDPO). It has no lower bound: gradients of wrong labels are subtracted.
    """
    h = beta * (chosen.ratio - rejected.ratio)
    return (-(1 - label_smoothing) * logsigmoid(h) + label_smoothing * logsigmoid(-h)) / (1 - 2 * label_smoothing)


def dpo_norm(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """DPO on mean log-ratios per token: Lambert et al. 2024, Tülu 3, arXiv:2411.15124, section 5."""
    return -logsigmoid(beta * (chosen.ratio / chosen.length - rejected.ratio / rejected.length))


def hinge(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """max(0, 1 - h): SLiC's hinge on normalised likelihoods, Liu et al. 2023, arXiv:2309.06657."""
    return (1.0 - beta * (chosen.ratio - rejected.ratio)).relu()


def ipo(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """(difference of the log-ratios - 1 / (2 beta))²: Azar et al. 2023, arXiv:2310.12036, eq. 17 (their τ)."""
    return (chosen.ratio - rejected.ratio - 0.5 / beta) ** 2


def ipo_norm(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """IPO on mean log-ratios per token, the form that its authors ran and TRL computes."""
    return (chosen.ratio / chosen.length - rejected.ratio / rejected.length - 0.5 / beta) ** 2


def exo(chosen: Side, rejected: Side, *, beta: float, label_smoothing: float) -> Tensor:
    """KL( (q, 1 - q) ‖ (1 - ε, ε) ), q = σ(h): Ji et al. 2024, arXiv:2402.00856, eq. 16 (pairs)."""
    h = beta * (chosen.ratio - rejected.ratio)
    right = h.sigmoid() * (logsigmoid(h) - math.log1p(-label_smoothing))
    return right + (-h).sigmoid() * (logsigmoid(-h) - math.log(label_smoothing))


def nca(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """-log σ(r_c) - ½ log σ(-r_c) - ½ log σ(-r_r): Chen et al. 2024, arXiv:2402.05369, with two replies."""
    c, r = beta * chosen.ratio, beta * rejected.ratio
    return -logsigmoid(c) - 0.5 * logsigmoid(-c) - 0.5 * logsigmoid(-r)


def bco(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """-log σ(r_c - δ) - log σ(δ - r_r): Jung et al. 2024, arXiv:2404.04656; δ = baseline, the mean reward."""
    c, r = beta * chosen.ratio - chosen.baseline, beta * rejected.ratio - rejected.baseline
    return -logsigmoid(c) - logsigmoid(-r)


def mpo(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """0.8 · DPO + 0.2 · BCO: Wang et al. 2024, arXiv:2411.10442; its third term is sft_coef."""
    return 0.8 * dpo(chosen, rejected, beta=beta) + 0.2 * bco(chosen, rejected, beta=beta)


def sppo(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """(ρ_c - 1/(2 beta))² + (ρ_r + 1/(2 beta))², ρ = log-ratio: Wu et al. 2024, arXiv:2405.00675, eq. 4.7, η = 1/beta.

    With the preferred reply's probability of winning taken as `preferred`, the gradient is that of their soft form.
    """
    return (chosen.ratio - 0.5 / beta) ** 2 + (rejected.ratio + 0.5 / beta) ** 2


def apo_zero(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """1 - σ(r_c) + σ(r_r): chosen up, rejected down. D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, plus 1."""
    return (-beta * chosen.ratio).sigmoid() + (beta * rejected.ratio).sigmoid()


def apo_down(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """σ(r_c) + 1 - σ(r_c - r_r): both down, rejected further. arXiv:2408.06266, eq. 8, plus 1."""
    return (beta * chosen.ratio).sigmoid() + (-beta * (chosen.ratio - rejected.ratio)).sigmoid()


def discopop(chosen: Side, rejected: Side, *, beta: float, tau: float) -> Tensor:
    """-(1 - m) log σ(h) + m exp(-h), m = σ(h / tau): Lu et al. 2024, arXiv:2406.08414, eq. 5 (the LRML loss)."""
    h = beta * (chosen.ratio - rejected.ratio)
    mix = (h / tau).sigmoid()
    return -(1.0 - mix) * logsigmoid(h) + mix * (-h).clamp(max=MAX_EXPONENT).exp()


def cpo(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """-log σ(beta · (logprob_c - logprob_r)), no reference: Xu et al. 2024, arXiv:2401.08417, eq. 3."""
    return -logsigmoid(beta * (chosen.logprob - rejected.logprob))


def simpo(chosen: Side, rejected: Side, *, beta: float, gamma: float) -> Tensor:
    """-log σ(beta · (difference of the mean logprobs per token) - gamma): Meng et al. 2024, arXiv:2405.14734, eq. 6."""
    return -logsigmoid(beta * (chosen.mean - rejected.mean) - gamma)


def orpo(chosen: Side, rejected: Side, *, beta: float) -> Tensor:
    """-beta · log σ( log odds(chosen) - log odds(rejected) ), odds = P/(1 - P), log P = mean logprob per token.

    Hong et al. 2024, arXiv:2403.07691, eq. 4 and 7; beta is their λ, and sft_coef = 1 adds their first term.
    """

    def log_odds(side: Side) -> Tensor:
        mean = side.mean.clamp(max=-torch.finfo(side.mean.dtype).eps)  # P = 1 has no odds
        return mean - torch.log(-torch.expm1(mean))

    return -beta * logsigmoid(log_odds(chosen) - log_odds(rejected))


def kto(
    reply: Side,
    desirable: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """λ · (1 - σ(±beta · (ρ - z0))) for each reply, ρ = log-ratio; + and λ_D for desirable ones, - and λ_U else.

    Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8 (λ - v); desirable is 1 or 0; z0 = `baseline` estimates
    KL(policy ‖ reference) in nats and carries no gradient.
    """
    share = desirable_weight * desirable + undesirable_weight * (1.0 - desirable)
    value = beta * (2.0 * desirable - 1.0) * (reply.ratio - reply.baseline)
    return share * (-value).sigmoid()


FORMULAS = by_name(
    dpo,
    robust,
    dpo_norm,
    hinge,
    ipo,
    ipo_norm,
    exo,
    nca,
    bco,
    mpo,
    sppo,
    apo_zero,
    apo_down,
    discopop,
    cpo,
    simpo,
    orpo,
)
"""Losses of pairs of replies, by name."""

REPLIES = by_name(kto)
"""Losses of single replies, by name."""


def _gap(chosen: Side, rejected: Side, divergence: str, alpha: float) -> Tensor:
    """f'(u_chosen) - f'(u_rejected) for the divergence of a convex f; reverse KL has f'(u) = log u."""

    def inverse_power(power: float, log_ratio: Tensor) -> Tensor:
        return (-power * log_ratio).clamp(max=MAX_EXPONENT).exp()

    slopes: dict[str, Callable[[Tensor], Tensor]] = {
        "reverse_kl": lambda log_ratio: log_ratio,
        "forward_kl": lambda log_ratio: -inverse_power(1.0, log_ratio),
        "js": lambda log_ratio: math.log(2.0) + logsigmoid(log_ratio),
        "alpha": lambda log_ratio: (1.0 - inverse_power(alpha, log_ratio)) / alpha,
    }
    return slopes[divergence](chosen.ratio) - slopes[divergence](rejected.ratio)


def _logistic(h: Tensor, label_smoothing: float) -> Tensor:
    if label_smoothing == 0:
        return -logsigmoid(h)
    return -(1.0 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)
