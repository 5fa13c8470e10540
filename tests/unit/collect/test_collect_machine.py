"""Everything that can happen to a project, in any order, with the invariants written out."""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings, stateful
from hypothesis import strategies as st
from sqlalchemy import func, select

import postgres_server
from collect_world import Clock, first_is_better, pair, person, project_of_pairs
from thumbs.collect.errors import Conflict
from thumbs.collect.records import Task
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import ASSIGNMENTS, ITEMS, JUDGEMENTS

LEASE_S = 60
PEOPLE = 3
EXAMPLES = int(os.environ.get("THUMBS_MACHINE_EXAMPLES", "25"))

people = st.integers(0, PEOPLE - 1)
strengths = st.integers(1, 4)


class Machine(stateful.RuleBasedStateMachine):
    """What the people were told is held against what the database says."""

    where: Callable[[], Any]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = CollectStore(self.where(), clock=self.clock, chance=random.Random(3))
        self.project = project_of_pairs(self.store, 3, overlap=2, lease_s=LEASE_S)
        self.people = [person(self.store, f"person-{i}") for i in range(PEOPLE)]
        self.items = 3
        self.keys = 0
        self.tasks: dict[int, Task] = {}
        """What is on each person's screen."""
        self.acknowledged: dict[str, tuple[str, int, str, int]] = {}
        """(assignment, revision, verdict, canonical strength) by key."""
        self.requests: dict[str, tuple[int, str, int, dict[str, Any]]] = {}
        self.late = 0

    def teardown(self) -> None:
        self.store.close()

    def key(self) -> str:
        self.keys += 1
        return f"key-{self.keys:06d}"

    @stateful.rule(who=people)
    def claim(self, who: int) -> None:
        found = self.store.work.claim(self.project.id, self.people[who])
        if isinstance(found, Task):
            self.tasks[who] = found
        else:
            assert found in ("done", "all_leased")
            self.tasks.pop(who, None)

    @stateful.rule(who=people, strength=strengths, verdict=st.sampled_from(["prefer", "tie", "both_bad", "skip"]))
    def submit(self, who: int, strength: int, verdict: str) -> None:
        task = self.tasks.pop(who, None)
        if task is None:
            return
        self.send(who, task, 0, self.body(task, verdict, strength))

    @stateful.rule(who=people, strength=strengths, verdict=st.sampled_from(["prefer", "tie", "skip"]))
    def revise(self, who: int, strength: int, verdict: str) -> None:
        past = self.store.work.history(self.project.id, self.people[who])
        if past:
            task = self.store.work.show(past[-1].assignment, self.people[who])
            assert task.revision == past[-1].revision
            self.send(who, task, task.revision, self.body(task, verdict, strength))

    @stateful.rule(who=people, offset=st.sampled_from([-1, 1]))
    def revise_what_is_out_of_date(self, who: int, offset: int) -> None:
        past = self.store.work.history(self.project.id, self.people[who])
        if past:
            revision, account = past[0].revision + offset, self.people[who]
            with pytest.raises(Conflict):
                self.store.work.revise(past[0].assignment, account, self.key(), revision, {"verdict": "tie"})

    @stateful.rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        if self.requests:
            key = data.draw(st.sampled_from(sorted(self.requests)))
            who, assignment, expected, body = self.requests[key]
            saved = self.perform(who, assignment, expected, key, body)
            assert saved.replayed
            assert saved.revision == self.acknowledged[key][1]

    @stateful.rule(who=people)
    def release(self, who: int) -> None:
        task = self.tasks.get(who)
        if task is not None:
            self.store.work.release(task.assignment, self.people[who])

    @stateful.rule(seconds=st.sampled_from([1, LEASE_S // 2 + 1, LEASE_S + 1]))
    def wait(self, seconds: int) -> None:
        self.clock.forward(seconds)

    @stateful.rule()
    def expire(self) -> None:
        self.store.work.expire()

    @stateful.rule(overlap=st.integers(1, 3))
    def change_overlap(self, overlap: int) -> None:
        self.store.items.set_target(self.project.id, overlap)

    @stateful.rule()
    def add_item(self) -> None:
        if self.items < 5:
            added = self.store.items.add(self.project.id, [pair(self.items), pair(0)])
            assert (added.created, added.existing) == (1, 1)
            self.items += 1

    def body(self, task: Task, verdict: str, strength: int) -> dict[str, Any]:
        if verdict == "prefer":
            return first_is_better(task, strength)
        return {"verdict": "skip", "skip_reason": "unclear"} if verdict == "skip" else {"verdict": verdict}

    def send(self, who: int, task: Task, expected: int, body: dict[str, Any]) -> None:
        key = self.key()
        saved = self.perform(who, task.assignment, expected, key, body)
        assert not saved.replayed
        assert saved.revision == expected + 1
        self.late += saved.late
        self.requests[key] = (who, task.assignment, expected, body)
        # `first_is_better` says of the first slot that it is better, so the canonical sign is always minus.
        canonical = -abs(body.get("strength", 0))
        self.acknowledged[key] = (task.assignment, saved.revision, body["verdict"], canonical)

    def perform(self, who: int, assignment: str, expected: int, key: str, body: dict[str, Any]) -> Any:
        account = self.people[who]
        if expected:
            return self.store.work.revise(assignment, account, key, expected, body)
        return self.store.work.submit(assignment, account, key, body)

    @stateful.invariant()
    def every_acknowledged_judgement_is_there_once(self) -> None:
        with self.store.db.reading() as db:
            rows = db.execute(select(JUDGEMENTS)).all()
        kept = {row.key: (row.assignment_id, row.revision, row.verdict, row.strength) for row in rows}
        assert kept == self.acknowledged
        assert len(rows) == len(kept)
        assert sum(row.late for row in rows) == self.late

    @stateful.invariant()
    def nobody_has_an_item_twice_or_two_tasks(self) -> None:
        with self.store.db.reading() as db:
            rows = db.execute(select(ASSIGNMENTS)).all()
        assert len({(row.item_id, row.account_id) for row in rows}) == len(rows)
        live = Counter(row.account_id for row in rows if row.state == "live")
        assert max(live.values(), default=0) <= 1
        assert all(sorted(row.display) == [0, 1] for row in rows)

    @stateful.invariant()
    def counters_are_those_of_a_recount(self) -> None:
        assert self.store.work.recount() == []

    @stateful.invariant()
    def states_follow_the_counters(self) -> None:
        with self.store.db.reading() as db:
            for item in db.execute(select(ITEMS)):
                assert (item.state == "done") == (item.n_done >= item.target)

    @stateful.invariant()
    def the_last_revision_of_each_stands(self) -> None:
        last: dict[str, tuple[int, str, int]] = {}
        for assignment, revision, verdict, strength in self.acknowledged.values():
            if revision > last.get(assignment, (0, "", 0))[0]:
                last[assignment] = (revision, verdict, strength)
        standing = {v.assignment: (v.answer.verdict, v.answer.strength) for v in self.store.votes.all(self.project.id)}
        assert standing == {assignment: told[1:] for assignment, told in last.items()}


class Overtaken(Machine):
    """Without changes of the overlap, and without late answers, no item has more than was wanted."""

    change_overlap = None  # type: ignore[assignment]

    @stateful.invariant()
    def no_item_has_more_than_its_target(self) -> None:
        if self.late:
            return
        with self.store.db.reading() as db:
            assert db.scalar(select(func.count()).where(ITEMS.c.n_done + ITEMS.c.n_live > ITEMS.c.target)) == 0


LIMITS = settings(max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("machine", [Machine, Overtaken])
def test_any_order_of_events_on_sqlite(machine: type[Machine], tmp_path: Path) -> None:
    class OnSqlite(machine):  # type: ignore[misc, valid-type]
        where = staticmethod(lambda: Path(tempfile.mkdtemp(dir=tmp_path)) / "collect.db")

    stateful.run_state_machine_as_test(OnSqlite, settings=LIMITS)


def test_any_order_of_events_on_postgresql(postgres: Path) -> None:
    opened = []

    def new() -> str:
        context = postgres_server.new_database(postgres)
        opened.append(context)
        return context.__enter__()

    class OnPostgresql(Machine):
        where = staticmethod(new)

    try:
        stateful.run_state_machine_as_test(OnPostgresql, settings=LIMITS)
    finally:
        for context in opened:
            context.__exit__(None, None, None)
