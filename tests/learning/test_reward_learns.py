"""Every loss of the reward model learns an order that is known, for prompts that it has never seen."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byte_world import MAKER, byte_context, pair, user
from thumbs.config.data import DataConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.reward_model import REWARD_METHODS, RewardModelConfig
from thumbs.data.tokenizers import reply_tokens
from thumbs.engine.base import ModelSpec
from thumbs.records import (
    Ranking,
    RankJudgement,
    Rating,
    RatingJudgement,
    Reply,
    Rollout,
    StepJudgement,
    SteppedReply,
)
from thumbs.rewards.ensemble import RewardEnsemble
from thumbs.rewards.model import RewardModel, member_scores
from thumbs.rewards.steps import StepReward
from thumbs.rewards.trained import TrainedReward, open_scores
from thumbs.stages.context import Context
from thumbs.stages.reward_items import Row
from thumbs.stages.reward_model import run_reward_model

HELD = "fmtx"
LETTERS = "abcdeghijklnopqrsuvwyzABCDEFGHIJ"
WORDS = ("no", "so-so", "good", "best")
"""From worst to best."""
OPTIM = AdamConfig(learning_rate=1e-3, head_learning_rate=1e-2, warmup_fraction=0.1)
FILE = DataConfig(path="unused")


def pairs(letter: str) -> list[Row]:
    """All pairs of neighbours, half of them with the worse one in front."""
    found: list[Row] = []
    for place, (bad, good) in enumerate(itertools.pairwise(WORDS)):
        turned = (place + ord(letter)) % 2 == 0
        found.append(pair(letter, good, bad, "first") if turned else pair(letter, bad, good, "second"))
    return found


def ranking(letter: str) -> list[Row]:
    """Two annotators, the second of whom cannot tell the two in the middle apart."""
    shuffled = np.random.default_rng(ord(letter)).permutation(len(WORDS)).tolist()
    ranks = tuple(len(WORDS) - i for i in shuffled)
    coarse = tuple({1: 1, 2: 2, 3: 2, 4: 3}[rank] for rank in ranks)
    judgements = (RankJudgement("ana", "", ranks), RankJudgement("ben", "", coarse))
    return [Ranking(letter, user(letter), tuple(Reply(WORDS[i], MAKER) for i in shuffled), judgements)]


def ratings(letter: str) -> list[Row]:
    return [
        Rating(f"{letter}{i}", user(letter), Reply(word, MAKER), (RatingJudgement("ana", "", 2.0 * i + 3),))
        for i, word in enumerate(WORDS)
    ]


def steps(letter: str) -> list[Row]:
    """Replies of three steps; a step is right when it says yes."""
    found: list[Row] = []
    for pattern in ("yny", "nyn", "yyy", "nny", "ynn"):
        words = ["yes" if letter == "y" else "no" for letter in pattern]
        said = (words[0] + "\n", words[1] + "\n", words[2])
        labels = tuple(float(step.strip() == "yes") for step in said)
        found.append(
            SteppedReply(letter + "".join(said), user(letter), said, MAKER, (StepJudgement("ana", "", labels),))
        )
    return found


ROWS = {"pairs": pairs, "rankings": ranking, "ratings": ratings, "steps": steps}


def config_of(loss: Any, **changes: Any) -> RewardModelConfig:
    form = REWARD_METHODS[loss].form
    data = None if form == "pairs" else FILE
    return RewardModelConfig(loss=loss, data=data, optim=OPTIM, eval_every=20, center_coef=0, **changes)


def rows(config: RewardModelConfig, letters: str) -> list[Row]:
    return [row for letter in letters for row in ROWS[config.form](letter)]


def trained(folder: Path, config: RewardModelConfig) -> tuple[Context, dict[str, Any], TrainedReward]:
    """32 prompts to learn from, four held out."""
    context = byte_context(folder)
    results = run_reward_model(context, config, None, rows(config, LETTERS), rows(config, HELD))
    spec = ModelSpec("r", context.model, ("scalar",), context.best, trainable=False)
    return context, results, open_scores(context.engine, spec, results, context.tokenizer)


def rollout(context: Context, question: str, text: str) -> Rollout:
    tokens = reply_tokens(context.tokenizer, user(question), Reply(text, MAKER))
    start = len(context.tokenizer.render_prompt(user(question)))
    mask = (np.arange(1, len(tokens)) >= start).astype(np.float32)
    return Rollout("p", tokens, start, mask, 0 * mask, "stop", 0, text)


EPOCHS = {"pairs": 4, "rankings": 10, "ratings": 4, "steps": 4}


@pytest.mark.parametrize("loss", [name for name, method in REWARD_METHODS.items() if method.form != "steps"])
def test_the_order_is_learned_for_prompts_never_seen(tmp_path: Path, loss: str):
    config = config_of(loss)
    context, _, reward = trained(tmp_path, config.model_copy(update={"epochs": EPOCHS[config.form], "batch_size": 8}))
    best_only = loss == "best_of_k"
    for letter in HELD:
        scores = [score.value for score in reward.score([rollout(context, letter, word) for word in WORDS])]
        assert np.argmax(scores) == 3
        assert best_only or np.argsort(scores).tolist() == [0, 1, 2, 3]
    held = context.folder.metrics.read()[-1]
    assert best_only or held.get("reward/heldout_accuracy", 1.0) > 0.9


@pytest.mark.parametrize("loss", ["process", "process_regression"])
def test_steps_are_judged_one_by_one(tmp_path: Path, loss: str):
    context, _, reward = trained(tmp_path, config_of(loss, epochs=EPOCHS["steps"], batch_size=8))
    assert isinstance(reward, StepReward)
    reply = rollout(context, "n", "yes\nyes\nno")
    (score,) = reward.score([reply])
    assert score.tokens is not None
    paid = {place: value for place, value in enumerate(score.tokens) if value != 0}
    assert list(paid) == [2, 6, 10]  # the last letter of each word, and the end token
    assert score.value == pytest.approx(sum(paid.values()))
    right = np.exp(list(paid.values())) if loss == "process" else 3 * np.array(list(paid.values()))
    np.testing.assert_allclose(right, [1, 1, 0], atol=0.2)


@pytest.mark.parametrize("kind", ["heads", "adapters"])
def test_an_ensemble_agrees_on_what_it_learned_and_differs_elsewhere(tmp_path: Path, kind: str):
    """Heads alone: a trunk that learns with them makes them agree everywhere."""
    changes: dict[str, Any] = {kind: 3, "freeze_backbone": kind == "heads"}
    config = config_of("bradley_terry", epochs=3, batch_size=8, combine="mean_minus_std", **changes)
    context, results, reward = trained(tmp_path, config)
    assert isinstance(reward, RewardEnsemble)
    assert len(results["ensemble"]["means"]) == 3
    known = [rollout(context, letter, word) for letter in LETTERS[:12] for word in ("no", "best")]
    strange = [rollout(context, "#" + str(i) * 9, "%$&/" * (3 + i)) for i in range(8)]
    inside, outside = (np.array([s.parts["std"] for s in reward.score(r)]) for r in (known, strange))
    assert outside.mean() > 1.5 * inside.mean()
    for score in reward.score(strange):
        assert score.value == pytest.approx(score.parts["mean"] - score.parts["std"])
    assert context.folder.metrics.read()[-1]["reward/heldout_accuracy"] == 1.0
    each = member_scores(context.engine, reward.handles, [r.tokens for r in known])
    assert min(np.ptp(each, axis=1)) > 0  # no two members are the same model


def test_the_worst_member_speaks_where_the_config_says_so(tmp_path: Path):
    context, _, reward = trained(tmp_path, config_of("bradley_terry", heads=3, combine="worst"))
    assert isinstance(reward, RewardEnsemble)
    rollouts = [rollout(context, "p", word) for word in WORDS]
    each = member_scores(context.engine, reward.handles, [r.tokens for r in rollouts])
    normal = (each - reward.means) / reward.stds
    assert [s.value for s in reward.score(rollouts)] == pytest.approx(normal.min(axis=1).tolist())


def test_one_head_is_the_plain_reward_model(tmp_path: Path):
    _, results, reward = trained(tmp_path, config_of("bradley_terry"))
    assert isinstance(reward, RewardModel)
    assert (reward.mean, reward.std) == (results["score_mean"], results["score_std"])
    assert "ensemble" not in results


@pytest.mark.parametrize("changes", [{"loss": "plackett_luce"}, {"heads": 2}])
def test_a_run_that_was_stopped_goes_on_bit_by_bit(tmp_path: Path, changes: dict[str, Any], monkeypatch: Any):
    """Killed after the second checkpoint, the stage logs and leaves what it would have left."""
    config = config_of(changes.pop("loss", "bradley_terry"), epochs=1, batch_size=4, **changes)
    config = config.model_copy(update={"eval_every": 2})
    whole, results, _ = trained(tmp_path / "whole", config)
    killed = byte_context(tmp_path / "killed")
    data = rows(config, LETTERS), rows(config, HELD)
    calls = itertools.count()
    step = killed.engine.optim_step

    def stopping(*of: Any) -> Any:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return step(*of)

    monkeypatch.setattr(killed.engine, "optim_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_reward_model(killed, config, None, *data)
    again = byte_context(tmp_path / "killed")
    assert run_reward_model(again, config, None, *data) == results
    drop = ("wall_s", "reward/tokens_per_s")
    logs = [[{k: v for k, v in r.items() if k not in drop} for r in c.folder.metrics.read()] for c in (whole, again)]
    assert logs[0] == logs[1]
    for file in whole.best.glob("*.safetensors"):
        assert file.read_bytes() == (again.best / file.name).read_bytes()
