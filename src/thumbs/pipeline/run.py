"""The whole of RLHF in order: SFT → preferences → reward model → PPO → evaluation → summary.

A stage whose done.json is there is skipped, one that was interrupted goes on, so the same command finishes any run.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thumbs.config.pipeline import PipelineConfig
from thumbs.data.annotators import SimulatedAnnotator
from thumbs.data.load import load_conversations, load_preferences, load_prompts
from thumbs.data.preferences import PreferenceStore
from thumbs.data.prompts import read_prompt
from thumbs.data.splits import is_heldout
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, RunError
from thumbs.evaluation.heldout import Evaluation
from thumbs.evaluation.judges import gold_judge
from thumbs.evaluation.reward_audit import audit
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.artifacts import OpenRun, open_run, with_system
from thumbs.pipeline.summary import peak_rss_bytes, summarise
from thumbs.records import Datum, Prompt
from thumbs.rewards.model import RewardModel
from thumbs.rollout.collect import seed_of
from thumbs.stages.context import Context, Resume
from thumbs.stages.ppo_run import check, run_ppo
from thumbs.stages.preferences import collect_preferences, store_path
from thumbs.stages.reward import run_reward
from thumbs.stages.sequences import conversation_tokens
from thumbs.stages.sft import run_sft
from thumbs.tracking.files import read_json, write_json
from thumbs.tracking.run_folder import RunFolder

ORDER = ("sft", "preferences", "reward", "ppo", "evaluation")


def run_pipeline(config: PipelineConfig, *, until: str | None = None, fresh: bool = False) -> Path:
    """Runs the stages of `config` (up to and including `until`) and returns the run folder."""
    if config.ppo is not None:
        check(config.ppo)  # before SFT has run for an hour, and before --fresh deletes anything
    path = Path(config.run)
    if fresh and path.exists():
        remove_run(path)
    with RunFolder(path).open(config.model_dump(mode="json")) as folder:
        tokenizer = open_tokenizer(config.model)
        pipeline = Pipeline(config, folder, tokenizer, LocalEngine(tokenizer.decode))
        last = ORDER.index(until) if until else len(ORDER) - 1
        for name in ORDER[: last + 1]:
            if getattr(config, name) is not None:
                pipeline.stage(name)
        write_json(path / "summary.json", summarise(path, peak_rss_bytes()))
    return path


def remove_run(path: Path) -> None:
    """Deletes a run folder; refuses a folder that no run wrote, such as a mistyped path."""
    if any(path.iterdir()) and not (path / "config.json").exists():
        raise RunError(f"{path} holds no run, so --fresh does not delete it; name another folder with run=PATH")
    shutil.rmtree(path)


def evaluate_run(run: Path) -> dict[str, Any]:
    """Evaluates the models of a run again; returns the new summary."""
    config = open_run(run).config
    if config.evaluation is None:
        raise ConfigError(f"{run} was made without an `evaluation` section; there are no held-out prompts to use")
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    return read_json(run_pipeline(config.model_copy(update={"run": str(run)})) / "summary.json")


@dataclass(frozen=True)
class Pipeline:
    """One run: its config, folder, tokenizer, and the engine that all stages share."""

    config: PipelineConfig
    folder: RunFolder
    tokenizer: Tokenizer
    engine: LocalEngine

    def stage(self, name: str) -> None:
        """Runs one stage unless it is done; prints and records the time it took."""
        context = self.context(name)
        if context.folder.is_done():
            say(f"{name}: done already")
            return
        spent = SpentTime(context.folder.path / "spent_s.json")
        runs: dict[str, Callable[[Context], dict[str, Any]]] = {
            "sft": self.sft,
            "preferences": self.preferences,
            "reward": self.reward,
            "ppo": self.ppo,
            "evaluation": self.evaluation,
        }
        with spent:
            results = runs[name](context)
        context.folder.mark_done({**results, "time_s": spent.total})
        Resume(context, {}).clear()
        say(f"{name}: {spent.total:.0f} s")

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
        return collect_preferences(context, c, self.checkpoint("sft"), prompts, annotators, created)

    def reward(self, context: Context) -> dict[str, Any]:
        c, source = self.config.reward, self.config.preferences
        if c is None or source is None:
            raise ConfigError("reward needs the section `preferences`, which says where the pairs come from")
        data = source.data or source.prompts
        fraction = data.holdout if data is not None else 0.1
        rows = PreferenceStore(store_path(self.context("preferences"))).load()
        train = [row for row in rows if not is_heldout(row.prompt, fraction)]
        held = [row for row in rows if is_heldout(row.prompt, fraction)]
        results = run_reward(context, c, self.checkpoint("sft"), train, held)
        found = results.pop("heldout")
        return results | ({"audit": audit(**found).as_dict()} if found["preferred"] else {})

    def ppo(self, context: Context) -> dict[str, Any]:
        c = self.config.ppo
        assert c is not None  # noqa: S101
        loaded = load_prompts(c.prompts, self.tokenizer, self.config.system)
        return run_ppo(
            context,
            c,
            self.reward_source(),
            self.checkpoint("sft"),
            loaded.rows,
            reward_checkpoint=self.checkpoint("reward"),
            fixed_prompts=self.fixed_prompts(),
            pretraining=self.pretraining() if c.ptx_coef else (),
        )

    def evaluation(self, context: Context) -> dict[str, Any]:
        c = self.config.evaluation
        assert c is not None  # noqa: S101
        prompts = load_prompts(c.prompts, self.tokenizer, self.config.system).rows
        evaluation = Evaluation(self.engine, self.tokenizer, c, self.reward_source(), prompts, self.config.seed)
        opened = OpenRun(self.folder.path, self.config, self.tokenizer, self.engine)
        names = ["base", "sft", *(["ppo"] if self.config.ppo is not None else [])]
        policies = {name: opened.model(name) for name in names}
        results = evaluation.run(policies, "sft", self.fixed_prompts())
        write_json(context.folder.path / "results.json", results)
        return {"systems": results["systems"], "win_rate": results["win_rate"]}

    def reward_source(self) -> RewardModel:
        """The trained reward model, its scores normalised as the config asks."""
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


class SpentTime:
    """Computing time of a stage over all its interrupted parts, seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total = float(read_json(path)["s"]) if path.exists() else 0.0

    def __enter__(self) -> SpentTime:
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.total += time.monotonic() - self._started
        write_json(self.path, {"s": self.total})


def say(text: str) -> None:
    """One line for the person who watches."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
