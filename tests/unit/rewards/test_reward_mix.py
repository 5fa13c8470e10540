"""Scores as a mix of models, functions and rules."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from byte_world import byte_context
from thumbs.config.base import build_config
from thumbs.config.model import ModelConfig
from thumbs.config.reward_parts import RewardPart
from thumbs.data.hf_tokenizer import HfTokenizer
from thumbs.data.prompts import read_prompt
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError, DataError, RewardError
from thumbs.records import Message, Rollout, Score
from thumbs.rewards.base import CallableReward, EnvironmentReward, RewardSource
from thumbs.rewards.build import build_rewards, open_reward_model
from thumbs.rewards.mix import Mix, Part
from thumbs.rewards.model import RewardModel, read_rollout
from thumbs.rewards.shaping import token_rewards
from thumbs.rewards.verifiers import verifier
from thumbs.stages.context import Context
from tiny_models import LLAMA, save_random


def rollout(text: str, answer: str | None = None, prompt: str = "ask") -> Rollout:
    """A reply of bytes to a prompt of two tokens."""
    tokens = np.array([257, 258, *text.encode(), 259])
    mask = np.array([0.0] + [1.0] * (len(tokens) - 2), np.float32)
    messages = (Message("user", prompt), Message("assistant", text))
    return Rollout(prompt, tokens, 2, mask, -mask, "stop", 0, text, messages, answer)


def parts(*settings: dict[str, Any]) -> list[RewardPart]:
    return [build_config(RewardPart, part) for part in settings]


def never() -> RewardSource:
    raise AssertionError("nobody asked for the run's own model")


@pytest.mark.parametrize(
    ("name", "pattern", "text", "answer", "right"),
    [
        ("exact", None, " 42\n", "42", 1.0),
        ("exact", None, "42.", "42", 0.0),
        ("contains", None, "It is Paris, I think.", "Paris", 1.0),
        ("contains", None, "It is paris.", "Paris", 0.0),
        ("numeric", None, "First 12, so the total is 1,250.50 euros", "#### 1250.5", 1.0),
        ("numeric", None, "12 and then 13", "12", 0.0),
        ("numeric", None, "-3e2", "-300", 1.0),
        ("numeric", None, "no idea", "7", 0.0),
        ("regex", r"\bsorry\b", "I am sorry.", None, 1.0),
        ("regex", r"\bsorry\b", "I am sorrys.", None, 0.0),
        ("regex", r"<a>(.*?)</a>", "so <a> B </a>", "B", 1.0),
        ("regex", r"<a>(.*?)</a>", "so <a>C</a> or B", "B", 0.0),
    ],
)
def test_verifiers(name: str, pattern: str | None, text: str, answer: str | None, right: float):
    assert verifier(name, pattern)(rollout(text, answer)) == right


def test_what_a_verifier_needs_is_said():
    with pytest.raises(RewardError, match="prompt ask has no answer to compare with; give its row the field `answer`"):
        CallableReward(verifier("exact")).score([rollout("x")])
    with pytest.raises(RewardError, match="its answer 'none' has no number"):
        CallableReward(verifier("numeric")).score([rollout("3", "none")])
    with pytest.raises(ConfigError, match="is not a regular expression"):
        verifier("regex", "(")


def test_answers_come_with_prompts():
    assert read_prompt({"prompt": "2 + 2?", "answer": 4}).answer == "4"
    assert read_prompt({"prompt": "2 + 2?"}).answer is None
    assert read_prompt({"prompt": "2 + 2?", "answer": 4}).id == read_prompt("2 + 2?").id
    with pytest.raises(DataError, match="`answer` is text or a number, got list"):
        read_prompt({"prompt": "2 + 2?", "answer": [4]})


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda r: math.nan, "got nan, which is not a finite number"),
        (lambda r: 1 / 0, "failed with ZeroDivisionError: division by zero"),
        (lambda r: [1.0, 2.0], r"got an array of shape \(2,\); give one number, or one for each of the 4 tokens"),
        (lambda r: None, "got None; return a number"),
        (lambda r: "high", r"got 'high' \(str\)"),
        (lambda r: [0.0, 0.0, math.inf, 0.0], "which is not a finite number"),
    ],
)
def test_a_function_that_fails_names_the_rollout(function: Any, said: str):
    with pytest.raises(RewardError, match=said) as caught:
        CallableReward(function, "mine").score([rollout("yes")])
    assert "reward mine: rollout 0 (prompt ask, reply 'yes')" in str(caught.value)


def test_a_score_that_is_not_finite_is_an_error_whatever_gave_it():
    class Broken:
        def score(self, rollouts):
            return [Score(1.0), Score(math.inf)]

    with pytest.raises(RewardError, match=r"reward theirs: rollout 1 \(prompt ask, reply 'b'\) got inf"):
        Mix([Part("theirs", Broken())]).score([rollout("a"), rollout("b")])


def test_a_mix_is_the_weighted_sum_with_its_parts_by_name(tmp_path: Path):
    engine = byte_context(tmp_path).engine
    mix = build_rewards(
        parts(
            {"function": "scoring_functions:brevity", "weight": 0.5, "name": "short"},
            {"verifier": "exact", "weight": 2.0},
            {"function": "scoring_functions:by_token"},
        ),
        engine,
        never,
    )
    (score,) = mix.score([rollout("ab", "ab")])
    # three tokens, 97 98 259: 0.5 · -3 + 2 · 1 + (1 + 0 + 1)
    assert score.value == 2.5
    assert score.parts == {"short": -3.0, "exact": 1.0, "function": 2.0}
    assert score.tokens == (1.0, 0.0, 1.0 + 0.5 * -3.0 + 2.0)


def test_per_token_scores_stand_at_their_tokens_and_shaping_at_the_last():
    mask = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0, 0.0]])
    given = [Score(6.0, tokens=(1.0, 2.0, 3.0)), Score(4.0)]
    shaped = torch.tensor([5.0, 4.0])  # the first was clipped by one
    found = token_rewards(shaped, torch.ones(2, 5), mask, 0.5, given)
    assert found.tolist() == [[0.0, 0.5, 0.0, 1.5, 1.5], [0.0, -0.5, 3.5, 0.0, 0.0]]


def test_an_environments_rewards_are_summed_at_their_turns():
    played = Rollout(
        "p", np.arange(6), 2, np.array([0, 1, 0, 1, 1], np.float32), np.zeros(5), "stop", 0, "t",
        rewards=np.array([0, 0.25, 0, 0, 1], np.float32),
    )  # fmt: skip
    (score,) = EnvironmentReward().score([played])
    assert (score.value, score.tokens) == (1.25, (0.25, 0.0, 1.0))
    with pytest.raises(RewardError, match="outside of an environment"):
        EnvironmentReward().score([rollout("x")])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scoring_functions", "write module:name"),
        ("scoring_functions:nothing", "has no 'nothing'"),
        ("no_such_module_here:f", "there is no module 'no_such_module_here'"),
        ("scoring_functions:NUMBER", "is int, not something to call"),
    ],
)
def test_a_function_that_is_not_there_is_said(tmp_path: Path, name: str, said: str):
    with pytest.raises(ConfigError, match=said):
        build_rewards(parts({"function": name}), byte_context(tmp_path).engine, never)


def words_folder(folder: Path) -> Path:
    """A tiny llama with a tokenizer of words: nothing that the byte model's tokens could be mistaken for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    save_random(LLAMA, folder)
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}
    vocabulary |= {word: i for i, word in enumerate(["ask", "yes", "no", "User", "Assistant", ":"], start=4)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def trained_scorer(context: Context, folder: Path, model: ModelConfig) -> Path:
    """A reward folder as a run leaves it, with a random head and the scale that its stage measured."""
    handle = context.engine.create(ModelSpec("r", model, ("scalar",)))
    head = context.engine.model(handle).scalar  # type: ignore[attr-defined]
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, head.weight.numel()).view_as(head.weight))
    context.engine.save(handle, folder / "model")
    (folder / "done.json").write_text(json.dumps({"score_mean": 0.5, "score_std": 2.0}), encoding="utf-8")
    return folder


