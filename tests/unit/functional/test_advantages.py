"""gae against the table of the tutorial, the sum in the paper, and its two limits."""

from __future__ import annotations

import math

import pytest
import torch

import oracles.gae
import oracles.groups
from thumbs.config.group_methods import Advantage
from thumbs.functional.advantages import (
    gae,
    group_advantages,
    importance_weights,
    leave_one_out,
    returns_to_go,
    truncated_importance,
)
from thumbs.functional.masked import whiten
from thumbs.stages.group import ADVANTAGES


def test_table_by_hand() -> None:
    rewards = torch.tensor([[0, -0.01, -0.02, -0.03, 1.2], [0, -0.005, -0.015, -0.025, 0.8]])
    values = torch.tensor([[0, 0.8, 0.6, 0.4, 0.2], [0, 0.7, 0.5, 0.3, 0.1]])
    advantages, returns = gae(rewards, values, torch.ones(2, 5), 0.99, 0.95)
    expected = [[0.9801, 0.2, 0.4423, 0.7085, 1.0], [0.6623, -0.0326, 0.1886, 0.4323, 0.7]]
    expected_returns = [[0.9801, 1, 1.0423, 1.1085, 1.2], [0.6623, 0.6674, 0.6886, 0.7323, 0.8]]
    torch.testing.assert_close(advantages, torch.tensor(expected), atol=5.1e-5, rtol=0)
    torch.testing.assert_close(returns, torch.tensor(expected_returns), atol=5.1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_sum_of_the_paper_with_holes_and_padding(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 4, 9, generator=rng, dtype=torch.float64)
    mask = (torch.rand(4, 9, generator=rng) < 0.6).double()
    mask[3] = 0
    advantages, returns = gae(rewards, values, mask, 0.9, 0.8)
    for b in range(4):
        expected, expected_returns = oracles.gae.gae_row(
            rewards[b].tolist(), values[b].tolist(), mask[b].tolist(), 0.9, 0.8
        )
        assert advantages[b].tolist() == pytest.approx(expected, abs=1e-12)
        assert returns[b].tolist() == pytest.approx(expected_returns, abs=1e-12)


def test_tool_text_between_does_not_count() -> None:
    dense = gae(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.3]]), torch.ones(1, 2), 0.9, 0.8)
    nan = float("nan")
    holes = gae(
        torch.tensor([[nan, 1.0, 7.0, 2.0, nan]]),
        torch.tensor([[3.0, 0.5, nan, 0.3, 4.0]]),
        torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0]]),
        0.9,
        0.8,
    )
    for short, long in zip(dense, holes, strict=True):
        assert long[0, [1, 3]].tolist() == short[0].tolist()
        assert long[0, [0, 2, 4]].tolist() == [0.0, 0.0, 0.0]


def test_lambda_one_is_the_discounted_sum_and_lambda_zero_one_step() -> None:
    rewards, values, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[3.0, 5.0, 6.0]]), torch.ones(1, 3)
    assert gae(rewards, values, mask, 0.5, 1.0)[1].tolist() == [[3.0, 4.0, 4.0]]
    assert gae(rewards, values, mask, 0.5, 0.0)[0].tolist() == [[0.5, 0.0, -2.0]]


def test_advantages_in_a_group_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    deviation = (14 / 3) ** 0.5  # of the first group: squares 4 + 1 + 0 + 9, divided by 3
    centred = torch.tensor([[-2.0, -1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(group_advantages(scores, scale=False), centred)
    torch.testing.assert_close(group_advantages(scores), centred / (deviation + 1e-4))


@pytest.mark.parametrize("seed", range(3))
def test_baselines_equal_the_slow_loops(seed: int) -> None:
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for found, slow in (
        (group_advantages(scores), oracles.groups.group),
        (group_advantages(scores, scale=False), oracles.groups.centred),
        (leave_one_out(scores), oracles.groups.leave_one_out),
    ):
        expected = [slow(row) for row in scores.tolist()]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_leave_one_out_by_hand() -> None:
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]]))


