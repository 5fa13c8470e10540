"""Tasks dealt out one at a time, to one person after the other, and what becomes of their answers."""

from __future__ import annotations

import pytest

from collect_world import Clock, first_is_better, model, pair, person, project_of_pairs
from thumbs.collect.errors import CollectError, Conflict, NotFound
from thumbs.collect.question import AnswerError, Axis, Question
from thumbs.collect.records import Answer, Effort, NewItem, Task
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.records import Generator, Message, Reply

TIE = {"verdict": "tie"}


def claim(store: CollectStore, project_id: int, account: int) -> Task:
    found = store.work.claim(project_id, account)
    assert isinstance(found, Task), found
    return found


def answer_all(store: CollectStore, project_id: int, account: int, key: str) -> int:
    """How many tasks the person got."""
    for number in range(1000):
        task = store.work.claim(project_id, account)
        if isinstance(task, str):
            return number
        store.work.submit(task.assignment, account, f"{key}-{number:08d}", first_is_better(task))
    raise AssertionError("tasks without end")


def test_two_tabs_have_one_task_and_two_people_have_two(store: CollectStore):
    project = project_of_pairs(store, 2)
    ann, ben = person(store, "ann"), person(store, "ben")
    first, again, other = (claim(store, project.id, who) for who in (ann, ann, ben))
    assert first.assignment == again.assignment
    assert first.replies == again.replies
    assert first.messages != other.messages
    assert store.work.claim(project.id, person(store, "cy")) == "all_leased"


def test_overlap_is_the_number_of_people_an_item_is_shown_to(store: CollectStore):
    project = project_of_pairs(store, 4, overlap=2)
    counts = [answer_all(store, project.id, person(store, f"p{i}"), f"p{i}") for i in range(3)]
    assert counts == [4, 4, 0]
    assert store.items.count(project.id) == {"open": 0, "done": 4, "retired": 0}


def test_the_overlap_can_change_in_the_middle(store: CollectStore):
    project = project_of_pairs(store, 2, overlap=2)
    ann, ben = person(store, "ann"), person(store, "ben")
    assert answer_all(store, project.id, ann, "ann") == 2
    store.items.set_target(project.id, 1)
    assert store.items.count(project.id) == {"open": 0, "done": 2, "retired": 0}
    assert store.work.claim(project.id, ben) == "done"
    store.items.set_target(project.id, 2)
    assert store.items.open_work(project.id) == 2
    assert answer_all(store, project.id, ben, "ben") == 2


def test_a_lone_annotator_gets_the_task_back_in_the_same_order(store: CollectStore, clock: Clock):
    project = project_of_pairs(store, 2, lease_s=60)
    ann = person(store, "ann")
    first = claim(store, project.id, ann)
    clock.forward(61)
    assert store.work.expire() == 1
    again = claim(store, project.id, ann)
    assert (again.assignment, again.replies) == (first.assignment, first.replies)


def test_a_lease_that_ran_out_is_given_to_somebody_else(store: CollectStore, clock: Clock):
    project = project_of_pairs(store, 1, lease_s=60)
    ann, ben = person(store, "ann"), person(store, "ben")
    first = claim(store, project.id, ann)
    clock.forward(30)
    assert store.work.claim(project.id, ben) == "all_leased"
    clock.forward(31)
    second = claim(store, project.id, ben)
    assert second.messages == first.messages
    assert store.work.submit(second.assignment, ben, "ben-answer", TIE).late is False
    # Ann's answer is more than was asked for, but it was given, so it is kept.
    saved = store.work.submit(first.assignment, ann, "ann-answer", TIE)
    assert saved.late is True
    assert [(vote.account, vote.late) for vote in store.votes.all(project.id)] == [(ben, False), (ann, True)]


def test_a_heartbeat_and_a_second_claim_renew_the_lease(store: CollectStore, clock: Clock):
    project = project_of_pairs(store, 1, lease_s=60)
    ann, ben = person(store, "ann"), person(store, "ben")
    task = claim(store, project.id, ann)
    clock.forward(50)
    store.work.heartbeat(task.assignment, ann)
    clock.forward(50)
    assert store.work.claim(project.id, ben) == "all_leased"
    assert claim(store, project.id, ann).assignment == task.assignment
    clock.forward(50)
    assert store.work.claim(project.id, ben) == "all_leased"


def test_a_released_task_comes_last(store: CollectStore):
    project = project_of_pairs(store, 2)
    ann = person(store, "ann")
    first = claim(store, project.id, ann)
    store.work.release(first.assignment, ann)
    second = claim(store, project.id, ann)
    assert second.assignment != first.assignment
    store.work.submit(second.assignment, ann, "key-second", TIE)
    assert claim(store, project.id, ann).assignment == first.assignment


