"""Kills what a run consists of at random moments; compares its final files and metrics with those of one left alone.

.venv/bin/python tests/e2e/kill_rank.py [--seed 0] [--kills 3] [--launcher pipes|ray] [--victim KIND] [--simulated]
    [key=value ...]

KIND is worker (a rank or a sampler, the default), rank, sampler, driver (which is then started again) or node: one of
two nodes of Ray, with all that runs on it, which is then replaced. No process may outlive its driver. Pairs key=value
are settings of the run, such as rollout.staleness=1 or engine.shard=full. --simulated: the run that is left alone
samples in its own process, when it waits for rollouts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLOCKS = ("_s", "tokens_per_s")
"""How the names of metrics end that are measured by a clock."""

ENDING_S = 60.0
"""Seconds that what a killed driver has started may take to end."""


def command(folder: Path, launcher: str, more: list[str]) -> list[str]:
    """`thumbs run` on two ranks and two samplers, a shorter one than the demonstration."""
    config = str(ROOT / "configs" / "cluster" / "tiny.yaml")
    program = "from thumbs.cli.main import app; app()"
    settings = [f"run={folder}", f"engine.launcher={launcher}", "evaluation=null", "ppo.steps=10", "sft.epochs=8"]
    return [sys.executable, "-c", program, "run", config, *settings, *more]


def workers_of(folder: Path) -> dict[int, str]:
    """The processes that print into the logs of a run, by what they are: "rank-0", say."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            log = (process / "fd" / "1").readlink()
            if log.parent == folder / "logs":
                found[int(process.name)] = log.stem
    return found


