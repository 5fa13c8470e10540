"""`thumbs sample`: ask a model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thumbs import api
from thumbs.cli.shell import printable
from thumbs.config.former_names import current_place

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]
Prompts = Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to ask; each in quotes.")]
Stage = Annotated[
    str | None,
    typer.Option(help="The stage whose model answers. [default: the last method's]", show_default=False),
]
Replies = Annotated[int, typer.Option("-n", min=1, help="Replies to each prompt.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="Logits are divided by it; 0 takes the likeliest token.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="A reply is cut here, tokens.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same replies.")]


def sample(
    run: Run,
    prompts: Prompts,
    *,
    stage: Stage = None,
    n: Replies = 1,
    temperature: Temperature = 1.0,
    max_new_tokens: MaxNewTokens = 64,
    seed: Seed = 0,
) -> None:
    """Print replies of a trained model.

    \b
    Example:
      thumbs sample runs/demo --stage ppo "How do I cook rice?" -n 3
    """
    from thumbs.config.sampling import SamplingConfig

    sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature)
    answers = api.open_run(run).sample(prompts, stage=stage and current_place(stage), n=n, sampling=sampling, seed=seed)
    for prompt, replies in zip(prompts, answers, strict=True):
        if len(prompts) > 1:
            typer.echo(f"> {printable(prompt)}")
        for reply in replies:
            cut = "" if reply.stop_reason == "stop" else " [cut]"
            typer.echo(f"{printable(reply.text)}{cut}\n")
