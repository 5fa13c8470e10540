"""What each stage of a run is given: its data, its starting weights, its reward."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thumbs.config.pipeline import METHODS, PipelineConfig
from thumbs.data.annotators import SimulatedAnnotator
from thumbs.data.load import load_conversations, load_preferences, load_prompts
from thumbs.data.preferences import PreferenceStore
from thumbs.data.prompts import read_prompt
from thumbs.data.splits import is_heldout
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError
from thumbs.evaluation.heldout import Evaluation
from thumbs.evaluation.judges import gold_judge
from thumbs.evaluation.reward_audit import audit
from thumbs.pipeline.artifacts import OpenRun, with_system
from thumbs.records import Datum, Preference, Prompt
from thumbs.rewards.model import RewardModel
from thumbs.rollout.collect import seed_of
from thumbs.stages.context import Context
from thumbs.stages.group_run import run_group
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.preference import run_dpo
from thumbs.stages.preferences import collect_preferences, store_path
from thumbs.stages.rejection import run_rejection
from thumbs.stages.reward import run_reward
from thumbs.stages.sequences import conversation_tokens
from thumbs.stages.sft import run_sft
from thumbs.tracking.files import read_json, write_json
from thumbs.tracking.run_folder import RunFolder


@dataclass(frozen=True)
class Pipeline:
    """One run: its config, folder, tokenizer, the engine that all stages share, and a method for each stage."""

    config: PipelineConfig
    folder: RunFolder
    tokenizer: Tokenizer
    engine: LocalEngine

    def context(self, name: str) -> Context:
        """What a stage is given."""
        return Context(self.engine, self.tokenizer, self.folder.stage(name), self.config.model, self.config.seed)

    def sft(self, context: Context) -> dict[str, Any]:
        c = self.config.sft
        assert c is not None  # noqa: S101
        loaded = load_conversations(c.data, self.tokenizer, self.config.system)
        say(loaded.summary())
        train = [row for row in loaded.rows if not is_heldout(row, c.data.holdout)]
        held = [row for row in loaded.rows if is_heldout(row, c.data.holdout)]
        return run_sft(context, c, train, held)

    def preferences(self, context: Context) -> dict[str, Any]:
        c = self.config.preferences
        assert c is not None  # noqa: S101
        if c.data is not None:
            loaded = load_preferences(c.data, self.tokenizer, self.config.system)
            say(loaded.summary())
            return {"pairs": PreferenceStore(store_path(context)).append(loaded.rows), "source": c.data.path}
        if c.prompts is None:
            raise ConfigError("preferences: give `data` (a file of pairs) or `prompts` (to sample pairs for)")
        judge = gold_judge(c.judge)
        seeds = [seed_of(self.config.seed, "annotator", i) for i in range(c.annotators)]
        annotators = [
            SimulatedAnnotator(f"simulated-{i + 1}", judge, c.label_noise, c.tie_below, seed)
            for i, seed in enumerate(seeds)
        ]
        created = read_json(self.folder.path / "versions.json")["created"]
        prompts = load_prompts(c.prompts, self.tokenizer, self.config.system).rows
        return collect_preferences(context, c, self.start(), prompts, annotators, created)

    def reward(self, context: Context) -> dict[str, Any]:
        c = self.config.reward
        assert c is not None  # noqa: S101
        results = run_reward(context, c, self.start(), *self.pairs("reward"))
        found = results.pop("heldout")
        return results | ({"audit": audit(**found).as_dict()} if found["preferred"] else {})

    def preference(self, context: Context) -> dict[str, Any]:
        c = self.config.preference
        assert c is not None  # noqa: S101
        train, _ = self.pairs("preference")
        return run_dpo(context, c, self.start(), train)

    def ppo(self, context: Context) -> dict[str, Any]:
        c = self.config.ppo
        assert c is not None  # noqa: S101
        loaded = load_prompts(c.prompts, self.tokenizer, self.config.system)
        return run_ppo(
            context,
            c,
            self.reward_source(),
            self.start(),
            loaded.rows,
            reward_checkpoint=self.checkpoint("reward"),
            fixed_prompts=self.fixed_prompts(),
            pretraining=self.pretraining() if c.ptx_coef else (),
        )

    def group(self, context: Context) -> dict[str, Any]:
        c = self.config.group
        assert c is not None  # noqa: S101
        prompts = load_prompts(c.prompts, self.tokenizer, self.config.system).rows
        return run_group(context, c, self.reward_source(), self.start(), prompts)

    def rejection(self, context: Context) -> dict[str, Any]:
        c = self.config.rejection
        assert c is not None  # noqa: S101
        prompts = load_prompts(c.prompts, self.tokenizer, self.config.system).rows
        return run_rejection(context, c, self.reward_source(), self.start(), prompts)

    def evaluation(self, context: Context) -> dict[str, Any]:
        c = self.config.evaluation
        assert c is not None  # noqa: S101
        prompts = load_prompts(c.prompts, self.tokenizer, self.config.system).rows
        evaluation = Evaluation(self.engine, self.tokenizer, c, self.reward_source(), prompts, self.config.seed)
        opened = OpenRun(self.folder.path, self.config, self.tokenizer, self.engine)
        names = ["base", *(name for name in ("sft", *METHODS) if getattr(self.config, name) is not None)]
        reference = "base" if self.config.sft is None else "sft"
        policies = {name: opened.model(name) for name in names}
        results = evaluation.run(policies, reference, self.fixed_prompts())
        write_json(context.folder.path / "results.json", results)
        return {"systems": results["systems"], "win_rates": results["win_rates"]}

    def start(self) -> Path | None:
        """What the stages after SFT start from: its model, or None for the base model where the run has no SFT."""
        return None if self.config.sft is None else self.checkpoint("sft")

    def pairs(self, stage: str) -> tuple[list[Preference], list[Preference]]:
        """(training, held-out) preferences of the run, split by a hash of the prompt."""
        source = self.config.preferences
        if source is None:
            raise ConfigError(f"{stage} needs the section `preferences`, which says where the pairs come from")
        data = source.data or source.prompts
        fraction = data.holdout if data is not None else 0.1
        rows = PreferenceStore(store_path(self.context("preferences"))).load()
        held = [is_heldout(row.prompt, fraction) for row in rows]
        return [r for r, h in zip(rows, held, strict=True) if not h], [r for r, h in zip(rows, held, strict=True) if h]

    def reward_source(self) -> RewardModel:
        """The trained reward model, its scores normalised as the config asks."""
        if self.config.reward is None:
            raise ConfigError("this run has no reward model; give it the sections `preferences` and `reward`")
        results = self.folder.stage("reward").results()
        spec = ModelSpec(
            "reward",
            self.config.model,
            ("scalar",),
            self.checkpoint("reward"),
            trainable=False,
            seed=self.config.seed,
        )
        scaled = self.config.ppo is None or self.config.ppo.score_scale
        std = results["score_std"] if scaled else 1.0
        return RewardModel(self.engine, self.engine.create(spec), results["score_mean"], std)

    def checkpoint(self, stage: str) -> Path:
        """Where a stage left its model."""
        return self.folder.path / stage / "model"

    def fixed_prompts(self) -> list[Prompt]:
        """The prompts whose replies the report shows."""
        return [with_system(read_prompt(text), self.config.system) for text in self.config.fixed_prompts]

    def pretraining(self) -> list[Datum]:
        """The SFT data again, for the pretraining mix."""
        c = self.config.sft
        if c is None:
            raise ConfigError("ppo.ptx_coef mixes in the SFT data, so the config needs the section `sft`")
        rows = load_conversations(c.data, self.tokenizer, self.config.system).rows
        tokenised = [conversation_tokens(self.tokenizer, row) for row in rows if not is_heldout(row, c.data.holdout)]
        return [Datum.next_token(tokens, weights=mask) for tokens, mask in tokenised]


def say(text: str) -> None:
    """One line for the person who watches."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
