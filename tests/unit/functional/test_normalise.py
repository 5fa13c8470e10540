"""Weights by hand."""

from __future__ import annotations

import pytest
import torch

from thumbs.functional.normalise import length_mean_weights, sequence_mean_weights, token_mean_weights

MASKS = [torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, 0.0]), torch.zeros(3)]


def test_token_mean() -> None:
    weights = [w.tolist() for w in token_mean_weights(MASKS)]
    assert weights == [[0.0, 0.25, 0.25, 0.25], [0.25, 0.0], [0.0, 0.0, 0.0]]


def test_sequence_mean_counts_each_reply_once_and_empty_ones_not_at_all() -> None:
    weights = sequence_mean_weights(MASKS)
    assert weights[0].tolist() == pytest.approx([0.0, 1 / 6, 1 / 6, 1 / 6])
    assert weights[1].tolist() == [0.5, 0.0]
    assert weights[2].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("weigh", [token_mean_weights, sequence_mean_weights])
def test_one_token_weighs_everything(weigh) -> None:  # type: ignore[no-untyped-def]
    assert [w.tolist() for w in weigh([torch.tensor([0.0, 1.0])])] == [[0.0, 1.0]]


@pytest.mark.parametrize("weigh", [token_mean_weights, sequence_mean_weights])
def test_nothing_to_weigh(weigh) -> None:  # type: ignore[no-untyped-def]
    assert [w.tolist() for w in weigh([torch.zeros(2)])] == [[0.0, 0.0]]


def test_a_constant_length_divides_whatever_the_replies_are() -> None:
    weights = [w.tolist() for w in length_mean_weights(MASKS, 8)]
    assert weights == [[0.0, 0.0625, 0.0625, 0.0625], [0.0625, 0.0], [0.0, 0.0, 0.0]]
    assert length_mean_weights(MASKS, 1)[1].tolist() == [0.5, 0.0]
    assert length_mean_weights([torch.zeros(2)], 4)[0].tolist() == [0.0, 0.0]
