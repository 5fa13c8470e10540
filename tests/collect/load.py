"""Many tabs of a few people at once, answers sent twice, servers killed: nothing may be lost or counted twice.

python tests/collect/load.py [--database sqlite|postgresql] [--tabs 48] [--people 12] [--seconds 60] [--think 0.5]
                             [--servers 1] [--kills 0]

Each tab claims, looks at the task for up to `think` seconds and answers; 30 % of the answers are sent again. A tab
whose connection breaks sends again, with the same key, until it is answered. Prints how long claims and answers took,
and what the database holds in the end against what was acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import func, select

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a script, it finds what tests share

import postgres_server
from collect_world import pair
from thumbs.collect.question import Question
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import ASSIGNMENTS, ITEMS, JUDGEMENTS
from thumbs.collect.web.sessions import csrf_token

SLUG, OVERLAP, LEASE_S, REPLAYED = "work", 2, 600, 0.3


@dataclass
class Seen:
    """What the tabs saw: seconds of each call, keys that were acknowledged, refusals by status."""

    claims: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)
    broken: int = 0


@dataclass(frozen=True)
class Load:
    """How much is asked for."""

    tabs: int = 48
    people: int = 12
    seconds: float = 60
    think: float = 0.5
    servers: int = 1
    kills: int = 0


class Tab:
    """A browser tab that keeps one connection, as a browser would."""

    def __init__(self, ports: list[int], secret: str, seed: int) -> None:
        self.ports, self.random = ports, random.Random(seed)
        self.secret = secret
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: dict[str, Any], key: str = "") -> tuple[int, Any]:
        """Status and value of the answer; raises OSError or EOFError if the connection breaks."""
        if self.streams is None:
            self.port = self.random.choice(self.ports)
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        data = json.dumps(body).encode()
        head = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"Cookie: collect_login={self.secret}",
            f"X-CSRF-Token: {csrf_token(self.secret)}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            *([f"Idempotency-Key: {key}"] if key else []),
        ]
        try:
            writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
            return int(lines[0].split()[1]), json.loads(await reader.readexactly(length))
        except (OSError, EOFError):
            writer.close()
            self.streams = None
            raise


async def judge(tab: Tab, load: Load, seen: Seen, until: float) -> None:
    """Claims and answers until the time is over."""
    while time.monotonic() < until:
        start = time.perf_counter()
        try:
            status, claimed = await tab.ask("POST", f"/api/projects/{SLUG}/claim", {})
        except (OSError, EOFError):
            seen.broken += 1
            await asyncio.sleep(0.1)
            continue
        seen.claims.append(time.perf_counter() - start)
        assert status == 200, claimed
        if "task" not in claimed:
            await asyncio.sleep(0.2)
            continue
        await asyncio.sleep(tab.random.random() * load.think)
        await answer(tab, claimed["task"]["id"], seen)


async def answer(tab: Tab, assignment: str, seen: Seen) -> None:
    """Sends a tie until it is taken or refused, and now and then once more."""
    key = uuid.uuid4().hex
    left = 2 if tab.random.random() < REPLAYED else 1
    while left:
        start = time.perf_counter()
        try:
            status, told = await tab.ask(
                "PUT", f"/api/assignments/{assignment}/judgement", {"answer": {"verdict": "tie"}}, key
            )
        except (OSError, EOFError):
            seen.broken += 1
            await asyncio.sleep(0.1)
            continue
        seen.answers.append(time.perf_counter() - start)
        if status in (200, 201):
            seen.acknowledged.append(key)
        else:
            seen.refused[status] += 1
            assert status in (409, 503), told
        left -= status != 503


class Servers:
    """Server processes on one database, each on a port of its own."""

    def __init__(self, where: str, number: int) -> None:
        self.where, self.ports = where, [_free_port() for _ in range(number)]
        self.processes = [self.start(port) for port in self.ports]

    def start(self, port: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("server.py")), self.where, str(port)])
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return process
            assert process.poll() is None, "the server ended"
            time.sleep(0.05)
        raise AssertionError("the server does not listen")

    async def kill_some(self, kills: int, seconds: float) -> None:
        """Kills servers in turn, -9, spread over the time."""
        for number in range(kills):
            await asyncio.sleep(seconds / (kills + 1))
            place = number % len(self.ports)
            self.processes[place].kill()
            self.processes[place].wait()
            self.processes[place] = await asyncio.to_thread(self.start, self.ports[place])

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


async def _run(servers: Servers, secrets: list[str], load: Load) -> Seen:
    seen, until = Seen(), time.monotonic() + load.seconds
    tabs = [Tab(servers.ports, secrets[i % load.people], i) for i in range(load.tabs)]
    work = [judge(tab, load, seen, until) for tab in tabs]
    await asyncio.gather(*work, servers.kill_some(load.kills, load.seconds))
    return seen


def run(where: str, load: Load) -> tuple[Seen, dict[str, Any]]:
    """What the tabs saw, and what the database says afterwards."""
    store = CollectStore(where if "://" in where else Path(where))
    items = int(load.people * (load.seconds / max(load.think / 2, 0.02))) // OVERLAP + 200
    settings = ProjectSettings(overlap=OVERLAP, lease_s=LEASE_S)
    project = store.projects.create(SLUG, "Work", Question(), settings=settings)
    store.items.add(project.id, (pair(i) for i in range(items)))
    people = [store.people.add(f"person-{i}", f"Person {i}", "annotator").id for i in range(load.people)]
    servers = Servers(where, load.servers)
    try:
        seen = asyncio.run(_run(servers, [store.people.log_in(person) for person in people], load))
    finally:
        servers.stop()
    held = check(store, seen)
    store.close()
    return seen, held


def check(store: CollectStore, seen: Seen) -> dict[str, Any]:
    """Acknowledged answers that are not there, kept more than once, or more than wanted; counters that drifted."""
    acknowledged = set(seen.acknowledged)
    with store.db.reading() as db:
        kept = list(db.scalars(select(JUDGEMENTS.c.key)))
        twice = db.execute(
            select(ASSIGNMENTS.c.item_id, ASSIGNMENTS.c.account_id)
            .group_by(ASSIGNMENTS.c.item_id, ASSIGNMENTS.c.account_id)
            .having(func.count() > 1)
        ).all()
        over = db.scalar(select(func.count()).where(ITEMS.c.n_done > ITEMS.c.target))
        sound = db.exec_driver_sql("PRAGMA integrity_check").scalar() if store.db.is_sqlite else "ok"
    return {
        "kept": len(kept),
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged - set(kept)),
        "duplicated": len(kept) - len(set(kept)) + len(twice),
        "over target": over,
        "counters adrift": len(store.work.recount()),
        "integrity": sound,
    }


@contextlib.contextmanager
def database(kind: str) -> Iterator[str]:
    """Where a new store of that kind may be."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "sqlite":
            yield str(Path(folder) / "collect.db")
            return
        # With the disk behind each commit, as a server that people trust has it.
        with postgres_server.running(durable=True) as socket_folder, postgres_server.new_database(socket_folder) as url:
            yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    for name, value in vars(Load()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    given = vars(parser.parse_args())
    kind = given.pop("database")
    load = Load(**given)
    with database(kind) as where:
        seen, held = run(where, load)
    lines = [f"{kind}, {load}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end"]
    for name, times in (("claims", seen.claims), ("answers", seen.answers)):
        p50, p99, longest = 1000 * np.percentile(times, [50, 99, 100])
        lines.append(
            f"{name}: {len(times)}, {len(times) / load.seconds:.0f} a second, "
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {longest:.0f} ms"
        )
    lines.append(f"connections that broke: {seen.broken}; refused: {dict(seen.refused)} (409: judged in another tab)")
    lines.append(", ".join(f"{name} {number}" for name, number in held.items()))
    sys.stdout.write("\n".join(lines) + "\n")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
