"""Masked statistics against numpy on the entries picked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thumbs.functional.masked import masked_mean, masked_sum, masked_var, whiten

X = torch.tensor([[1.0, 2.0, float("nan")], [4.0, 100.0, 9.0]])
MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
KEPT = np.array([1.0, 2.0, 4.0, 9.0])


def test_statistics_ignore_what_is_masked_even_nan() -> None:
    assert masked_sum(X, MASK).item() == 16.0
    assert masked_mean(X, MASK).item() == 4.0
    assert masked_var(X, MASK).item() == pytest.approx(KEPT.var())


def test_one_entry_is_its_own_mean() -> None:
    assert masked_mean(X, torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).item() == 9.0


def test_an_empty_mask_gives_zero() -> None:
    nothing = torch.zeros_like(X)
    assert masked_sum(X, nothing).item() == masked_mean(X, nothing).item() == masked_var(X, nothing).item() == 0.0
    assert whiten(X, nothing).tolist() == nothing.tolist()


def test_whiten_gives_mean_zero_and_deviation_one() -> None:
    white = whiten(X, MASK)
    expected = (KEPT - KEPT.mean()) / KEPT.std()
    assert white[MASK != 0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert white[MASK == 0].tolist() == [0.0, 0.0]


def test_whiten_can_keep_the_mean() -> None:
    white = whiten(X, MASK, shift_mean=False)
    expected = (KEPT - KEPT.mean()) / KEPT.std() + KEPT.mean()
    assert white[MASK != 0].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert white[MASK == 0].tolist() == [0.0, 0.0]


def test_whiten_of_a_constant_is_finite() -> None:
    assert whiten(torch.full((1, 3), 2.0), torch.ones(1, 3)).tolist() == [[0.0, 0.0, 0.0]]
