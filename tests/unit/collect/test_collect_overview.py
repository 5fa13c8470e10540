"""Progress, lists of items and kept statistics against slow counts over the whole database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from collect_world import Clock, first_is_better, pair, person, project_of_pairs
from thumbs.collect.items import Wanted
from thumbs.collect.overview import ProjectProgress, progress
from thumbs.collect.overview_numbers import Snapshots, Tape, make_numbers
from thumbs.collect.records import Answer, Effort, ItemRecord, Vote
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import ITEMS
from thumbs.collect.web.charts import Column, round_up
from thumbs.collect.web.render import environment

SKIP = {"verdict": "skip", "skip_reason": "unclear"}


def judge(store: CollectStore, project: int, account: int, *bodies: dict | None) -> None:
    """The person's next tasks, answered so; None: the first reply is better."""
    for place, body in enumerate(bodies):
        task = store.work.claim(project, account)
        answer = first_is_better(task) if body is None else body
        store.work.submit(task.assignment, account, f"key-of-{account}-{place}", answer, Effort(4000, 5000))


def test_progress_counts_what_is_there(store: CollectStore):
    made = project_of_pairs(store, 5, overlap=2)
    empty = project_of_pairs(store, 1, slug="other")
    store.items.add(made.id, [pair(77, role="gold", gold=Answer("prefer", -1))])
    ann, ben = person(store, "ann"), person(store, "ben")
    judge(store, made.id, ann, None, None, SKIP)
    judge(store, made.id, ben, None, SKIP, SKIP)
    store.work.claim(made.id, ben)
    retired = [item.id for item in store.items.page(made.id) if item.role == "work"][-1]
    store.items.retire([retired])
    found = progress(store.db)
    # Item 1 has both, item 2 one and a skip, item 3 two skips: nobody is left for 2 and 3. Item 4 is with ben.
    assert found[made.id] == ProjectProgress(open=3, done=1, retired=1, given=3, wanted=8, live=1, stuck=2, known=1)
    assert found[made.id].share == pytest.approx(3 / 8)
    assert found[empty.id] == ProjectProgress(open=1, wanted=1)
    assert progress(store.db, empty.id) == {empty.id: found[empty.id]}


def test_more_judgements_than_wanted_count_as_wanted(store: CollectStore):
    made = project_of_pairs(store, 1, overlap=2)
    judge(store, made.id, person(store, "ann"), None)
    judge(store, made.id, person(store, "ben"), None)
    store.items.set_target(made.id, 1)
    assert progress(store.db, made.id)[made.id].given == 1


WANTED = (
    Wanted(),
    Wanted(state="open"),
    Wanted(role="gold"),
    Wanted(state="done", role="work"),
    Wanted(skipped=True),
    Wanted(judged=True),
    Wanted(stuck=True),
    Wanted(ids=(2, 3, 5, 8)),
    Wanted(ids=(2, 3, 5, 8), state="open", skipped=True),
    Wanted(ids=()),
)


def test_pages_of_items_together_are_the_whole_list(store: CollectStore):
    made = project_of_pairs(store, 8)
    project_of_pairs(store, 2, slug="other")
    store.items.add(made.id, [pair(70 + i, role="gold", gold=Answer("prefer", -1)) for i in range(3)])
    judge(store, made.id, person(store, "ann"), None, SKIP, None, SKIP, None)
    store.items.retire([2])

    def fits(item: ItemRecord, wanted: Wanted) -> bool:
        return (
            wanted.state in (None, item.state)
            and wanted.role in (None, item.role)
            and (not wanted.skipped or item.n_skip > 0)
            and (not wanted.judged or item.n_done > 0)
            and (not wanted.stuck or (item.state == "open" and item.n_skip == 1))  # ann is all there are
            and (wanted.ids is None or item.id in wanted.ids)
        )

    ids = store.db.values(select(ITEMS.c.id).where(ITEMS.c.project_id == made.id).order_by(ITEMS.c.id))
    for wanted in WANTED:
        paged: list[int] = []
        while page := store.items.page(made.id, wanted, paged[-1] if paged else 0, 2):
            paged += [item.id for item in page]
        assert paged == [item.id for item in map(store.items.get, ids) if fits(item, wanted)], wanted


def vote(number: int, at: datetime, answer: Answer, display=(0, 1), active_ms: int = 4000) -> Vote:
    return Vote(number, f"a{number}", 1, 1, 1, 1, answer, display, active_ms, 9000, False, at)