def test_a_model_of_another_tokenizer_reads_the_text_anew(tmp_path: Path):
    """Its scores are those of its own tokens of the conversation, mixed with a rule on the policy's."""
    context = byte_context(tmp_path)
    other = ModelConfig(name=str(words_folder(tmp_path / "words")), lora=None, dtype="float32")
    folder = trained_scorer(context, tmp_path / "reward_model", other)
    mix = build_rewards(
        parts({"model": str(folder), "weight": 3.0}, {"function": "scoring_functions:brevity"}), context.engine, never
    )
    rollouts = [rollout("yes"), rollout("no no")]
    found = mix.score(rollouts)
    tokenizer = HfTokenizer(tmp_path / "words")
    alone = open_reward_model(context.engine, folder / "model")
    assert isinstance(alone, RewardModel)
    for r in rollouts:
        tokens = tokenizer.render(r.messages)[0]
        end = len(tokens) - tokens[::-1].index(tokenizer.eos_id)
        assert read_rollout(alone.tokenizer, r).tolist() == tokens[:end]
    assert found[0].parts["model"] != found[1].parts["model"]
    for score, single in zip(found, alone.score(rollouts), strict=True):
        assert score.parts["model"] == single.value == pytest.approx((single.parts["raw"] - 0.5) / 2)
        assert score.value == pytest.approx(3 * single.value + score.parts["function"])


def test_a_folder_without_a_reward_model_is_refused(tmp_path: Path):
    context = byte_context(tmp_path)
    with pytest.raises(ConfigError, match="no reward model at"):
        open_reward_model(context.engine, tmp_path / "nowhere")
    policy = context.engine.create(ModelSpec("p", context.model))
    context.engine.save(policy, tmp_path / "policy")
    with pytest.raises(ConfigError, match="without a scalar head"):
        open_reward_model(context.engine, tmp_path / "policy")