def test_returns_to_go_leave_out_what_was_not_sampled() -> None:
    nan = float("nan")
    rewards, mask = torch.tensor([[nan, 1.0, 7.0, 2.0, 4.0]]), torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0]])
    assert returns_to_go(rewards, mask).tolist() == [[0.0, 7.0, 0.0, 6.0, 4.0]]


def test_importance_is_cut_above_only() -> None:
    new, old = torch.tensor([-1.0, -2.0, -1.0]), torch.tensor([-1.5, -1.0, -3.0])
    found = truncated_importance(new, old, 2.0)
    assert found.tolist() == pytest.approx([1.6487213, 0.3678794, 2.0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cap", [1.05, 1.5, 3.0])
def test_masks_of_tokens_and_of_replies_against_a_loop(seed: int, cap: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    new, old = -torch.rand(2, 6, 8, generator=rng, dtype=torch.float64) * 4
    old[:3] = new[:3] + (old[:3] - new[:3]) / 20  # near the policy
    mask = (torch.rand(6, 8, generator=rng) < 0.7).double()
    mask[5] = 0.0
    tokens, replies = ([[0.0] * 8 for _ in range(6)] for _ in range(2))
    for b in range(6):
        places = [t for t in range(8) if mask[b, t]]
        product = 1.0
        for t in places:
            ratio = math.exp(float(new[b, t])) / math.exp(float(old[b, t]))
            product *= ratio
            tokens[b][t] = ratio if 1 / cap <= ratio <= cap else 0.0
            replies[b][t] = ratio
        if places and not 1 / cap <= product ** (1 / len(places)) <= cap:
            replies[b] = [0.0] * 8
    for name, expected in (("mask_tokens", tokens), ("mask_replies", replies)):
        found = importance_weights(name, new, old, mask, cap) * mask
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    counted = [sum(w == 0 and m == 1 for w, m in zip(row, at, strict=True))
               for row, at in zip([*tokens, *replies], [*mask.tolist()] * 2, strict=True)]  # fmt: skip
    assert sum(counted) > 0


def test_what_stands_outside_the_mask_masks_no_reply() -> None:
    new, mask = torch.tensor([[50.0, -1.0, -1.0, float("nan")]]), torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    found = importance_weights("mask_replies", new, torch.tensor([[0.0, -1.02, -0.99, 0.0]]), mask, 1.01)
    assert found[0, 1:3].tolist() == pytest.approx([math.exp(0.02), math.exp(-0.01)])


EQUAL = (-1e30, -12345.678, -0.1, 0.0, 1e-30, 0.1, 100.1, 1000.1, 12345.678, 1e6, 3e37)


@pytest.mark.parametrize("size", [2, 3, 7, 8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_have_no_advantage_however_large_they_are(size: int, dtype: torch.dtype) -> None:
    scores = torch.tensor(EQUAL, dtype=dtype)[:, None].repeat(1, size)
    for advantages in (group_advantages(scores), group_advantages(scores, scale=False), leave_one_out(scores)):
        assert advantages.tolist() == torch.zeros_like(scores).tolist()
    for row in scores:
        mask = torch.ones(len(row), dtype=dtype)
        assert whiten(row, mask).tolist() == [0.0] * len(row)
        assert whiten(row, mask, shift_mean=False).tolist() == row.tolist()


@pytest.mark.parametrize("method", sorted(ADVANTAGES))
@pytest.mark.parametrize("score", EQUAL)
def test_no_method_learns_from_groups_of_equal_scores(method: Advantage, score: float) -> None:
    mask = torch.tensor([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    rewards = torch.tensor([[0.0, 0.0, score]] * 4) * mask
    if method == "batch":  # without groups, a batch of one score
        rewards, mask = rewards[:, 2:], mask[:, 2:]
    assert ADVANTAGES[method](rewards, mask, 2).abs().max() == 0.0
