"""Calls to objects in other processes: results, errors, and workers that die or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from thumbs.errors import ConfigError, DataError, WorkerError, WorkerLost, WorkerStuck
from thumbs.workers import CREWS
from thumbs.workers.base import Crew, RemoteWorker, WorkerSpec, results
from thumbs.workers.pipes import PipeCrew
from thumbs.workers.ray_actors import noted_cluster

COUNTER = "unit.workers.far:Counter"


CREW_MODULES = {"PipeCrew": "pipes", "RayCrew": "ray_actors"}
PATIENCE_S = {"pipes": 4.0, "ray": 8.0}
"""Without a sign of life; an actor of Ray is asked for one, which takes longer on a busy machine."""


@pytest.fixture(params=PATIENCE_S)
def crew(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crew]:
    if request.param == "ray":
        pytest.importorskip("ray", reason="Ray is not installed; pip install 'thumbs[cluster]'")
    make: Any = CREWS[request.param]
    crew = make(tmp_path / "logs", patience_s=PATIENCE_S[request.param])
    yield crew
    crew.close()


def start(crew: Crew, *starts: int) -> list[RemoteWorker]:
    return crew.start(
        [WorkerSpec(f"rank {number}", COUNTER, (start,), threads=2) for number, start in enumerate(starts)]
    )


def process_of(worker: RemoteWorker) -> int:
    return worker.call("where").result()[0]


def test_calls_are_done_in_order_by_each_worker(crew):
    workers = start(crew, 0, 10)
    futures = [worker.call("add", by=by) for by in (1, 2, 3) for worker in workers]
    assert results(futures) == [1, 11, 3, 13, 6, 16]
    assert all(worker.alive() for worker in workers)


def test_a_worker_is_another_process_with_its_threads_and_log(crew, tmp_path):
    (worker,) = start(crew, 0)
    process, threads = worker.call("where").result()
    assert (process_of(worker), threads) == (process, "2")
    assert process != os.getpid()
    assert (tmp_path / "logs" / "rank-0.log").read_text() == "counting here\n" * 2


def test_an_error_of_ours_is_raised_as_itself_and_the_worker_goes_on(crew):
    (worker,) = start(crew, 4)
    with pytest.raises(DataError, match="datum 3: no"):
        worker.call("refuse").result()
    assert worker.call("add").result() == 5


def test_an_error_of_ours_that_no_bytes_can_hold_says_what_it_was(crew):
    (worker,) = start(crew, 4)
    with pytest.raises(WorkerError, match=r"LineError: rows.jsonl:3: no"):
        worker.call("lack").result(timeout=30)
    assert worker.call("add").result() == 5


def test_an_answer_that_cannot_be_read_here_fails_its_call(crew):
    (worker,) = start(crew, 4)
    with pytest.raises((WorkerError, WorkerLost), match="it is only there"):
        worker.call("unreadable").result(timeout=30)


def test_another_error_names_worker_method_place_and_traceback(crew):
    (worker,) = start(crew, 4)
    with pytest.raises(WorkerError) as caught:
        worker.call("break_down").result()
    assert str(caught.value).startswith(f"{worker.name} failed in break_down at micro-batch 2 of 5: KeyError: 'seven'")
    assert "far.py" in str(caught.value)
    with pytest.raises(WorkerError, match="failed in unsendable: TypeError"):
        worker.call("unsendable").result()
    assert worker.call("add").result() == 5


def test_a_killed_worker_is_an_error_of_all_that_wait_for_it(crew, tmp_path):
    worker, other = start(crew, 0, 0)
    process, others = process_of(worker), process_of(other)
    waiting, behind = worker.call("wait"), worker.call("add")
    while "about to wait" not in (tmp_path / "logs" / "rank-0.log").read_text():
        assert worker.alive()
    os.kill(process, signal.SIGKILL)
    lost = r"(?s)rank 0 on .* (ended with signal 9|died .*), during wait.*\nIts log .*rank-0.log ends:\n.*about to wait"
    with pytest.raises(WorkerLost, match=lost):
        waiting.result()
    with pytest.raises(WorkerLost):
        behind.result()
    assert not worker.alive()
    with pytest.raises(WorkerLost, match="during add"):
        worker.call("add").result()
    assert (other.call("add").result(), process_of(other)) == (1, others)


def test_a_lost_worker_is_reported_before_its_peers_errors(crew):
    first, second = start(crew, 0, 0)
    with pytest.raises(WorkerLost, match=r"rank 1 on .* (ended with exit status 7|died)"):
        results([first.call("break_down"), second.call("die", 7)])
    with pytest.raises(DataError):
        results([first.call("break_down"), first.call("refuse")])


def test_a_method_that_makes_no_progress_is_stuck(crew):
    (worker,) = start(crew, 0)
    with pytest.raises(WorkerStuck, match=r"rank 0 on .* made no progress for .* during wait at the gate"):
        worker.call("wait", patience_s=2.5).result()
    assert not worker.alive()


def test_a_process_that_shows_no_sign_of_life_is_stuck(crew):
    (worker,) = start(crew, 0)
    os.kill(process_of(worker), signal.SIGSTOP)
    with pytest.raises(WorkerStuck, match=r"gave no sign of life for .*, during add"):
        worker.call("add").result()
    assert not worker.alive()


def test_a_worker_with_signs_of_life_may_take_long(crew):
    """Its heartbeat comes while it waits, so the crew's patience is not what ends it."""
    (worker,) = start(crew, 0)
    waiting = worker.call("wait")
    with pytest.raises(TimeoutError):
        waiting.result(timeout=4.0 if isinstance(crew, PipeCrew) else 10.0)
    worker.close()
    with pytest.raises(WorkerLost, match="was closed"):
        waiting.result()


