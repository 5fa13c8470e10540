"""A constraint on the task of `thumbs lab constraint`, where the best policy under the limit is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from thumbs.lab import constraint
from thumbs.lab.constraint import LIMIT, World


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["ppo", "group"])
def test_the_limit_is_held_near_the_best_policy(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constraint, "STEPS", 120)
    found = World(tmp_path, 7).train(method, "lagrangian")
    assert min(found.start_cost, found.free_cost) > 5 * LIMIT, "the limit must ask for something"
    assert found.cost < 1.2 * LIMIT
    assert found.distance < 0.06
    assert found.multiplier == pytest.approx(found.best_multiplier, rel=0.2)
