"""People whose judge, mistakes and biases are known: what they answer, and what the statistics learn of them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from collect_world import model, person, project_of_pairs
from thumbs.collect.errors import CollectError
from thumbs.collect.quality import agreement, annotators, bias, generators
from thumbs.collect.quality.judged import VoteTable
from thumbs.collect.question import Axis, Question, read_answer
from thumbs.collect.records import NewItem, Task
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.simulate import SimulatedPerson, work_through
from thumbs.collect.store import CollectStore
from thumbs.errors import NonFiniteError
from thumbs.records import Message, Reply

NEVER = datetime(2030, 1, 1, tzinfo=UTC)
PAIR = Question(kind="pair")


def told(_: Sequence[Message], reply: str) -> float:
    """The score that the reply begins with."""
    return float(reply.split()[0])


def task(*replies: str, question: Question = PAIR, asked: str = "?") -> Task:
    """A task that shows these replies in this order."""
    shown = question.model_dump(mode="json")
    return Task("a1", question.kind, shown, 1, 1, (Message("user", asked),), replies, (False,) * len(replies), NEVER)


def body(one: SimulatedPerson, shown: Task) -> dict[str, Any]:
    return one.answer(shown)[0]


@pytest.mark.parametrize(
    ("scores", "strength"),
    [((0.0, 0.2), 1), ((0.0, 0.25), 2), ((0.6, 0.0), -3), ((0.0, 1.0), 4), ((0.3, 0.3), None)],
)
def test_strength_is_the_difference_of_scores_in_steps(scores: tuple[float, float], strength: int | None) -> None:
    found = body(SimulatedPerson("ann", told), task(f"{scores[0]} a", f"{scores[1]} b"))
    assert found == ({"verdict": "prefer", "strength": strength} if strength else {"verdict": "tie"})


def test_close_replies_are_ties_and_without_ties_a_coin_decides() -> None:
    one = SimulatedPerson("ann", told, tie_below=0.5)
    assert body(one, task("1.0 a", "1.4 b"))["verdict"] == "tie"
    forced = Question(kind="pair", tie=False)
    found = [body(one, task("1.0 a", "1.0 b", question=forced, asked=str(n)))["strength"] for n in range(200)]
    assert set(found) == {-1, 1}
    assert 60 < found.count(1) < 140


@pytest.mark.parametrize(("tie", "replies"), [(True, ("0.1 a", "0.9 b")), (False, ("0.5 a", "0.5 b"))])
def test_what_is_drawn_does_not_depend_on_the_order_of_the_replies(tie: bool, replies: tuple[str, str]) -> None:
    one, question = SimulatedPerson("ann", told, noise=0.5, skip=0.2, tie_below=0.1), Question(kind="pair", tie=tie)
    for n in range(60):
        there = body(one, task(*replies, question=question, asked=str(n)))
        back = body(one, task(*replies[::-1], question=question, asked=str(n)))
        assert read_answer(question, (0, 1), there) == read_answer(question, (1, 0), back)


def test_draws_depend_on_seed_name_and_task_alone() -> None:
    tasks = [task("0.0 a", "1.0 b", asked=str(n)) for n in range(100)]

    def answers(one: SimulatedPerson) -> list[int]:
        return [body(one, shown)["strength"] for shown in tasks]

    ann = SimulatedPerson("ann", told, noise=0.4)
    assert answers(ann) == answers(ann) == list(reversed([body(ann, shown)["strength"] for shown in reversed(tasks)]))
    assert answers(ann) != answers(dataclasses.replace(ann, name="bob"))
    assert answers(ann) != answers(dataclasses.replace(ann, seed=1))
    assert ann.answer(tasks[0]) == ann.answer(dataclasses.replace(tasks[0], assignment="a2", guideline_version=7))


def test_planted_rates_come_out() -> None:
    def rate(one: SimulatedPerson, counts: Any) -> float:
        return float(np.mean([counts(body(one, task("0.0 a", "1.0 bb", asked=str(n)))) for n in range(600)]))

    ann = SimulatedPerson("ann", told)
    assert rate(dataclasses.replace(ann, noise=0.3), lambda found: found["strength"] < 0) == pytest.approx(
        0.3, abs=0.06
    )
    assert rate(dataclasses.replace(ann, left_bias=0.3), lambda found: found["strength"] < 0) == pytest.approx(
        0.3, abs=0.06
    )
    assert rate(dataclasses.replace(ann, skip=0.3), lambda found: found["verdict"] == "skip") == pytest.approx(
        0.3, abs=0.06
    )


def test_length_is_worth_what_was_said() -> None:
    long = "0.0 " + "x" * 204
    assert body(SimulatedPerson("ann", told, length_bias=0.3), task(long, "0.1 a"))["strength"] == -3
    assert body(SimulatedPerson("ann", told), task(long, "0.1 a"))["strength"] == 1


def test_axes_say_the_same_and_a_needed_reason_is_given() -> None:
    question = Question(kind="pair", axes=(Axis(key="true", label="true", required=True),), reason="required")
    shown = task("1.0 a", "0.0 b", question=question)
    answer = read_answer(question, (0, 1), body(SimulatedPerson("ann", told), shown))
    assert (answer.strength, answer.axes, bool(answer.reason)) == (-4, {"true": -4}, True)


@pytest.mark.parametrize("settings", [{}, {"noise": 0.5, "left_bias": 0.5, "tie_below": 0.3}])
def test_rankings_are_allowed_and_in_the_order_of_the_scores(settings: dict[str, float]) -> None:
    question, one = Question(kind="rank"), SimulatedPerson("ann", told, **settings)  # type: ignore[arg-type]
    for n in range(40):
        shown = task("0.5 a", "1.5 b", "0.5 c", "0.7 d", question=question, asked=str(n))
        answer = read_answer(question, (2, 0, 3, 1), body(one, shown))
        if not settings:
            assert answer.ranks == (1, 2, 3, 3)


def test_who_goes_by_place_ranks_the_first_reply_best() -> None:
    for replies, ranks in ((("0.0 a", "1.0 b", "2.0 c"), (1, 3, 2)), (("2.0 a", "1.0 b", "0.0 c"), (1, 2, 3))):
        shown = task(*replies, question=Question(kind="rank"))
        found = body(SimulatedPerson("ann", told, left_bias=1.0), shown)
        assert read_answer(Question(kind="rank"), (0, 1, 2), found).ranks == ranks


def test_slips_in_ratings_do_not_depend_on_the_order_of_the_replies() -> None:
    question = Question(kind="rate", axes=(Axis(key="ten", label="ten", high=10),))
    one = SimulatedPerson("ann", told, noise=0.5)
    for n in range(20):
        there = body(one, task("0.0 a", "0.1 b", question=question, asked=str(n)))["ratings"]
        assert there == body(one, task("0.1 b", "0.0 a", question=question, asked=str(n)))["ratings"][::-1]


def test_neighbours_closer_than_a_tie_share_a_rank() -> None:
    shown = task("0.0 a", "0.2 b", "1.0 c", question=Question(kind="rank"))
    assert body(SimulatedPerson("ann", told, tie_below=0.3), shown)["ranks"] == [2, 2, 1]


def test_ratings_stand_around_the_middle_of_their_scale() -> None:
    question = Question(kind="rate", axes=(Axis(key="clear", label="clear"), Axis(key="ten", label="ten", high=10)))
    shown = task("-0.6 a", "0.1 b", "9.0 c", question=question)
    answer = read_answer(question, (0, 1, 2), body(SimulatedPerson("ann", told), shown))
    assert answer.ratings == ({"clear": 1, "ten": 3}, {"clear": 3, "ten": 5}, {"clear": 5, "ten": 8})
    noisy = body(SimulatedPerson("ann", told, noise=1.0), shown)
    assert all(abs(given["ten"] - right) == 1 for given, right in zip(noisy["ratings"], (3, 5, 8), strict=True))


def test_time_grows_with_what_is_read() -> None:
    slow, quick = SimulatedPerson("ann", told), SimulatedPerson("ann", told, chars_per_s=200)
    shown = task("0.0 " + "x" * 3996, "1.0 b", asked="y" * 1000)
    effort, hasty = slow.answer(shown)[1], quick.answer(shown)[1]
    assert 80_000 < effort.active_ms < 800_000
    assert hasty.active_ms == pytest.approx(effort.active_ms / 10, abs=1)
    assert effort.wall_ms >= effort.active_ms
    assert quick.answer(task("0.0 a", "1.0 b"))[1].active_ms == 500


def test_scores_that_are_no_numbers_and_texts_to_write_are_refused() -> None:
    with pytest.raises(NonFiniteError, match="ann"):
        SimulatedPerson("ann", told).answer(task("nan a", "1.0 b"))
    with pytest.raises(CollectError, match="'write'"):
        SimulatedPerson("ann", told).answer(task(question=Question(kind="write")))


def test_people_work_until_nothing_is_left(store: CollectStore) -> None:
    project = project_of_pairs(store, 5, overlap=2)
    judge = SimulatedPerson("ann", lambda _, reply: float(len(reply)))
    accounts = [person(store, handle) for handle in ("ann", "bob", "cem")]
    assert work_through(store, project.id, accounts[0], judge, most=2) == 2
    assert [work_through(store, project.id, account, judge) for account in accounts] == [3, 5, 0]
    found = list(store.votes.all(project.id))
    assert len(found) == 10
    assert {(vote.answer.verdict, vote.answer.strength) for vote in found} == {("prefer", 4)}  # "second" is longer


def test_statistics_find_what_was_planted(tmp_path: Any) -> None:
    """Four people judge 80 pairs of a good and a bad model, one of them mostly by place, all through the database."""
    store = CollectStore(tmp_path / "collect.db", chance=random.Random(1))
    rng = np.random.default_rng(0)
    project = store.projects.create("p", "P", Question(kind="pair"), settings=ProjectSettings(overlap=4))
    items = []
    for n in range(80):
        good, bad = rng.normal(0.5, 0.5), rng.normal(0, 0.5)
        written = [Reply(f"{good:.3f} {n}", model("good")), Reply(f"{bad:.3f} {n}", model("bad"))]
        items.append(NewItem((Message("user", f"{n}"),), tuple(written[:: int(rng.choice([-1, 1]))])))
    store.items.add(project.id, items)
    accounts = {name: person(store, name) for name in ("ann", "bob", "cem", "dan")}
    for name, account in accounts.items():
        crowd = SimulatedPerson(name, told, noise=0.05, tie_below=0.1, left_bias=0.7 if name == "dan" else 0.0)
        assert work_through(store, project.id, account, crowd) == 80
    judged = VoteTable.of(store.votes.all(project.id), store.votes.facts(project.id))
    store_generators = store.generators()
    store.close()
    people = {one.account: one for one in annotators.people(judged)}
    dan = people.pop(accounts["dan"])
    assert dan.first_p is not None
    assert dan.first_p < 1e-4
    assert all(one.first_p is not None and one.first_p > 1e-3 for one in people.values())
    overall = agreement.agreement(judged).alpha.value
    assert dan.alpha_without is not None
    assert overall is not None
    assert dan.alpha_without > overall + 0.1
    assert all(one.agree.value is not None and one.agree.value > (dan.agree.value or 1) for one in people.values())
    assert bias.position(judged).first.value == pytest.approx(0.5 + 0.7 / 8, abs=0.06)
    board = generators.leaderboard(judged)
    assert [store_generators[one.generator].name for one in board] == ["good", "bad"]
    assert board[0].next_separated
