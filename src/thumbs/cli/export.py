"""`thumbs export`: a model of a run in the formats that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thumbs import api
from thumbs.config.former_names import current_place
from thumbs.tracking.run_folder import StageFolder

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, or a .pt of thumbs.compat.rlhf_pipeline.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")]
Stage = Annotated[
    str | None,
    typer.Option(help="The stage whose model is exported. [default: the last method's]", show_default=False),
]
Merge = Annotated[bool, typer.Option("--merge", help="Fold the adapter into the weights: a model that stands alone.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="Format of whole weights: float32, bfloat16 or float16. [default: that of the base]"),
]


def export(run: Run, out: Out, stage: Stage = None, merge: Merge = False, dtype: Dtype = None) -> None:
    """Write a trained model for other tools.

    A LoRA model is written as a PEFT adapter, or with --merge as a whole Hugging Face model; a model without adapters
    is whole either way. A reward model becomes a sequence classifier with one score, whole or as an adapter. A .pt is
    always a whole model. OUT is there whole or not at all, and is never overwritten.

    \b
    Example:
      thumbs export runs/demo out/ --stage ppo --merge
      thumbs export runs/demo scorer/ --stage reward_model --merge --dtype float32
    """
    if run.is_file() or run.suffix == ".pt":
        from thumbs.compat.rlhf_pipeline.pt_files import export_pt

        typer.echo(str(export_pt(run, out, dtype)))
        return
    opened = api.open_run(run)
    stage = current_place(stage) if stage else opened.policy
    exported = opened.export(out, stage=stage, merge=merge, dtype=dtype)
    if alarms := StageFolder(run / stage).alarms.read():
        last = f"step {alarms[-1]['step']}: {alarms[-1]['alarm']}"
        typer.echo(f"warning: {len(alarms)} alarms were raised while this policy was trained; {last}", err=True)
    typer.echo(str(exported))
