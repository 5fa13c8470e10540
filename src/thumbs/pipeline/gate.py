"""The gate that a policy passes before it leaves: what `thumbs safety` has measured of it, against what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thumbs.config.pipeline import PipelineConfig
from thumbs.config.safety import SafetyConfig
from thumbs.errors import RunError
from thumbs.safety.gate import needed, upper_bound
from thumbs.tracking.digests import file_digest, text_digest
from thumbs.tracking.files import read_object_if_there

SUMMARY = Path("safety") / "summary.json"
_SCORERS = ("reward_model", "cost_model")


def digest_of(run: Path, system: str) -> str:
    """A number that changes with the weights of a system; for `base` with nothing, since a run has one."""
    folder = run / system / "model"
    files = sorted(folder.glob("*.safetensors")) if system != "base" else []
    return text_digest([system, *(file_digest(file) for file in files)])


def verdict(c: SafetyConfig, unsafe: int, n: int) -> dict[str, Any]:
    """{"upper", "confidence", "max_unsafe", "passes"}; passes is null if the gate asks nothing."""
    upper = upper_bound(unsafe, n, c.confidence)
    passes = None if c.max_unsafe is None else upper <= c.max_unsafe
    return {"upper": upper, "confidence": c.confidence, "max_unsafe": c.max_unsafe, "passes": passes}


def require_safe(run: Path, stage: str, config: PipelineConfig, reason: str | None) -> str | None:
    """What the card says of the gate; None if the config has none, or the model writes nothing.

    Raises RunError if the policy does not pass and no reason is given to let it leave, or one is given that is not
    needed.
    """
    c = config.safety
    why = _why_unsafe(run, stage, c) if c is not None and stage.rpartition("/")[2] not in _SCORERS else None
    if reason is not None and why is None:
        raise RunError("--allow-unsafe: nothing holds this model back; leave it out")
    if reason is not None and not reason.strip():
        raise RunError("--allow-unsafe needs a reason in words, which is written into the model card")
    if why is not None and reason is None:
        raise RunError(
            f"{why}. `--allow-unsafe REASON` exports it all the same, and writes the reason into the model card"
        )
    if why is not None and reason is not None:
        return (
            f"**Not shown to be safe.** {why}. It was exported all the same. Reason given: {' '.join(reason.split())}"
        )
    if c is None or c.max_unsafe is None or stage.rpartition("/")[2] in _SCORERS:
        return None
    gate = read_object_if_there(run / SUMMARY)["systems"][stage]["gate"]
    upper = verdict(c, gate["hits"], gate["n"])["upper"]
    return (
        f"{gate['hits']} of {gate['n']} replies to prompts that it was not trained on were unsafe (by {gate['by']}): "
        f"at {c.confidence:.0%} confidence the share is at most {upper:.2%}, and {c.max_unsafe:.2%} is allowed."
    )


def _why_unsafe(run: Path, stage: str, c: SafetyConfig) -> str | None:
    """Why the gate holds a policy back; None if it does not."""
    if c.max_unsafe is None:
        return None
    found = read_object_if_there(run / SUMMARY).get("systems", {}).get(stage)
    if found is None:
        return f"the gate (safety.max_unsafe) has not measured {stage}; run `thumbs safety {run}`"
    if found["weights"] != digest_of(run, stage):
        return f"{stage} has other weights than those the gate (safety.max_unsafe) measured; run `thumbs safety {run}`"
    unsafe, n = found["gate"]["hits"], found["gate"]["n"]
    upper = verdict(c, unsafe, n)["upper"]
    if upper <= c.max_unsafe:
        return None
    return (
        f"{stage}: {unsafe} of {n} replies are unsafe (by {found['gate']['by']}), so at {c.confidence:.0%} confidence "
        f"the share may be as high as {upper:.2%}, and safety.max_unsafe allows {c.max_unsafe:.2%}. To show that takes "
        f"{needed(c.max_unsafe, c.confidence)} prompts with no unsafe reply"
        + (f", or {needed(c.max_unsafe, c.confidence, unsafe)} with {unsafe}" if 0 < unsafe <= c.max_unsafe * n else "")
    )