def test_a_skip_frees_the_place_and_is_kept_with_its_reason(store: CollectStore):
    project = project_of_pairs(store, 1)
    ann, ben = person(store, "ann"), person(store, "ben")
    task = claim(store, project.id, ann)
    store.work.submit(task.assignment, ann, "key-skip", {"verdict": "skip", "skip_reason": "language"})
    assert store.work.claim(project.id, ann) == "done"
    claim(store, project.id, ben)
    assert [vote.answer for vote in store.votes.all(project.id)] == [Answer("skip", skip_reason="language")]


def test_an_answer_can_be_changed_and_both_stay(store: CollectStore):
    project = project_of_pairs(store, 1)
    ann = person(store, "ann")
    task = claim(store, project.id, ann)
    store.work.submit(task.assignment, ann, "key-one!", first_is_better(task, 4), Effort(900, 1000, "key"))
    again = store.work.show(task.assignment, ann)
    assert again.earlier == first_is_better(task, 4)
    assert again.revision == 1
    store.work.revise(task.assignment, ann, "key-two!", 1, {"verdict": "both_bad"})
    told = store.votes.revisions(task.assignment)
    assert [(v.answer.verdict, v.answer.strength, v.active_ms) for v in told] == [
        ("prefer", -4, 900),
        ("both_bad", 0, 0),
    ]
    assert [v.answer.verdict for v in store.votes.all(project.id)] == ["both_bad"]
    first = told[0].judgement
    assert [v.answer.verdict for v in store.votes.all(project.id, watermark=first)] == ["prefer"]
    with pytest.raises(Conflict, match="revision 2"):
        store.work.revise(task.assignment, ann, "key-three", 1, TIE)


def test_a_key_is_for_one_answer(store: CollectStore):
    project = project_of_pairs(store, 2)
    ann, ben = person(store, "ann"), person(store, "ben")
    task = claim(store, project.id, ann)
    store.work.submit(task.assignment, ann, "the-same-key", TIE)
    with pytest.raises(Conflict, match="another answer"):
        store.work.submit(task.assignment, ann, "the-same-key", {"verdict": "both_bad"})
    other = claim(store, project.id, ben)
    with pytest.raises(Conflict, match="another answer"):
        store.work.submit(other.assignment, ben, "the-same-key", TIE)
    with pytest.raises(Conflict, match="has an answer"):
        store.work.submit(task.assignment, ann, "another-key", TIE)
    with pytest.raises(CollectError, match="8 to 100 characters"):
        store.work.submit(other.assignment, ben, "short", TIE)


def test_nobody_answers_for_somebody_else(store: CollectStore):
    project = project_of_pairs(store, 1)
    ann, ben = person(store, "ann"), person(store, "ben")
    task = claim(store, project.id, ann)
    for attempt in (
        lambda: store.work.submit(task.assignment, ben, "key-of-ben", TIE),
        lambda: store.work.show(task.assignment, ben),
        lambda: store.work.release(task.assignment, ben),
        lambda: store.work.heartbeat(task.assignment, ben),
        lambda: store.work.show("no-such-task", ann),
    ):
        with pytest.raises(NotFound):
            attempt()


def test_a_wrong_answer_changes_nothing(store: CollectStore):
    project = project_of_pairs(store, 1)
    ann = person(store, "ann")
    task = claim(store, project.id, ann)
    with pytest.raises(AnswerError):
        store.work.submit(task.assignment, ann, "key-wrong", {"verdict": "prefer"})
    assert list(store.votes.all(project.id)) == []
    store.work.submit(task.assignment, ann, "key-wrong", TIE)


def test_closed_doors_say_why(store: CollectStore):
    project = project_of_pairs(store, 3, quota=1)
    ann, ben = person(store, "ann"), person(store, "ben")
    assert answer_all(store, project.id, ann, "ann") == 1
    assert store.work.claim(project.id, ann) == "quota"
    store.projects.set_state(project.id, "paused")
    assert store.work.claim(project.id, ben) == "paused"
    store.projects.set_state(project.id, "closed")
    assert store.work.claim(project.id, ben) == "closed"
    store.projects.set_state(project.id, "open")
    store.projects.configure(project.id, ProjectSettings(invited_only=True))
    assert store.work.claim(project.id, ben) == "not_invited"
    claim(store, project.id, ann)  # she is a member since her first task


