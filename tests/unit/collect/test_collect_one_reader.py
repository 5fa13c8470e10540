"""All roads from a judgement (runs, exports, statistics, tests of new people) say the same of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collect_world import ON_SQLITE, Clock, model, person
from thumbs.collect.asking import Asking
from thumbs.collect.exports.select import Filters
from thumbs.collect.exports.write import export
from thumbs.collect.overview_numbers import Snapshots, make_numbers
from thumbs.collect.question import Axis, Question, read_answer
from thumbs.collect.records import Answer, NewItem, Project
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.simulate import SimulatedPerson, work_through
from thumbs.collect.store import CollectStore
from thumbs.config.labels import PeopleConfig
from thumbs.data.preferences import preferred
from thumbs.records import Message, Preference, Reply
from thumbs.stages.people import Candidate

pytestmark = ON_SQLITE

HARM = Axis(key="harm", label="Harm", best="low")
GOOD = Axis(key="good", label="Good")
REVERSED: dict[str, Question] = {
    "pair": Question(direction="more_harmful"),
    "axes": Question(direction="more_harmful", axes=(HARM, GOOD)),
    "rank": Question(kind="rank", direction="more_harmful"),
    "rate": Question(kind="rate", direction="more_harmful", axes=(Axis(key="bad", label="How bad"),)),
    "rates": Question(kind="rate", direction="more_harmful", axes=(HARM, Axis(key="good", label="Good", best="high"))),
    "harm": Question(kind="rate", axes=(HARM,)),
}
MORE_HARMFUL: dict[str, dict[str, Any]] = {
    "pair": {"verdict": "prefer", "strength": -3},
    "axes": {"verdict": "prefer", "strength": -3, "axes": {"harm": -4, "good": 2}},
    "rank": {"verdict": "rank", "ranks": [1, 2]},
    "rate": {"verdict": "rate", "ratings": [{"bad": 5}, {"bad": 1}]},
    "rates": {"verdict": "rate", "ratings": [{"harm": 4, "good": 1}, {"harm": 2, "good": 4}]},
    "harm": {"verdict": "rate", "ratings": [{"harm": 5}, {"harm": 2}]},
}
"""What somebody says who finds the first reply shown the more harmful one."""


def item(number: int) -> NewItem:
    replies = (Reply(f"harmful {number}", model("harmful")), Reply(f"harmless {number}", model("harmless")))
    return NewItem((Message("user", f"question {number}"),), replies, name=str(number))


def judge(store: CollectStore, project: Project, account: int, body: dict[str, Any]) -> None:
    """Judges the person's next task, `body` being of the harmful reply on the left."""
    task = store.work.claim(project.id, account)
    assert not isinstance(task, str), task
    question = Question.model_validate(task.question)
    if task.replies[0].startswith("harmless"):  # as it looks from the other side
        turned = {key: -value for key, value in body.get("axes", {}).items()}
        lists = {key: body[key][::-1] for key in ("ranks", "ratings") if key in body}
        more = {"axes": turned} if turned else {}
        body = {**body, **lists, **more, **({"strength": -body["strength"]} if "strength" in body else {})}
    read_answer(question, (0, 1), body)
    store.work.submit(task.assignment, account, f"key-{task.assignment}", body)


def rows(store: CollectStore, project: Project, form: str, folder: Path, **filters: Any) -> list[dict[str, Any]]:
    out = folder / f"{form}-{len(list(folder.iterdir()))}.jsonl"
    export(store, project.id, form, Filters(**filters), out)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def board(store: CollectStore, project: Project, axis: str = "") -> list[str]:
    names = {key: maker.name for key, maker in store.generators().items()}
    return [names[one.generator] for one in make_numbers(store, project.id).boards[axis]]


@pytest.mark.parametrize("name", REVERSED)
def test_the_harmless_reply_is_the_better_one_on_every_road(store: CollectStore, tmp_path: Path, name: str):
    project = store.projects.create("work", "Work", REVERSED[name])
    store.items.add(project.id, [item(n) for n in range(4)])
    ann = person(store, "ann")
    for _ in range(4):
        judge(store, project, ann, MORE_HARMFUL[name])
    assert board(store, project) == ["harmless", "harmful"]
    for axis in make_numbers(store, project.id).boards:
        assert board(store, project, axis) == ["harmless", "harmful"], axis
    form = {"rate": "sft", "rates": "sft", "harm": "sft"}.get(name, "trl")
    for row in rows(store, project, form, tmp_path):
        better = row["messages"][-1] if form == "sft" else row["chosen"][-1]
        assert better["content"].startswith("harmless")
    if "rat" in name or name == "harm":
        means = rows(store, project, "ratings", tmp_path)
        values = {row["reply"]["text"].split()[0]: row["judgements"][0]["value"] for row in means}
        assert values["harmless"] > values["harmful"]


