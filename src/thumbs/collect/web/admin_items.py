"""Items: new ones, which there are, who said what of each and why, where its replies come from, the known answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select
from starlette.datastructures import FormData, UploadFile
from starlette.routing import Route

from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.importing import import_items
from thumbs.collect.items import Wanted, excerpt
from thumbs.collect.judgement import Counting, restated
from thumbs.collect.overview_numbers import Numbers
from thumbs.collect.records import ITEM_ROLES, STATES, ItemRecord, NewItem, Vote
from thumbs.collect.screening import hidden_of
from thumbs.collect.tables import ASSIGNMENTS, ITEMS
from thumbs.collect.web.admin_site import Content, changes, handles, number, reads, text
from thumbs.collect.web.visits import Visit
from thumbs.data.load import ignored_text

SHOWS = ("all", "disputed", "stuck", "skipped", "flagged")
_A_PAGE = 25
_EXCERPT = 160
_MOST_PROBLEMS = 50


@dataclass(frozen=True)
class ListedItem:
    """An item in a list: the end of its prompt, who wrote its replies, and who said what of it."""

    record: ItemRecord
    excerpt: str
    makers: tuple[str, ...]
    votes: tuple[Vote, ...]
    why: tuple[str, ...] = ()


def routes() -> list[Route]:
    """The list, new items, one item, the known answers."""
    base = "/admin/p/{slug}"
    add = (f"{base}/import", "admin/import.html", "items", import_page)
    item = (f"{base}/items/{{item:int}}", "admin/item.html", "items", one_item)
    return [
        reads(f"{base}/items", "admin/items.html", "items", items),
        reads(*add),
        changes(*add, _add, ("file", "pasted", "source")),
        reads(*item),
        changes(*item, {"retire": _retire, "reopen": _reopen, "gold": _make_gold}, ("judgement",)),
        reads(f"{base}/gold", "admin/gold.html", "gold", gold),
    ]


def items(visit: Visit) -> Content:
    """A page of items that are as asked for, and what can be asked for."""
    show = visit.choice("show", SHOWS) or "all"
    shown = visit.numbers()
    wanted = Wanted(
        state=visit.choice("state", STATES),
        role=visit.choice("role", ITEM_ROLES),
        stuck=show == "stuck",
        skipped=show == "skipped",
        ids=known_items(shown.numbers, show, pair_filter(visit.asked("by"))),
    )
    records, more = listed(visit, wanted, show, visit.number("after"), _A_PAGE)
    why = {one.item: one.why for one in shown.numbers.disputes} if shown.numbers else {}
    return {
        "lines": lines(visit, records, why),
        "handles": handles(visit),
        "show": show,
        "wanted": wanted,
        "by": visit.asked("by"),
        "pairs": pairs_met(visit, shown.numbers),
        "next": visit.next("after", more),
        "shown": shown,
        "shows": SHOWS,
        "states": STATES,
        "roles": ITEM_ROLES,
    }


def import_page(visit: Visit) -> Content:
    """An empty form, and what the project asks, since that says which lines fit."""
    question = visit.store.projects.question(visit.project.id)[1]
    return {"question": question, "added": None, "problems": (), "bad": 0, "ignored": ()}


def _add(visit: Visit, form: FormData) -> Content:
    """Adds what can be read; the rest is told line by line."""
    source = text(form, "source") or "upload"
    found = import_items(visit.store, visit.project.id, _lines(form), source=source, by=visit.account)
    shown = {"problems": found.problems[:_MOST_PROBLEMS], "bad": len(found.problems)}
    return {"added": found.added, "ignored": ignored_text(found.ignored), **shown}


def _lines(form: FormData) -> Iterable[str | bytes]:
    file = form.get("file")
    if isinstance(file, UploadFile) and file.filename:
        return file.file
    pasted = text(form, "pasted")
    if not pasted:
        raise CollectError("choose a file, or paste lines of JSON")
    return pasted.splitlines()


def one_item(visit: Visit) -> Content:
    """Everything that is known of one item."""
    record = _own(visit)
    texts = visit.store.items.text(record.id)
    votes = visit.store.votes.of_item(record.id)
    rule = visit.store.votes.rule(record.project_id)
    holders = select(*ASSIGNMENTS.c["account_id", "state", "leased", "expires"]).where(
        ASSIGNMENTS.c.item_id == record.id, ASSIGNMENTS.c.revision == 0
    )
    with visit.store.db.reading() as db:
        held = db.execute(holders).all()
    return {
        "record": record,
        "gold": visit.store.votes.golds([record.id]).get(record.id),
        "left_out": {vote.judgement: rule.why_not(vote) for vote in votes},
        "messages": texts.messages,
        "replies": texts.replies,
        "hidden": hidden_of(texts),
        "votes": votes,
        "revisions": {vote.assignment: visit.store.votes.revisions(vote.assignment) for vote in votes},
        "held": held,
        "handles": handles(visit),
        "questions": {one.id: one.version for one in visit.store.projects.versions("questions", record.project_id)},
        "guidelines": {one.id: one.version for one in visit.store.projects.versions("guidelines", record.project_id)},
    }


def _retire(visit: Visit, _form: FormData) -> str:
    record = _own(visit)
    visit.store.items.retire([record.id], visit.account)
    return f"{visit.home}/items/{record.id}?done=retired"


def _reopen(visit: Visit, _form: FormData) -> str:
    record = _own(visit)
    visit.store.items.reopen([record.id], visit.account)
    return f"{visit.home}/items/{record.id}?done=reopened"


def _make_gold(visit: Visit, form: FormData) -> str:
    """Makes one of the item's judgements the right answer of a gold item."""
    record, judgement = _own(visit), number(form, "judgement")
    vote = next((one for one in visit.store.votes.of_item(record.id) if one.judgement == judgement), None)
    if vote is None or vote.answer.verdict == "skip":
        raise CollectError("only an answer that stands, and is no skip, can be the right one")
    messages, replies = visit.store.items.content(record.id)
    question = visit.store.projects.question(record.project_id)[1]
    right = restated(replace(vote.answer, reason="", text=""), question)  # a gold answer is kept as it would be given
    source = {"policy": "gold", "item": record.id, "judgement": judgement}
    new = NewItem(messages, replies, role="gold", gold=right, chosen_by=source)
    added = visit.store.items.add(visit.project.id, [new], visit.account)
    if added.refused:
        raise CollectError(added.refused[0][1])
    return f"{visit.home}/items/{added.ids[0]}?done=gold"


