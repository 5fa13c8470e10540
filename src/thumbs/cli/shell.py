"""How commands fail and how text reaches the terminal."""

from __future__ import annotations

import logging
import unicodedata
from typing import Any

import typer
from typer.core import TyperGroup

from thumbs.errors import ConfigError, ThumbsError

USAGE_ERROR = 2
FAILURE = 1
INTERRUPTED = 130


class Shell(TyperGroup):
    """A command group that turns errors meant for users into a message and an exit code."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every command with its first sentence, which click would cut to one line."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, (command.help or "").partition("\n\n")[0].strip())
            for name, command in commands
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        """What the command returns; exits with 2 on ConfigError, 1 on other ThumbsErrors, 130 on Ctrl-C."""
        try:
            return super().invoke(ctx)
        except ThumbsError as error:
            typer.echo(f"error: {printable(str(error))}", err=True)
            raise typer.Exit(USAGE_ERROR if isinstance(error, ConfigError) else FAILURE) from None
        except KeyboardInterrupt:
            typer.echo("\nstopped; run the same command again to go on", err=True)
            raise typer.Exit(INTERRUPTED) from None


def printable(text: str) -> str:
    """`text` with control characters, except newline and tab, written as escapes.

    Replies and data files may hold terminal escapes, and bidirectional controls that reorder a line.
    """
    return "".join(character if _is_plain(character) else _escape(character) for character in text)


def show_log() -> None:
    """Sends the package's own messages (downloads, conversions, choices) to stderr as plain lines."""
    logger = logging.getLogger("thumbs")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _is_plain(character: str) -> bool:
    # Cf holds the bidirectional controls, but also the two joiners that emoji and several scripts need.
    return character in "\n\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
