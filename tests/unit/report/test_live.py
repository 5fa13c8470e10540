"""A page that follows a run: what it serves, to whom, and when it ends."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thumbs.errors import RunError
from thumbs.report import live
from thumbs.report.live import Pages, follow, server_of
from thumbs.tracking import RunFolder, write_json


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder(tmp_path / "run").open({"seed": 0, "sft": {}}) as folder:
        folder.stage("sft").metrics.log(1, {"sft/loss": 2.5})
        yield folder


def test_the_page_follows_what_the_run_writes(run: RunFolder) -> None:
    pages = Pages(run.path)
    first = pages.page().decode()
    assert '<html lang="en" data-live>' in first
    assert "connect-src 'self'" in first
    assert "at step 1" in first
    assert pages.page().decode() == first
    run.stage("sft").metrics.log(2, {"sft/loss": 1.5})
    pages._due = 0.0  # as if time had passed
    assert "at step 2" in pages.page().decode()


def test_making_pages_takes_a_tenth_of_the_time_at_most(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = Clock(), []

    def slowly(path: Path, *, live: bool) -> str:
        made.append(path)
        clock.now += 3.0
        return str(len(made))

    monkeypatch.setattr(live, "build_page", slowly)
    pages = Pages(run.path, clock)
    assert pages.page() == b"1"  # at 3 s
    for at, page in ((4.0, b"1"), (32.9, b"1"), (33.1, b"2")):
        run.stage("sft").metrics.log(int(10 * at), {"sft/loss": 1.0})
        clock.now = at
        assert pages.page() == page, at


def test_half_written_lines_and_folders_that_are_emptied_are_no_errors(run: RunFolder, caplog: Any) -> None:
    pages = Pages(run.path)
    with (run.path / "sft" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "wall_s": 1.0, "sft/lo')
    assert "at step 1" in pages.page().decode()
    before = pages.page()
    (run.path / "config.json").rename(run.path / "gone.json")
    pages._due = 0.0
    assert pages.page() == before
    assert b"cannot be read yet" in Pages(run.path).page()
    assert not caplog.records


@pytest.fixture
def ask(run: RunFolder) -> Iterator[Callable[..., tuple[int, bytes, dict[str, str]]]]:
    pages = Pages(run.path)
    with server_of(pages, "secret") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]

        def get(path: str, headers: dict[str, str] = {}) -> tuple[int, bytes, dict[str, str]]:  # noqa: B006
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())

        assert server.server_address[0] == "127.0.0.1"
        yield get
        server.shutdown()


def test_only_this_machine_and_who_knows_the_token_see_it(ask: Callable[..., tuple[int, bytes, dict[str, str]]]):
    status, page, headers = ask("/secret/")
    assert (status, b"at step 1" in page) == (200, True)
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert ask("/secret/", {"If-None-Match": headers["ETag"]})[:2] == (304, b"")
    for path in (
        "/",
        "/wrong/",
        "/secret",
        "/secret/../config.json",
        "/secret/config.json",
        "/s%C3%A9cret/",
    ):
        status, body, _ = ask(path)
        assert (status, b"step" in body) == (404, False), path
    assert ask("/secret/", {"Host": "evil.example"})[0] == 403
    assert ask("/secret/", {"Host": "localhost:1"})[0] == 200


def test_it_ends_with_the_run_and_leaves_the_report(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(live, "_LOOK_S", 0.01)
    monkeypatch.setattr(live, "_GOODBYE_S", 0.0)
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(follow(run.path, said.append)))
    thread.start()
    while not said:
        thread.join(0.01)
    assert said[0].startswith(f"following {run.path}: http://127.0.0.1:")
    run.stage("sft").metrics.log(7, {"sft/loss": 1.0})
    write_json(run.path / "summary.json", {})
    thread.join(60)
    assert said[1:] == ["the run has ended"]
    assert found == [run.path / "report.html"]
    page = found[0].read_text(encoding="utf-8")
    assert "at step 7" in page
    assert "data-live>" not in page
    assert "connect-src" not in page


def test_without_a_process_there_is_nothing_to_follow(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        follow(tmp_path, print)
    folder.open({"seed": 0}).close()
    (tmp_path / ".lock").write_text(str(2**22 + 1))  # above the largest number of a process
    said: list[str] = []
    assert follow(tmp_path, said.append) == tmp_path / "report.html"
    assert "no process works on" in said[0]


def test_a_run_is_worked_on_from_its_beginning_to_its_summary(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.is_worked_on()
    with folder.open({"seed": 0}):
        assert folder.is_worked_on()
        write_json(tmp_path / "summary.json", {})
        assert not folder.is_worked_on()
        os.utime(tmp_path / "summary.json", ns=(0, 0))  # that of an earlier process
        assert folder.is_worked_on()
    for strange in ("", "not a number", json.dumps({})):
        (tmp_path / ".lock").write_text(strange)
        assert not folder.is_worked_on()
