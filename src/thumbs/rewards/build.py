"""Rewards from their settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from thumbs.config.base import build_config
from thumbs.config.model import ModelConfig
from thumbs.config.named import load_callable
from thumbs.config.reward_parts import OWN_COST, RUNS_OWN, RewardPart
from thumbs.engine.base import Engine, ModelSpec
from thumbs.engine.checkpoints import exists, read_manifest
from thumbs.errors import ConfigError
from thumbs.models.classifier import check_classifier, open_classifier
from thumbs.models.trunk import open_tokenizer
from thumbs.rewards.base import CallableReward, EnvironmentReward, RewardSource
from thumbs.rewards.classifier import ClassifierReward
from thumbs.rewards.judge import open_judge
from thumbs.rewards.mix import Mix, Part
from thumbs.rewards.trained import TrainedReward, open_scores
from thumbs.rewards.verifiers import verifier
from thumbs.tracking.files import read_object_if_there

OpenOwn = Callable[[], RewardSource]
"""Opens a model of the run."""


def build_rewards(parts: Sequence[RewardPart], engine: Engine, own: OpenOwn, own_cost: OpenOwn | None = None) -> Mix:
    """The weighted sum of the parts; `own` gives the run's reward model where a part asks for it, `own_cost` its cost
    model.
    """
    return Mix([Part(part.title, open_part(part, engine, own, own_cost), part.weight) for part in parts])


def open_reward_model(engine: Engine, path: Path) -> TrainedReward:
    """A trained reward model: the folder of a run's stage `reward_model`, or of the model in it, or a sequence
    classifier with one label: a folder, a hub name, or the folder of its LoRA adapter.

    It reads text with its own tokenizer. Scores are normalised as its run measured them, where that is known; those of
    a classifier are its logits. Raises ConfigError if there is none.
    """
    folder = _own_folder(path.expanduser())
    if folder is None:
        return ClassifierReward(open_classifier(str(path.expanduser())))
    manifest = read_manifest(folder)
    model = build_config(ModelConfig, manifest["model"], source=str(folder))
    spec = ModelSpec("reward", model, ("scalar",), folder, trainable=False, seed=manifest["seed"])
    measured = read_object_if_there(folder.parent / "done.json")
    return open_scores(engine, spec, measured, open_tokenizer(model), reread=True)


def check_reward_model(name: str) -> None:
    """Raises ConfigError or ModelError if `open_reward_model` would, as far as can be told without weights."""
    path = Path(name).expanduser()
    if _own_folder(path) is None:
        check_classifier(str(path))


def _own_folder(path: Path) -> Path | None:
    """The folder of a reward model of ours; None for a classifier. Raises ConfigError if it is neither."""
    folder = path / "model" if exists(path / "model") else path
    if not exists(folder):
        if is_classifier(str(path)):
            return None
        raise ConfigError(
            f"no reward model at {path}; give a run's `reward_model` folder, the `model` folder in it, or the folder "
            "or hub name of a sequence classifier with one label"
        )
    if "scalar" not in read_manifest(folder).get("heads", ()):
        raise ConfigError(f"{folder} holds a model without a scalar head, so it scores nothing")
    return folder


def is_classifier(name: str) -> bool:
    """Whether a name is of a model in Hugging Face's form, and not of a folder of ours; opens nothing."""
    path = Path(name)
    if path.exists():
        return path.is_dir() and any((path / file).is_file() for file in ("config.json", "adapter_config.json"))
    return name.count("/") == 1 and not name.startswith(("/", "."))


def open_part(part: RewardPart, engine: Engine, own: OpenOwn, own_cost: OpenOwn | None = None) -> RewardSource:
    """One part, without its weight."""
    if part.model == OWN_COST and own_cost is not None:
        return own_cost()
    if part.model is not None:
        return own() if part.model == RUNS_OWN else open_reward_model(engine, Path(part.model))
    if part.function is not None:
        return CallableReward(load_callable(part.function), part.title, part.time_limit_s, part.concurrency)
    if part.verifier is not None:
        return CallableReward(verifier(part.verifier, part.pattern), part.title, part.time_limit_s)
    if part.judge is not None:
        return open_judge(engine, part.judge)
    return EnvironmentReward()
