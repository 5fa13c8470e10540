"""All methods with their papers and commands, as the Markdown page docs/methods.md.

python docs/generators/methods_page.py > docs/methods.md
"""

from __future__ import annotations

import sys

from thumbs.config.families import FAMILIES, Family
from thumbs.config.methods import Method

INTRODUCTION = """# Methods

Made from the source by `python docs/generators/methods_page.py`; do not edit by hand.

A method is a preset: how replies are grouped, how scores become advantages or pairs, a named loss, a normaliser. Its
settings are in [the reference](reference/config.md), its formula and where we differ from the paper in
[papers](papers.md). Every method has a test against a slow or published reference and a test that it learns.
`thumbs compare RUN…` puts the methods of several runs on one plane at equal KL.
"""


def page() -> str:
    """The Markdown page."""
    return "\n".join([INTRODUCTION, *map(_section, FAMILIES)])


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