def test_the_tape_counts_hours_sides_and_seconds():
    now = datetime(2026, 1, 8, tzinfo=UTC)
    given = [
        vote(1, now - timedelta(days=8), Answer("tie"), active_ms=1000),
        vote(2, now - timedelta(hours=30), Answer("prefer", -2), active_ms=7000),
        vote(3, now - timedelta(minutes=90), Answer("prefer", -2), display=(1, 0), active_ms=9000),
        vote(4, now - timedelta(minutes=30), Answer("skip", skip_reason="language")),
        vote(5, now - timedelta(minutes=1), Answer("prefer", 3, flags=((), ("bad",))), active_ms=500_000),
    ]
    tape = Tape()
    assert list(tape.votes(given)) == given
    tape.close()
    hours = tape.hours(now)
    assert len(hours) == 7 * 24
    assert hours[-1] == 2  # within the last hour
    assert hours[-2] == 1
    assert hours[-31] == 1 or hours[-30] == 1
    assert sum(hours) == 4
    assert tape.rate(now) == pytest.approx(3 / 24)
    assert tape.rate(now - timedelta(days=8) + timedelta(hours=2)) == pytest.approx(1 / 2)  # since the first
    assert tape.rate(now + timedelta(days=3)) == 0
    assert tape.shown == {-2: 1, 2: 1, 3: 1}
    assert tape.bins == (1, 2, 0, 0, 0, 0, 0, 1)
    assert tape.quartiles[1] == pytest.approx(8.0)
    assert (tape.answers, tape.skips["language"], tape.flags["bad"], tape.flagged) == (4, 1, 1, {1})


def test_an_empty_project_has_numbers_that_say_so(store: CollectStore):
    made = project_of_pairs(store, 1)
    numbers = make_numbers(store, made.id)
    assert numbers.votes == 0
    assert numbers.tape.quartiles == ()
    assert numbers.overall.alpha.value is None
    assert numbers.share_of("skip").value is None
    assert numbers.boards[""] == []


@dataclass
class Made:
    watermark: int


class Slow:
    """Statistics that wait until they are allowed to be ready."""

    def __init__(self, store: CollectStore) -> None:
        self.store, self.calls, self.allowed = store, 0, threading.Event()
        self.allowed.set()
        self.fails = False

    def __call__(self, project_id: int) -> Made:
        self.calls += 1
        assert self.allowed.wait(10)
        if self.fails:
            raise ValueError("the numbers are odd")
        return Made(self.store.votes.watermark(project_id))


@pytest.fixture
def slow(store: CollectStore) -> Iterator[Slow]:
    made = Slow(store)
    yield made
    made.allowed.set()


def test_a_small_project_is_up_to_date_at_once_and_counted_once(store: CollectStore, slow: Slow):
    made = project_of_pairs(store, 3)
    kept = Snapshots(store.db, slow)
    ann = person(store, "ann")
    judge(store, made.id, ann, None)
    assert kept.of(made.id).numbers == Made(1)
    assert kept.of(made.id).coming is False
    assert slow.calls == 1
    judge(store, made.id, person(store, "ben"), None)
    assert kept.of(made.id).numbers == Made(2)
    assert slow.calls == 2


def test_a_large_project_shows_the_last_numbers_while_new_ones_are_made(
    store: CollectStore, slow: Slow, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("thumbs.collect.overview_numbers.AT_ONCE", 1)
    made = project_of_pairs(store, 9)
    clock = Clock()
    kept = Snapshots(store.db, slow, lambda: clock.now.timestamp())
    judge(store, made.id, person(store, "ann"), None, None)
    slow.allowed.clear()
    first = kept.of(made.id)
    assert (first.numbers, first.coming) == (None, True)
    kept.of(made.id)
    assert slow.calls == 1  # one at a time
    clock.forward(10)
    slow.allowed.set()
    done = kept.wait(made.id)
    assert (done.numbers, done.coming) == (Made(2), False)
    judge(store, made.id, person(store, "ben"), None)
    old = kept.of(made.id)
    assert (old.numbers, old.coming, slow.calls) == (Made(2), True, 1)  # it took 10 s, so it rests for 40
    clock.forward(50)
    kept.of(made.id)
    assert kept.wait(made.id).numbers == Made(3)


def test_what_cannot_be_computed_is_told(store: CollectStore, slow: Slow):
    made = project_of_pairs(store, 1)
    judge(store, made.id, person(store, "ann"), None)
    slow.fails = True
    shown = Snapshots(store.db, slow).of(made.id)
    assert shown.numbers is None
    assert shown.failed == "ValueError: the numbers are odd"
    assert not shown.coming


def test_columns_stand_on_zero_and_end_at_their_value():
    drawn = drawing().columns([Column("x<", 50, "fifty"), Column("", 100, "all")], "about & so")
    assert "style=" not in drawn
    assert 'height="58"' in drawn
    assert 'height="116"' in drawn  # 100 is a round number, so the highest column fills the figure
    assert "about &amp; so" in drawn
    assert "x&lt;" in drawn
    assert ">100<" in drawn


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (3, 4), (7, 10), (101, 200), (0.3, 0.4), (41, 50)])
def test_the_axis_ends_at_a_round_number(value: float, top: float):
    assert round_up(value) == pytest.approx(top)


def test_an_interval_is_drawn_where_it_lies():
    drawn = drawing().interval(0.25, 0.5, 0.75, (0.0, 1.0))
    assert 'x1="53" y1="9" x2="147"' in drawn
    assert 'cx="100"' in drawn


def drawing() -> Any:
    """The macros that draw figures."""
    return environment().get_template("admin/charts.html").module
