"""The `thumbs` command. Importing this file loads no torch, so that help answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

from thumbs import __version__
from thumbs.cli import (
    chat,
    cluster,
    collect_serve,
    compare,
    data,
    doctor,
    evaluate,
    export,
    init,
    lab,
    lint,
    plan,
    report,
    run,
    safety,
    sample,
    schema,
    serve,
    trace,
)
from thumbs.cli.shell import Shell, show_log
from thumbs.config.families import help_lines
from thumbs.config.former_names import COMMANDS as FORMER_COMMANDS

app = typer.Typer(
    cls=Shell,
    epilog=f"\b\nMethods (docs/methods.md has their papers):\n{help_lines()}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thumbs {__version__}")
        raise typer.Exit


@app.callback()
def thumbs(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """RLHF from data to report: SFT, preferences, reward model, PPO, evaluation.

    `thumbs COMMAND --help` explains a command and shows an example.
    """
    show_log()


_COMMANDS = {
    "init": init.init,
    "demo": init.demo,
    **run.COMMANDS,
    "plan": plan.plan,
    "lint": lint.lint,
    "sample": sample.sample,
    "chat": chat.chat,
    "eval": evaluate.evaluate,
    "compare": compare.compare,
    "report": report.report,
    "safety": safety.safety,
    "export": export.export,
    "trace": trace.trace,
    "serve": serve.serve,
    "schema": schema.schema,
    "doctor": doctor.doctor,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
for _former, _name in FORMER_COMMANDS.items():
    app.command(_former, hidden=True)(_COMMANDS[_name])
app.add_typer(cluster.app, name="cluster")
app.add_typer(collect_serve.app, name="collect")
app.add_typer(data.app, name="data")
app.add_typer(lab.app, name="lab")
