"""The team's pages as a browser gets them: what they show, what their forms change, and what they refuse."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collect_visitor import Visitor, team_app
from collect_world import first_is_better, person, project_of_pairs
from thumbs.collect.exports.formats import UNFIT
from thumbs.collect.exports.select import DROPS
from thumbs.collect.question import Axis, Question
from thumbs.collect.records import NewItem
from thumbs.collect.store import CollectStore
from thumbs.collect.web import admin_forms
from thumbs.collect.web.words import words
from thumbs.records import Generator, Message, Reply

HERE = "/admin/p/work"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
PAGES = (
    "/admin",
    "/admin/new",
    "/admin/team",
    *(HERE + page for page in ("", "/people", "/items", "/items/1", "/gold", "/import", "/export")),
    *(HERE + page for page in ("/settings", "/log")),
    f"{HERE}/items?show=disputed&by=1-2&state=done&role=work",
    f"{HERE}/items?show=stuck&after=7",
    f"{HERE}/items?show=flagged&by=99999999999999999999",
    f"{HERE}/export?format=trl&min_agreement=7&per_person=x",
    f"{HERE}/log?check=1&before=9999999999999999999999",
    f"{HERE}/settings?compare=77",
    "/p/work/results?axis=nothing",
    "/p/work/results/samples?show=disputed",
    "/p/work/results/samples?by=1-2&after=x",
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CollectStore]:
    opened = CollectStore(tmp_path / "collect.db")
    yield opened
    opened.close()


@pytest.fixture
def owner(store: CollectStore) -> Visitor:
    """An owner at a project of three pairs that two people judged: 1 alike, 2 the other way round, 3 passed on."""
    made = project_of_pairs(store, 3, overlap=2)
    for handle, second in (("ann", 2), ("ben", -4)):
        account = person(store, handle)
        for place, strength in enumerate((2, second, 0)):
            task = store.work.claim(made.id, account)
            body = first_is_better(task, strength) if strength else {"verdict": "skip", "skip_reason": "unclear"}
            if strength and place:
                body["reason"] = f"{handle} {EVIL}"
            store.work.submit(task.assignment, account, f"key-of-{handle}-{place}", body)
    return Visitor(team_app(store), person(store, "olga", "owner"))


def test_every_page_answers_in_both_languages_whatever_its_address_says(owner: Visitor):
    for path in PAGES:
        for lang in ("en", "zh"):
            page = owner.get(path, headers={"Accept-Language": lang})
            assert page.status_code == 200, path
            assert f'<html lang="{lang}">' in page.text
            assert "style=" not in page.text
            assert "<script" not in page.text


def test_a_page_without_judgements_says_that_it_knows_too_little(store: CollectStore):
    project_of_pairs(store, 1)
    visitor = Visitor(team_app(store), person(store, "olga", "owner"))
    assert words("en")["admin.unknown"] in visitor.get(HERE).text
    assert words("en")["admin.no_overlap"].split(":")[0] in visitor.get(HERE).text
    assert "No two generators".lower() in visitor.get("/p/work/results").text.lower()


def test_the_overview_shows_progress_and_who_skipped(owner: Visitor):
    page = owner.get(HERE).text
    assert "4 of 6 judgements on 3 items" in page
    assert "33.3 %" in page  # two skips of six


def test_who_said_what_and_why_stands_side_by_side(owner: Visitor):
    page = owner.get(f"{HERE}/items?show=disputed").text
    assert "question 1" in page
    assert "question 0" not in page
    assert words("en")["admin.why.opposite"] in page
    line = page[page.index('<ul class="opinions">') :]
    assert re.search(r">A 2</span> <bdi>ann</bdi> <q dir=\"auto\">ann &lt;script", line)
    assert re.search(r">B 4</span> <bdi>ben</bdi>", line)
    item = owner.get(f"{HERE}/items/2").text
    assert item.index("A is better") < item.index("B is better")
    assert "alpha/model" in item
    assert "temperature 0.7" in item


def test_every_revision_stays_on_the_page_of_the_item(store: CollectStore, owner: Visitor):
    vote = store.votes.of_item(1)[0]
    body = {"verdict": "tie", "reason": "on second thoughts"}
    store.work.revise(vote.assignment, vote.account, "another-key", 1, body)
    page = owner.get(f"{HERE}/items/1").text
    assert page.index("on second thoughts") < page.index("replaced by a later revision")
    assert f"Judgement {vote.judgement}" in page


def test_a_project_is_made_with_its_question_and_filled_from_lines(store: CollectStore, owner: Visitor):
    form = {
        "slug": "fresh",
        "name": "Fresh",
        "kind": "pair",
        "overlap": "3",
        "tie": "on",
        "axes": "helpful: Helpful *\nharmless",
        "flags": "rude\nwrong",
        "reason": "required",
        "direction": "better",
        "guidelines": "# Be fair",
    }
    made = owner.form("/admin/new", **form)
    assert made.headers["location"] == "/admin/p/fresh/import?done=created"
    project = store.projects.find("fresh")
    question = store.projects.question(project.id)[1]
    helpful, harmless = question.axes
    assert helpful == Axis(key="helpful", label="Helpful", required=True)
    assert harmless == Axis(key="harmless", label="harmless")
    assert (question.tie, question.both_bad, question.reason) == (True, False, "required")
    assert question.flags == ("rude", "wrong")
    assert store.projects.settings(project.id).overlap == 3
    assert store.projects.guidelines(project.id).body == "# Be fair"

    good = json.dumps({"prompt": "hi", "replies": ["one", "two"]})
    page = owner.form("/admin/p/fresh/import", pasted=f"{good}\n{{\n{good}", source="old-model")
    assert "1 new items, 1 there already, 1 refused." in page.text
    assert store.items.content(store.items.page(project.id)[0].id)[1][0].generator.name == "old-model"


def test_what_was_typed_comes_back_with_the_reason(owner: Visitor):
    page = owner.form("/admin/new", slug="No Good", name=EVIL, guidelines="keep me")
    assert page.status_code == 400
    assert "short name" in page.text
    assert "keep me" in page.text
    assert "&lt;script&gt;" in page.text
    assert "<script" not in page.text
    assert owner.form("/admin/new", slug="ok", name="ok", axes="Bad Axis!").status_code == 400
    assert owner.form("/admin/new", slug="ok", name="ok", kind="dance").status_code == 400


def test_an_item_is_retired_reopened_and_made_gold(store: CollectStore, owner: Visitor):
    owner.form(f"{HERE}/items/2", action="retire")
    assert store.items.get(2).state == "retired"
    owner.form(f"{HERE}/items/2", action="reopen")
    assert store.items.get(2).state == "done"
    vote = store.votes.of_item(2)[0]
    made = owner.form(f"{HERE}/items/2", action="gold", judgement=str(vote.judgement))
    new = store.items.get(int(re.findall(r"/items/(\d+)", made.headers["location"])[0]))
    assert new.role == "gold"
    assert new.gold["strength"] == vote.answer.strength
    assert new.gold["reason"] == ""
    assert new.chosen_by["judgement"] == vote.judgement
    assert store.items.content(new.id) == store.items.content(2)
    assert f"#{new.id}" in owner.get(f"{HERE}/gold").text
    assert owner.form(f"{HERE}/items/3", action="gold", judgement="5").status_code == 400  # a skip, or not of this item
    assert owner.form(f"{HERE}/items/2", action="dance").status_code == 400


def test_an_item_of_another_project_is_not_shown(store: CollectStore, owner: Visitor):
    other = project_of_pairs(store, 1, slug="other")
    item = store.items.page(other.id)[0].id
    assert owner.get(f"{HERE}/items/{item}").status_code == 404
    assert owner.form(f"{HERE}/items/{item}", action="retire").status_code == 404
    assert store.items.get(item).state == "open"


def test_somebody_is_invited_once_and_paused(store: CollectStore, owner: Visitor):
    page = owner.form(f"{HERE}/people", action="new", handle="Zoe", name="Zoe Z", role="annotator")
    link = re.search(r'value="http://localhost/invite/([^"]+)"', page.text)
    assert link is not None
    zoe = store.people.find("zoe")
    assert store.people.invited(link.group(1)) == zoe
    assert link.group(1) not in owner.get(f"{HERE}/people").text
    project = store.projects.find("work").id
    owner.form(f"{HERE}/people", action="pause", account=str(zoe.id))
    assert store.people.member(project, zoe.id).paused
    owner.form(f"{HERE}/people", action="save", account=str(zoe.id), quota="7", role="reviewer")
    assert store.people.member(project, zoe.id).quota == 7
    assert store.people.get(zoe.id).role == "reviewer"
    assert owner.form(f"{HERE}/people", action="save", account=str(zoe.id), role="emperor").status_code == 400


def test_an_admin_makes_no_owner(store: CollectStore, owner: Visitor):
    admin = Visitor(owner.http.app, person(store, "adam", "admin"))
    ann = store.people.find("ann")
    assert admin.form("/admin/team", action="role", account=str(ann.id), role="owner").status_code == 400
    assert store.people.get(ann.id).role == "annotator"


def test_an_api_token_is_shown_once(store: CollectStore, owner: Visitor):
    page = owner.form("/admin/team", action="token", scope="ingest", note="the script")
    secret = re.search(r'value="(tc-[^"]+)"', page.text).group(1)
    assert store.people.token(secret)[1] == "ingest"
    assert secret not in owner.get("/admin/team").text
    owner.form("/admin/team", action="revoke", token=str(store.people.tokens()[0].id))
    assert store.people.token(secret) is None


def test_guidelines_are_previewed_and_compared_before_they_are_saved(store: CollectStore, owner: Visitor):
    path, project = f"{HERE}/settings/guidelines", store.projects.find("work").id
    owner.form(path, action="save", guidelines="Be fair.\nBe quick.")
    page = owner.form(path, action="preview", guidelines="Be fair.\nBe **kind**.")
    assert "<strong>kind</strong>" in page.text
    assert re.search(r'class="removed">− Be quick\.', page.text)
    assert re.search(r'class="added">\+ Be \*\*kind\*\*\.', page.text)
    assert store.projects.guidelines(project).body == "Be fair.\nBe quick."
    owner.form(path, action="save", guidelines="Be fair.\nBe **kind**.")
    assert store.projects.guidelines(project).version == 3
    assert 'class="removed">− Be quick.' in owner.get(f"{HERE}/settings").text


def test_settings_hold_and_a_new_overlap_reaches_the_items(store: CollectStore, owner: Visitor):
    project = store.projects.find("work").id
    form = {"overlap": "5", "lease_minutes": "10", "gold_every": "8", "qualify_percent": "80", "quota": ""}
    assert owner.form(f"{HERE}/settings", **form, mturk="on").status_code == 303
    found = store.projects.settings(project)
    assert (found.overlap, found.lease_s, found.gold_every, found.qualify_share) == (5, 600, 8, 0.8)
    assert (found.quota, found.mturk, found.submit_on_key) == (None, True, False)
    assert {item.target for item in store.items.page(project)} == {5}
    assert owner.form(f"{HERE}/settings", overlap="0").status_code == 400
    owner.form(f"{HERE}/settings/state", state="paused")
    assert store.projects.get(project).state == "paused"


def test_an_export_is_previewed_made_and_fetched(store: CollectStore, owner: Visitor):
    page = owner.get(f"{HERE}/export?format=preferences&min_strength=3").text
    assert "<b>1</b> <span>rows, from 1 of 6 judgements on 1 items." in page
    assert "thumbs collect export work --format preferences min_strength=3" in page
    dropped = dict(re.findall(r'<th scope="row">([^<]+)</th><td><b>(\d+)</b>', page))
    assert dropped == {"passed on": "2", "too weak": "3"}
    made = owner.form(f"{HERE}/export", format="preferences", min_strength="3")
    assert made.status_code == 303
    for _ in range(500):
        page = owner.get(f"{HERE}/export").text
        if "/export/1" in page:
            break
        time.sleep(0.01)
    rows = owner.get(f"{HERE}/export/1")
    manifest = owner.get(f"{HERE}/export/1?manifest=1").json()
    assert rows.headers["content-disposition"].startswith("attachment")
    assert len(rows.text.splitlines()) == manifest["counts"]["rows"] == 1
    assert manifest["sha256"] in page
    assert owner.get("/admin/p/other/export/1").status_code == 404
    refused = owner.form(f"{HERE}/export", format="trl", min_agreement="7")
    assert refused.status_code == 400


def test_viewers_see_no_forms_that_they_cannot_send(store: CollectStore, owner: Visitor):
    viewer = Visitor(owner.http.app, person(store, "vera", "viewer"))
    for path in PAGES:
        page = viewer.get(path).text
        posts = re.findall(r'<form method="post"(?! action="/logout")[^>]*>', page)
        assert not posts or path in ("/admin/new",) or path.startswith(f"{HERE}/settings"), (path, posts)


def test_hostile_texts_stay_texts(store: CollectStore):
    made = store.projects.create("work", EVIL, Question(flags=(EVIL,)), guidelines=EVIL)
    replies = tuple(Reply(f"{EVIL} {i}", Generator("model", EVIL, EVIL, {EVIL: EVIL}, 1)) for i in range(2))
    store.items.add(made.id, [NewItem((Message("user", EVIL),), replies, chosen_by={EVIL: EVIL})])
    account = store.people.add("eve", EVIL, "annotator").id
    task = store.work.claim(made.id, account)
    store.work.submit(task.assignment, account, "key-of-eve", {"verdict": "tie", "reason": EVIL, "flags": [[EVIL], []]})
    visitor = Visitor(team_app(store), person(store, "olga", "owner"))
    for path in PAGES:
        page = visitor.get(path).text
        assert "<script" not in page, path
        assert "<img" not in page, path


def test_the_pages_have_all_their_words_in_both_languages():
    texts = "".join(
        path.read_text(encoding="utf-8")
        for folder, ending in (("templates/admin", "html"), (".", "py"))
        for path in (Path(admin_forms.__file__).parent / folder).glob(f"*.{ending}")
    )
    for lang in ("en", "zh"):
        known = words(lang)
        used = set(re.findall(r"""t\(["'](admin\.[a-z_.]+[a-z_]|results\.[a-z_.]+[a-z_])["'][,)]""", texts))
        assert used <= known.keys()
        assert {f"admin.drop.{reason}" for reason in (*DROPS, *UNFIT)} <= known.keys()
    assert {key for key in words("en") if key.startswith(("admin.", "results."))} <= words("zh").keys()
    places = {key: set(re.findall(r"{\w+}", text)) for key, text in words("en").items()}
    for key, text in words("zh").items():
        assert set(re.findall(r"{\w+}", text)) == places[key], key


def test_axes_are_written_as_they_are_read():
    clear = Axis(key="clear", label="Clear", low=0, high=7, required=True)
    question = Question(kind="rate", axes=(clear, Axis(key="kind", label="Kind")))
    assert admin_forms.axes_text(question) == "clear: Clear [0-7] *\nkind: Kind [1-5]"
    assert tuple(admin_forms._axis(line) for line in admin_forms.axes_text(question).splitlines()) == question.axes
