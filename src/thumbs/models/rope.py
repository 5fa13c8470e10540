"""Rotary frequencies of our decoder, and how config.json scales them for long contexts.

Only scalings that are the same for every sequence are computed here: linear, Llama 3's and YaRN. What depends on the
length of a sequence (`dynamic`, `longrope`) is not, since it would depend on a sequence's company in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NEEDED = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {"factor"},
}
"""Kinds that are computed, and the numbers that each must have."""

_ALLOWED = {
    "yarn": {
        "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
        "truncate",
    },
}  # fmt: skip
_ALL = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


@dataclass(frozen=True)
class Rope:
    """A base, and a kind of scaling with its settings, as config.json has them under `rope_parameters`."""

    theta: float = 10_000.0
    kind: str = "default"
    settings: tuple[tuple[str, float], ...] = ()

    def written(self) -> dict[str, Any]:
        """What config.json says of it, under the key of transformers 5 and under the older ones."""
        scaling = {"rope_type": self.kind, **dict(self.settings)}
        older = {} if self.kind == "default" else {"rope_scaling": scaling}
        return {"rope_theta": self.theta, "rope_parameters": {**scaling, "rope_theta": self.theta}, **older}


def rope_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings of a config.json, `rope_theta` included; as in transformers, `rope_scaling` comes first."""
    settings = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    settings = {key: value for key, value in settings.items() if value is not None}
    settings.setdefault("rope_theta", raw.get("rope_theta") or 10_000.0)
    older = settings.pop("type", "default")
    settings.setdefault("rope_type", older)
    return settings


def why_not_computed(raw: Mapping[str, Any]) -> str | None:
    """None when the rotary settings of a config.json are computed here exactly; else the reason."""
    scaling, parameters = raw.get("rope_scaling"), raw.get("rope_parameters")
    if not all(isinstance(value, Mapping | None) for value in (scaling, parameters)):
        return "rotary settings that are not an object"
    both = [rope_settings({**raw, "rope_scaling": part}) for part in (scaling, parameters) if part]
    if len(both) == 2 and both[0] != both[1]:
        return "rope_scaling and rope_parameters that differ"
    settings = rope_settings(raw)
    kind = settings["rope_type"]
    if kind not in NEEDED:
        return f"rotary scaling {kind!r}"
    if unknown := sorted(settings.keys() - _ALL - NEEDED[kind] - _ALLOWED.get(kind, set())):
        return f"rotary settings {', '.join(unknown)}, which {kind!r} scaling does not have"
    if missing := sorted(NEEDED[kind] - settings.keys()):
        return f"rotary scaling {kind!r} without {', '.join(missing)}"
    if settings.get("partial_rotary_factor", 1.0) != 1.0:
        return f"partial rotary embeddings ({settings['partial_rotary_factor']})"
    wrong = [k for k, v in settings.items() if k not in ("rope_type", "type") and not isinstance(v, int | float)]
    return f"rotary settings {', '.join(wrong)} that are not numbers" if wrong else None


def read_rope(raw: Mapping[str, Any], context: int) -> Rope:
    """The rotary settings of a config.json that `why_not_computed` passes."""
    settings = rope_settings(raw)
    kind, theta = settings["rope_type"], float(settings["rope_theta"])
    if kind == "yarn":
        settings.setdefault("original_max_position_embeddings", context)
    kept = {k: v for k, v in settings.items() if k not in _ALL}
    return Rope(theta, kind, tuple(sorted(kept.items())))


def frequencies(rope: Rope, width: int, device: torch.device) -> tuple[Tensor, float]:
    """Radians by which each pair of a head's `width` numbers turns per position [width / 2], and a factor for both
    cosine and sine.

    Sources: linear, https://arxiv.org/abs/2306.15595; Llama 3.1's model card; YaRN, arXiv:2309.00071.
    """
    exponent = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
    plain = rope.theta**-exponent
    settings = dict(rope.settings)
    if rope.kind == "linear":
        return plain / settings["factor"], 1.0
    if rope.kind == "llama3":
        return _llama3(plain, settings), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, settings, rope.theta), _yarn_factor(settings)
    return plain, 1.0


def _llama3(plain: Tensor, s: Mapping[str, float]) -> Tensor:
    """Long waves are slowed down by `factor`, short ones stay, those between are mixed."""
    low, high = s["low_freq_factor"], s["high_freq_factor"]
    turns = s["original_max_position_embeddings"] * plain / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - share) * plain / s["factor"] + share * plain


def _yarn(plain: Tensor, s: Mapping[str, float], theta: float) -> Tensor:
    """Pairs that turn often keep their speed, those that turn seldom are slowed by `factor`, with a ramp between."""
    width = 2 * len(plain)

    def pair(turns: float) -> float:
        """The pair that turns so often within the original context."""
        return width * math.log(s["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(s.get("beta_fast") or 32), pair(s.get("beta_slow") or 1)
    if s.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    slow = ((torch.arange(len(plain), device=plain.device) - low) / ((high - low) or 0.001)).clamp(0, 1)
    return plain / s["factor"] * slow + plain * (1 - slow)


def _yarn_factor(s: Mapping[str, float]) -> float:
    if (given := s.get("attention_factor")) is not None:
        return given

    def scale(weight: float) -> float:
        return 1.0 if s["factor"] <= 1 else 0.1 * weight * math.log(s["factor"]) + 1.0

    if s.get("mscale") and s.get("mscale_all_dim"):
        return scale(s["mscale"]) / scale(s["mscale_all_dim"])
    return scale(1.0)