def test_ties_bad_pairs_and_skips_are_what_they_are_when_the_question_is_reversed(store: CollectStore, tmp_path: Path):
    project = store.projects.create("work", "Work", REVERSED["pair"])
    store.items.add(project.id, [item(n) for n in range(4)])
    ann = person(store, "ann")
    for body in ({"verdict": "tie"}, {"verdict": "both_bad"}, {"verdict": "skip", "skip_reason": "unclear"}):
        judge(store, project, ann, body)
    judge(store, project, ann, MORE_HARMFUL["pair"])
    said = [row["judgements"][0] for row in rows(store, project, "preferences", tmp_path)]
    assert [(one["verdict"], one["strength"]) for one in said] == [("tie", 0), ("both_bad", 0), ("prefer", 3)]
    verdicts = make_numbers(store, project.id).tape.verdicts
    assert verdicts == {"tie": 1, "both_bad": 1, "skip": 1, "prefer": 1}


def candidates(n: int) -> Iterator[Candidate]:
    for number in range(n):
        new = item(number)
        yield Candidate(Preference(f"p/{number}", new.messages, (new.replies[0], new.replies[1]), ()), {})


def asking(store: CollectStore, project: Project, pairs: int, of: int) -> Asking:
    return Asking(store, project, PeopleConfig(pairs=pairs), candidates(of), "run", 1, "c.db")


def test_a_run_trains_on_the_harmless_reply_of_a_reversed_question(store: CollectStore):
    project = store.projects.create("work", "Work", REVERSED["pair"])
    asked = asking(store, project, 2, 2)
    asked.fill()
    ann = person(store, "ann")
    for _ in range(2):
        judge(store, project, ann, MORE_HARMFUL["pair"])
    asked.refresh()
    assert [preferred(pair) for pair in asked.labels().pairs] == [0.0, 0.0]
    assert [pair.replies[1].text.split()[0] for pair in asked.labels().pairs] == ["harmless", "harmless"]


@pytest.fixture
def crowd(store: CollectStore, clock: Clock) -> tuple[CollectStore, Project]:
    """A table of judgements: ann says the second reply is better, ben the first, cem the second but late; then the
    question is reversed, and dan finds the first more harmful.
    """
    project = store.projects.create("work", "Work", Question(), settings=ProjectSettings(overlap=4, lease_s=60))
    store.items.add(project.id, [item(0)])
    ann, ben, cem, dan = (person(store, name) for name in ("ann", "ben", "cem", "dan"))
    judge(store, project, ann, {"verdict": "prefer", "strength": 2})
    judge(store, project, ben, {"verdict": "prefer", "strength": -2})
    task = store.work.claim(project.id, cem)
    assert not isinstance(task, str)
    clock.forward(100)
    store.work.expire()
    side = -1 if task.replies[0].startswith("harmless") else 1
    store.work.submit(task.assignment, cem, "key-of-cem", {"verdict": "prefer", "strength": side})
    store.projects.ask(project.id, REVERSED["pair"])
    judge(store, project, dan, MORE_HARMFUL["pair"])
    return store, project


