"""All methods with their papers and commands, as the Markdown page docs/methods.md and as lines for `thumbs --help`.

python -m thumbs.config.method_page > docs/methods.md
"""

from __future__ import annotations

import sys
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

INTRODUCTION = """# Methods

Made from the source by `python -m thumbs.config.method_page`; do not edit by hand.

A method is a preset: how replies are grouped, how scores become advantages or pairs, a named loss, a normaliser. Its
settings are in [the reference](reference/config.md), its formula and where we differ from the paper in
[papers](papers.md). Every method has a test against a slow or published reference and a test that it learns.
`thumbs compare RUN…` puts the methods of several runs on one plane at equal KL.
"""


class Family(NamedTuple):
    """Methods that share a command; `key` is the setting that names one of them, empty where there is but one."""

    command: str
    title: str
    guide: str
    key: str
    methods: Iterable[Method]


FAMILIES = (
    Family("reward-model", "Reward models", "guides/reward_model.md", "loss", REWARD_METHODS),
    Family("direct", "From preferences directly", "guides/direct.md", "method", DIRECT_METHODS.values()),
    Family("ppo", "PPO with a critic", "guides/ppo.md", "", PPO_METHODS),
    Family("group", "From groups of replies", "guides/group.md", "method", GROUP_METHODS),
    Family("rejection", "From one's own best replies", "guides/rejection.md", "", REJECTION_METHODS),
)


def page() -> str:
    """The Markdown page."""
    return "\n".join([INTRODUCTION, *map(_section, FAMILIES)])


def help_lines() -> str:
    """A few lines a family: its command, and what names its methods."""
    lines = []
    for family in FAMILIES:
        lines.append(f"thumbs {family.command}{f' … {family.key}=' if family.key else ''}")
        if family.key:
            names = ", ".join(method.name for method in family.methods)
            lines += textwrap.wrap(names, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _section(family: Family) -> str:
    rows = [
        f"| {method.title} | {method.difference} | {method.source} | `{_command(family, method)}` |"
        for method in family.methods
    ]
    head = ["| method | what sets it apart | source | command |", "|---|---|---|---|"]
    return "\n".join([f"## {family.title}\n", f"How to: [{family.guide}]({family.guide}).\n", *head, *rows, ""])


def _command(family: Family, method: Method) -> str:
    chosen = f" {family.key}={method.name}" if family.key else ""
    return f"thumbs {family.command} config.yaml{chosen}"


if __name__ == "__main__":
    sys.stdout.write(page())
