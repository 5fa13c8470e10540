"""A run's questions at a desk: which become items, what is waited for, what is asked again and what never twice."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collect_world import model, person
from thumbs.collect.asking import Asking
from thumbs.collect.desk import Desk, database, open_prompts, project_of, shown, slug_of
from thumbs.collect.question import Question
from thumbs.collect.records import Project
from thumbs.collect.store import CollectStore
from thumbs.collect.supply import SupplyPlan
from thumbs.config.labels import PeopleConfig
from thumbs.errors import ConfigError
from thumbs.records import Message, Preference, Reply
from thumbs.stages.people import Candidate, Labels
from thumbs.web.listening import listen

SKIP = {"verdict": "skip", "skip_reason": "unclear"}
FIRST = {"verdict": "prefer", "strength": -2}


def candidates(policy: str, number: int = 10, text: str = "reply") -> Iterator[Candidate]:
    for i in range(number):
        replies = tuple(Reply(f"{text} {i}{side}", model(policy, 10 * i)) for side in "ab")
        pair = Preference(f"p{i}", (Message("user", f"question {i}"),), replies, ())  # type: ignore[arg-type]
        yield Candidate(pair, {"policy": "random"})


@pytest.fixture
def project(store: CollectStore) -> Project:
    return project_of(store, "demo", "runs/demo")


@pytest.fixture
def anna(store: CollectStore) -> int:
    return person(store, "anna")


def asking(store: CollectStore, project: Project, pairs: int, given: Iterator[Candidate], overlap: int = 1) -> Asking:
    found = Asking(store, project, PeopleConfig(pairs=pairs, overlap=overlap), given, "runs/demo", 1, "collect.db")
    found.fill()
    found.retire_stale()
    return found


def judge(store: CollectStore, project: Project, account: int, *bodies: dict) -> None:
    for body in bodies:
        task = store.work.claim(project.id, account)
        assert not isinstance(task, str), task
        store.work.submit(task.assignment, account, f"key-{task.assignment}", body)


def test_so_many_pairs_are_asked_as_are_wanted(store: CollectStore, project: Project, anna: int):
    work = asking(store, project, 3, candidates("sft"))
    assert store.items.count(project.id)["open"] == 3
    judge(store, project, anna, FIRST, FIRST)
    work.refresh()
    assert (work.judged, work.is_over()) == (2, False)
    judge(store, project, anna, {"verdict": "both_bad"})
    work.refresh()
    assert work.is_over()
    labels = work.labels()
    assert [pair.id for pair in labels.pairs] == ["p0", "p1", "p2"]
    assert [pair.judgements[0].annotator for pair in labels.pairs] == ["anna"] * 3
    assert labels.judgements == {"p0": [1], "p1": [2], "p2": [3]}
    assert list(labels.items) == ["p0", "p1", "p2"]


def test_labels_are_in_the_order_of_the_replies_however_they_were_shown(
    store: CollectStore, project: Project, anna: int
):
    work = asking(store, project, 6, candidates("sft"))
    for _ in range(6):
        task = store.work.claim(project.id, anna)
        assert not isinstance(task, str)
        left = task.replies[0].endswith("a")
        body = {"verdict": "prefer", "strength": -3 if left else 3}
        store.work.submit(task.assignment, anna, f"key-{task.assignment}", body)
    work.refresh()
    assert [pair.judgements[0].strength for pair in work.labels().pairs] == [-3] * 6


def test_a_pair_that_was_passed_over_is_replaced(store: CollectStore, project: Project, anna: int):
    work = asking(store, project, 3, candidates("sft"))
    judge(store, project, anna, FIRST, SKIP, SKIP)
    work.refresh()
    assert not work.is_over()
    judge(store, project, anna, FIRST, FIRST)
    work.refresh()
    assert work.is_over()
    assert [pair.id for pair in work.labels().pairs] == ["p0", "p3", "p4"]


def test_it_ends_when_there_is_nothing_left_to_ask(store: CollectStore, project: Project, anna: int):
    work = asking(store, project, 5, candidates("sft", 2))
    assert not work.is_over()
    judge(store, project, anna, FIRST, SKIP)
    work.refresh()
    assert work.is_over()
    assert [pair.id for pair in work.labels().pairs] == ["p0"]


def test_going_on_asks_nothing_twice(store: CollectStore, project: Project, anna: int):
    judge_some = asking(store, project, 4, candidates("sft"))
    judge(store, project, anna, FIRST, SKIP)
    again = asking(store, project, 4, candidates("sft"))
    assert (again.judged, len(again.pairs)) == (1, 5)
    assert store.items.count(project.id) == {"open": 4, "done": 1, "retired": 0}
    judge(store, project, anna, FIRST, FIRST, FIRST)
    for work in (judge_some, again):
        work.refresh()
        assert work.is_over()
    assert again.labels() == judge_some.labels()


def test_what_an_earlier_policy_left_open_is_retired_and_comes_back_with_it(
    store: CollectStore, project: Project, anna: int
):
    asking(store, project, 3, candidates("sft"))
    judge(store, project, anna, FIRST)
    asking(store, project, 2, candidates("ppo"))
    assert store.items.count(project.id) == {"open": 2, "done": 1, "retired": 2}
    asking(store, project, 3, candidates("sft"))
    assert store.items.count(project.id) == {"open": 2, "done": 1, "retired": 2}


def test_items_of_others_in_the_project_are_left_alone(store: CollectStore, project: Project):
    theirs = Asking(store, project, PeopleConfig(pairs=2), candidates("other"), "runs/other", 1, "")
    theirs.fill()
    asking(store, project, 2, candidates("sft"))
    assert store.items.count(project.id)["open"] == 4


def test_more_people_may_be_wanted_than_before(store: CollectStore, project: Project, anna: int):
    work = asking(store, project, 2, candidates("sft"))
    judge(store, project, anna, FIRST, FIRST)
    work.refresh()
    assert work.is_over()
    again = asking(store, project, 2, candidates("sft"), overlap=2)
    assert (again.judged, again.is_over()) == (0, False)
    judge(store, project, person(store, "ben"), FIRST, {"verdict": "tie"})
    again.refresh()
    assert again.is_over()
    said = [[j.annotator for j in pair.judgements] for pair in again.labels().pairs]
    assert said == [["anna", "ben"]] * 2


def test_a_reply_that_no_database_keeps_costs_its_pair_alone(store: CollectStore, project: Project):
    broken = next(candidates("sft", 1, text="nul \0"))

    def some() -> Iterator[Candidate]:
        yield broken
        yield from candidates("sft", 3)

    work = asking(store, project, 2, some())
    assert [pair.id for pair in work.pairs.values()] == ["p0", "p1"]
    assert "\0" not in "".join(reply.text for pair in work.pairs.values() for reply in pair.replies)


def at_desk(
    settings: PeopleConfig, run: Path, given: Iterator[Candidate], meanwhile: Callable[[CollectStore], None]
) -> Labels:
    """Labels of a desk; `meanwhile` happens in a thread once all items are there and the desk waits."""
    ready = threading.Event()

    def act() -> None:
        ready.wait(30)
        store = CollectStore(Path(settings.db))
        try:
            meanwhile(store)
        finally:  # whatever fails, the desk must not wait for ever
            store.projects.set_state(store.projects.find("demo").id, "closed")
            store.close()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        return Desk(tell=lambda text: ready.set() if "wait" in text else None, poll_s=0.01).ask(settings, run, 1, given)
    finally:
        thread.join()


def test_closing_the_project_ends_it_and_new_questions_open_it_again(tmp_path: Path):
    settings = PeopleConfig(pairs=5, db=str(tmp_path / "collect.db"), serve=False)

    def close_after(number: int) -> Callable[[CollectStore], None]:
        def act(store: CollectStore) -> None:
            project = store.projects.find("demo")
            assert project.state == "open"
            judge(store, project, store.people.at_home("anna").id, *[FIRST] * number)

        return act

    run = tmp_path / "demo"
    assert len(at_desk(settings, run, candidates("sft"), close_after(2)).pairs) == 2
    told: list[str] = []
    again = Desk(tell=told.append).ask(settings, run, 1, candidates("sft"))  # a run made anew, or killed then
    assert not any("wait" in line for line in told)
    assert [pair.id for pair in again.pairs] == ["p0", "p1"]
    assert len(at_desk(settings, run, candidates("ppo"), close_after(3)).pairs) == 3


def test_names_of_runs_make_short_names():
    assert slug_of("Demo Tiny/seed=1") == "demo-tiny-seed-1"
    assert slug_of("…") == "run"
    assert len(slug_of("x" * 100)) == 64


def test_a_project_of_another_kind_is_refused(store: CollectStore):
    store.projects.create("demo", "Ranks", Question(kind="rank"))
    with pytest.raises(ConfigError, match="asks people to 'rank', not 'pair'; name another project"):
        project_of(store, "demo", "runs/demo")


def test_the_database_is_shown_without_its_password():
    assert database("") == Path("thumbs-collect/collect.db")
    assert shown(database("labels.db")) == "labels.db"
    assert shown(database("postgresql+psycopg://me:secret@db/labels")) == "postgresql+psycopg://me:***@db/labels"


def test_a_taken_port_is_passed_over():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with listen("127.0.0.1", port, 20) as other:
            assert port < other.getsockname()[1] < port + 20


def test_the_name_of_an_opened_project_says_nothing_of_the_model(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("Ana\nBen\n", encoding="utf-8")
    with contextlib.closing(CollectStore(tmp_path / "collect.db")) as store:
        project = open_prompts(store, str(tmp_path / "prompts.txt"), "byte-tiny", SupplyPlan())[0]
    assert (project.slug, project.name) == ("prompts", "prompts.txt")
