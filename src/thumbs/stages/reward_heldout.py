"""What a reward model makes of rows that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from thumbs.config.losses import ScoreLoss
from thumbs.config.reward_model import RewardModelConfig
from thumbs.data.preferences import preferred
from thumbs.data.prompts import prompt_id
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import Engine, Handle
from thumbs.engine.score_losses import loss_of_values
from thumbs.functional.reward_losses import bradley_terry, pair_loss
from thumbs.rewards.ensemble import member_values
from thumbs.rewards.model import member_scores
from thumbs.rollout.rounds import seed_of
from thumbs.stages.reward_items import Item, Row, Scale, item_data, judged_pairs, read_items
from thumbs.stages.sequences import pair_tokens


@dataclass(frozen=True)
class HeldOut:
    """Scores of the held-out pairs, for the audit: raw scores, P(first is better), reply lengths in tokens, and the
    number of the prompt that each pair is of.
    """

    scores_a: list[float]
    scores_b: list[float]
    preferred: list[float]
    lengths_a: list[int]
    lengths_b: list[int]
    prompts: list[int]


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out rows as the loss reads them, and the pairs among them: two token sequences and P(first is better); the
    number of the prompt of each pair.
    """

    items: list[Item]
    pairs: list[tuple[np.ndarray, np.ndarray, float]]
    by_pairs: bool
    prompts: list[int]

    def measure(self, engine: Engine, models: Sequence[Handle], loss: ScoreLoss) -> dict[str, float]:
        """loss and, where there is one, accuracy of the members' mean; nothing where nothing is held out.

        Of pairs and rankings, the Bradley–Terry loss per pair (nats): Plackett–Luce's and the softmax's probability
        that one of two is preferred is the same. Otherwise the loss that is trained, a row.
        """
        if self.by_pairs:
            return _pair_loss(self.scores(engine, models))
        if not self.items:
            return {}
        data = item_data(self.items)
        return loss_of_values(loss, data, member_values(engine, models, data))

    def scores(self, engine: Engine, models: Sequence[Handle]) -> HeldOut:
        """Raw scores of both sides of each pair, means over the members."""
        sequences = [tokens for a, b, _ in self.pairs for tokens in (a, b)]
        scores = member_scores(engine, models, sequences).mean(axis=1).tolist() if sequences else []
        return HeldOut(
            scores_a=scores[0::2],
            scores_b=scores[1::2],
            preferred=[better for _, _, better in self.pairs],
            lengths_a=[len(a) for a, _, _ in self.pairs],
            lengths_b=[len(b) for _, b, _ in self.pairs],
            prompts=self.prompts,
        )


def read_held(tokenizer: Tokenizer, rows: Sequence[Row], config: RewardModelConfig, scale: Scale) -> Held:
    """Held-out rows as tokens."""
    judged = [(pair, better) for pair in judged_pairs(rows) if (better := preferred(pair)) is not None]
    judged = [(pair, better) for pair, better in judged if not (better == 0.5 and config.ties == "drop")]
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(pair.prompt for pair, _ in judged))}
    pairs = [(*pair_tokens(tokenizer, pair), better) for pair, better in judged]
    prompts = [place[pair.prompt] for pair, _ in judged]
    return Held(read_items(tokenizer, rows, config, scale), pairs, config.form in ("pairs", "rankings"), prompts)


def apart(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """(rows that choose the checkpoint, rows that report its accuracy): a third and two thirds of the prompts.

    What chose a checkpoint flatters it. All rows are on both sides if they are of one prompt.
    """
    order = sorted({row.prompt for row in rows}, key=lambda prompt: seed_of("apart", prompt_id(prompt)))
    if len(order) < 2:
        return list(rows), list(rows)
    choose = set(order[: -(-len(order) // 3)])
    return [row for row in rows if row.prompt in choose], [row for row in rows if row.prompt not in choose]


def _pair_loss(found: HeldOut) -> dict[str, float]:
    if not found.preferred:
        return {}
    a, b, better = (torch.tensor(x, dtype=torch.float64) for x in (found.scores_a, found.scores_b, found.preferred))
    loss, metrics = pair_loss(bradley_terry, a, b, better, torch.zeros_like(a), torch.full_like(a, 1 / len(a)))
    ties_alone = bool((better == 0.5).all())
    return {"loss": float(loss)} | ({} if ties_alone else {"accuracy": float(metrics["accuracy"])})