def family_of(process: int) -> set[int]:
    """A process and its descendants."""
    listed = subprocess.run(["/bin/ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True).stdout
    rows = [[int(number) for number in line.split()] for line in listed.splitlines()[1:]]
    family: set[int] = {process}
    while new := {pid for pid, parent in rows if parent in family} - family:
        family |= new
    return family


def living(processes: set[int]) -> dict[int, str]:
    """Those that have not ended, with their command lines."""
    found = {}
    for process in processes:
        with suppress(OSError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found[process] = Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")[:200]
    return found


def kill(processes: set[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Nodes:
    """Two nodes of Ray on this machine. The driver is on the first, the second may be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        self._second: Any = self._cluster.add_node(num_cpus=2)
        self.address: str = self._cluster.address

    def lose(self, workers: dict[int, str]) -> str | None:
        """Kills all processes of the second node, and adds another; None if there was no worker on it."""
        processes = [each.process.pid for kind in self._second.all_processes.values() for each in kind]
        lost = {pid for process in processes for pid in family_of(process)}
        names = [name for pid, name in workers.items() if pid in lost]
        if not names:
            return None
        kill(lost)
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = self._cluster.add_node(num_cpus=2)
        return f"a node with {' and '.join(names)}"

    def end(self) -> None:
        self._cluster.shutdown()


@contextmanager
def driver_of(folder: Path, launcher: str, more: list[str], address: str | None) -> Iterator[subprocess.Popen[bytes]]:
    """The run, started or started again."""
    environment = os.environ | ({} if address is None else {"RAY_ADDRESS": address})
    with folder.with_suffix(".log").open("a") as output:
        asked = command(folder, launcher, more)
        driver = subprocess.Popen(asked, stdout=output, stderr=output, cwd=folder.parent, env=environment)
        try:
            yield driver
        finally:
            if driver.poll() is None:
                kill(family_of(driver.pid))


def strike(victim: str, folder: Path, driver: int, nodes: Nodes | None, chance: random.Random) -> str | None:
    """Kills one; returns what it was, or None if there was none to kill."""
    if nodes is not None:
        return nodes.lose(workers_of(folder))
    if victim == "driver":
        kill({driver})
        return f"the driver {driver}"
    there = {pid: name for pid, name in workers_of(folder).items() if victim == "worker" or name.startswith(victim)}
    if not there:
        return None
    process = chance.choice(sorted(there))
    kill({process})
    return f"{there[process]}, process {process}"


def await_end(folder: Path, family: set[int]) -> None:
    """Raises SystemExit if something that belonged to a driver outlives it."""
    until = time.monotonic() + ENDING_S
    while left := living(family | set(workers_of(folder))):
        if time.monotonic() > until:
            raise SystemExit(f"the driver has ended, and others have not: {left}")
        time.sleep(0.2)


def run(
    folder: Path, asked: argparse.Namespace, settings: list[str], kills: int, chance: random.Random, pause_s: float
) -> float:
    """Runs it, with so many victims on the way, one after half of `pause_s` at least; returns the seconds it took."""
    began = time.monotonic()
    nodes = Nodes() if asked.victim == "node" else None
    try:
        killed = 0
        while True:
            with driver_of(folder, asked.launcher, settings, nodes and nodes.address) as driver:
                seen = family_of(driver.pid)
                while driver.poll() is None:
                    time.sleep(chance.uniform(pause_s / 2, pause_s))
                    seen |= family_of(driver.pid) if driver.poll() is None else set()
                    if killed < kills and driver.poll() is None:
                        while not (struck := strike(asked.victim, folder, driver.pid, nodes, chance)):
                            if driver.poll() is not None:  # there was none to kill until the end
                                break
                            time.sleep(0.2)
                        killed += struck is not None
                        sys.stdout.write(f"killed {struck}\n" if struck else "")
                        sys.stdout.flush()
            await_end(folder, seen)
            if asked.victim != "driver" or driver.returncode != -signal.SIGKILL:
                break
    finally:
        if nodes is not None:
            nodes.end()
    if driver.returncode:
        raise SystemExit(f"the run ended with {driver.returncode}:\n{folder.with_suffix('.log').read_text()[-4000:]}")
    if killed < kills:
        raise SystemExit(f"the run was over after {killed} of {kills} kills")
    return time.monotonic() - began


def main() -> None:
    """Ends with 1 if a final file differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--launcher", default="pipes")
    parser.add_argument("--victim", default="worker", choices=["worker", "rank", "sampler", "driver", "node"])
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    if asked.victim == "node" and asked.launcher != "ray":
        parser.error("nodes are Ray's; add --launcher ray")
    with tempfile.TemporaryDirectory() as name:
        folder, chance = Path(name).resolve(), random.Random(asked.seed)
        os.environ["RAY_TMPDIR"] = name  # where Ray notes a cluster, which no other program is to find
        alone = [*asked.settings, *(["rollout.workers=0"] if asked.simulated else [])]
        took = run(folder / "alone", asked, alone, 0, chance, 1.0)
        run(folder / "killed", asked, asked.settings, asked.kills, chance, took / (2 * asked.kills + 2))
        files = sorted(f.relative_to(folder / "alone") for f in (folder / "alone").glob("*/model/*.safetensors"))
        logs = sorted(f.relative_to(folder / "alone") for f in (folder / "alone").glob("*/metrics.jsonl"))
        apart = [str(f) for f in files if (folder / "alone" / f).read_bytes() != (folder / "killed" / f).read_bytes()]
        sys.stdout.write(f"{len(files) - len(apart)} of {len(files)} final files have the same bytes\n")
        other = [str(f) for f in logs if numbers(folder / "alone" / f) != numbers(folder / "killed" / f)]
        sys.stdout.write(f"{len(logs) - len(other)} of {len(logs)} stages logged the same numbers\n")
        if apart or other or not files:
            raise SystemExit(f"different: {apart + other}")


def numbers(log: Path) -> list[dict[str, Any]]:
    """What a stage logged, without its clocks."""
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in row.items() if not name.endswith(CLOCKS)} for row in rows]


if __name__ == "__main__":
    main()
