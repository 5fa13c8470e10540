"""`thumbs chat`: talk to a policy of a run, or to two of them side by side."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thumbs.cli.sample import MaxNewTokens, Run, Seed, Stage, Temperature
from thumbs.cli.shell import printable
from thumbs.config.former_names import current_place
from thumbs.errors import ConfigError, ThumbsError

if TYPE_CHECKING:
    from thumbs.pipeline.chat import Dialogue, Verdict

Against = Annotated[
    str | None,
    typer.Option(metavar="STAGE", help="Also ask this stage's model, and vote; base is the model before training."),
]
Votes = Annotated[Path | None, typer.Option(help="Where votes are kept. [default: votes.jsonl in the run folder]")]

_HELP = "/new starts over, /again asks for other replies, /quit or Ctrl-D ends"
_VERDICTS: dict[str, Verdict] = {"1": "first", "2": "second", "t": "tie", "b": "both_bad"}


def chat(
    run: Run,
    *,
    stage: Stage = None,
    against: Against = None,
    temperature: Temperature = 0.7,
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
    votes: Votes = None,
) -> None:
    """Talk to a policy of a run in the terminal.

    With --against two policies answer, in an order that does not tell which is which, and your votes are kept as
    pairs that `labels.data` of a config reads. The conversation goes on from the reply that you prefer.

    \b
    Example:
      thumbs chat runs/demo
      thumbs chat runs/demo --stage ppo --against sft
    """
    from thumbs import api
    from thumbs.config.sampling import SamplingConfig
    from thumbs.data.preferences import PreferenceStore
    from thumbs.pipeline.chat import VOTES, Dialogue
    from thumbs.pipeline.reply_source import open_stages

    opened = api.open_run(run)
    stages = [current_place(stage) if stage else opened.policy, *([current_place(against)] if against else [])]
    if len(set(stages)) < len(stages):
        raise ConfigError(f"--against {against}: that is the stage itself; name another one, such as sft or base")
    if votes is not None and against is None:
        raise ConfigError("--votes: there are votes only with --against, where two policies answer")
    sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature)
    policies = open_stages(run, stages, sampling)
    store = None if against is None else PreferenceStore(votes or run / VOTES)
    if store is not None and store.note:
        typer.echo(printable(store.note), err=True)
    typer.echo(f"{' and '.join(stages)} of {printable(str(run))}; {_HELP}\n")
    with contextlib.suppress(EOFError):
        _talk(Dialogue(policies, store, seed), dict(zip([p.checkpoint for p in policies], stages, strict=True)))
    if store is not None:
        typer.echo(f"\n{len(store)} votes in {store.path}; train on them with labels.data.path")


def _talk(chat: Dialogue, stages: dict[str, str]) -> None:
    """Reads lines until the input ends."""
    while True:
        text = _read("> ")
        if text in ("/quit", "/exit"):
            return
        if not text:
            continue
        if text == "/new":
            chat.forget()
            typer.echo("a new conversation")
            continue
        if text.startswith("/") and text != "/again":
            typer.echo(_HELP)
            continue
        try:
            replies = chat.again() if text == "/again" else chat.ask(text)
        except ThumbsError as error:
            typer.echo(f"{printable(str(error))}; /new starts over")
            continue
        for number, reply in enumerate(replies, start=1):
            label = f"[{number}] " if len(replies) > 1 else ""
            cut = "" if reply.stop_reason == "stop" else " [cut]"
            typer.echo(f"{label}{printable(reply.text)}{cut}\n")
        if chat.votes is not None:
            _vote(chat, [stages[reply.generator.checkpoint] for reply in replies])


def _vote(chat: Dialogue, names: list[str]) -> None:
    answer = _read("better: 1, 2, t for a tie, b for both bad, Enter for no vote: ").lower()
    while answer and answer not in _VERDICTS:
        answer = _read("1, 2, t, b or Enter: ").lower()
    if answer and not chat.vote(_VERDICTS[answer]):
        typer.echo("the replies say the same, or nothing, so there is no vote to keep")
    typer.echo(f"1 was {names[0]}, 2 was {names[1]}\n")


def _read(prompt: str) -> str:
    """One line of input, stripped; with history and editing in a terminal."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  - input() uses it once it is loaded
    return input(prompt).strip()
