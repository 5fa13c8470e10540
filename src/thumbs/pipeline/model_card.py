"""The model card of an exported model: what it is, how it was made, what was measured; from the run folder alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from thumbs.config.pipeline import METHODS
from thumbs.models.base_identity import BaseIdentity, identify
from thumbs.tracking.files import plain, read_object, read_object_if_there
from thumbs.tracking.run_folder import StageFolder

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

_TEMPLATE = Path(__file__).with_suffix(".md.jinja")


def model_card(run: Path, stage: str, *, form: str, end: str = "", safety: str | None = None) -> str:
    """README.md for the folder of an exported model, with the front matter of the Hugging Face hub.

    Only numbers that the run measured stand in it. Texts of the config are quoted as they are.
    form: peft, hf or gguf, as it was exported. end: the text of the token that ends a reply.
    safety: what the gate says of it.
    """
    config, versions = read_object(run / "config.json"), read_object_if_there(run / "versions.json")
    base, name, system = identify(config["model"]["name"]), stage.rpartition("/")[2], config.get("system")
    sections = {key: config[key] for key in _stages_before(stage) if config.get(key) is not None}
    kept = {"model": config["model"]} | sections | ({"seed": config["seed"]} if "seed" in config else {})
    scores, merged = name == "reward_model", form != "peft"
    environment = jinja2.Environment(  # noqa: S701 - Markdown, not HTML
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        front=yaml.safe_dump(plain(_front(base, name, sections, form)), sort_keys=False),
        run=run.resolve().name,
        stage=stage,
        called=_called(base, config),
        versions={"thumbs": None, "created": None, **versions},
        base=base,
        merged=merged,
        gguf=form == "gguf",
        scores=scores,
        task="SequenceClassification" if scores else "CausalLM",
        labels=", num_labels=1, pad_token_id=tokenizer.pad_token_id" if scores else "",
        system=f'{{"role": "system", "content": {system!r}}}, ' if system else "",
        end=repr(end),
        scale=dict(read_object_if_there(run / stage / "done.json")) if scores else {},
        measured=_measured(read_object_if_there(run / "summary.json"), stage),
        alarms=StageFolder(run / stage).alarms.read(),
        safety=safety,
        method=_method(name, config),
        data=_data(sections),
        settings=yaml.safe_dump(plain(kept), sort_keys=False, allow_unicode=True),
    )


def _front(base: BaseIdentity, stage: str, sections: Mapping[str, Any], form: str) -> dict[str, Any]:
    """What the hub reads: only names that it knows."""
    front: dict[str, Any] = {}
    if base.kind == "hub":
        front |= {"base_model": base.name, "base_model_relation": "adapter" if form == "peft" else "finetune"}
    if base.licence:
        front["license"] = base.licence
    hub = [re.split("[:@]", where[4:])[0] for _, where in _data(sections) if where.startswith("hub:")]
    if hub:
        front["datasets"] = list(dict.fromkeys(hub))
    front["library_name"] = {"peft": "peft", "hf": "transformers", "gguf": "llama.cpp"}[form]
    front["pipeline_tag"] = "text-classification" if stage == "reward_model" else "text-generation"
    return front | {"tags": ["rlhf", "thumbs", stage]}


def _called(base: BaseIdentity, config: Mapping[str, Any]) -> str:
    """The base in a sentence: its public name, with its commit where that is known."""
    if base.kind == "bytes":
        return f"`{config['model']['name']}`, a byte model that thumbs makes from the seed {config.get('seed', 0)},"
    commit = f" at revision `{base.revision}`" if base.revision else ""
    where = {"folder": "The local folder ", "gguf": "The file "}.get(base.kind, "")
    return f"{where}`{base.name}`{commit}"


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
    return own.get(name, ["sft", "cost_model", "labels", "reward_model"]) + ([name] if name in METHODS else [])


def _measured(summary: Mapping[str, Any], stage: str) -> list[tuple[str, str, str]]:
    """(name, value with its interval, meaning) of each number that the run measured of the model."""
    rows = list(_REWARD)
    if not stage.endswith("reward_model"):
        rows = [(f"{stage}.{key}", meaning) for key, meaning in _NUMBERS]
        if stage != "sft":
            before = "sft.gold" if "sft.gold" in summary else "base.gold"
            rows.append((before, "the same of the model that it started from"))
    return [(name, _value(summary, name), meaning) for name, meaning in rows if summary.get(name) is not None]


def _value(summary: Mapping[str, Any], name: str) -> str:
    value, low, high = (summary.get(f"{name}{end}") for end in ("", "_low", "_high"))
    return f"{value:.3g}" + ("" if low is None or high is None else f" ({low:.3g} to {high:.3g})")
