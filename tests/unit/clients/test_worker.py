"""The order of operations, whose turn it is, and what becomes of those that fail or never come."""

from __future__ import annotations

import logging
import threading
import time
from itertools import permutations

import pytest

from thumbs.clients.lanes import Lane, LaneOperation
from thumbs.clients.worker import ClosedError, Worker
from thumbs.errors import DataError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def queued(lane: Lane, *numbers: int | None) -> list[LaneOperation]:
    operations = [LaneOperation(lambda: iter(())) for _ in numbers]
    for operation, number in zip(operations, numbers, strict=True):
        lane.add(operation, number)
    return operations


def taken(lane: Lane) -> list[LaneOperation]:
    found = []
    while (operation := lane.take()) is not None:
        found.append(operation)
    return found


@pytest.mark.parametrize("order", list(permutations([1, 2, 3, 4])))
def test_numbers_decide_not_arrival(order):
    lane = Lane("model", 30.0, Clock())
    operations = dict(zip(order, queued(lane, *order), strict=True))
    assert taken(lane) == [operations[number] for number in (1, 2, 3, 4)]
    assert len(lane) == 0


def test_one_without_a_number_waits_for_those_before_it_only():
    lane = Lane("model", 30.0, Clock())
    two, free = queued(lane, 2, None)
    assert taken(lane) == []
    one, three = queued(lane, 1, 3)
    assert taken(lane) == [one, two, free, three]


def test_a_number_that_never_comes_is_given_up_after_a_while(caplog):
    clock = Clock()
    lane = Lane("model", 30.0, clock)
    (three, five) = queued(lane, 3, 5)
    assert taken(lane) == []
    clock.now = 29.0
    assert taken(lane) == []
    assert lane.patience_s() == 1.0
    clock.now = 30.0
    with caplog.at_level(logging.WARNING):
        assert taken(lane) == [three]
    assert "operations 1 to 2 never arrived" in caplog.text
    assert lane.patience_s() == 30.0  # for number 4
    (four,) = queued(lane, 4)
    assert taken(lane) == [four, five]
    with pytest.raises(DataError, match="too late"):
        queued(lane, 2)


def test_a_number_twice_is_an_error():
    lane = Lane("model", 30.0, Clock())
    queued(lane, 2)
    with pytest.raises(DataError, match="came twice"):
        queued(lane, 2)


@pytest.fixture
def worker():
    worker = Worker(0.2)
    yield worker
    worker.close()


def test_models_take_turns_by_parts(worker):
    """A long operation of one model does not keep a short one of another waiting."""
    seen, go = [], threading.Event()

    def work(name: str, parts: int):
        def begin():
            go.wait(10)
            for _ in range(parts):
                seen.append(name)
                yield
            return name

        return begin

    futures = [
        worker.submit("a", work("long", 50)),
        worker.submit("b", work("short", 3)),
        worker.submit("b", work("next", 3)),
    ]
    go.set()
    assert [future.result(10) for future in futures] == ["long", "short", "next"]
    assert max(i for i, name in enumerate(seen) if name == "next") < 20
    assert seen.index("next") > max(i for i, name in enumerate(seen) if name == "short")


def test_an_error_is_its_callers_and_the_next_goes_on(worker):
    def fails():
        yield
        raise ValueError("mine")

    def works():
        yield
        return 1

    failed, worked = worker.submit("a", fails, 1), worker.submit("a", works, 2)
    with pytest.raises(ValueError, match="mine"):
        failed.result(10)
    assert worked.result(10) == 1


def test_a_gap_ends_without_any_further_call(worker):
    def works():
        yield
        return 1

    started = time.monotonic()
    assert worker.submit("a", works, 2).result(10) == 1
    assert 0.2 <= time.monotonic() - started < 5


def test_what_waits_at_the_end_is_told(worker):
    go = threading.Event()

    def waits():
        go.wait(10)
        yield

    running, waiting = worker.submit("a", waits), worker.submit("a", waits)
    threading.Timer(0.2, go.set).start()
    worker.close()
    for future in (running, waiting):
        with pytest.raises(ClosedError):
            future.result(10)
    with pytest.raises(ClosedError):
        worker.submit("a", waits)
