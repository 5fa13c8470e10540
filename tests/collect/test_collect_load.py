"""The same load as load.py, for seconds: what counts is what the database holds, not how fast it was."""

from __future__ import annotations

import pytest

from collect.load import Load, database, run

HELD = {"lost": 0, "duplicated": 0, "over target": 0, "counters adrift": 0, "integrity": "ok"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(tabs=16, people=4, seconds=3, think=0.1), id="one server"),
        pytest.param(Load(tabs=16, people=4, seconds=6, think=0.1, servers=2, kills=3), id="two servers, killed"),
    ],
)
def test_nothing_is_lost_or_counted_twice(kind: str, load: Load, request: pytest.FixtureRequest):
    if kind == "postgresql":
        request.getfixturevalue("postgres")  # skips where there is none
    with database(kind) as where:
        seen, held = run(where, load)
    assert {name: held[name] for name in HELD} == HELD
    assert held["kept"] == held["acknowledged"] > 20
    assert len(seen.acknowledged) > held["kept"], "some answers were sent twice"
    assert (seen.broken > 0) == (load.kills > 0)
