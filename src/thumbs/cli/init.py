"""`thumbs init` and `thumbs demo`: a first run that works, to change or to watch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from thumbs import api
from thumbs.cli.run import Fresh, Overrides
from thumbs.errors import ConfigError
from thumbs.tracking.files import write_text

STARTERS = {
    "chat": ("conversations.jsonl", "prompts.txt", "my_rewards.py"),
    "pairs": ("pairs.jsonl", "prompts.txt", "my_rewards.py"),
    "own-model": ("pairs.jsonl",),
}
"""Kind → the files that its config reads."""

DEMOS = {"full": "demo", "tiny": "demo-tiny"}
"""Size → the name of its config."""

_FOLDER = Path(__file__).parent / "starters"

Kind = Annotated[str, typer.Argument(metavar="KIND", help=f"What you have: {', '.join(STARTERS)}.")]
Folder = Annotated[Path, typer.Option(help="Where the files go; nothing there is overwritten.")]
Size = Annotated[str, typer.Option(help="full: SmolLM2-135M; tiny: a byte model from scratch, under a minute.")]


def init(kind: Kind = "chat", folder: Folder = Path()) -> None:
    """Write a config to start from, with the data that it reads.

    chat: conversations, then PPO against a Python function. pairs: a reward model from preference pairs, then PPO.
    own-model: DPO on pairs with a model of yours. As it is, each ends within 15 minutes on two cores, mostly in
    a few; `thumbs plan` says how long it takes here.

    \b
    Example:
      thumbs init pairs --folder first
      cd first
      thumbs run config.yaml
    """
    if kind not in STARTERS:
        raise ConfigError(f"no starter {kind!r}; there are {', '.join(STARTERS)}")
    sources = {"config.yaml": f"{kind}.yaml", **{name: name for name in STARTERS[kind]}}
    if there := [str(folder / name) for name in sources if (folder / name).exists()]:
        raise ConfigError(f"{', '.join(there)}: there already, and nothing is overwritten; name another --folder")
    for name, source in sources.items():
        write_text(folder / name, (_FOLDER / source).read_text(encoding="utf-8"))
        typer.echo(str(folder / name))
    enter = "" if folder == Path() else f"cd {shlex.quote(str(folder))}\n"
    typer.echo(f"\n{enter}thumbs plan config.yaml   # what it takes here\nthumbs run config.yaml")


def demo(overrides: Overrides = None, size: Size = "full", fresh: Fresh = False) -> None:
    """Run the demonstration: steer the tone of a small model, with a report.

    The run folder is runs/demo or runs/demo-tiny of the current folder, unless run=PATH says otherwise.

    \b
    Example:
      thumbs demo
      thumbs demo --size tiny seed=1 run=runs/tiny-1
    """
    if size not in DEMOS:
        raise ConfigError(f"--size {size}: the sizes are {', '.join(DEMOS)}")
    done = api.run(_FOLDER / f"{DEMOS[size]}.yaml", overrides or [], fresh=fresh)
    typer.echo(f"run folder: {done.path}\nreport:     {done.path / 'report.html'}")
