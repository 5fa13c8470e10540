"""Preferences: comparisons and judges by hand, DPO's loss against its formula, learning, resuming, tournaments."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from pathlib import Path

import chz
import numpy as np
import pytest
import torch
from fake_service import FakeSamplingClient, FakeServiceClient
from test_recipe_renderers import RENDERERS, TOKENIZERS

from thumbs.clients.types import ModelInput
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.completers import TokensWithLogprobs
from thumbs.recipe.preference import train_dpo
from thumbs.recipe.preference.data import (
    ChatDatasetBuilderFromComparisons,
    ComparisonBuilderFromJsonl,
    DPODatasetBuilderFromComparisons,
)
from thumbs.recipe.preference.types import (
    Comparison,
    ComparisonRendererFromChatRenderer,
    LabeledComparison,
    PreferenceModel,
    PreferenceModelBuilder,
    PreferenceModelBuilderFromChatRenderer,
    PreferenceModelFromChatRenderer,
)
from thumbs.recipe.renderers import get_renderer
from thumbs.recipe.rl import train as rl_train
from thumbs.recipe.rl.preference_envs import (
    PairwisePreferenceGroupBuilder,
    PairwisePreferenceRLDatasetBuilder,
    TournamentPattern,
    get_pairs,
)
from thumbs.recipe.rl.types import Trajectory, Transition
from thumbs.recipe.supervised.types import ChatDatasetBuilderCommonConfig

BYTES = get_renderer("chat_template", ByteTokenizer())
COMMON = ChatDatasetBuilderCommonConfig(
    model_name_for_tokenizer="byte-tiny", renderer_name="chat_template", max_length=200, batch_size=2
)


def comparison(a: str = "aaa", b: str = "zzz", prompt: str = "q") -> Comparison:
    return Comparison(
        [{"role": "user", "content": prompt}],
        [{"role": "assistant", "content": a}],
        [{"role": "assistant", "content": b}],
    )


def rows(path: Path, labels: list[str]) -> str:
    content = ""
    for number, label in enumerate(labels):
        one = comparison("aaa", "zzz") if label != "B" else comparison("zzz", "aaa")
        parts = {name: getattr(one, name) for name in ("prompt_conversation", "completion_A", "completion_B")}
        content += json.dumps({"comparison": parts, "label": label, "annotator": str(number)}) + "\n"
    path.write_text(content)
    return str(path)


@pytest.fixture
def comparisons(tmp_path: Path) -> ComparisonBuilderFromJsonl:
    return ComparisonBuilderFromJsonl(
        train_path=rows(tmp_path / "train.jsonl", ["A", "B", "Tie", "A", "B"]),
        test_path=rows(tmp_path / "test.jsonl", ["A", "B", "Tie"]),
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_swapping_a_comparison_swaps_its_label() -> None:
    one = LabeledComparison(comparison("x", "y"), "A")
    assert one.swap() == LabeledComparison(comparison("y", "x"), "B")
    assert LabeledComparison(comparison(), "Tie").swap().label == "Tie"
    with pytest.raises(DataError, match="'A', 'B' or 'Tie'"):
        LabeledComparison(comparison(), "C")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RENDERERS)
def test_a_judge_learns_the_label_and_nothing_else(name: str) -> None:
    renderer = ComparisonRendererFromChatRenderer(RENDERERS[name])
    prompt = renderer.build_generation_prompt(comparison()).to_ints()
    for label in "AB":
        tokens, weights = renderer.to_model_input_weights(LabeledComparison(comparison(), label))
        assert tokens.to_ints()[:-1] == prompt
        assert TOKENIZERS[name].decode(tokens.to_ints()[-1:]) == label
        assert weights.tolist() == [0.0] * len(prompt) + [1.0]
    assert "==== Preference ====" in TOKENIZERS[name].decode(prompt)
    with pytest.raises(DataError, match="a tie has no label"):
        renderer.to_model_input_weights(LabeledComparison(comparison(), "Tie"))


def test_a_judge_gives_its_probability() -> None:
    table = np.zeros((260, 260))
    table[ByteTokenizer.SEP, ord("B")] = 1.5
    sampler = FakeSamplingClient(FakeServiceClient(), table)
    verdict = asyncio.run(PreferenceModelFromChatRenderer(BYTES, sampler)(comparison()))
    assert verdict == pytest.approx(2 / (1 + math.exp(-1.5)) - 1)


def test_datasets_of_comparisons(comparisons: ComparisonBuilderFromJsonl) -> None:
    train, test = DPODatasetBuilderFromComparisons(common_config=COMMON, comparison_builder=comparisons)()
    assert (len(train), len(test)) == (2, 1)  # without the tie
    for datum, text in zip(train.get_batch(0), ["aaa", "zzz"] * 2, strict=True):
        targets, weights = (datum.loss_fn_inputs[name].to_numpy() for name in ("target_tokens", "weights"))
        assert ByteTokenizer().decode(targets[weights == 1]) == text
        assert weights.sum() == 4  # with the end of the reply: not normalised
    judge, _ = ChatDatasetBuilderFromComparisons(common_config=COMMON, comparison_builder=comparisons, swap=True)()
    labels = [chr(datum.loss_fn_inputs["target_tokens"].tolist()[-1]) for datum in judge.get_batch(0)]
    assert labels == ["A", "B", "B", "A"]
    short = chz.replace(COMMON, max_length=20)
    assert (
        ChatDatasetBuilderFromComparisons(common_config=short, comparison_builder=comparisons)()[0].get_batch(0) == []
    )
    swapped = chz.replace(comparisons, swap=True).get_labeled_comparisons()[0]
    assert [one.label for one in swapped] == ["A", "B", "Tie", "A", "B", "B", "A", "Tie", "B", "A"]


def test_a_broken_comparison_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"comparison": {"prompt_conversation": []}, "label": "A"}\n')
    with pytest.raises(DataError, match="lacks 'completion_A'"):
        ComparisonBuilderFromJsonl(train_path=str(path)).get_labeled_comparisons()


def test_dpo_loss_by_its_formula() -> None:
    chosen, rejected, chosen_ref, rejected_ref = (
        [torch.tensor(value) for value in values] for values in ([-1.0, -2.0], [-3.0, -1.0], [-2.0, -2.0], [-2.0, -2.0])
    )
    loss, metrics = train_dpo.compute_dpo_loss(chosen, rejected, chosen_ref, rejected_ref, 0.5)
    margins = [0.5 * (1 - -1), 0.5 * (0 - 1)]
    assert float(loss) == pytest.approx(sum(math.log(1 + math.exp(-m)) for m in margins) / 2)
    assert metrics == pytest.approx(
        {
            "dpo_loss": float(loss),
            "accuracy": 0.5,
            "margin": sum(margins) / 2,
            "chosen_reward": 0.25,
            "rejected_reward": 0.0,
        }
    )


def config(log_path: Path, comparisons: ComparisonBuilderFromJsonl, **fields) -> train_dpo.Config:
    builder = DPODatasetBuilderFromComparisons(common_config=COMMON, comparison_builder=comparisons)
    fields = {"learning_rate": 0.1, "num_epochs": 4, "eval_every": 4, "save_every": 0, **fields}
    return train_dpo.Config(log_path=str(log_path), model_name="byte-tiny", dataset_builder=builder, **fields)


def without_times(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in records]


def test_dpo_margin_rises(tmp_path: Path, comparisons: ComparisonBuilderFromJsonl) -> None:
    service = FakeServiceClient()
    train_dpo.main(config(tmp_path / "run", comparisons), service)
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(9))
    assert metrics[0]["dpo_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert metrics[0]["margin"] == pytest.approx(0, abs=1e-6)
    assert metrics[7]["margin"] > 0.1
    assert metrics[7]["dpo_loss"] < metrics[0]["dpo_loss"]
    assert [row["step"] for row in metrics if "test/accuracy" in row] == [0, 4, 8]
    assert (metrics[0]["test/accuracy"], metrics[8]["test/accuracy"]) == (0.0, 1.0)
    assert (metrics[0]["num_pairs"], metrics[8]["test/margin"] > 0.1) == (2, True)
    assert service.calls.count("compute_logprobs") == 2  # two different completions, asked for once in four epochs
    assert lines(tmp_path / "run" / "checkpoints.jsonl")[-1]["reference_path"].endswith("/reference")


def test_a_resumed_dpo_run_keeps_its_reference(tmp_path: Path, comparisons: ComparisonBuilderFromJsonl) -> None:
    train_dpo.main(config(tmp_path / "whole", comparisons), FakeServiceClient())
    service = FakeServiceClient()
    train_dpo.main(config(tmp_path / "parts", comparisons, max_steps=3), service)
    train_dpo.main(config(tmp_path / "parts", comparisons), service)
    expected = without_times(lines(tmp_path / "whole" / "metrics.jsonl"))
    assert without_times(lines(tmp_path / "parts" / "metrics.jsonl")) == expected


def test_dpo_refuses_what_is_not_pairs(tmp_path: Path, comparisons: ComparisonBuilderFromJsonl) -> None:
    settings = config(tmp_path, comparisons)
    judge = ChatDatasetBuilderFromComparisons(
        common_config=chz.replace(COMMON, batch_size=3), comparison_builder=comparisons
    )
    with pytest.raises(DataError, match="3 datums; it needs pairs"):
        train_dpo.main(chz.replace(settings, dataset_builder=judge, eval_every=0), FakeServiceClient())


def test_a_state_path_is_no_judge() -> None:
    builder = PreferenceModelBuilderFromChatRenderer(
        renderer_name="role_colon", model_name="byte-tiny", rm_weights_path="tinker://x/weights/y"
    )
    with pytest.raises(ConfigError, match="sampler_path"):
        builder()


@dataclass
class Longer(PreferenceModel):
    """Prefers the longer completion, and counts how many matches are judged at the same time."""

    running: int = 0
    most: int = 0

    async def __call__(self, comparison: Comparison) -> float:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        a, b = (len(side[0]["content"]) for side in (comparison.completion_A, comparison.completion_B))
        return float(np.sign(b - a))


def episode(text: bytes, ended: bool = True) -> Trajectory:
    tokens = [*text, *([ByteTokenizer.EOS] if ended else [])]
    ac = TokensWithLogprobs(tokens, [0.0] * len(tokens))
    return Trajectory([Transition(ModelInput.from_ints([1]), ac, 0.0, True)], ModelInput.empty())


@pytest.mark.parametrize("pattern", list(TournamentPattern))
def test_a_tournament_by_hand(pattern: TournamentPattern) -> None:
    judge = Longer()
    builder = PairwisePreferenceGroupBuilder([{"role": "user", "content": "q"}], BYTES, pattern, judge, 3)
    rewards = asyncio.run(builder.compute_group_rewards([episode(b"aa"), episode(b"a"), episode(b"aaa", False)], []))
    assert [reward for reward, _ in rewards] == [0.0, -1.0, 1.0 - 1.0]
    assert rewards[2][1] == {"reward/tournament": 1.0, "reward/format": -1.0}
    assert judge.most == len(get_pairs(3, pattern)) == (6 if pattern == "all_pairs_both_ways" else 3)
    doubled = PairwisePreferenceGroupBuilder(
        [{"role": "user", "content": "q"}], BYTES, pattern, judge, 2, content_preprocessor=lambda text: text[:1]
    )
    assert [r for r, _ in asyncio.run(doubled.compute_group_rewards([episode(b"aa"), episode(b"a")], []))] == [0, 0]


def test_rl_from_tournaments(tmp_path: Path, comparisons: ComparisonBuilderFromJsonl) -> None:
    class Judges(PreferenceModelBuilder):
        def __call__(self):
            return Longer()

    builder = PairwisePreferenceRLDatasetBuilder(
        comparison_builder=comparisons,
        batch_size=5,
        policy_renderer_name="chat_template",
        policy_model_name="byte-tiny",
        group_size=4,
        preference_model_builder=Judges(),
    )
    settings = rl_train.Config(
        log_path=str(tmp_path / "run"),
        model_name="byte-tiny",
        dataset_builder=builder,
        learning_rate=0.1,
        max_tokens=4,
    )
    asyncio.run(rl_train.main(settings, FakeServiceClient()))
    (row, final) = lines(tmp_path / "run" / "metrics.jsonl")
    assert row["env/all/total_episodes"] == 20
    assert row["env/all/reward/tournament"] == pytest.approx(0)  # who wins, another loses
    assert final["test/env/all/total_episodes"] == 12
    with pytest.raises(ConfigError, match="at least 2 replies"):
        asyncio.run(chz.replace(builder, group_size=1)())
