"""A small copy of the large database: the pages' numbers equal a slow recount. benchmarks/collect_scale.py is large."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from example_files import load_file
from thumbs.collect.items import Wanted
from thumbs.collect.overview import progress
from thumbs.collect.overview_numbers import Numbers, make_numbers
from thumbs.collect.records import Project
from thumbs.collect.store import CollectStore

FILL = load_file(Path(__file__).parents[3] / "benchmarks" / "collect_fill.py")
SIZE = FILL.Size(items=200, overlap=4, people=6, seed=3)


@pytest.fixture
def filled(store: CollectStore) -> tuple[CollectStore, Project, Numbers]:
    project = FILL.fill(store, SIZE)
    return store, project, make_numbers(store, project.id)


def test_the_filled_database_is_one_that_the_store_could_have_written(filled):
    store, project, _ = filled
    assert store.work.recount() == []
    assert store.items.count(project.id)["done"] + store.items.count(project.id)["open"] == 198
    extra = store.people.add("new", "New", "annotator")
    assert not isinstance(store.work.claim(project.id, extra.id), str)


def test_numbers_equal_a_slow_recount(filled):
    store, project, numbers = filled
    roles = {item.id: item.role for item in store.items.page(project.id, limit=1000)}
    standing = [vote for item in roles for vote in store.votes.of_item(item)]
    assert numbers.votes == len(standing)
    assert numbers.watermark == max(vote.judgement for vote in standing)
    assert numbers.tape.verdicts == Counter(vote.answer.verdict for vote in standing)
    assert numbers.tape.late == sum(vote.late for vote in standing)
    assert numbers.flagged == sorted({vote.item for vote in standing if any(vote.answer.flags)})
    answers = [vote for vote in standing if vote.answer.verdict != "skip"]
    left = sum((vote.answer.strength < 0) == (vote.display == (0, 1)) for vote in answers if vote.answer.strength)
    assert sum(n for side, n in numbers.tape.shown.items() if side < 0) == left
    work = [vote for vote in answers if roles[vote.item] == "work"]
    assert {person.account: person.n for person in numbers.people} == Counter(vote.account for vote in work)
    golds = Counter(vote.item for vote in answers if roles[vote.item] != "work")
    assert {item: answered for item, (answered, _) in numbers.golds.items()} == golds
    for item, (_, right) in numbers.golds.items():
        gold = store.items.get(item).gold
        sides = [vote.answer.strength * gold["strength"] > 0 for vote in answers if vote.item == item]
        assert right == sum(sides)


def test_items_by_generators_are_those_whose_replies_they_wrote(filled):
    store, project, numbers = filled
    names = {number: generator.name for number, generator in store.generators().items()}
    for makers in numbers.tape.pairs:
        wrote = {
            item.id
            for item in store.items.page(project.id, Wanted(role="work"), limit=1000)
            if {reply.generator.name for reply in store.items.content(item.id)[1]} == {names[one] for one in makers}
        }
        assert set(numbers.items_by(makers)) == wrote
    assert numbers.items_by((1,)) == ()


def test_progress_of_a_filled_database(filled):
    store, project, _ = filled
    work = store.items.page(project.id, Wanted(role="work"), limit=1000)
    found = progress(store.db, project.id)[project.id]
    assert (found.open, found.done) == (sum(i.state == "open" for i in work), sum(i.state == "done" for i in work))
    assert found.given == sum(min(item.n_done, item.target) for item in work)
    assert found.wanted == sum(item.target for item in work)
    assert found.known == 2
