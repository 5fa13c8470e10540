"""The losses of pairs of logprobs, one pair at a time, with math.* only, as the papers write them: from probabilities.

c, r: (logprob, reference logprob, length) of the chosen and the rejected reply.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Reply = tuple[float, float, float]


def sigma(x: float) -> float:
    """The logistic function."""
    return 1 / (1 + math.exp(-x))


def u(reply: Reply) -> float:
    """π/π_ref."""
    return math.exp(reply[0]) / math.exp(reply[1])


def reward(reply: Reply, beta: float) -> float:
    """beta log π/π_ref."""
    return beta * math.log(u(reply))


def slope(kind: str, alpha: float) -> Callable[[float], float]:
    """f' of the divergence, arXiv:2309.16240, table 1."""
    return {
        "reverse_kl": lambda x: math.log(x) + 1,
        "forward_kl": lambda x: -1 / x,
        "js": lambda x: math.log(2 * x / (1 + x)),
        "alpha": lambda x: (1 - x**-alpha) / alpha,
    }[kind]


def dpo(c: Reply, r: Reply, beta: float, label_smoothing=0.0, divergence="reverse_kl", alpha=0.5) -> float:
    """Cross-entropy of the Bradley–Terry probability with labels that are wrong with probability ε."""
    f = slope(divergence, alpha)
    right = sigma(beta * f(u(c)) - beta * f(u(r)))
    return -(1 - label_smoothing) * math.log(right) - label_smoothing * math.log(1 - right)


def robust(c: Reply, r: Reply, beta: float, label_smoothing: float) -> float:
    """((1 - ε) L(c, r) - ε L(r, c)) / (1 - 2 ε)."""
    e = label_smoothing
    return ((1 - e) * dpo(c, r, beta) - e * dpo(r, c, beta)) / (1 - 2 * e)


def dpo_norm(c: Reply, r: Reply, beta: float) -> float:
    """DPO with geometric means of the tokens' ratios."""
    mean = [beta * (x[0] - x[1]) / x[2] for x in (c, r)]
    return math.log(1 + math.exp(mean[1] - mean[0]))


def hinge(c: Reply, r: Reply, beta: float) -> float:
    """What is missing to a margin of 1."""
    return max(0.0, 1 - (reward(c, beta) - reward(r, beta)))


def ipo(c: Reply, r: Reply, beta: float) -> float:
    """Square of the log-ratio's distance from 1 / 2τ."""
    return (math.log(u(c) / u(r)) - 1 / (2 * beta)) ** 2


def ipo_norm(c: Reply, r: Reply, beta: float) -> float:
    """The same a token."""
    return (math.log(u(c)) / c[2] - math.log(u(r)) / r[2] - 1 / (2 * beta)) ** 2


def exo(c: Reply, r: Reply, beta: float, label_smoothing: float) -> float:
    """Σ over both replies of q log (q / p)."""
    weights = [u(c) ** beta, u(r) ** beta]
    q = [w / sum(weights) for w in weights]
    return sum(x * math.log(x / p) for x, p in zip(q, (1 - label_smoothing, label_smoothing), strict=True))


def nca(c: Reply, r: Reply, beta: float) -> float:
    """Raise the better one, lower each a little."""
    up = -math.log(sigma(reward(c, beta)))
    return up + 0.5 * sum(-math.log(1 - sigma(reward(x, beta))) for x in (c, r))


def bco(c: Reply, r: Reply, beta: float, baseline: float = 0.0) -> float:
    """Binary cross-entropy of chosen = 1, rejected = 0."""
    return -math.log(sigma(reward(c, beta) - baseline)) - math.log(1 - sigma(reward(r, beta) - baseline))


def mpo(c: Reply, r: Reply, beta: float, baseline: float = 0.0) -> float:
    """0.8 and 0.2."""
    return 0.8 * dpo(c, r, beta) + 0.2 * bco(c, r, beta, baseline)


def sppo(c: Reply, r: Reply, beta: float) -> float:
    """(log-ratio - η (P - 1/2))², P = 1 and 0, η = 1 / beta."""
    return sum((math.log(u(x)) - (p - 0.5) / beta) ** 2 for x, p in ((c, 1), (r, 0)))


def apo_zero(c: Reply, r: Reply, beta: float) -> float:
    """-σ(chosen) + σ(rejected), and 1."""
    return 1 - sigma(reward(c, beta)) + sigma(reward(r, beta))


def apo_down(c: Reply, r: Reply, beta: float) -> float:
    """σ(chosen) - σ(chosen - rejected), and 1."""
    return 1 + sigma(reward(c, beta)) - sigma(reward(c, beta) - reward(r, beta))


def discopop(c: Reply, r: Reply, beta: float, tau: float) -> float:
    """Logistic where the margin is far below 0, exponential where it is far above."""
    h = reward(c, beta) - reward(r, beta)
    m = sigma(h / tau)
    return (1 - m) * math.log(1 + math.exp(-h)) + m * math.exp(-h)


def cpo(c: Reply, r: Reply, beta: float) -> float:
    """Logistic loss of π(c)^β against π(r)^β."""
    a, b = math.exp(c[0]) ** beta, math.exp(r[0]) ** beta
    return -math.log(a / (a + b))


def simpo(c: Reply, r: Reply, beta: float, gamma: float) -> float:
    """Logistic loss of mean logprobs with a margin."""
    return -math.log(sigma(beta * c[0] / c[2] - beta * r[0] / r[2] - gamma))


def orpo(c: Reply, r: Reply, beta: float) -> float:
    """-λ log σ log (odds(c) / odds(r))."""
    p = [math.exp(x[0] / x[2]) for x in (c, r)]
    odds = [x / (1 - x) for x in p]
    return -beta * math.log(sigma(math.log(odds[0] / odds[1])))


def kto(reply: Reply, z0: float, desirable: bool, beta: float, good: float, bad: float) -> float:
    """λ - v, arXiv:2402.01306, eq. 8."""
    r = math.log(u(reply))
    if desirable:
        return good - good * sigma(beta * (r - z0))
    return bad - bad * sigma(beta * (z0 - r))
