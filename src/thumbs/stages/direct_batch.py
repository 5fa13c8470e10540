"""A batch of pairs: as datums, sorted where a method asks for it, and its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from thumbs.config.losses import PairLoss
from thumbs.functional.preference_losses import FORMULAS, Side, preference_loss
from thumbs.records import Example
from thumbs.stages.answers import AnswerPair, TokenisedReply, answer_datum

Sorted = tuple[list[AnswerPair], np.ndarray]


def pair_data(pairs: Sequence[AnswerPair], baseline: float = 0.0) -> list[Example]:
    """Two datums per pair; each pair weighs its weight / (pairs of the batch)."""
    data = []
    for number, pair in enumerate(pairs):
        share = pair.weight / len(pairs)
        of = {"unit": number, "preferred": pair.preferred, "unit_weight": share, "baseline": baseline}
        data += [answer_datum(answer, reference=answer.reference, **of) for answer in pair.sides]
    return data


def loss_on(loss: PairLoss, pairs: Sequence[AnswerPair], logprobs: np.ndarray, baseline: float = 0.0) -> float:
    """The mean loss of pairs whose sides the policy gives these logprobs [P, 2]."""
    first, second = (side([pair.sides[i] for pair in pairs], logprobs[:, i], baseline) for i in (0, 1))
    preferred = torch.tensor([pair.preferred for pair in pairs], dtype=torch.float64)
    weights = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64) / len(pairs)
    formula = partial(FORMULAS[loss.formula], **loss.settings)
    return float(preference_loss(formula, first, second, preferred, weights, loss.sft_coef))


def side(replies: Sequence[TokenisedReply], logprobs: np.ndarray, baseline: float) -> Side:
    """Replies as the formulas take them, with the policy's logprobs of them [n]."""
    columns = (
        logprobs,
        [reply.reference for reply in replies],
        [reply.length for reply in replies],
        np.full(len(replies), baseline),
    )
    return Side(*(torch.tensor(np.asarray(column, dtype=np.float64)) for column in columns))


def pair_metrics(
    pairs: Sequence[AnswerPair], logprobs: np.ndarray, beta: float, *, per_token: bool
) -> dict[str, float]:
    """Means over the pairs that are not ties, of the policy's logprobs [P, 2]; nothing where all are ties.

    chosen_logprob, rejected_logprob and chosen_ratio, rejected_ratio (the same less the reference's): nats per reply;
    margin: beta · difference of the ratios (score units), or of their means a token; accuracy: share with a margin
    above 0.
    """
    decided = np.array([pair.preferred != 0.5 for pair in pairs])
    if not decided.any():
        return {}
    turn = np.array([[0, 1] if pair.preferred > 0.5 else [1, 0] for pair in pairs])[decided]

    def chosen_first(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values[decided], turn, axis=1)

    ours = chosen_first(logprobs)
    ratio = ours - chosen_first(np.array([[answer.reference for answer in pair.sides] for pair in pairs]))
    length = chosen_first(np.array([[answer.length for answer in pair.sides] for pair in pairs], dtype=np.float64))
    scores = beta * (ratio / length if per_token else ratio)
    gap = scores[:, 0] - scores[:, 1]
    means = {"chosen_logprob": ours[:, 0], "rejected_logprob": ours[:, 1], "chosen_ratio": ratio[:, 0]}
    means |= {"rejected_ratio": ratio[:, 1], "margin": gap, "accuracy": gap > 0}
    return {name: float(np.mean(values)) for name, values in means.items()}


def sort_margins(pairs: Sequence[AnswerPair], logprobs: np.ndarray) -> Sorted:
    """The pairs, the k-th smallest margin of the policy with the k-th smallest of the reference for its own.

    Melnyk et al. 2024, arXiv:2406.05882, paired form: it is DPO on the pairs that come back.
    """
    known = np.array([[answer.reference for answer in pair.sides] for pair in pairs])
    sign = np.array([1.0 if pair.preferred > 0.5 else -1.0 for pair in pairs])
    margins = sign * (logprobs[:, 0] - logprobs[:, 1])
    reference = np.empty(len(pairs))
    reference[np.argsort(margins, kind="stable")] = np.sort(sign * (known[:, 0] - known[:, 1]))
    matched = [
        replace(pair, first=replace(pair.first, reference=s * r), second=replace(pair.second, reference=0.0))
        for pair, s, r in zip(pairs, sign.tolist(), reference.tolist(), strict=True)
    ]
    return matched, np.arange(2 * len(pairs))


def sort_sides(pairs: Sequence[AnswerPair], logprobs: np.ndarray) -> Sorted:
    """New pairs: the chosen reply with the k-th smallest log-ratio and the rejected one with the k-th smallest.

    arXiv:2406.05882, unpaired form; what comes second says which of the replies, counted through all pairs, each is.
    Weights of pairs are lost: the sides of a new one had two.
    """
    known = np.array([[answer.reference for answer in pair.sides] for pair in pairs])
    ratio = (logprobs - known).ravel()
    chosen = np.array([2 * i + (pair.preferred < 0.5) for i, pair in enumerate(pairs)])
    rejected = np.array([2 * i + (pair.preferred > 0.5) for i, pair in enumerate(pairs)])
    order = [side[np.argsort(ratio[side], kind="stable")] for side in (chosen, rejected)]
    answers = [answer for pair in pairs for answer in pair.sides]
    matched = [AnswerPair(pairs[c // 2].prompt, answers[c], answers[r], 1.0) for c, r in zip(*order, strict=True)]
    return matched, np.stack(order, axis=1).ravel()


SORTS: Mapping[str, Callable[[Sequence[AnswerPair], np.ndarray], Sorted]] = {
    "sorted_margins": sort_margins,
    "sorted_sides": sort_sides,
}
"""How a batch is made ready for methods that couple its pairs, from the policy's present logprobs [P, 2] (nats).

The sorting takes a pass of its own over the batch: inside the engine it would depend on the micro-batches.
"""
