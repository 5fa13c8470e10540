"""The lab of the constraint: its best policy against conditions that only the best one meets, and its command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.lab import constraint
from thumbs.lab.constraint import BETA, COSTS, QUESTIONS, SCORES, Constrained, optimum, table


def worth(policy: np.ndarray, reference: np.ndarray, scores: np.ndarray) -> float:
    return float((policy * scores - BETA * policy * np.log(policy / reference)).sum(axis=1).mean())


@pytest.mark.parametrize("limit", [0.05, 0.2])
def test_the_best_policy_is_what_a_general_optimiser_finds(limit: float):
    reference = np.random.default_rng(0).dirichlet(np.full(8, 5.0), size=2)
    letters = np.frombuffer(constraint.LETTERS.encode(), np.uint8)
    scores, costs = (np.array([table(q.id, v, 260)[letters] for q in QUESTIONS]) for v in (SCORES, COSTS))
    multiplier, best = optimum(reference, scores, costs, limit)
    assert multiplier > 0
    assert (best * costs).sum(axis=1).mean() == pytest.approx(limit, abs=1e-9)
    found = minimize(
        lambda x: -worth(x.reshape(2, 8), reference, scores),
        reference.ravel(),
        bounds=[(1e-9, 1)] * 16,
        constraints=[
            {"type": "eq", "fun": lambda x: x.reshape(2, 8).sum(axis=1) - 1},
            {"type": "ineq", "fun": lambda x: limit - (x.reshape(2, 8) * costs).sum(axis=1).mean()},
        ],
        options={"maxiter": 500, "ftol": 1e-12},
    )
    np.testing.assert_allclose(found.x.reshape(2, 8), best, atol=2e-3)


def test_a_limit_that_costs_nothing_leaves_lambda_at_zero():
    reference = np.full((2, 8), 1 / 8)
    scores, costs = np.zeros((2, 8)), np.tile(np.linspace(0, 1, 8), (2, 1))
    multiplier, best = optimum(reference, scores, costs, 0.6)
    assert multiplier == 0
    np.testing.assert_allclose(best, reference)


@pytest.mark.timeout(300)
def test_the_command_says_what_is_met_and_ends_with_1_if_something_is_not(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(constraint, "WORKER", "unit.lab.stand_in:Limited")
    for seeds, code, said in (("1", 0, "group.constraint: cost at most 0.055"), ("2", 1, "1 of 2 (not met)")):
        result = CliRunner().invoke(app, ["lab", "constraint", "--seeds", seeds, "--out", str(tmp_path)])
        assert result.exit_code == code, result.output
        assert said in result.output
        assert (
            f"ppo.constraint: cost at most 0.055 and distance at most 0.05: {seeds} of {seeds} (met)" in result.output
        )
    kept = json.loads((tmp_path / "constraint.json").read_text(encoding="utf-8"))
    assert [run["met"] for run in kept["runs"]] == [True, True, False, True, False, False]


@pytest.mark.parametrize(
    ("cost", "distance", "met"), [(0.055, 0.05, True), (0.0551, 0.01, False), (0.04, 0.051, False)]
)
def test_a_run_holds_by_cost_and_by_distance(cost: float, distance: float, met: bool):
    assert Constrained(0, "ppo", "lagrangian", 1.0, cost, distance, 1.0, 0.4, 0.9).met is met
