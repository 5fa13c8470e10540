"""`thumbs export`: a model of a run in the formats that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thumbs import api
from thumbs.config.former_names import current_place
from thumbs.errors import ConfigError
from thumbs.tracking.run_folder import StageFolder

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, or a .pt of thumbs.compat.rlhf_pipeline.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")]
Stage = Annotated[
    str | None,
    typer.Option(help="The stage whose model is exported. [default: the last method's]", show_default=False),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="peft, hf or gguf. [default: peft, and hf for a model without adapters]", show_default=False
    ),
]
Merge = Annotated[bool, typer.Option("--merge", help="Short for --format hf.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Whole weights: float32, bfloat16, float16; for gguf also q8_0, q5_1, q5_0, q4_1, q4_0. "
        "[default: that of the base]",
        show_default=False,
    ),
]


AllowUnsafe = Annotated[
    str | None,
    typer.Option(
        metavar="REASON",
        help="Export a policy that the gate (safety.max_unsafe) holds back; the reason is written into the model card.",
    ),
]
Push = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME", help="Then push OUT to this model on the Hugging Face hub, which is private if it is new."
    ),
]
Public = Annotated[bool, typer.Option("--public", help="What is pushed may be read by all.")]


def export(
    run: Run,
    out: Out,
    stage: Stage = None,
    form: Format = None,
    merge: Merge = False,
    dtype: Dtype = None,
    allow_unsafe: AllowUnsafe = None,
    push: Push = None,
    public: Public = False,
) -> None:
    """Write a trained model for other tools.

    peft is an adapter, hf a whole Hugging Face model, gguf one file for llama.cpp and Ollama. A reward model becomes a
    sequence classifier with one score, whole or as an adapter. A .pt is always a whole model. OUT is there whole or not
    at all, and is never overwritten. If the run has a section `safety`, a policy leaves only if `thumbs safety RUN` has
    shown that it is seldom unsafe.

    --push commits everything in OUT at once, so the hub has the whole model or none; HF_TOKEN or `hf auth login` says
    who pushes. What the hub would refuse is found out before anything is written.

    \b
    Example:
      thumbs export runs/demo out/ --stage ppo --format hf
      thumbs export runs/demo out/ --format gguf --dtype q8_0
      thumbs export runs/demo scorer/ --stage reward_model --merge --dtype float32
      thumbs export runs/demo out/ --push me/warm-smollm2
    """
    if run.is_file() or run.suffix == ".pt":
        from thumbs.compat.rlhf_pipeline.pt_files import export_pt

        if allow_unsafe is not None:
            raise ConfigError("--allow-unsafe: a .pt has no gate; leave it out")
        if push is not None or public:
            raise ConfigError("--push: a .pt has no model card; export it, and push OUT by `hf upload`")
        if stage is not None or form is not None:
            raise ConfigError(f"{run} is one whole model: --stage and --format belong to the run folder")
        typer.echo(str(export_pt(run, out, dtype)))
        return
    opened = api.open_run(run)
    stage = current_place(stage) if stage else opened.policy
    exported = opened.export(
        out, stage=stage, format=form, merge=merge, dtype=dtype, allow_unsafe=allow_unsafe, push=push, public=public
    )
    if alarms := StageFolder(run / stage).alarms.read():
        last = f"step {alarms[-1]['step']}: {alarms[-1]['alarm']}"
        typer.echo(f"warning: {len(alarms)} alarms were raised while this policy was trained; {last}", err=True)
    typer.echo(str(exported))
