"""`thumbs data`: preference sets to and from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thumbs.cli.export import Public

app = typer.Typer(
    no_args_is_help=True,
    help="Share preference sets on the Hugging Face hub.\n\n\b\nExample:\n"
    "  thumbs data push prefs.jsonl me/warm-replies\n"
    "  thumbs data pull me/warm-replies pairs/",
)

Repo = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The data set on the hub.")]


@app.command()
def push(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Preferences: .jsonl, .json, .csv or .parquet.")],
    repo: Repo,
    public: Public = False,
) -> None:
    """Push a preference set with its manifest and a card, as one commit.

    It is private unless --public is given. The manifest is the one that `thumbs collect export` wrote next to the file;
    a file without one gets its SHA-256 and number of rows. HF_TOKEN or `hf auth login` says who pushes.

    \b
    Example:
      thumbs data push prefs.jsonl me/warm-replies
    """
    from thumbs.data.shared_sets import push_set

    typer.echo(push_set(file, repo, public=public))


@app.command()
def pull(
    repo: Repo,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    revision: Annotated[
        str | None, typer.Option(help="A commit, branch or tag. [default: as it is now]", show_default=False)
    ] = None,
) -> None:
    """Fetch a set that was pushed so, and check the file against its manifest.

    OUT is there whole or not at all, and is never overwritten. Prints the file, and the commit that gives it again.

    \b
    Example:
      thumbs data pull me/warm-replies pairs/
    """
    from thumbs.data.shared_sets import pull_set

    path, commit = pull_set(repo, out, revision=revision)
    typer.echo(str(path))
    typer.echo(f"commit {commit}", err=True)
