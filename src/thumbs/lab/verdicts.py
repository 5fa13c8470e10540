"""What is required of the experiments with over-optimisation, and whether it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from thumbs.lab.overopt import ARMS, Found
from thumbs.tracking.files import write_json

LONGEST_S = 600.0
"""What five seeds may take on two idle processors, seconds."""


@dataclass(frozen=True)
class Requirement:
    """What is required, what was found, and whether it is met; None: it was not measured."""

    required: str
    found: str
    met: bool | None

    def __str__(self) -> str:
        mark = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        return f"{mark:<13} {self.required}: {self.found}"


def requirements(found: Sequence[Found], clean: Sequence[Sequence[str]]) -> list[Requirement]:
    """What is required of the seeds and of the clean runs, of which the signs of the alarms are given.

    Processor time is what counts of time, since other programs lengthen the time on the clock.
    """
    seeds = len(found)
    fell = sum(one.arms["free"].lost >= 0.5 and one.arms["free"].proxy_rose for one in found)
    kept = [one.kept("rollback") for one in found]
    needed, allowed = time_on_two(found), LONGEST_S * seeds / 5
    alarmed, runs = sum(bool(signs) for signs in clean), len(clean)
    return [
        Requirement(
            "gold rises, then loses half of its gain or more while the proxy rises",
            f"in {fell} of {seeds} seeds",
            fell == seeds,
        ),
        Requirement(
            "with act: rollback the policy delivered keeps three quarters of the peak's gain or more",
            f"in {sum(share >= 0.75 for share in kept)} of {seeds} seeds (" + ", ".join(f"{k:.0%}" for k in kept) + ")",
            all(share >= 0.75 for share in kept),
        ),
        Requirement(
            "at most one alarm in 20 clean runs (the proxy is gold)",
            (f"{alarmed} of {runs} runs" if runs else "--clean 20 makes them")
            + "".join(f"; {', '.join(signs)}" for signs in clean if signs),
            None if runs < 20 else alarmed <= runs // 20,
        ),
        Requirement(
            f"at most {allowed:.0f} s for {seeds} seeds on two idle processors",
            f"{needed:.0f} s, by the processor time of models, best-of-n and {len(ARMS)} arms",
            needed <= allowed,
        ),
    ]


def time_on_two(found: Sequence[Found]) -> float:
    """What the seeds take on two processors that do nothing else, seconds: their parts take turns, first the models of
    all, then the arms of all, and the busier processor ends each time.
    """
    models = [one.spent["models"] for one in found]
    arms = [one.spent[name] for one in found for name in ARMS]
    return sum(max(sum(parts[0::2]), sum(parts[1::2])) for parts in (models, arms))


def write_findings(folder: Path, found: Sequence[Found], clean: Sequence[Sequence[str]]) -> Path:
    """Writes all numbers of the seeds, the signs of each clean run's alarms, and what is met, to overopt.json."""
    path = folder / "overopt.json"
    numbers = {"seeds": [asdict(one) for one in found], "alarms_of_clean_runs": [list(signs) for signs in clean]}
    write_json(path, numbers | {"requirements": [asdict(one) for one in requirements(found, clean)]})
    return path