@pytest.mark.parametrize(
    ("counting", "voices"),
    [
        ({}, {"ann": 2, "ben": -2, "cem": 1, "dan": 3}),
        ({"exclude_late": True}, {"ann": 2, "ben": -2, "dan": 3}),
        ({"exclude_people": ("ann",)}, {"ben": -2, "cem": 1, "dan": 3}),
        ({"question_version": 2}, {"dan": 3}),
        ({"question_version": 1, "exclude_late": True, "exclude_people": ("ben",)}, {"ann": 2}),
    ],
)
def test_what_counts_in_a_project_counts_on_every_road(
    crowd: tuple[CollectStore, Project], tmp_path: Path, counting: dict[str, Any], voices: dict[str, int]
):
    store, project = crowd
    store.projects.configure(project.id, ProjectSettings(overlap=4, lease_s=60, **counting))
    (row,) = rows(store, project, "preferences", tmp_path)
    assert {one["annotator"]: one["strength"] for one in row["judgements"]} == voices
    store.projects.configure(project.id, ProjectSettings(overlap=4, lease_s=60))
    (filtered,) = rows(store, project, "preferences", tmp_path, **counting)
    assert filtered["judgements"] == row["judgements"]  # a filter of an export leaves out the same
    store.projects.configure(project.id, ProjectSettings(overlap=4, lease_s=60, **counting))
    numbers = make_numbers(store, project.id)
    names = {one.account: store.people.get(one.account).handle for one in numbers.people}
    assert sorted(names.values()) == sorted(voices)
    assert numbers.votes == len(voices)
    asked = asking(store, project, 2, 1)
    asked.fill()
    (pair,) = asked.labels().pairs
    assert {one.annotator: one.strength for one in pair.judgements} == voices


def test_statistics_are_made_anew_when_something_else_counts(crowd: tuple[CollectStore, Project]):
    store, project = crowd
    shown = Snapshots(store.db, lambda project_id: make_numbers(store, project_id))
    before = shown.wait(project.id).numbers
    store.projects.configure(project.id, ProjectSettings(overlap=4, exclude_people=("ben",)))
    after = shown.wait(project.id).numbers
    assert before is not None
    assert after is not None
    assert (before.votes, after.votes) == (4, 3)


def test_a_run_asks_about_another_pair_if_nothing_that_was_said_of_one_counts(store: CollectStore):
    project = store.projects.create("work", "Work", Question())
    ann, ben = person(store, "ann"), person(store, "ben")
    asked = asking(store, project, 2, 3)
    asked.fill()
    judge(store, project, ann, MORE_HARMFUL["pair"])
    store.projects.configure(project.id, ProjectSettings(exclude_people=("ann",)))
    asked.refresh()
    assert asked.judged == 0
    judge(store, project, ben, MORE_HARMFUL["pair"])
    asked.refresh()
    judge(store, project, ben, MORE_HARMFUL["pair"])
    asked.refresh()
    assert asked.is_over()
    assert [one.annotator for pair in asked.labels().pairs for one in pair.judgements] == ["ben", "ben"]


def test_a_known_answer_holds_when_the_question_is_reversed_later(store: CollectStore):
    settings = ProjectSettings(qualify_items=1, qualify_share=1.0)
    project = store.projects.create("work", "Work", Question(), settings=settings)
    new = item(0)
    gold = NewItem(new.messages, new.replies, role="qualification", gold=Answer("prefer", 2))
    store.items.add(project.id, [gold, item(1)])
    store.projects.ask(project.id, REVERSED["pair"])
    ann, ben = person(store, "ann"), person(store, "ben")
    judge(store, project, ann, MORE_HARMFUL["pair"])
    judge(store, project, ben, {"verdict": "prefer", "strength": 2})
    assert store.work.claim(project.id, ben) == "not_qualified"
    judge(store, project, ann, MORE_HARMFUL["pair"])
    golds = make_numbers(store, project.id).golds
    assert list(golds.values()) == [(2, 1)]


def test_simulated_people_answer_the_question_that_is_asked(store: CollectStore):
    kindness = {"harmful": -3.0, "harmless": 3.0}
    for name, question in REVERSED.items():
        project = store.projects.create(name, "Work", question)
        store.items.add(project.id, [item(n) for n in range(3)])
        account = person(store, f"sim-{name}")
        work_through(store, project.id, account, SimulatedPerson("sim", lambda _, reply: kindness[reply.split()[0]]))
        assert board(store, project) == ["harmless", "harmful"], name


def test_position_is_told_of_what_was_chosen(store: CollectStore):
    project = store.projects.create("work", "Work", REVERSED["pair"])
    store.items.add(project.id, [item(n) for n in range(4)])
    ann = person(store, "ann")
    for _ in range(4):
        task = store.work.claim(project.id, ann)
        assert not isinstance(task, str)
        store.work.submit(task.assignment, ann, f"key-{task.assignment}", {"verdict": "prefer", "strength": -1})
    assert make_numbers(store, project.id).position.first.value == 1.0
