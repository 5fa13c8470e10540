"""512 ranks and 256 samplers in virtual time: what a run trains on does not depend on what happens to its machines."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from example_files import FOLDER, load_file

simulated = load_file(FOLDER.parent / "benchmarks" / "simulated.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A simulation with these settings, done once."""

    @cache
    def outcome(**settings: Any) -> Any:
        return simulated.simulate(Path(tmp_path_factory.mktemp("run")), spread=0.6, steps=6, save_every=2, **settings)

    return outcome


def trained_on(outcome: Any) -> list[str]:
    return [found for found, _ in outcome.batches.values()]


def test_rollouts_are_as_old_as_the_schedule_says_and_those_that_it_says(run: Any):
    ages = {k: [age for _, age in run(staleness=k).batches.values()] for k in (0, 1, 3)}
    assert ages == {0: [0] * 6, 1: [0, 1, 1, 1, 1, 1], 3: [0, 1, 2, 3, 3, 3]}
    assert trained_on(run(staleness=0)) == trained_on(run(staleness=1)) == trained_on(run(staleness=3))


def test_sampling_ahead_saves_time_and_never_more_than_there_is(run: Any):
    turns, ahead = run(staleness=0), run(staleness=1)
    assert ahead.seconds < 0.85 * turns.seconds
    assert turns.training < ahead.training <= 1
    assert turns.sampling < ahead.sampling <= 1


def test_what_dead_samplers_had_goes_to_the_others(run: Any):
    """A quarter of the samplers dies in the middle of a step."""
    lost = tuple((5.0 + number % 3, number) for number in range(64))
    hurt = run(staleness=1, lost_samplers=lost)
    assert hurt.resent > 0
    assert trained_on(hurt) == trained_on(run(staleness=1))
    assert hurt.seconds > run(staleness=1).seconds


@pytest.mark.parametrize("staleness", [0, 3])
def test_a_lost_rank_costs_the_steps_since_the_checkpoint_and_no_rollout(run: Any, staleness: int):
    hurt = run(staleness=staleness, lost_ranks=(3, 5))
    assert hurt.repeated == 2  # one each since the checkpoints after steps 2 and 4
    assert hurt.batches == run(staleness=staleness).batches


def test_stragglers_are_cut_by_the_rule_alone(run: Any):
    """In a second, few of the prompts are late beyond half of them; without a limit none is cut."""
    cut = run(staleness=1, cut_after_s=1.0)
    assert run(staleness=1).cut == 0
    assert 0 < cut.cut <= 6 * simulated.PROMPTS // 2
    assert cut.seconds < run(staleness=1).seconds
