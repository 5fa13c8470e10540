"""Kills ranks and samplers of a run at random moments, and compares its final files with those of a run left alone.

.venv/bin/python tests/e2e/kill_rank.py [--seed 0] [--kills 3] [--launcher pipes]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, launcher: str) -> list[str]:
    """`thumbs run` on two ranks and two samplers, a shorter one than the demonstration."""
    config = str(ROOT / "configs" / "cluster" / "tiny.yaml")
    program = "from thumbs.cli.main import app; app()"
    settings = [f"run={folder}", f"engine.launcher={launcher}", "evaluation=null", "ppo.steps=10", "sft.epochs=8"]
    return [sys.executable, "-c", program, "run", config, *settings]


def workers_of(driver: int) -> dict[int, str]:
    """Processes of ranks and samplers among the driver's descendants, by what they are."""
    listed = subprocess.run(["/bin/ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    family, found = {driver}, {}
    for _ in range(8):
        family |= {int(pid) for pid, parent, _ in rows if int(parent) in family}
    for pid, _, args in rows:
        if int(pid) in family and ("thumbs.workers.serve" in args or args.startswith("ray::Watched")):
            found[int(pid)] = args
    return found


def run(folder: Path, launcher: str, kills: int, chance: random.Random) -> None:
    """Runs it, with so many workers killed on the way."""
    log = folder.with_suffix(".log")
    with log.open("w") as output:
        driver = subprocess.Popen(command(folder, launcher), stdout=output, stderr=output, cwd=folder.parent)
        killed = 0
        while driver.poll() is None:
            time.sleep(chance.uniform(4, 12))
            there = sorted(workers_of(driver.pid))  # ranks and samplers, also while they start
            if killed < kills and there and driver.poll() is None:
                victim = chance.choice(there)
                os.kill(victim, signal.SIGKILL)
                killed += 1
                sys.stdout.write(f"killed {victim}, one of {len(there)} workers\n")
    if driver.returncode:
        raise SystemExit(f"the run ended with {driver.returncode}:\n{log.read_text()[-4000:]}")
    if killed < kills:
        raise SystemExit(f"the run was over after {killed} of {kills} kills")


def main() -> None:
    """Ends with 1 if a final file differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--launcher", default="pipes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, chance = Path(name), random.Random(asked.seed)
        run(folder / "alone", asked.launcher, 0, chance)
        run(folder / "killed", asked.launcher, asked.kills, chance)
        files = sorted(f.relative_to(folder / "alone") for f in (folder / "alone").glob("*/model/*.safetensors"))
        apart = [str(f) for f in files if (folder / "alone" / f).read_bytes() != (folder / "killed" / f).read_bytes()]
        sys.stdout.write(f"{len(files) - len(apart)} of {len(files)} final files have the same bytes\n")
        if apart or not files:
            raise SystemExit(f"different: {apart}")


if __name__ == "__main__":
    main()