def test_closing_ends_the_processes(crew):
    workers = start(crew, 0, 0)
    crew.close()
    assert not any(worker.alive() for worker in workers)
    with pytest.raises(WorkerLost, match="was closed"):
        workers[0].call("add").result()
    workers[0].close()  # again: nothing


def test_a_factory_that_fails_leaves_nothing_running(crew):
    with pytest.raises(DataError, match="no such model"):
        crew.start([WorkerSpec("rank 0", COUNTER, (0,)), WorkerSpec("rank 1", "unit.workers.far:broken")])
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        crew.start([WorkerSpec("rank 0", "unit.workers.far:nothing")])


def test_a_cancelled_call_harms_no_other(crew):
    (worker,) = start(crew, 0)
    futures: list[Future[int]] = [worker.call("add") for _ in range(3)]
    futures[1].cancel()
    assert (futures[0].result(), futures[2].result()) == (1, 3)


def test_a_process_that_stops_in_the_middle_of_an_answer_is_stuck(tmp_path):
    crew = PipeCrew(tmp_path / "logs", patience_s=PATIENCE_S["pipes"])
    (worker,) = start(crew, 0)
    with pytest.raises(WorkerStuck, match=r"rank 0 on .* gave no sign of life for .*, during stop_within_answer"):
        worker.call("stop_within_answer").result(timeout=60)
    crew.close()


def test_a_factory_that_stands_still_is_ended(crew, monkeypatch):
    monkeypatch.setattr(f"thumbs.workers.{CREW_MODULES[type(crew).__name__]}.STARTING_S", 3.0)
    with pytest.raises(WorkerStuck, match=r"rank 0 on .* made no progress for .*, during its factory at the gate"):
        crew.start([WorkerSpec("rank 0", "unit.workers.far:never")])


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR", None])
def test_the_cluster_that_ray_start_has_noted_is_found_where_ray_looks_for_it(tmp_path, monkeypatch, name):
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'thumbs[cluster]'")
    from ray._common.utils import get_ray_address_file

    for other in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(other, raising=False)
    if name is not None:
        monkeypatch.setenv(name, str(tmp_path))
        assert noted_cluster() is None
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.7:6379\n")
    note = Path(get_ray_address_file(None))
    assert noted_cluster() == (note.read_text().strip() if note.exists() else None)
    assert name is None or noted_cluster() == "10.0.0.7:6379"


def test_a_cluster_that_does_not_answer_is_an_error_that_says_what_to_do(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'thumbs[cluster]'")
    program = "from thumbs.workers.ray_actors import RayCrew; RayCrew()"
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "ConfigError: no Ray cluster answers at 127.0.0.1:1" in done.stderr
    assert "ray start --head" in done.stderr


WITH_DEVICES = """
import sys, ray
from thumbs.workers.base import WorkerSpec
from thumbs.workers.ray_actors import RayCrew
ray.init(address="local", num_gpus=2, num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
crew = RayCrew()
specs = [WorkerSpec(f"rank {n}", "unit.workers.far:Counter", (n,), gpus=1) for n in range(2)]
for times in range(2):
    ranks = crew.start(specs)
    for rank in ranks:
        rank.close()
(first, other) = crew.start(specs)
first.close()
(again,) = crew.start(specs[:1])
print([worker.call("add").result() for worker in (again, other)])
crew.close()
"""


def test_workers_with_devices_that_are_started_again_have_those_of_before():
    """All devices of the cluster are in use, so there are no others."""
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'thumbs[cluster]'")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WITH_DEVICES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[1, 2]"], done.stderr


@pytest.mark.parametrize("event", ["nothing", "refuse", "break_down", "die"])
def test_a_temporary_folder_of_logs_stays_only_for_an_error_that_names_it(monkeypatch, tmp_path, event):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    crew = PipeCrew()
    assert list(tmp_path.iterdir()) == []  # nobody has printed anything
    (worker,) = start(crew, 0)
    (logs,) = tmp_path.iterdir()
    if event == "nothing":
        worker.call("add").result()
    else:
        with pytest.raises((DataError, WorkerError, WorkerLost)) as caught:
            worker.call(event, *([7] if event == "die" else [])).result()
        assert (f"Its log {logs}/rank-0.log" in str(caught.value)) == (event != "refuse")
    crew.close()
    assert list(tmp_path.iterdir()) == ([logs] if event in ("break_down", "die") else [])
