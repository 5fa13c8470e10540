"""Tasks ahead of people: how many, which, after a restart, and that what is chosen can still be evaluated honestly."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from collect_world import model, person
from thumbs.collect.errors import CollectError
from thumbs.collect.question import Question
from thumbs.collect.records import Project
from thumbs.collect.store import CollectStore
from thumbs.collect.supply import MOST_IN_VAIN, ItemSupply, SupplyPlan
from thumbs.data.pair_choice import Active, choose_pair, first_pair, usable_pairs
from thumbs.errors import ConfigError
from thumbs.records import Message, Prompt, Reply

PROMPTS = [Prompt(name, (Message("user", name),)) for name in ("a", "b", "c")]


class Counting:
    """Writes `prompt seed draw`; remembers what it was asked."""

    def __init__(self, name: str = "counting") -> None:
        self.name = name
        self.asked: list[tuple[str, int]] = []

    def write(self, messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
        self.asked.append((messages[-1].content, seed))
        return [Reply(f"{messages[-1].content} {seed} {draw}", model(self.name, seed + draw)) for draw in range(n)]


class Mute(Counting):
    """Writes the same reply twice."""

    def write(self, messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
        return [Reply("yes", model("alpha", seed + draw)) for draw in range(n)]


@pytest.fixture
def project(store: CollectStore) -> Project:
    return store.projects.create("work", "The work", Question(kind="pair"))


def judge(store: CollectStore, project: Project, account: int, body: dict | None = None) -> None:
    task = store.work.claim(project.id, account)
    assert not isinstance(task, str), task
    store.work.submit(task.assignment, account, f"key-{task.assignment}", body or {"verdict": "tie"})


def test_so_many_tasks_are_ahead_and_no_more(store: CollectStore, project: Project):
    supply = ItemSupply(store, project.id, Counting(), PROMPTS, SupplyPlan(ahead=5))
    assert supply.fill() == 5
    assert supply.fill() == 0
    anna = person(store, "anna")
    judge(store, project, anna)
    judge(store, project, anna)
    assert supply.fill() == 2
    assert store.items.open_work(project.id) == 5


def test_what_a_lone_person_passed_over_is_replaced(store: CollectStore, project: Project):
    supply = ItemSupply(store, project.id, Counting(), PROMPTS, SupplyPlan(ahead=2))
    supply.fill()
    anna = person(store, "anna")
    for _ in range(4):
        judge(store, project, anna, {"verdict": "skip", "skip_reason": "unclear"})
        supply.fill()
    assert not isinstance(store.work.claim(project.id, anna), str)


def test_a_restart_goes_on_with_the_next_prompt(store: CollectStore, project: Project):
    whole = Counting()
    other = store.projects.create("other", "Without a stop", Question(kind="pair"))
    ItemSupply(store, other.id, whole, PROMPTS, SupplyPlan(ahead=7)).fill()

    first, second = Counting(), Counting()
    ItemSupply(store, project.id, first, PROMPTS, SupplyPlan(ahead=4)).fill()
    ItemSupply(store, project.id, second, PROMPTS, SupplyPlan(ahead=7)).fill()
    assert [name for name, _ in whole.asked] == ["a", "b", "c", "a", "b", "c", "a"]
    assert first.asked + second.asked == whole.asked
    assert len(set(whole.asked)) == 7, "another round has other seeds"


def test_another_policy_starts_with_the_first_prompt(store: CollectStore, project: Project):
    ItemSupply(store, project.id, Counting(), PROMPTS, SupplyPlan(ahead=2)).fill()
    newer = Counting("newer")
    ItemSupply(store, project.id, newer, PROMPTS, SupplyPlan(ahead=3)).fill()
    assert [name for name, _ in newer.asked] == ["a"]


def test_nothing_is_sampled_for_a_project_that_rests(store: CollectStore, project: Project):
    store.projects.set_state(project.id, "paused")
    source = Counting()
    assert ItemSupply(store, project.id, source, PROMPTS).fill() == 0
    assert source.asked == []


def test_a_model_that_always_says_the_same_is_reported(store: CollectStore, project: Project):
    with pytest.raises(CollectError, match=f"mute: the replies to {MOST_IN_VAIN} prompts in a row were empty, equal"):
        ItemSupply(store, project.id, Mute("mute"), PROMPTS).fill()


@pytest.mark.parametrize(("kind", "replies"), [("rank", 4), ("rate", 4), ("write", 0), ("rewrite", 1)])
def test_tasks_have_the_replies_of_their_kind(store: CollectStore, kind: str, replies: int):
    axes = [{"key": "help", "label": "Helpful"}] if kind == "rate" else []
    made = store.projects.create(kind, kind, Question.model_validate({"kind": kind, "axes": axes}))
    ItemSupply(store, made.id, Counting(), PROMPTS, SupplyPlan(ahead=1, replies=4)).fill()
    (item,) = store.items.page(made.id)
    assert len(store.items.content(item.id)[1]) == replies


def test_the_thread_keeps_up_and_ends(store: CollectStore, project: Project):
    supply = ItemSupply(store, project.id, Counting(), PROMPTS, SupplyPlan(ahead=3))
    filled = threading.Event()
    fill = supply.fill
    supply.fill = lambda: (fill(), filled.set())[0]  # type: ignore[method-assign]
    with supply:
        assert filled.wait(10)
        assert store.items.count(project.id)["open"] == 3
    assert supply.error is None
    assert not [thread for thread in threading.enumerate() if thread.name == "supply"]


def test_why_the_thread_ended_is_logged_and_kept(
    store: CollectStore, project: Project, caplog: pytest.LogCaptureFixture
):
    supply = ItemSupply(store, project.id, Mute("mute"), PROMPTS)
    logging.getLogger("thumbs").propagate = True
    with caplog.at_level(logging.ERROR), supply:
        supply._thread.join(10)
    assert "raise the temperature" in str(supply.error)
    assert "no more replies are sampled" in caplog.text


def replies(*texts: str) -> list[Reply]:
    return [Reply(text, model("alpha", number)) for number, text in enumerate(texts)]


def test_pairs_of_empty_and_of_equal_replies_are_left_out():
    assert usable_pairs(replies("x", "", "y", "x ")) == [(2, 3), (0, 2)]
    assert usable_pairs(replies("x", "x")) == []


@pytest.mark.parametrize(("active", "best"), [("uncertain", (0, 1)), ("disagreement", (0, 2))])
def test_the_choice_by_hand(active: Active, best: tuple[int, int]):
    """Of two members: gaps 0-1: -0.1, 0.1; 0-2: -3, 2; 1-2: -2.9, 1.9, so their means are 0, -0.5, -0.5.

    σ of the gaps: 0.475, 0.525; 0.047, 0.881; 0.052, 0.870, so the deviations are 0.025, 0.417, 0.409.
    """
    scores = np.array([[0.0, 0.0], [0.1, -0.1], [3.0, -2.0]])
    pairs = [(0, 1), (0, 2), (1, 2)]
    found = [choose_pair(pairs, scores, active, 0.4, seed) for seed in range(4000)]
    assert {choice.places for choice in found if choice.chosen_by["drawn"] == "active"} == {best}
    for pair in pairs:
        expected = 0.4 / 3 + 0.6 * (pair == best)
        said = [choice.chosen_by["propensity"] for choice in found if choice.places == pair]
        assert said == pytest.approx([expected] * len(said))
        share = np.mean([choice.places == pair for choice in found])
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_one_model_cannot_disagree_with_itself():
    with pytest.raises(ConfigError, match=r"there is one; set reward_model\.heads"):
        choose_pair([(0, 1)], np.zeros((2, 1)), "disagreement", 0.5, 0)


def test_accuracy_is_honest_on_the_random_share_and_by_propensity_and_biased_on_the_chosen():
    """A reward model that is right in proportion to its certainty, asked about 3000 prompts with four replies."""
    random = np.random.default_rng(0)
    pairs = usable_pairs(replies("a", "b", "c", "d"))
    truth, honest, chosen, weighed, weights = [], [], [], [], []
    for prompt in range(3000):
        scores = random.normal(size=(4, 1)) * 1.5
        gap = {(i, j): float(scores[i, 0] - scores[j, 0]) for i, j in pairs}
        right = {pair: random.random() < 1 / (1 + np.exp(-abs(x))) for pair, x in gap.items()}
        truth.append(np.mean(list(right.values())))
        choice = choose_pair(pairs, scores, "uncertain", 0.25, prompt)
        (honest if choice.chosen_by["drawn"] == "random" else chosen).append(right[choice.places])
        weighed.append(right[choice.places] / choice.chosen_by["propensity"] / len(pairs))
        weights.append(1 / choice.chosen_by["propensity"] / len(pairs))
    true = float(np.mean(truth))
    assert np.mean(honest) == pytest.approx(true, abs=4 * np.std(honest) / len(honest) ** 0.5)
    assert np.mean(weighed) == pytest.approx(true, abs=4 * np.std(weighed) / len(weighed) ** 0.5)
    assert np.mean(weights) == pytest.approx(1, abs=4 * np.std(weights) / len(weights) ** 0.5)
    assert np.mean(chosen) < true - 0.15


def test_the_first_pair_of_independent_replies_is_any_of_them():
    choice = first_pair([(0, 1), (2, 3), (0, 2)])
    assert choice.places == (0, 1)
    assert choice.chosen_by == {"policy": "random", "of": 3, "propensity": 1 / 3, "drawn": "random"}


def test_items_say_how_their_pair_was_chosen(store: CollectStore, project: Project):
    def score(messages: Sequence[Message], replies: Sequence[Reply]) -> np.ndarray:
        return np.arange(len(replies), dtype=float)[:, None] ** 2

    supply = ItemSupply(
        store,
        project.id,
        Counting(),
        PROMPTS,
        SupplyPlan(ahead=1, replies=3, active="uncertain", random_share=0.01),
        score=score,
    )
    supply.fill()
    (item,) = store.items.page(project.id)
    assert item.chosen_by == {
        "policy": "uncertain",
        "of": 3,
        "propensity": pytest.approx(0.01 / 3 + 0.99),
        "drawn": "active",
        "scores": [[0.0], [1.0]],
        "series": "counting seed 0",
        "draw": 0,
    }


def test_an_active_choice_needs_scores(store: CollectStore, project: Project):
    with pytest.raises(CollectError, match="counting has none"):
        ItemSupply(store, project.id, Counting(), PROMPTS, SupplyPlan(active="uncertain"))
