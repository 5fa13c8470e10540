"""The families of methods: which command trains them, where they are described, and the lines for `thumbs --help`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from thumbs.config.direct_methods import DIRECT_METHODS
from thumbs.config.group_methods import GROUP_METHODS
from thumbs.config.methods import Method
from thumbs.config.ppo import PPO_METHODS
from thumbs.config.rejection import REJECTION_METHODS
from thumbs.config.reward_model import REWARD_METHODS

WIDTH = 100
"""Characters of a line of help."""


class Family(NamedTuple):
    """Methods that share a command; `key` is the setting that names one of them, empty where there is but one."""

    command: str
    title: str
    guide: str
    key: str
    methods: Iterable[Method]


FAMILIES = (
    Family("reward-model", "Reward models", "guides/reward_model.md", "loss", REWARD_METHODS.values()),
    Family("direct", "From preferences directly", "guides/direct.md", "method", DIRECT_METHODS.values()),
    Family("ppo", "PPO with a critic", "guides/ppo.md", "", PPO_METHODS),
    Family("group", "From groups of replies", "guides/group.md", "method", GROUP_METHODS.values()),
    Family("rejection", "From one's own best replies", "guides/rejection.md", "", REJECTION_METHODS),
)


def help_lines() -> str:
    """A few lines per family: its command, and what names its methods."""
    lines = []
    for family in FAMILIES:
        lines.append(f"thumbs {family.command}{f' … {family.key}=' if family.key else ''}")
        if family.key:
            names = ", ".join(method.name for method in family.methods)
            lines += textwrap.wrap(names, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
