"""Every named loss as the engine sees it: what it reads, whether a spec fits, and its value on a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from thumbs.config.losses import LossSpec, PairLoss, ReplyLoss, ScoreLoss, TokenLoss
from thumbs.engine import score_losses, sequence_losses, token_losses
from thumbs.engine.batch import Batch
from thumbs.engine.objectives import OBJECTIVES, is_objective
from thumbs.engine.token_losses import Pass
from thumbs.errors import ConfigError, DataError
from thumbs.functional import preference_losses, reward_losses
from thumbs.functional.formulas import Formula, Loss, inputs_of, misfit


class LossFamily(NamedTuple):
    """The formulas of a family by name, the value of one on a pass, and the columns of targets and of sequences that it
    reads.
    """

    formulas: Mapping[str, Formula]
    evaluate: Callable[[Any, Pass], Loss]
    columns: Callable[[Any], tuple[Sequence[str], Sequence[str]]]


FAMILIES: Mapping[type[LossSpec], LossFamily] = {
    TokenLoss: LossFamily(token_losses.FORMULAS, token_losses.evaluate, token_losses.columns),
    PairLoss: LossFamily(
        preference_losses.FORMULAS,
        sequence_losses.evaluate_pairs,
        lambda _: (("weights",), sequence_losses.PAIR_COLUMNS),
    ),
    ReplyLoss: LossFamily(
        preference_losses.REPLIES,
        sequence_losses.evaluate_replies,
        lambda _: (("weights",), sequence_losses.REPLY_COLUMNS),
    ),
    ScoreLoss: LossFamily(reward_losses.FORMULAS, score_losses.evaluate, score_losses.columns),
}
"""The losses of each family. Programs may add objectives of pairs of scores (`objectives.py`)."""


def check(loss: LossSpec) -> None:
    """Raises ConfigError for a loss that the family does not have, and for settings that it does not know."""
    formulas = FAMILIES[type(loss)].formulas
    own = isinstance(loss, ScoreLoss) and is_objective(loss.formula)
    if loss.formula not in formulas and not own:
        allowed = ", ".join((*formulas, *(OBJECTIVES.names if isinstance(loss, ScoreLoss) else ())))
        raise ConfigError(f"no {type(loss).__name__} is called {loss.formula!r}; allowed are {allowed}")
    if loss.formula in formulas and (wrong := misfit(formulas[loss.formula], loss.settings)):
        raise ConfigError(f"{type(loss).__name__} {loss.formula!r}: {wrong}")
    if own and loss.settings:
        raise ConfigError(f"the objective {loss.formula!r} has no settings; got {sorted(loss.settings)}")
    if isinstance(loss, ScoreLoss) and (loss.center_coef or loss.by_token) and loss.formula not in reward_losses.PAIRS:
        raise ConfigError(f"center_coef and by_token belong to losses of pairs, and {loss.formula!r} is none")


def check_columns(loss: LossSpec, batch: Batch) -> None:
    """Raises DataError if the batch lacks columns that the loss reads."""
    of_targets, of_sequences = FAMILIES[type(loss)].columns(loss)
    missing = [name for name in of_targets if name not in batch.columns]
    missing += [name for name in of_sequences if name not in batch.sequence_columns]
    if missing:
        raise DataError(f"loss {loss.formula!r} needs the columns {missing}; got {sorted(batch.columns)}")


def reads(loss: LossSpec) -> set[str]:
    """What of a pass the loss reads: some of logprobs, entropy, values, divergences."""
    if isinstance(loss, TokenLoss):
        return {name for name in inputs_of(token_losses.FORMULAS[loss.formula]) if name in token_losses.COMPUTED}
    return {"values"} if isinstance(loss, ScoreLoss) else {"logprobs"}


def temperature(losses: Sequence[LossSpec]) -> float:
    """That of the pass: the one at which the losses that read logprobs or divergences want them; raises DataError if
    they differ.
    """
    wanted = {loss.temperature if isinstance(loss, TokenLoss) else 1.0 for loss in losses if reads(loss) - {"values"}}
    if len(wanted) > 1:
        raise DataError(f"losses of one pass want the temperatures {sorted(wanted)}; it has only one")
    return next(iter(wanted), 1.0)


def evaluate(loss: LossSpec, seen: Pass) -> Loss:
    """The value of the loss, a sum, and its metrics."""
    return FAMILIES[type(loss)].evaluate(loss, seen)
