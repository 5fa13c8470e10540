"""`thumbs lint`: what is wrong with a data file, line by line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from thumbs.cli.shell import FAILURE, printable

if TYPE_CHECKING:
    from thumbs.data.tokenizers import Tokenizer

Source = Annotated[
    str,
    typer.Argument(metavar="DATA", help="A data file, hub:NAME[@REVISION][[:CONFIGURATION]:SPLIT] or builtin:NAME."),
]
Kind = Annotated[
    Literal["auto", "conversations", "preferences", "prompts", "rankings", "ratings", "steps", "replies"],
    typer.Option(help="What the file holds."),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Measure lengths with this model's tokenizer.", show_default=False),
]


MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Count longer rows, in tokens of --model or else in bytes, as too long."),
]
AxisOption = Annotated[
    str | None,
    typer.Option("--axis", metavar="NAME", help="Which of several judgements of a row to go by.", show_default=False),
]

Fix = Annotated[
    Path | None,
    typer.Option("--fix", metavar="OUT", help="Write the usable rows to this new .jsonl file.", show_default=False),
]


def lint(
    data: Source,
    kind: Kind = "auto",
    model: Model = None,
    max_tokens: MaxTokens = None,
    axis: AxisOption = None,
    fix: Fix = None,
) -> None:
    """Say what is wrong with a data file, line by line.

    Also prints how many rows are left; exit code 1 when no usable row is left.

    \b
    Example:
      thumbs lint data.jsonl --model smollm2-135m
    """
    from thumbs.data.lint import lint as lint_data

    found = lint_data(
        data, tokenizer=_tokenizer(model) if model else None, kind=kind, max_tokens=max_tokens, axis=axis, fix=fix
    )
    typer.echo(printable(found.text()))
    if fix is not None:
        typer.echo(f"{found.rows_left} rows are in {fix}")
    if not found.rows_left:
        raise typer.Exit(FAILURE)


def _tokenizer(model: str) -> Tokenizer:
    from thumbs.data.tokenizers import ByteTokenizer, load_tokenizer
    from thumbs.models.catalog import is_builtin_byte, resolve

    return ByteTokenizer() if is_builtin_byte(model) else load_tokenizer(resolve(model))
