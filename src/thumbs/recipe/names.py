"""Names of tinker_cookbook that code written for it imports: what is elsewhere here, and what is not there at all."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

ELSEWHERE = {
    "checkpoint_utils": "checkpoints",
    "cli_utils": "command_line",
    "exceptions": "errors",
    "hyperparam_utils": "hyperparameters",
    "tokenizer_utils": "tokenizers",
    "preference.dpo_datasets": "preference.data",
    "preference.preference_datasets": "preference.data",
    "renderers.llama3": "renderers.formats",
    "renderers.qwen3": "renderers.formats",
    "renderers.role_colon": "renderers.formats",
    "rl.metric_util": "rl.evaluation",
    "supervised.common": "supervised.datums",
    "supervised.nll_evaluator": "supervised.train",
    "utils.git_rev": "loggers",
    "utils.logtree": "notes",
    "utils.lr_scheduling": "schedules",
    "utils.ml_log": "loggers",
}
"""Modules by the names that they have there, below this package."""

_OWN_FORMAT = "get_renderer('chat_template', tokenizer) writes any model's own format"
_TEXT = "models here read and write text; use the service's SDK and types for anything else"
_ATTRIBUTES = "get_model_attributes(model_name) reads what the name says"

ABSENT = {
    "capture": "write an environment (MessageEnv) around your agent",
    "chat_app": "`thumbs serve` has an OpenAI-compatible API that any chat client can use",
    "display": "rollouts.jsonl has the text of episodes; tokenizer.decode(datum.model_input.to_ints()) that of datums",
    "distillation": "with rewards of 0, kl_penalty_coef pulls the policy to the teacher in kl_reference_config",
    "eval.benchmarks": "write a SamplingClientEvaluator; `thumbs eval` measures policies of the stages",
    "eval.custom_evaluators": "write a SamplingClientEvaluator",
    "eval.inspect_evaluators": "point Inspect at the OpenAI-compatible API of `thumbs serve`",
    "image_processing_utils": _TEXT,
    "inference": "sample with a sampling client, or through the OpenAI-compatible API of `thumbs serve`",
    "recipes": "copy the script; it runs here when it imports thumbs.recipe",
    "renderers.deepseek_v3": _OWN_FORMAT,
    "renderers.gpt_oss": _OWN_FORMAT,
    "renderers.kimi_k2": _OWN_FORMAT,
    "renderers.kimi_k25": _OWN_FORMAT,
    "renderers.nemotron3": _OWN_FORMAT,
    "renderers.qwen3_5": _OWN_FORMAT,
    "rl.interleaved": "put the groups of several datasets into one RLDataset",
    "rl.play_w_env": "do_single_rollout with a TokenCompleter that asks you",
    "rl.rollout_logging": "rollouts.jsonl is written by rl.train",
    "rl.rollout_presets": "pass RolloutLimits, ParseErrorPolicy and TerminationRewardPolicy themselves",
    "sandbox": "call your own sandbox in MessageEnv.step",
    "stores": "read metrics.jsonl and checkpoints.jsonl of the log folder",
    "supervised.viz_sft_dataset": "tokenizer.decode(datum.model_input.to_ints()) shows a datum",
    "third_party": "`thumbs serve` has an OpenAI-compatible API",
    "tool_use": "parse message['tool_calls'] in MessageEnv.step, and answer with messages of the role tool",
    "utils.logtree_formatters": "thumbs.recipe.notes.log_text notes a text",
    "utils.misc_utils": "these are a line of Python each",
    "utils.trace": "use a profiler from outside, such as py-spy; metrics.jsonl has the times of steps",
    "weights": "`thumbs export` merges an adapter; checkpoints are folders of safetensors",
    "xmux": "start several runs from a shell",
    "model_info.get_deepseek_info": _ATTRIBUTES,
    "model_info.get_gpt_oss_info": _ATTRIBUTES,
    "model_info.get_llama_info": _ATTRIBUTES,
    "model_info.get_moonshot_info": _ATTRIBUTES,
    "model_info.get_nvidia_info": _ATTRIBUTES,
    "model_info.get_qwen_info": _ATTRIBUTES,
    "renderers.AudioPart": _TEXT,
    "renderers.ImagePart": _TEXT,
    "rl.rollouts.do_group_rollout_and_filter_constant_reward": (
        "do_group_rollout, then data_processing.remove_constant_reward_groups"
    ),
    "rl.rollouts.set_rollout_executor": "rollouts are coroutines of this process",
    "loggers.WandbLogger": "metrics.jsonl has every number",
}
"""Modules and names that are not there, and what to do instead."""


def install(package: str) -> None:
    """Make the modules of ELSEWHERE importable, and have ABSENT say what to do instead, below `package`."""
    _module(f"{package}.utils").__path__ = []
    for theirs, ours in ELSEWHERE.items():
        module = importlib.import_module(f"{package}.{ours}")
        parent, _, name = f"{package}.{theirs}".rpartition(".")
        sys.modules[f"{parent}.{name}"] = module
        setattr(sys.modules[parent], name, module)
    sys.meta_path.append(_Absent(package))
    for path in ABSENT:
        parent, _, name = f"{package}.{path}".rpartition(".")
        if parent in sys.modules:
            sys.modules[parent].__dict__.setdefault("__getattr__", _missing(package, sys.modules[parent]))


def _module(name: str) -> ModuleType:
    """A new empty module in its package."""
    module = sys.modules[name] = ModuleType(name)
    parent, _, last = name.rpartition(".")
    setattr(sys.modules[parent], last, module)
    return module


class _Absent:
    """Finds no module; says what to do instead of those that are known to be absent."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Raises ImportError for an absent module."""
        del path, target
        _refuse(self._package, fullname)


def _missing(package: str, module: ModuleType) -> Any:
    """The `__getattr__` of a module."""

    def __getattr__(name: str) -> Any:  # noqa: N807
        _refuse(package, f"{module.__name__}.{name}")
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    return __getattr__


def _refuse(package: str, fullname: str) -> None:
    advice = ABSENT.get(fullname.removeprefix(f"{package}."))
    if advice:
        raise ImportError(f"{fullname} is not there: {advice} (docs/guides/recipes.md)", name=fullname)
