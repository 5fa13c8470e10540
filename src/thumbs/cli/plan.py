"""`thumbs plan`: what a run would take, before it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from thumbs import api
from thumbs.cli.run import ConfigFile, Overrides

Nodes = Annotated[int | None, typer.Option(min=1, help="Plan for a cluster of so many nodes.", show_default=False)]
Gpus = Annotated[int, typer.Option(min=1, help="GPUs in each node.")]
Memory = Annotated[
    float | None, typer.Option(min=1, help="GiB of each GPU; else what the kind has.", show_default=False)
]
Kind = Annotated[str, typer.Option("--gpu", help="Kind of GPU: a100, h100 or h200.")]
Samplers = Annotated[
    int | None, typer.Option(min=0, help="GPUs that sample; else rollout.workers, or a quarter.", show_default=False)
]


def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    nodes: Nodes = None,
    gpus: Gpus = 8,
    memory: Memory = None,
    gpu: Kind = "h100",
    samplers: Samplers = None,
) -> None:
    """Say what a run would take, before it runs.

    Prints parameters, tokens per step, memory and time for this machine, and warns of what would go wrong. With
    --nodes it is the forecast for a cluster that need not be there: bytes per GPU by part, seconds per step, and
    whether products, memory or the network limit them. No weights are needed for that: a folder with the model's
    config.json and tokenizer will do.

    \b
    Example:
      thumbs plan config.yaml ppo.batch_size=64
      thumbs plan config.yaml --nodes 2 --gpus 8 --memory 80
    """
    if nodes is not None:
        from thumbs.pipeline.cluster_plan import find_cluster
        from thumbs.pipeline.plan import plan_for

        cluster = find_cluster(nodes, gpus, gpu, memory)
        typer.echo(plan_for(api.load_config(config, overrides or []), cluster, samplers).text())
        return
    forecast = api.plan(config, overrides or [])
    typer.echo(forecast.text())
    for warning in forecast.warnings:
        typer.echo(f"warning: {warning}", err=True)
