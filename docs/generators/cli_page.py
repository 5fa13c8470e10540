"""Every command with its help, as the Markdown page docs/reference/cli.md.

python docs/generators/cli_page.py > docs/reference/cli.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from thumbs.cli.main import app

INTRODUCTION = """# Commands

Made from the source by `python docs/generators/cli_page.py`; do not edit by hand. `thumbs COMMAND --help` prints the
same.
"""


def reference() -> str:
    """The Markdown page: a section for each command, those of a group after the group."""
    return "\n".join([INTRODUCTION, *_sections(get_command(app), ())])


def _sections(command: Any, words: tuple[str, ...]) -> Iterator[str]:
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "100"}, prog_name="thumbs")
    lines = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
    yield f"## {' '.join(('thumbs', *words))}\n\n```text\n{lines}\n```\n"
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _sections(inner, (*words, name))


if __name__ == "__main__":
    sys.stdout.write(reference())
