"""Sums that do not depend on the order of their terms, against fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from thumbs.engine.sums import ExactSums


def parameter(grad: torch.Tensor | None) -> nn.Parameter:
    made = nn.Parameter(torch.zeros(1 if grad is None else len(grad)))
    made.grad = grad
    return made


def total(terms: torch.Tensor, parts: list[list[int]]) -> torch.Tensor:
    """The sum of the terms [M, N] as `parts` of them, each of which is a rank's or a call's."""
    whole, like = ExactSums(), {"w": parameter(terms[0].clone())}
    for part in parts:
        own = ExactSums()
        for place in part:
            own.take({"w": parameter(terms[place].clone())})
        whole.merge(own)
    return whole.totals(like, 1)["w"]


def test_the_sum_is_the_fraction_rounded_once_in_any_order():
    """Terms of very different sizes, some of which cancel."""
    generator = np.random.default_rng(0)
    numbers = generator.normal(size=(12, 400)) * 10.0 ** generator.integers(-9, 9, size=(12, 400))
    numbers[6:] -= numbers[:6] * (generator.random((6, 400)) < 0.5)
    terms = torch.tensor(numbers, dtype=torch.float32)
    wanted = [np.float32(float(sum(Fraction(float(x)) for x in column))) for column in terms.T]
    for _ in range(5):
        order = generator.permutation(12).tolist()
        cut = int(generator.integers(1, 11))
        assert total(terms, [order[:cut], order[cut:]]).tolist() == [float(x) for x in wanted]
    assert total(terms, [list(range(12))]).tolist() == [float(x) for x in wanted]


def test_a_plain_sum_in_float64_would_depend_on_the_order():
    """What the pairs are for: 2⁶⁰ + 1 - 2⁶⁰."""
    terms = torch.tensor([[2.0**60], [1.0], [-(2.0**60)]])
    assert terms.double().sum(0).item() == 0.0
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        assert total(terms, [order]).item() == 1.0


def test_a_parameter_without_a_gradient_has_no_sum():
    sums = ExactSums()
    trained = {"a": parameter(torch.ones(3)), "b": parameter(None), "c": parameter(torch.zeros(2))}
    sums.take(trained)
    assert all(p.grad is None for p in trained.values())
    assert {name: x.tolist() for name, x in sums.totals(trained, 1).items()} == {"a": [1, 1, 1], "c": [0, 0]}
    assert ExactSums().totals(trained, 1) == {}


def test_what_float32_cannot_hold_becomes_infinite():
    assert math.isinf(total(torch.full((4, 1), 3e38), [[0, 1, 2, 3]]).item())
    assert not math.isfinite(total(torch.tensor([[math.inf], [1.0]]), [[0, 1]]).item())
