"""How fast the team's pages of `thumbs collect` are with 100,000 items and 1,000,000 judgements.

`python benchmarks/collect_scale.py` fills a SQLite file and, where Debian's PostgreSQL is installed, a database there,
then prints median and 99th percentile of each page, while the statistics are being computed and afterwards, and what
these take. `--items 1000` for a quick look; `--database URL` for a database of your own (it must be empty).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
from collect_fill import Size, fill

from thumbs.collect.store import CollectStore
from thumbs.collect.web.app import create_app
from thumbs.collect.web.site import Site

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import postgres_server

PAGES = (
    "/admin",
    "/admin/team",
    "/admin/p/scale",
    "/admin/p/scale/people",
    "/admin/p/scale/items",
    "/admin/p/scale/items?after=90000",
    "/admin/p/scale/items?state=retired",
    "/admin/p/scale/items?state=open&role=work&after=50000",
    "/admin/p/scale/items?show=disputed",
    "/admin/p/scale/items?show=stuck",
    "/admin/p/scale/items?show=skipped",
    "/admin/p/scale/items?show=flagged",
    "/admin/p/scale/items?by=1-2&after=50000",
    "/admin/p/scale/items?by=1-2&state=retired",
    "/admin/p/scale/items/1",
    "/admin/p/scale/gold",
    "/admin/p/scale/export",
    "/admin/p/scale/settings",
    "/admin/p/scale/log",
    "/p/scale/results",
    "/p/scale/results/samples",
    "/p/scale/results/samples?show=disputed",
)
_LIMIT_MS = 300.0


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("--items", type=int, default=100_000)
    given.add_argument("--overlap", type=int, default=10)
    given.add_argument("--people", type=int, default=40)
    given.add_argument("--rounds", type=int, default=20, help="requests of each page")
    given.add_argument("--database", help="the URL of an empty database")
    asked = given.parse_args()
    size = Size(asked.items, asked.overlap, asked.people)
    if asked.database:
        measure(asked.database, size, asked.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder) / "collect.db", size, asked.rounds)
    if postgres_server.missing() is None:
        with postgres_server.running(durable=True) as folder, postgres_server.new_database(folder) as url:
            measure(url, size, asked.rounds)


def measure(where: Path | str, size: Size, rounds: int) -> None:
    """Fills the database and prints what its pages take."""
    store = CollectStore(where)
    start = time.perf_counter()
    project = fill(store, size)
    kind = "SQLite" if store.db.is_sqlite else "PostgreSQL"
    count = store.votes.watermark(project.id)
    print(f"\n{kind}: {size.items:,} items, {count:,} judgements, filled in {time.perf_counter() - start:.0f} s")
    try:
        asyncio.run(_pages(store, project.id, rounds))
    finally:
        store.close()


async def _pages(store: CollectStore, project_id: int, rounds: int) -> None:
    app = create_app(Site(store=store, key=b"k" * 32))
    secret = store.people.log_in(store.people.at_home("lead").id)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        client.cookies.set("collect_login", secret)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        busy = {page: await _taken(client, page, rounds) for page in PAGES}
        numbers = (await asyncio.to_thread(app.state.snapshots.wait, project_id)).numbers
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        idle = {page: await _taken(client, page, rounds) for page in PAGES}
    print(f"statistics of {numbers.votes:,} judgements: {numbers.took_s:.1f} s, {grown:.0f} MB at their peak")
    print(f"{'':55} {'while they are made':>20} {'afterwards':>20}")
    print(f"{'page':55}" + "".join(f" {name:>10}" for name in ("median", "p99") * 2))
    for page in PAGES:
        print(f"{page:55}" + "".join(f" {value:7.1f} ms" for times in (busy, idle) for value in _summary(times[page])))
    slowest = max(_summary(times[page])[1] for times in (busy, idle) for page in PAGES)
    print(f"slowest p99: {slowest:.0f} ms, {'within' if slowest < _LIMIT_MS else 'NOT WITHIN'} {_LIMIT_MS:.0f} ms")


async def _taken(client: httpx.AsyncClient, page: str, rounds: int) -> list[float]:
    """Milliseconds of each request."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        answer = await client.get(page)
        taken.append(1000 * (time.perf_counter() - start))
        answer.raise_for_status()
    return taken


def _summary(taken: list[float]) -> tuple[float, float]:
    return statistics.median(taken), sorted(taken)[math.ceil(0.99 * len(taken)) - 1]


if __name__ == "__main__":
    main()