def test_an_answer_on_its_way_is_kept_when_the_project_closes(store: CollectStore):
    project = project_of_pairs(store, 1)
    ann = person(store, "ann")
    task = claim(store, project.id, ann)
    store.projects.set_state(project.id, "closed")
    assert store.work.submit(task.assignment, ann, "key-late!", TIE).revision == 1


def gold(number: int, role: str = "gold") -> NewItem:
    return pair(number, role=role, gold=Answer("prefer", -1))


def test_gold_comes_in_between_and_never_first(store: CollectStore):
    project = project_of_pairs(store, 40, gold_every=4)
    store.items.add(project.id, [gold(100 + i) for i in range(5)])
    roles = []
    ann = person(store, "ann")
    while isinstance(task := store.work.claim(project.id, ann), Task):
        roles.append("gold" if int(task.messages[0].content.split()[1]) >= 100 else "work")
        store.work.submit(task.assignment, ann, f"key-{len(roles):05d}", first_is_better(task))
    assert roles[0] == "work"
    assert roles.count("gold") == 5  # of 40, one in four: all five within their turns
    assert roles.count("work") == 40
    assert len(list(store.votes.all(project.id))) == 40
    assert len(list(store.votes.all(project.id, roles=("gold",)))) == 5


@pytest.mark.parametrize(("strength", "outcome"), [(2, "qualified"), (-2, "not_qualified")])
def test_the_qualification_decides_who_goes_on(store: CollectStore, strength: int, outcome: str):
    project = project_of_pairs(store, 1, qualify_items=2, qualify_share=1.0)
    store.items.add(project.id, [gold(100 + i, "qualification") for i in range(3)])
    ann = person(store, "ann")
    for number in range(2):
        task = claim(store, project.id, ann)
        assert int(task.messages[0].content.split()[1]) >= 100
        body = first_is_better(task)
        body["strength"] *= strength // 2
        store.work.submit(task.assignment, ann, f"key-{number:05d}", body)
    found = store.work.claim(project.id, ann)
    assert (found == "not_qualified") == (outcome == "not_qualified")
    assert isinstance(found, Task) == (outcome == "qualified")


def test_a_test_that_was_interrupted_goes_on(store: CollectStore, clock: Clock):
    project = project_of_pairs(store, 1, qualify_items=2, qualify_share=0.5, lease_s=60)
    store.items.add(project.id, [gold(100 + i, "qualification") for i in range(2)])
    ann = person(store, "ann")
    first = claim(store, project.id, ann)
    clock.forward(61)
    store.work.expire()
    assert claim(store, project.id, ann).assignment == first.assignment
    store.work.submit(first.assignment, ann, "key-00001", first_is_better(first))
    second = claim(store, project.id, ann)
    store.work.submit(second.assignment, ann, "key-00002", {"verdict": "skip", "skip_reason": "other"})
    assert claim(store, project.id, ann).messages[0].content == "question 0"  # one of two is half
    # What is decided stays, whatever becomes of the answers.
    store.work.revise(first.assignment, ann, "key-00003", 1, {"verdict": "tie"})
    assert isinstance(store.work.claim(project.id, ann), Task)


def test_items_are_known_by_their_content(store: CollectStore):
    project = project_of_pairs(store, 2)
    again = store.items.add(project.id, [pair(0), pair(1), pair(2)])
    assert (again.created, again.existing, again.refused) == (1, 2, [])
    messages, replies = store.items.content(again.ids[0])
    assert messages == pair(0).messages
    assert replies == pair(0).replies  # with generator, checkpoint, sampling and seed


UNFIT: list[tuple[NewItem, str]] = [
    (NewItem((Message("user", "q"),), (Reply("a", model("m")),)), "takes 2"),
    (NewItem((Message("user", "q"),), (Reply("a", model("m")), Reply(" a ", model("n")))), "are the same"),
    (NewItem((Message("user", "q"),), (Reply("a", model("m")), Reply(" \n", model("n")))), "reply 1 is empty"),
    (NewItem((Message("user", " "),), (Reply("a", model("m")), Reply("b", model("n")))), "an empty prompt"),
    (NewItem((), (Reply("a", model("m")), Reply("b", model("n")))), "an empty prompt"),
    (NewItem((Message("user", "q"),), (Reply("a\0", model("m")), Reply("b", model("n")))), "cannot keep"),
    (NewItem((Message("user", "q"),), (Reply("a", model("m\0")), Reply("b", model("n")))), "cannot keep"),
    (
        NewItem((Message("user", "q"),), (Reply("a", Generator("model", "m", "\0")), Reply("b", model("n")))),
        "cannot keep",
    ),
    (NewItem((Message("user", "q"),), (Reply("a", model("m")), Reply("b", model("n"))), name="x\0"), "cannot keep"),
    (NewItem((Message("user", "q"),), (Reply("a", model("m", 2**63)), Reply("b", model("n")))), "64 bits"),
    (NewItem((Message("user", "q"),), (Reply("a", model("m", True)), Reply("b", model("n")))), "64 bits"),
    (NewItem((Message("user", "q"),), (Reply("a", model("m", "7")), Reply("b", model("n")))), "64 bits"),  # type: ignore[arg-type]
    (NewItem((Message("user", "\ud83d"),), (Reply("a", model("m")), Reply("b", model("n")))), "cannot keep"),
    (NewItem((Message("user", "q"),), (Reply("a" * 1_000_001, model("m")), Reply("b", model("n")))), "1000000"),
]


