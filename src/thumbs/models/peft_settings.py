"""What adapter_config.json of PEFT may say: each key is used, has no effect, or is refused with its reason."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

USED = {
    "peft_type", "base_model_name_or_path", "r", "lora_alpha", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "bias",
    "modules_to_save", "fan_in_fan_out", "init_lora_weights", "trainable_token_indices",
}  # fmt: skip

HARMLESS = {
    "task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "megatron_core",
    "qalora_group_size", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip
"""Keys without effect on a trained adapter, or settings of a beginning that `init_lora_weights` names."""

REFUSED = {
    "lora_bias": "its adapters have biases, for which the base's layers have no place",
    "alora_invocation_tokens": "it is an activated LoRA, which acts after certain tokens only",
    "use_qalora": "it pools the inputs of its layers (QALoRA)",
    "layer_replication": "it repeats layers of its base",
    "target_parameters": "it adapts parameters and not layers",
    "arrow_config": "it mixes several adapters (Arrow)",
    "kasa_config": "it changes the base's weights before training (KaSA)",
    "monteclora_config": "it draws its weights at random (MonteCLoRA)",
    "velora_config": "it compresses activations (VeLoRA)",
    "use_bdlora": "its matrices are block-diagonal (BD-LoRA)",
    "megatron_config": "it belongs to a Megatron model",
    "ensure_weight_tying": "it ties its embedding to its output anew",
}
"""Keys that, when they are set, say that the adapter is not a low-rank change of the base's weights."""

_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
WAY_OUT = "merge it with PEFT (merge_and_unload) and name the whole model"


def why_refused(config: Mapping[str, Any]) -> str | None:
    """Why an adapter with this adapter_config.json cannot be folded into the weights of its base; None if it can."""
    kind = config.get("peft_type")
    if kind != "LORA":
        return f"it is an adapter of the kind {kind}, and only LORA is read"
    if reasons := [f"{key} is set: {reason}" for key, reason in REFUSED.items() if config.get(key)]:
        return reasons[0]
    beginning = config.get("init_lora_weights")
    if beginning not in _PLAIN_BEGINNINGS:
        return (
            f"init_lora_weights is {beginning!r}, which changes the base's weights before training, so the adapter "
            "does not belong to the weights of its base (PEFT converts it: save_pretrained(…, "
            "path_initial_model_for_weight_conversion=…))"
        )
    if config.get("use_dora") and config.get("fan_in_fan_out"):
        return "use_dora and fan_in_fan_out together are not read"
    if config.get("bias") not in (None, "none", "all", "lora_only"):
        return f"bias is {config['bias']!r}; known are none, all and lora_only"
    unknown = [k for k, v in config.items() if k not in USED | HARMLESS | REFUSED.keys() and v not in (None, False)]
    if unknown := sorted(key for key in unknown if config[key] not in ("", [], {})):
        return f"it sets {', '.join(unknown)}, which is not known here"
    wrong = [k for k in ("r", "lora_alpha") if not isinstance(config.get(k), int | float) or not config[k] > 0]
    return f"{wrong[0]} is {config.get(wrong[0])!r}; a positive number is needed" if wrong else None


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """The rank of the adapter of a module."""
    return _of_pattern(config.get("rank_pattern"), module, config["r"])


def scale_of(config: Mapping[str, Any], module: str) -> float:
    """What B A is multiplied by: alpha / r, or alpha / √r for rank-stabilised LoRA (arXiv:2312.03732)."""
    rank = rank_of(config, module)
    alpha = _of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def is_target(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT adapts the linear layer of that name, as far as names tell (peft's check_target_module_exists)."""
    if _matches(config.get("exclude_modules"), module):
        return False
    if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in config.get("modules_to_save") or ()):
        return False
    targets, layers = config.get("target_modules"), config.get("layers_to_transform")
    if not _matches(targets, module):
        return False
    if isinstance(targets, str) or module in (targets or ()) or layers in (None, []):
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = next(filter(None, (re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module) for pattern in patterns)), None)
    return found is not None and int(found[1]) in ([layers] if isinstance(layers, int) else layers)


def _matches(names: Any, module: str) -> bool:
    if isinstance(names, str):
        return bool(re.fullmatch(names, module))
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def _of_pattern(pattern: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The entry whose key is the name, or its end, as PEFT matches them."""
    return next((v for k, v in (pattern or {}).items() if re.match(rf"(.*\.)?({k})$", module)), default)
