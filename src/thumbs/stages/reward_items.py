"""Rows of a reward model's data as what its loss reads: which sequences, with which columns, weighing how much."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thumbs.config.losses import HEAD_WEIGHTS, ScoreLoss
from thumbs.config.reward_model import Form, RewardModelConfig
from thumbs.data.preferences import preferred
from thumbs.data.rankings import pairs_of
from thumbs.data.ratings import pairs_of_ratings
from thumbs.data.tokenizers import Tokenizer, reply_tokens
from thumbs.errors import DataError
from thumbs.functional.formulas import settings_of
from thumbs.functional.reward_losses import FORMULAS, PAIRS
from thumbs.models.prefixes import shared_length
from thumbs.records import Example, Message, Preference, Ranking, Rating, SafetyPair, SteppedReply
from thumbs.rewards.steps import step_ends
from thumbs.rollout.rounds import seed_of
from thumbs.stages.sequences import pair_tokens

Row = Preference | Ranking | Rating | SteppedReply | SafetyPair
Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Term:
    """Sequences that are compared with each other (or one alone), the columns of each, and what the term weighs in its
    row. Columns that hold `labels` make a sum over targets; others, and those of a cost, are those of a unit.
    """

    sequences: tuple[np.ndarray, ...]
    columns: tuple[Columns, ...]
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Item:
    """One row: its number in the data, its prompt and its terms."""

    number: int
    prompt: tuple[Message, ...]
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Scale:
    """How ratings become labels: (rating - mean) / std, or the place among `levels`, with thresholds between them."""

    mean: float = 0.0
    std: float = 1.0
    levels: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()


def loss_of(config: RewardModelConfig, scale: Scale) -> ScoreLoss:
    """The named loss of the settings; those of its formula are the config's, or the thresholds of the ratings."""
    method, given = config.method, {"thresholds": scale.thresholds, **dict(config)}
    settings = {name: given[name] for name in settings_of(FORMULAS[method.formula])}
    center_coef = config.center_coef if method.formula in PAIRS else 0.0
    return ScoreLoss(formula=method.formula, settings=settings, center_coef=center_coef, by_token=method.by_token)


def judged_pairs(rows: Sequence[Row]) -> list[Preference]:
    """The pairs that rows hold: themselves, those of rankings, rated replies to one prompt; steps hold none."""
    ratings = [row for row in rows if isinstance(row, Rating)]
    found = [row for row in rows if isinstance(row, Preference)]
    found += [pair for row in rows if isinstance(row, Ranking) for pair in pairs_of(row)]
    return found + pairs_of_ratings(ratings)


def rating_scale(rows: Sequence[Row], spread: float) -> Scale:
    """Mean, deviation and levels of all annotators' ratings; an empty scale where there are none.

    The threshold between two levels is `spread` times the logit of the share of ratings up to the lower one, half a
    rating added to each level. With spread 1 a head that starts at zero would begin with the shares of the data, but
    could never be sure of a level in the middle.
    """
    values = [judgement.value for row in rows if isinstance(row, Rating) for judgement in row.judgements]
    if not values:
        return Scale()
    levels = sorted(set(values))
    counts = np.array([values.count(level) + 0.5 for level in levels])
    share = (counts.cumsum() / counts.sum())[:-1]
    thresholds = tuple(float(spread * x) for x in np.log(share / (1 - share)))
    return Scale(float(np.mean(values)), max(float(np.std(values)), 1e-6), tuple(levels), thresholds)


def read_items(tokenizer: Tokenizer, rows: Sequence[Row], config: RewardModelConfig, scale: Scale) -> list[Item]:
    """Items of the rows, in order; rows that say nothing to the loss are left out."""
    found = (_READERS[config.form](tokenizer, row, config, scale) for row in rows)
    pairs = enumerate(zip(rows, found, strict=True))
    return [Item(number, row.prompt, tuple(terms)) for number, (row, terms) in pairs if terms]


def check_informative(rows: Sequence[Row], config: RewardModelConfig) -> None:
    """Raises DataError if no row prefers anything to anything else."""
    if config.form in ("pairs", "rankings"):
        if all(preferred(pair) in (None, 0.5) for pair in judged_pairs(rows)):
            what = "preferences" if config.form == "pairs" else "rankings"
            raise DataError(
                f"none of {len(rows)} {what} says which reply is better; the reward model has nothing to learn"
            )
        return
    said = {j.value for row in rows if isinstance(row, Rating) for j in row.judgements}
    said |= {label > 0.5 for row in rows if isinstance(row, SafetyPair) for label in row.unsafe}
    said |= {label for row in rows if isinstance(row, SteppedReply) for j in row.judgements for label in j.labels} - {
        None
    }
    if len(said) < 2:
        raise DataError(
            f"all {len(rows)} {config.form} say {said or 'nothing'}; the reward model has nothing to learn from labels "
            "that never differ"
        )


def item_data(items: Sequence[Item], draws: np.ndarray | None = None) -> list[Example]:
    """Datums of a batch; each item weighs 1 / (items of the batch), each sequence is read where its weights are.

    draws [B, H]: how often each item is drawn for each head; None: once. With one head it goes into the item's weight.
    """
    data: list[Example] = []
    unit = 0
    for place, item in enumerate(items):
        for term in item.terms:
            share = term.weight * (1.0 / len(items))
            extra: Columns = {}
            if draws is not None and draws.shape[1] == 1:
                share *= float(draws[place, 0])
            elif draws is not None:
                extra = {HEAD_WEIGHTS: draws[place] / draws.shape[1]}
            for tokens, columns in zip(term.sequences, term.columns, strict=True):
                if "labels" in columns and "preferred" not in columns:
                    own = {**columns, "weights": columns["weights"] * share}
                else:
                    own = {"unit": unit, **columns, "unit_weight": share}
                data.append(Example.whole_sequence(tokens, **own, **extra))
            unit += 1
    return data


