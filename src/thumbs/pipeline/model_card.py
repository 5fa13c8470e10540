"""The model card of an exported model: what it is, how it was made, what was measured; from the run folder alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from thumbs.config.pipeline import METHODS
from thumbs.models.base_identity import BaseIdentity, identify
from thumbs.pipeline.card_snippets import snippet
from thumbs.tracking.files import plain, read_object, read_object_if_there

_NUMBERS = (
    ("gold", "mean gold score of its replies to held-out prompts"),
    ("win_rate", "share of held-out prompts where the gold judge prefers its reply to the reference's"),
    ("proxy", "mean score by the run's reward model"),
    ("kl", "nats per sequence from the reference"),
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

_UNMEASURED = "This run has no evaluation: nothing is known of its quality.\n"


def model_card(run: Path, stage: str, *, merged: bool, end: str = "") -> str:
    """README.md for the folder of an exported model, with the front matter of the Hugging Face hub.

    Only numbers that the run measured stand in it. Texts of the config are quoted as they are.
    end: the text of the token that ends a reply.
    """
    config, versions = read_object(run / "config.json"), _read(run / "versions.json")
    base, name = identify(config["model"]["name"]), stage.rpartition("/")[2]
    sections = {key: config[key] for key in _stages_before(stage) if config.get(key) is not None}
    kept = {"model": config["model"]} | sections | ({"seed": config["seed"]} if "seed" in config else {})
    python = snippet(base, merged=merged, scores=name == "reward_model", system=config.get("system"), end=end)
    parts = [
        f"---\n{yaml.safe_dump(plain(_front(base, name, sections, merged=merged)), sort_keys=False)}---\n",
        f"# {run.resolve().name}: {stage}\n",
        f"{_called(base, config)} after the stage `{stage}` of a run of thumbs {versions.get('thumbs', '?')}, "
        f"begun {versions.get('created', 'at an unknown time')}.\n",
        f"## How to load it\n\n```python\n{python}```\n",
        *([_scale(run / stage)] if name == "reward_model" else []),
        "## What was measured\n",
        _table(_measured(_read(run / "summary.json"), stage)) or _UNMEASURED,
        "## How it was made\n",
        *([f"Method: {method}.\n"] if (method := _method(name, config)) else []),
        *([f"Data:\n\n{data}"] if (data := "".join(f"* `{k}`: `{v}`\n" for k, v in _data(sections))) else []),
        f"```yaml\n{yaml.safe_dump(plain(kept), sort_keys=False, allow_unicode=True)}```\n",
        "## What to know\n",
        _licence(base)
        + "The data above, the base model and its licence decide what this model may be used for; this card does not. "
        "Scores of a judge are not what people think. "
        + ("" if merged else "The weights are a PEFT adapter: load the base model first.")
        + (f"\n\nThe base: {base.warning}." if base.warning and not merged else "")
        + "\n",
    ]
    return "\n".join(parts)


def _front(base: BaseIdentity, stage: str, sections: Mapping[str, Any], *, merged: bool) -> dict[str, Any]:
    """What the hub reads: only names that it knows."""
    front: dict[str, Any] = {}
    if base.kind == "hub":
        front |= {"base_model": base.name, "base_model_relation": "finetune" if merged else "adapter"}
    if base.licence:
        front["license"] = base.licence
    hub = [re.split("[:@]", where[4:])[0] for _, where in _data(sections) if where.startswith("hub:")]
    if hub:
        front["datasets"] = list(dict.fromkeys(hub))
    front["library_name"] = "transformers" if merged else "peft"
    front["pipeline_tag"] = "text-classification" if stage == "reward_model" else "text-generation"
    return front | {"tags": ["rlhf", "thumbs", stage]}


def _called(base: BaseIdentity, config: Mapping[str, Any]) -> str:
    """The base in a sentence: its public name, with its commit where that is known."""
    if base.kind == "bytes":
        return f"`{config['model']['name']}`, a byte model that thumbs makes from the seed {config.get('seed', 0)},"
    commit = f" at revision `{base.revision}`" if base.revision else ""
    where = {"folder": "The local folder ", "gguf": "The file "}.get(base.kind, "")
    return f"{where}`{base.name}`{commit}"


def _licence(base: BaseIdentity) -> str:
    if base.licence:
        return f"The base model's licence: {base.licence}. "
    return "" if base.kind == "bytes" else "The base model's licence is not known here. "


def _scale(stage: Path) -> str:
    """What a score means, and how the run itself scaled it."""
    found = _read(stage / "done.json")
    if "score_mean" not in found:
        return "Scores order replies to one prompt; their differences are log-odds and their zero means nothing.\n"
    return (
        f"Scores order replies; their zero means nothing. Over the replies of its training data their mean is "
        f"{found['score_mean']:.6g} and their deviation {found['score_std']:.6g}: the run's own PPO saw "
        "(score - mean) / deviation.\n"
    )


def _method(stage: str, config: Mapping[str, Any]) -> str | None:
    """The name of what trained it: a preference or group method, or the loss of a reward model."""
    section = config.get(stage)
    if stage in ("base", "sft") or not isinstance(section, dict):
        return {"sft": "supervised fine-tuning"}.get(stage)
    return str(section.get("method") or section.get("loss") or stage)


def _data(sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(setting, where its rows come from) of everything that was read."""
    found: list[tuple[str, str]] = []
    for key, value in sections.items():
        if isinstance(value, dict):
            found += [(f"{key}.{below}", where) for below, where in _data(value)]
        elif key == "path" and value:
            several = value if isinstance(value, list) else [value]
            found += [(key, str(each["path"] if isinstance(each, dict) else each)) for each in several]
    return found


def _stages_before(stage: str) -> list[str]:
    """Sections that shaped the model, in the order of the pipeline."""
    name = stage.rpartition("/")[2]
    own = {"base": [], "sft": ["sft"], "reward_model": ["sft", "labels", "reward_model"], "direct": ["sft", "labels"]}
    return own.get(name, ["sft", "labels", "reward_model"]) + ([name] if name in METHODS else [])


def _measured(summary: dict[str, Any], stage: str) -> list[tuple[str, Any, str]]:
    if stage.endswith("reward_model"):
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
    return read_object_if_there(path)
