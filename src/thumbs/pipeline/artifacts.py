"""A finished (or half-finished) run as something to use: sample from its models, export them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thumbs.config.base import build_config
from thumbs.config.pipeline import METHODS, PipelineConfig, place
from thumbs.config.sampling import SamplingConfig
from thumbs.data.hub import push_folder, require_access
from thumbs.data.load import with_system
from thumbs.data.prompts import read_prompt
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine import open_engine
from thumbs.engine.base import Handle, Head, ModelSpec, OpenEngine
from thumbs.engine.checkpoints import exists
from thumbs.errors import RunError
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.exports import plan_export, write_export
from thumbs.pipeline.former_runs import bring_up_to_date
from thumbs.pipeline.gate import require_safe
from thumbs.pipeline.model_card import model_card
from thumbs.records import Generator, Reply
from thumbs.rollout.rounds import collect, seed_of
from thumbs.stages.milestones import milestones
from thumbs.tracking.files import new_folder, write_text
from thumbs.tracking.run_folder import RunFolder, versions

log = logging.getLogger(__name__)

MODELS = ("base", "sft", "cost_model", "reward_model", *METHODS)
"""What a run may have a model of."""

SCORERS = ("cost_model", "reward_model")
"""Those of them that score replies and write none."""


@dataclass(frozen=True)
class OpenRun:
    """A run's config, tokenizer and an engine that holds its models."""

    path: Path
    config: PipelineConfig
    tokenizer: Tokenizer
    engine: OpenEngine

    def model(self, stage: str) -> Handle:
        """The frozen model that a stage left; `base` is what the run started from."""
        self.require(stage)
        heads: tuple[Head, ...] = ("scalar",) if stage.split("/")[-1] in SCORERS else ("lm",)
        return self._open(stage, None if stage == "base" else self.path / stage / "model", heads)

    def require(self, stage: str) -> None:
        """Raises RunError if the run has no such stage, or no model of it yet."""
        if stage.split("/")[-1] not in MODELS:
            raise RunError(f"no stage {stage!r}; a run has {', '.join(MODELS)}")
        if stage != "base" and not exists(self.path / stage / "model"):
            raise RunError(f"{self.path} has no model of stage {stage!r}; run that stage first")

    def require_policy(self, stage: str) -> None:
        """Raises RunError if the run has no such stage, no model of it yet, or one that writes no text."""
        if (name := stage.split("/")[-1]) in SCORERS:
            raise RunError(f"the {name.replace('_', ' ')} cannot generate text; take base, sft or one of the methods")
        self.require(stage)

    def write_policy(self, stage: str, out: Path, dtype: str | None = None) -> None:
        """Writes the policy of a stage as a whole model for transformers, without a card; dtype: None is the base's."""
        plan = plan_export(self.path, self.config, stage, form="hf", dtype=dtype)
        checkpoint = None if stage == "base" else self.path / stage / "model"
        write_export(out, checkpoint, self.config, self.tokenizer, plan)

    def milestones(self) -> dict[str, Handle]:
        """The policies that methods kept on their way, as `ppo@2`: PPO's where its KL first passed 2 nats."""
        return {
            f"{stage}@{level}": self._open(f"{stage}@{level}", path)
            for stage in METHODS
            for level, path in milestones(self.path / stage)
        }

    def policies(self) -> dict[str, Handle]:
        """All that can be sampled from, in the order of the run: base, SFT, what methods left, and their milestones."""
        methods = [name for name in METHODS if getattr(self.config, name) is not None]
        names = ["base", *(["sft"] if self.config.sft is not None else [])]
        names += [place(name, i) for i in range(1, self.config.iterations + 1) for name in methods]
        return {name: self.model(name) for name in names} | self.milestones()

    def _open(self, name: str, start: Path | None, heads: tuple[Head, ...] = ("lm",)) -> Handle:
        scores = self.config.reward_model.heads if "scalar" in heads and self.config.reward_model is not None else 1
        return self.engine.create(
            ModelSpec(name, self.config.model, heads, start, trainable=False, seed=self.config.seed, scores=scores)
        )


