"""What came of a project: which generator writes the better replies, and the samples that say so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from starlette.routing import Route

from thumbs.collect.items import Wanted
from thumbs.collect.overview_numbers import SECONDS, Numbers
from thumbs.collect.projects import read_question
from thumbs.collect.quality.generators import GeneratorRank
from thumbs.collect.web.admin_items import known_items, listed, pair_filter, pairs_met
from thumbs.collect.web.admin_site import Content, handles, reads
from thumbs.collect.web.charts import Column
from thumbs.collect.web.render import language_of
from thumbs.collect.web.visits import Visit
from thumbs.collect.web.words import Words, translator

SHOWS = ("all", "disputed", "flagged")
_A_PAGE = 10


def routes() -> list[Route]:
    """The numbers, and the samples behind them."""
    path = "/p/{slug}/results"
    return [
        reads(path, "admin/results.html", "results", results),
        reads(f"{path}/samples", "admin/samples.html", "results", samples),
    ]


def results(visit: Visit) -> Content:
    """Leaderboard, win matrix, biases, agreement; ?axis= shows the leaderboard of one axis."""
    shown = visit.numbers()
    if shown.numbers is None:
        return {"shown": shown, "numbers": None}
    numbers, t = shown.numbers, translator(language_of(visit.request))
    axis = visit.asked("axis") if visit.asked("axis") in numbers.boards else ""
    board = numbers.boards[axis]
    return {
        "shown": shown,
        "numbers": numbers,
        "agreements": [("", numbers.overall), *numbers.axes.items()],
        "axis": axis,
        "turned": any(
            read_question(one.body).direction != "better"
            for one in visit.store.projects.versions("questions", visit.project.id)
        ),
        "board": board,
        "ends": _ends(board),
        "makers": visit.store.generators(),
        "matrix": numbers.matrix,
        "figures": (("strengths", strength_columns(numbers, t)), ("seconds", second_columns(numbers, t))),
    }


def samples(visit: Visit) -> Content:
    """Items with their replies, whose makers are shown on demand, and what people said."""
    shown = visit.numbers()
    show = visit.choice("show", SHOWS) or "all"
    ids = known_items(shown.numbers, show, pair_filter(visit.asked("by")))
    wanted = Wanted(role="work", judged=True, ids=ids)
    records, more = listed(visit, wanted, show, visit.number("after"), _A_PAGE)
    chosen = [record.id for record in records]
    return {
        "shown": shown,
        "records": records,
        "texts": visit.store.items.texts(chosen),
        "votes": visit.store.votes.by_item(chosen),
        "handles": handles(visit),
        "show": show,
        "shows": SHOWS,
        "by": visit.asked("by"),
        "pairs": pairs_met(visit, shown.numbers),
        "next": visit.next("after", more),
        "guidelines": {one.id: one.version for one in visit.store.projects.versions("guidelines", visit.project.id)},
    }


def strength_columns(numbers: Numbers, t: Words) -> list[Column]:
    """Verdicts as people saw the replies: the left one better, neither, the right one better."""
    shown, verdicts = numbers.tape.shown, numbers.tape.verdicts
    left = [Column(f"←{n}", shown[-n], f"{t('results.left', n=n)}: {shown[-n]}", "a") for n in (4, 3, 2, 1)]
    right = [Column(f"{n}→", shown[n], f"{t('results.right', n=n)}: {shown[n]}", "b") for n in (1, 2, 3, 4)]
    middle = [
        Column(sign, verdicts[name], f"{t(f'admin.verdict.{name}')}: {verdicts[name]}")
        for sign, name in (("=", "tie"), ("✗", "both_bad"))
    ]
    return [*left, *middle, *right]


def second_columns(numbers: Numbers, t: Words) -> list[Column]:
    """How many answers took how long."""
    ranges = [*(f"{low}–{high}" for low, high in pairwise(SECONDS)), f"{SECONDS[-1]}+"]
    return [
        Column(f"≥{low}", count, f"{name} {t('admin.seconds')}: {count}")
        for low, name, count in zip(SECONDS, ranges, numbers.tape.bins, strict=True)
    ]


def _ends(board: Sequence[GeneratorRank]) -> tuple[float, float]:
    """The lowest and the highest end of all intervals, between which they are drawn."""
    ends = [value for one in board for value in (one.strength.low, one.strength.high) if value is not None]
    return min(ends, default=0.0), max(ends, default=1.0)
