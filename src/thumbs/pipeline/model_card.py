"""The model card of an exported model: what it is, how it was made, what was measured; from the run folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from thumbs.config.pipeline import METHODS
from thumbs.tracking.files import read_json

_NUMBERS = (
    ("gold", "mean gold score of its replies to held-out prompts"),
    ("win_rate", "share of held-out prompts where the gold judge prefers its reply to the reference's"),
    ("proxy", "mean score by the run's reward model"),
    ("kl", "nats a sequence from the reference"),
    ("length", "mean reply length, tokens"),
    ("distinct2", "fraction of word pairs that are unlike each other"),
    ("truncated", "fraction of replies that met the length limit"),
)
_REWARD = (
    ("reward.heldout_accuracy", "held-out pairs, ties apart, ordered as labelled"),
    ("reward.heldout_pairs", "held-out pairs"),
    ("reward.ece", "expected calibration error"),
    ("reward.length_correlation", "correlation of score and length"),
)


def model_card(run: Path, stage: str, *, merged: bool) -> str:
    """README.md for the folder of an exported model, with the front matter of the Hugging Face hub.

    Only numbers that the run measured stand in it. Texts of the config are quoted as they are.
    """
    config, versions = read_json(run / "config.json"), _read(run / "versions.json")
    summary = _read(run / "summary.json")
    base = config["model"]["name"]
    front = {
        "base_model": base,
        "library_name": "transformers" if merged else "peft",
        "tags": ["rlhf", "thumbs", stage.rpartition("/")[2]],
    }
    shaped = ("model", *_stages_before(stage), "seed")
    settings = yaml.safe_dump(
        {key: config[key] for key in shaped if config.get(key) is not None}, sort_keys=False, allow_unicode=True
    )
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# {run.resolve().name}: {stage}\n",
        f"`{base}` after the stage `{stage}` of a run of thumbs {versions.get('thumbs', '?')}, "
        f"begun {versions.get('created', 'at an unknown time')}.\n",
        "## What was measured\n",
        _table(_measured(summary, stage)) or "This run has no evaluation: nothing is known of its quality.\n",
        "## How it was made\n",
        f"```yaml\n{settings}```\n",
        "## What to know\n",
        "The data above, the base model and its licence decide what this model may be used for; this card does not. "
        "Scores of a judge are not what people think. "
        + ("" if merged else "The weights are a PEFT adapter: load the base model first.")
        + "\n",
    ]
    return "\n".join(parts)


def _stages_before(stage: str) -> list[str]:
    """Sections that shaped the model, in the order of the pipeline."""
    name = stage.rpartition("/")[2]
    own = {"base": [], "sft": ["sft"], "reward": ["sft", "preferences", "reward"], "preference": ["sft", "preferences"]}
    return own.get(name, ["sft", "preferences", "reward"]) + ([name] if name in METHODS else [])


def _measured(summary: dict[str, Any], stage: str) -> list[tuple[str, Any, str]]:
    if stage.endswith("reward"):
        return [(name, summary[name], meaning) for name, meaning in _REWARD if summary.get(name) is not None]
    rows = [(f"{stage}.{key}", _value(summary, stage, key), meaning) for key, meaning in _NUMBERS]
    if stage != "sft":
        before = "sft.gold" if "sft.gold" in summary else "base.gold"
        rows.append((before, summary.get(before), "the same of the model that it started from"))
    return [row for row in rows if row[1] is not None]


def _value(summary: dict[str, Any], stage: str, key: str) -> Any:
    value, low, high = (summary.get(f"{stage}.{key}{end}") for end in ("", "_low", "_high"))
    return value if low is None or high is None else f"{value:.3g} ({low:.3g} to {high:.3g})"


def _table(rows: list[tuple[str, Any, str]]) -> str:
    if not rows:
        return ""
    shown = [f"| `{name}` | {v if isinstance(v, str) else f'{v:.3g}'} | {meaning} |" for name, v, meaning in rows]
    return "\n".join(["| number | value | meaning |", "|---|---|---|", *shown, ""])


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