def open_run(run: Path) -> OpenRun:
    """Opens a run folder; raises RunError when it is none."""
    bring_up_to_date(run)
    config = build_config(PipelineConfig, RunFolder(run).settings(), source=str(run / "config.json"))
    tokenizer = open_tokenizer(config.model)
    # Not the engine that the run names: a folder of somebody else's is data, and none of its names is called.
    return OpenRun(run, config, tokenizer, open_engine(decode_text=tokenizer.decode))


def last_policy(run: Path) -> str:
    """The stage whose policy is the run's result so far: the last method that left a model, else SFT, else `base`."""
    config = build_config(PipelineConfig, RunFolder(run).settings(), source=str(run / "config.json"))
    later = [place(method, i) for i in range(1, config.iterations + 1) for method in METHODS]
    # A stage that is done, but whose model is damaged, is asked for and named rather than passed over.
    left = [stage for stage in ("sft", *later) if (run / stage / "done.json").exists() or exists(run / stage / "model")]
    return left[-1] if left else "base"


def sample_text(
    run: Path, stage: str, prompts: Sequence[str], n: int, sampling: SamplingConfig, seed: int
) -> list[list[Reply]]:
    """n replies to each prompt from the model of a stage."""
    opened = open_run(run)
    opened.require_policy(stage)
    sampler = opened.engine.snapshot(opened.model(stage))
    asked = [with_system(read_prompt(text), opened.config.system) for text in prompts]
    wanted = [prompt for prompt in asked for _ in range(n)]
    seeds = [seed_of(seed, "sample", prompt.id, draw) for prompt in asked for draw in range(n)]
    rollouts = collect(sampler, wanted, opened.tokenizer, sampling, seeds)
    settings = sampling.model_dump(mode="json")
    replies = [
        Reply(r.text, Generator("model", opened.config.model.name, f"{stage}/model", settings, s), r.stop_reason)
        for r, s in zip(rollouts, seeds, strict=True)
    ]
    return [replies[i * n : (i + 1) * n] for i in range(len(prompts))]


def export(
    run: Path,
    stage: str,
    out: Path,
    form: str | None = None,
    dtype: str | None = None,
    allow_unsafe: str | None = None,
    *,
    push: str | None = None,
    public: bool = False,
) -> Path:
    """Writes a model of a run and its card for other tools, in a folder that is there whole or not at all.

    form: peft, an adapter; hf, a whole model for transformers; gguf, one file for llama.cpp and Ollama; None: an
    adapter if there is one. dtype: of a whole model (None: that of the base). A reward model becomes a sequence
    classifier, whole or as an adapter. Raises RunError for what cannot be exported, and for a policy that does not
    pass the gate of `safety`, unless `allow_unsafe` gives a reason for the card.

    push: a model on the hub that gets the folder in one commit; a new one is private unless `public`. Raises HubError,
    before anything is written if the hub would refuse it.
    """
    opened = open_run(run)
    opened.require(stage)
    plan = plan_export(run, opened.config, stage, form=form, dtype=dtype)
    safety = require_safe(run, stage, opened.config, allow_unsafe)
    if push is not None:
        require_access(push, "model", public=public)
    checkpoint = None if stage == "base" else run / stage / "model"
    end = opened.tokenizer.decode([opened.tokenizer.eos_id], skip_special=False)
    with new_folder(out) as scratch:
        write_export(scratch, checkpoint, opened.config, opened.tokenizer, plan)
        write_text(scratch / "README.md", model_card(run, stage, form=plan.form, end=end, safety=safety))
    for note in plan.notes:
        log.warning("%s", note)
    if push is not None:
        message = f"{stage} of {run.resolve().name}, by thumbs {versions()['thumbs']}"
        log.info("pushed: %s", push_folder(push, out, public=public, message=message))
    return out