@pytest.mark.parametrize(("item", "why"), UNFIT)
def test_what_cannot_be_judged_is_refused_and_costs_no_other(store: CollectStore, item: NewItem, why: str):
    project = project_of_pairs(store, 0)
    added = store.items.add(project.id, [pair(0), item, pair(1)])
    assert added.created == 2
    assert [place for place, _ in added.refused] == [1]
    assert why in added.refused[0][1]


def test_a_written_reply_is_kept_as_its_authors(store: CollectStore):
    project = store.projects.create("rewrites", "Rewrites", Question(kind="rewrite"))
    store.items.add(project.id, [NewItem((Message("user", "q"),), (Reply("bad", model("m")),))])
    ann = person(store, "ann")
    task = claim(store, project.id, ann)
    store.work.submit(task.assignment, ann, "key-write", {"verdict": "write", "text": "better"})
    assert [(g.kind, g.name) for g in store.generators().values()] == [("model", "m"), ("human", "ann")]
    assert next(store.votes.all(project.id)).answer.text == "better"


def test_a_new_question_holds_from_the_next_task_on(store: CollectStore):
    project = project_of_pairs(store, 2)
    ann, ben = person(store, "ann"), person(store, "ben")
    before = claim(store, project.id, ann)
    store.projects.ask(project.id, Question(axes=(Axis(key="kind", label="Kind", required=True),)))
    store.projects.advise(project.id, "# Be kind")
    after = claim(store, project.id, ben)
    assert (before.question_version, after.question_version) == (1, 2)
    assert (before.guideline_version, after.guideline_version) == (1, 2)
    store.work.submit(before.assignment, ann, "key-before", TIE)  # by the rules that ann was shown
    with pytest.raises(AnswerError, match="/axes/kind"):
        store.work.submit(after.assignment, ben, "key-after", TIE)
    assert store.projects.ask(project.id, store.projects.question(project.id)[1]).version == 2
    with pytest.raises(CollectError, match="made for 'pair'"):
        store.projects.ask(project.id, Question(kind="rank"))


def test_history_is_ones_own_and_newest_first(store: CollectStore):
    project = project_of_pairs(store, 5, overlap=2)
    ann, ben = person(store, "ann"), person(store, "ben")
    assert answer_all(store, project.id, ann, "ann") == 5
    answer_all(store, project.id, ben, "ben")
    page = store.work.history(project.id, ann, limit=3)
    assert [past.excerpt for past in page] == ["question 4", "question 3", "question 2"]
    older = store.work.history(project.id, ann, before=page[-1].item, limit=3)
    assert [past.excerpt for past in older] == ["question 1", "question 0"]


def test_sides_are_dealt_by_chance_and_written_down(store: CollectStore):
    project = project_of_pairs(store, 60)
    ann = person(store, "ann")
    answer_all(store, project.id, ann, "ann")
    displays = [vote.display for vote in store.votes.all(project.id)]
    assert set(displays) == {(0, 1), (1, 0)}
    assert 15 <= displays.count((0, 1)) <= 45  # 60 throws of a fair coin leave this once in 10⁴
    assert {vote.answer.strength for vote in store.votes.all(project.id)} == {-2}


def test_retired_items_are_given_to_nobody(store: CollectStore):
    project = project_of_pairs(store, 2)
    first = store.items.page(project.id)[0]
    store.items.retire([first.id])
    assert claim(store, project.id, person(store, "ann")).messages[0].content == "question 1"
    assert store.items.count(project.id) == {"open": 1, "done": 0, "retired": 1}
    store.items.reopen([first.id])
    assert claim(store, project.id, person(store, "ben")).messages[0].content == "question 0"


def test_higher_priority_comes_first(store: CollectStore):
    project = project_of_pairs(store, 3)
    store.items.add(project.id, [pair(9, priority=1.0)])
    assert claim(store, project.id, person(store, "ann")).messages[0].content == "question 9"
