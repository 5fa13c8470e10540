"""What settings and stages were called in earlier versions. Nothing else in the package knows the old names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thumbs.errors import ConfigError

RUN_SETTINGS = {
    "preferences": "labels",
    "preference": "direct",
    "reward": "reward_model",
    "ppo.rewards": "ppo.reward",
    "group.rewards": "group.reward",
    "rejection.rewards": "rejection.reward",
    "direct.online.rewards": "direct.online.reward",
    "group.staleness": "rollout.staleness",
    "evaluation.judge": "evaluation.gold",
}
"""Dotted keys of a run's config, old to new. They apply in this order: sections first, then what is in them."""

REWARD_MODELS = {"reward": "reward_model"}
"""Values of `model` in a part of a reward, old to new."""


COMMANDS = {"reward": "reward-model", "preference": "direct"}
"""Commands, old to new."""


def current_key(key: str, former: Mapping[str, str] = RUN_SETTINGS) -> str:
    """The name that a dotted key has now."""
    for old, new in former.items():
        if key == old or key.startswith(f"{old}."):
            key = new + key[len(old) :]
    return key


def current_place(place: str) -> str:
    """The name that a stage of a run has now, in a later iteration with its folder: `iteration-2/labels`."""
    folder, slash, stage = place.rpartition("/")
    return folder + slash + current_key(stage)


def current_override(override: str, former: Mapping[str, str]) -> str:
    """A `key=value` under the name that its key has now."""
    key, equals, value = override.partition("=")
    return current_key(key.strip(), former) + equals + value


def rename_settings(settings: dict[str, Any], former: Mapping[str, str]) -> list[str]:
    """Renames the keys of settings in place; returns what was renamed, as `preferences → labels`.

    Raises ConfigError if a setting is given under both names.
    """
    renamed = []
    for old, new in former.items():
        path, name = new.split(".")[:-1], old.split(".")[-1]
        section = _section(settings, old.split(".")[:-1])
        if name not in section:
            continue
        if path != old.split(".")[:-1]:  # it moved to another section, at the top of the file
            settings[path[0]] = settings.get(path[0]) or {}
        home = _section(settings, path)
        if (current := new.split(".")[-1]) in home:
            raise ConfigError(f"`{old}` and `{new}` are the old and the new name of one setting; keep `{new}`")
        home[current] = section.pop(name)
        renamed.append(f"{old} → {new}")
    return renamed


def _section(settings: Any, path: list[str]) -> dict[str, Any]:
    for name in path:
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else {}
