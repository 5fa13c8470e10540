"""summary.json: the numbers of a run under names that do not change (docs/demo.md explains them)."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from thumbs.evaluation.benchmarks import FOLDER, read_scores
from thumbs.tracking.files import read_object


def summarise(run: Path, peak_rss: int) -> dict[str, Any]:
    """Flat names → numbers, from what the stages left in the run folder; stages that did not run leave no names.

    peak_rss: the most memory that the process held, bytes.
    """
    paths = sorted([*run.glob("*/done.json"), *run.glob("iteration-*/*/done.json")])
    done = {path.parent.relative_to(run).as_posix(): read_object(path) for path in paths}
    summary: dict[str, Any] = {}
    if "sft" in done:
        summary["sft.heldout_loss"] = done["sft"]["heldout_loss"]
    if "audit" in done.get("reward_model", {}):
        audit = done["reward_model"]["audit"]
        summary |= {
            "reward.heldout_accuracy": audit["accuracy"],
            "reward.heldout_accuracy_low": audit["accuracy_low"],
            "reward.heldout_accuracy_high": audit["accuracy_high"],
            "reward.heldout_pairs": audit["n"],
            "reward.ece": audit["ece"],
            "reward.length_correlation": audit["length_correlation"],
        }
    if "evaluation" in done:
        summary |= _evaluation(done["evaluation"])
    summary |= {f"{s.system}.{s.task}.{s.metric}": s.value for s in read_scores(run / FOLDER)}
    times = {f"time_s.{name}": results["time_s"] for name, results in done.items()}
    peak = max(peak_rss / 2**30, _previous_peak(run))
    card = {"peak_cuda_gib": cuda / 2**30} if (cuda := peak_cuda_bytes()) else {}
    return summary | times | {"compute_s": sum(times.values()), "peak_rss_gib": peak} | card


def _evaluation(results: dict[str, Any]) -> dict[str, Any]:
    systems = results["systems"]
    summary = {
        f"{name}.{key}": systems[name][key]
        for name in systems
        for key in ("gold", "proxy", "second_proxy", "kl", "kl_per_token", "length", "distinct2", "truncated")
        if systems[name].get(key) is not None
    }
    for name, win in results["win_rates"].items():
        method, sft = systems[name], systems["sft"] if "sft" in systems else systems["base"]
        summary |= {
            f"{name}.win_rate": win["rate"],
            f"{name}.win_rate_low": win["low"],
            f"{name}.win_rate_high": win["high"],
            f"{name}.length_ratio": method["length"] / sft["length"],
            f"{name}.distinct2_ratio": method["distinct2"] / sft["distinct2"] if sft["distinct2"] else float("nan"),
        }
    return summary


def peak_rss_bytes() -> int:
    """The most memory that this process has held, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kibibytes everywhere but on macOS


def peak_cuda_bytes() -> int:
    """The most memory of a GPU that tensors of this process have held, bytes; 0 without a GPU, or before torch."""
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_allocated() if torch is not None and torch.cuda.is_available() else 0


def _previous_peak(run: Path) -> float:
    """A resumed run keeps the larger peak."""
    path = run / "summary.json"
    return float(read_object(path).get("peak_rss_gib", 0.0)) if path.exists() else 0.0