def gold(visit: Visit) -> Content:
    """Items whose answer is known, those first that most people miss."""
    start = visit.number("from")
    known = select(ITEMS.c.id).where(ITEMS.c.project_id == visit.project.id, ITEMS.c.role != "work")
    shown = visit.numbers()
    golds = shown.numbers.golds if shown.numbers else {}

    def missed(item: int) -> float:
        answered, right = golds.get(item, (0, 0))
        return 1 - right / answered if answered else -1.0

    order = sorted(visit.store.db.values(known.order_by(ITEMS.c.id)), key=lambda item: (-missed(item), item))
    ids = order[start : start + _A_PAGE]
    records = visit.store.items.page(visit.project.id, Wanted(ids=sorted(ids)), 0, _A_PAGE)
    by_id = {line.record.id: line for line in lines(visit, records, {})}
    return {
        "lines": [by_id[item] for item in ids],
        "golds": golds,
        "right_answers": visit.store.votes.golds(ids),
        "known": len(order),
        "handles": handles(visit),
        "shown": shown,
        "next": visit.next("from", start + _A_PAGE if start + _A_PAGE < len(order) else None),
    }


def lines(visit: Visit, records: Sequence[ItemRecord], why: Mapping[int, tuple[str, ...]]) -> list[ListedItem]:
    """The items with their prompts and votes; three queries, however many they are."""
    ids = [record.id for record in records]
    texts = visit.store.items.texts(ids)
    votes = visit.store.votes.by_item(ids, Counting())
    found = []
    for record in records:
        text = texts[record.id]
        makers = tuple(reply.generator.name for reply in text.replies)
        asked = excerpt(text.messages, _EXCERPT, hidden_of(text))
        found.append(ListedItem(record, asked, makers, tuple(votes[record.id]), why.get(record.id, ())))
    return found


def _own(visit: Visit) -> ItemRecord:
    """The item in the address; raises NotFound if it is another project's."""
    record = visit.store.items.get(visit.path_number("item"))
    if record.project_id != visit.project.id:
        raise NotFound(f"there is no item {record.id} in this project")
    return record


def pair_filter(given: str) -> tuple[int, ...] | None:
    """The generators in an address, as `pairs_met` writes them; None if they are not told."""
    parts = given.split("-")
    return tuple(int(part) for part in parts) if all(part.isdigit() and len(part) < 19 for part in parts) else None


def known_items(numbers: Numbers | None, show: str, makers: tuple[int, ...] | None) -> Sequence[int] | None:
    """The items that the statistics know to be disputed (most of all first) or flagged, and by these generators; None
    if neither is asked.
    """
    if show not in ("disputed", "flagged") and makers is None:
        return None
    if numbers is None:
        return ()
    of_makers = None if makers is None else numbers.items_by(makers)
    if show not in ("disputed", "flagged"):
        return of_makers
    kept = [one.item for one in numbers.disputes] if show == "disputed" else list(numbers.flagged)
    allowed = set(kept if of_makers is None else of_makers)
    return [item for item in kept if item in allowed]


def listed(visit: Visit, wanted: Wanted, show: str, after: int, limit: int) -> tuple[list[ItemRecord], int | None]:
    """A page of items, and where the next begins: disputed ones in the order of `wanted.ids`, others by id."""
    if show != "disputed" or wanted.ids is None:
        found = visit.store.items.page(visit.project.id, wanted, after, limit)
        return found, found[-1].id if len(found) == limit else None
    order = wanted.ids[after : after + limit]
    found = visit.store.items.page(visit.project.id, replace(wanted, ids=sorted(order)), 0, limit)
    more = after + limit if after + limit < len(wanted.ids) else None
    return sorted(found, key=lambda record: order.index(record.id)), more


def pairs_met(visit: Visit, numbers: Numbers | None) -> list[tuple[str, str]]:
    """(value, names) of generators whose replies stand in one item."""
    if numbers is None:
        return []
    names = visit.store.generators()
    return [
        ("-".join(map(str, makers)), " · ".join(names[one].name for one in makers))
        for makers in sorted(numbers.tape.pairs)
        if makers
    ]