def draw(items: Sequence[Item], members: Sequence[int], seed: int) -> np.ndarray:
    """How often each item is drawn for each member of an ensemble, [B, H]: Poisson of mean 1, the same in every epoch.

    The bootstrap for data that comes in batches (Oza and Russell 2001, Online bagging and boosting).
    """
    drawn = [
        [np.random.default_rng(seed_of(seed, "bootstrap", m, item.number)).poisson() for m in members] for item in items
    ]
    return np.array(drawn, dtype=np.float32)


def pair_term(
    sequences: tuple[np.ndarray, np.ndarray], better: float, margin: float = 0.0, *, by_token: bool = False
) -> Term:
    """Two replies of which the first is better with probability `better`, read at their ends, or at every token from
    where they part.
    """
    part = shared_length(*sequences)
    starts = [min(part, len(tokens) - 1) if by_token else len(tokens) - 1 for tokens in sequences]
    weights = [(np.arange(len(t)) >= start).astype(np.float32) for t, start in zip(sequences, starts, strict=True)]
    return Term(sequences, tuple({"weights": w, "preferred": better, "margin": margin} for w in weights))


def at_end(tokens: np.ndarray) -> np.ndarray:
    """Weights [N]: 1 at the last token, where a score is read."""
    weights = np.zeros(len(tokens), dtype=np.float32)
    weights[-1] = 1.0
    return weights


def _pair_terms(tokenizer: Tokenizer, row: Any, config: RewardModelConfig, scale: Scale) -> list[Term]:
    better = preferred(row)
    if better is None or (better == 0.5 and config.ties == "drop"):
        return []
    sequences = pair_tokens(tokenizer, row)
    margin = row.margin if config.use_margin and better != 0.5 else 0.0
    term = pair_term(sequences, better, margin, by_token=config.method.by_token)
    return [replace(term, weight=row.weight)]


def _ranking_terms(tokenizer: Tokenizer, row: Any, config: RewardModelConfig, scale: Scale) -> list[Term]:
    """A term each annotator, or with ranked_pairs one each pair; the terms of a row weigh 1 together."""
    if config.loss == "ranked_pairs":
        terms = [term for pair in pairs_of(row) for term in _pair_terms(tokenizer, pair, config, scale)]
    else:
        sequences = tuple(reply_tokens(tokenizer, row.prompt, reply) for reply in row.replies)
        terms = [
            Term(
                sequences,
                tuple(
                    {"weights": at_end(tokens), "rank": math.inf if rank is None else rank}
                    for tokens, rank in zip(sequences, judgement.ranks, strict=True)
                ),
            )
            for judgement in row.judgements
        ]
    return [Term(term.sequences, term.columns, 1 / len(terms)) for term in terms]


def _rating_terms(tokenizer: Tokenizer, row: Any, config: RewardModelConfig, scale: Scale) -> list[Term]:
    tokens = reply_tokens(tokenizer, row.prompt, row.reply)
    terms = []
    for judgement in row.judgements:
        if config.loss == "ordinal":  # a level that training has not seen counts as the nearest one
            label = float(np.abs(np.subtract(scale.levels, judgement.value)).argmin())
        else:
            label = (judgement.value - scale.mean) / scale.std
        columns = {"weights": at_end(tokens), "labels": np.full(len(tokens), label, dtype=np.float32)}
        terms.append(Term((tokens,), (columns,), 1 / len(row.judgements)))
    return terms


def _step_terms(tokenizer: Tokenizer, row: Any, config: RewardModelConfig, scale: Scale) -> list[Term]:
    """A term each annotator; the labelled steps of a reply weigh the same, 1 together."""
    tokens = reply_tokens(tokenizer, row.prompt, row.reply)
    ends = step_ends(tokenizer, tokens, len(tokenizer.render_prompt(row.prompt)), row.steps)
    terms = []
    for judgement in row.judgements:
        said = [(end, label) for end, label in zip(ends, judgement.labels, strict=True) if label is not None]
        weights, labels = np.zeros(len(tokens), dtype=np.float32), np.zeros(len(tokens), dtype=np.float32)
        for end, label in said:
            weights[end] += 1 / len(said)
            labels[end] = label
        terms.append(Term((tokens,), ({"weights": weights, "labels": labels},), 1 / len(row.judgements)))
    return terms


def _safety_terms(tokenizer: Tokenizer, row: Any, config: RewardModelConfig, scale: Scale) -> list[Term]:
    sequences = tuple(reply_tokens(tokenizer, row.prompt, reply) for reply in row.replies)
    columns = tuple(
        {"weights": at_end(tokens), "preferred": 1 - row.safer, "labels": np.full(len(tokens), y, dtype=np.float32)}
        for tokens, y in zip(sequences, row.unsafe, strict=True)
    )
    return [Term(sequences, columns)]


_READERS: Mapping[Form, Callable[[Tokenizer, Any, RewardModelConfig, Scale], list[Term]]] = {
    "pairs": _pair_terms,
    "rankings": _ranking_terms,
    "ratings": _rating_terms,
    "steps": _step_terms,
    "safety": _safety_terms,
}
