"""The pipeline API: SFT, reward model and PPO one after the other, each callable alone from the paths of the others.

The work is that of our own stages; here is what they are given, and the .pt files that they leave.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from thumbs.compat.rlhf_pipeline import stages
from thumbs.compat.rlhf_pipeline.curves import draw_curves
from thumbs.compat.rlhf_pipeline.logs import log_to
from thumbs.compat.rlhf_pipeline.pt_files import pack, write_pt
from thumbs.compat.rlhf_pipeline.rows import load_conversations, load_pairs, load_prompts, parts_of
from thumbs.compat.rlhf_pipeline.settings import RLHFConfig, read_settings
from thumbs.compat.rlhf_pipeline.sources import Made, MadeSource, ModelSource, OpenedModel, source_of
from thumbs.compat.rlhf_pipeline.tokenizer import open_tokenizer_at, tokenizer_files
from thumbs.compat.rlhf_pipeline.use import Policy, evaluate
from thumbs.config.engine import EngineConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine import open_engine
from thumbs.engine.base import ModelSpec
from thumbs.engine.optimizers import OPTIMIZERS
from thumbs.errors import ConfigError
from thumbs.models.precision import device as fastest_device
from thumbs.models.trunk import check_fit, empty_trunk
from thumbs.records import Prompt
from thumbs.rewards.model import RewardModel
from thumbs.stages.context import Context
from thumbs.stages.direct import run_direct
from thumbs.stages.kto import judged_of_pairs, run_kto
from thumbs.stages.ppo_run import CRITIC, run_ppo
from thumbs.stages.reward_model import run_reward_model
from thumbs.stages.sft import run_sft
from thumbs.tracking.digests import file_digest, text_digest
from thumbs.tracking.files import write_json
from thumbs.tracking.run_folder import RunFolder, StageFolder

Learn = Callable[..., dict[str, Any]]
"""(context, checkpoint that it starts from, training rows, held-out rows) → results of the stage."""


def create_rlhf_pipeline(config: RLHFConfig | Mapping[str, Any] | str | Path) -> RLHFPipeline:
    """A pipeline of settings in an object, a mapping, or a JSON or YAML file; raises ConfigError for wrong ones."""
    return RLHFPipeline(config)


class RLHFPipeline:
    """SFT → reward model → PPO on every weight of a model, with .pt files under save_dir between them.

    A stage that was interrupted goes on when it is called again; one that is done is not run again until its settings,
    its data or the model it starts from change.
    """

    def __init__(self, config: RLHFConfig | Mapping[str, Any] | str | Path) -> None:
        """Takes the device, makes save_dir and writes config.json there."""
        self.config = read_settings(config)
        self.logger = logging.getLogger(__name__)
        self.tokenizer: Tokenizer | None = None
        self._base: ModelSource | None = None
        self._made: MadeSource | None = None
        self._latest: Path | None = None
        self._policy: tuple[str, Policy] | None = None
        self._save_config()
        with self._init_logging():
            self.device = choose_device(self.config.device)
            self.logger.info("device: %s (%s)", self.device, self.config.device)

    @property
    def save_dir(self) -> Path:
        """Where everything is written."""
        return Path(self.config.save_dir).expanduser()

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that tokenizer_path names, or without it the base model's; raises ModelError for a pickle."""
        with self._init_logging():
            if self.config.tokenizer_path is None:
                with self._base_source().open(self._work) as opened:
                    self.tokenizer = self._tokenizer_of(opened)
            else:
                self.tokenizer = open_tokenizer_at(self.config.tokenizer_path)
            self.logger.info("tokenizer: %s, %d tokens", self.tokenizer.name, self.tokenizer.vocab_size)
            return self.tokenizer

    def load_base_model(self, model: Made | str | Path) -> None:
        """What SFT starts from: a catalog name, a folder, a .gguf file, a hub name, a .pt of ours, or a model of the
        program's own, as a torch module or a function without arguments that makes one.

        Raises ModelError for what names no model, and for a module that is not a causal language model
        (`module_lm.py`).
        """
        with self._init_logging():
            self._base = self._source_of(model)
            if isinstance(self._base, MadeSource):
                self._made = self._base
            self.logger.info("base model: %s", self._base.label)

    def run_sft(self) -> str:
        """Trains on the conversations of sft_data_path; returns the path of sft/best_model.pt."""
        settings = stages.sft_settings(self.config)
        return self._train("sft", self._base_source(), lambda context, _, *rows: run_sft(context, settings, *rows))

    def run_reward_training(self, sft_model_path: str | Path) -> str:
        """Trains a reward model from the SFT weights on reward_data_path; returns the path of
        reward_model/best_model.pt.
        """
        settings, loss = stages.reward_settings(self.config)
        return self._train(
            "reward_model",
            self._source_of(sft_model_path),
            lambda context, start, *rows: run_reward_model(context, settings, start, *rows, loss=loss),
        )

    def run_dpo_training(self, sft_model_path: str | Path) -> str:
        """Optimises the SFT policy on the pairs of reward_data_path, without a reward model (DPO, arXiv:2305.18290);
        returns the path of dpo/best_model.pt.
        """
        settings = stages.preference_settings(self.config, "dpo")
        source = self._source_of(sft_model_path)
        return self._train("dpo", source, lambda context, start, *rows: run_direct(context, settings, start, *rows))

    def run_kto_training(self, sft_model_path: str | Path) -> str:
        """Optimises the SFT policy on single replies that are good or bad (KTO, arXiv:2402.01306): both sides of the
        pairs of reward_data_path; returns the path of kto/best_model.pt.
        """
        settings = stages.preference_settings(self.config, "kto")
        return self._train(
            "kto",
            self._source_of(sft_model_path),
            lambda context, start, *rows: run_kto(context, settings, start, *map(judged_of_pairs, rows)),
        )

    def run_ppo_training(self, sft_model_path: str | Path, reward_model_path: str | Path) -> str:
        """Optimises the SFT policy against the reward model; returns the path of ppo/final_model.pt.

        In place of SFT's file one of PPO's goes on from both its policy, which is then the reference, and its critic.
        """
        c, sft, reward = self.config, self._source_of(sft_model_path), self._source_of(reward_model_path)
        with self._stage(), sft.open(self._work) as opened, reward.open(self._work) as judge:
            require_policy(opened, sft)
            tokenizer = self._tokenizer_of(opened)
            if judge.start is None:
                raise ConfigError(f"{reward.label} is not a reward model; give what run_reward_training returned")
            if judge.tokenizer is None or tokenizer_files(judge.tokenizer) != tokenizer_files(tokenizer):
                raise ConfigError(
                    f"{sft.label} and {reward.label} have different tokenizers; train both from one model"
                )
            limit = self._limit(opened)
            prompts, longest = self._load_ppo_prompts(tokenizer, limit)
            asked = self._asked("ppo", tokenizer, c.ppo_data_path, start=sft.identity(), reward=reward.identity())
            context = self._context("ppo", opened, tokenizer)
            budget = stages.reply_budget(longest, limit)
            stages.say_batches(c, len(prompts))
            batches = stages.whole_batches(prompts, c.ppo_batch_size)
            work = partial(self._train_ppo, context, judge, opened.critic, batches, budget)
            return self._run("ppo", "final_model.pt", asked, work)

    def run_full_pipeline(self, base_model_path: Made | str | Path) -> str:
        """All three stages from that base model; returns the path of ppo/final_model.pt."""
        self.load_base_model(base_model_path)
        self.load_tokenizer()
        sft = self.run_sft()
        return self.run_ppo_training(sft, self.run_reward_training(sft))

    def evaluate_model(self, model_path: str | Path, test_data_path: str | Path) -> dict[str, float]:
        """perplexity of the assistant's tokens, and of greedy replies against the last assistant turns bleu_score (0 to
        100) and rouge_score (rougeL, 0 to 1); next to them loss (nats per token), rouge1, rouge2, tokens,
        conversations.
        """
        with self._init_logging():
            policy = self._open_policy(self._source_of(model_path))
            rows = load_conversations(str(test_data_path), policy.tokenizer, policy.limit)
            results = evaluate(policy, rows)
            self.logger.info("%s on %s: %s", model_path, test_data_path, results)
            return results

    def generate_sample(
        self,
        prompt: str,
        model_path: str | Path | None = None,
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 128,
        seed: int = 0,
    ) -> str:
        """A reply of a model to a prompt; without a path of the newest one: after PPO, after SFT, or the base model.

        The same seed gives the same reply; temperature 0 takes the likeliest tokens.
        """
        with self._init_logging():
            policy = self._open_policy(self._newest() if model_path is None else self._source_of(model_path))
            return policy.reply(prompt, temperature, max_new_tokens, seed)

    def _train(self, name: str, source: ModelSource, learn: Learn) -> str:
        """Trains a model on the rows of its file, some of them held out; returns the path of its best_model.pt."""
        data, load = self.config.reward_data_path, load_pairs
        if name == "sft":
            data, load = self.config.sft_data_path, load_conversations
        with self._stage(), source.open(self._work) as opened:
            if name != "reward_model":
                require_policy(opened, source)
            tokenizer = self._tokenizer_of(opened)
            rows = parts_of(load(data, tokenizer, self._limit(opened)))
            context = self._context(name, opened, tokenizer)

            def work(output: Path) -> dict[str, Any]:
                results = learn(context, opened.start, *rows)
                scored = name == "reward_model"
                score = {"score": {"mean": results["score_mean"], "std": results["score_std"]}} if scored else {}
                self._write(context, output, results["best_step"], **score)
                return results

            return self._run(name, "best_model.pt", self._asked(name, tokenizer, data, start=source.identity()), work)

    def _train_ppo(
        self,
        context: Context,
        judge: OpenedModel,
        critic: Path | None,
        prompts: list[Prompt],
        max_new_tokens: int,
        output: Path,
    ) -> dict[str, Any]:
        """PPO in parts of save_interval rounds, each of which goes on from the checkpoint of the one before."""
        c = self.config
        handle = context.engine.create(ModelSpec("reward", judge.model, ("scalar",), judge.start, trainable=False))
        score = judge.config["score"]
        reward = RewardModel(context.engine, handle, score["mean"], score["std"])
        results: dict[str, Any] = {}
        for end in stages.milestones(c.ppo_iterations, c.save_interval):
            if end < stages.reached(context.folder.path):
                continue
            settings = stages.ppo_settings(c, end, max_new_tokens)
            shown = prompts[:2]
            results = run_ppo(context, settings, reward, None, prompts, critic_checkpoint=critic, fixed_prompts=shown)
            if end % c.save_interval == 0:
                self._write(context, output.with_name(f"iteration_{end:06d}.pt"), end)
        self._write(context, output, results["steps"])
        return results

    def _run(self, name: str, file: str, asked: dict[str, Any], work: Callable[[Path], dict[str, Any]]) -> str:
        """Runs a stage unless the same was done before; returns the path of what it leaves."""
        folder, output = StageFolder(self.save_dir / name), self.save_dir / name / file
        if stages.begin(folder.path, asked, output):
            self.logger.info("%s: done already, and nothing that it depends on has changed: %s", name, output)
        else:
            step = stages.reached(folder.path)
            self.logger.info("%s: %s", name, f"goes on after step {step}" if step else "begins")
            folder.mark_done(work(output))
            for left in ("checkpoints", "model", CRITIC):
                shutil.rmtree(folder.path / left, ignore_errors=True)
            draw_curves(folder)
            self.logger.info("%s: wrote %s", name, output)
        if name != "reward_model":
            self._latest = output
        return str(output)

    def _write(self, context: Context, output: Path, step: int, **more: Any) -> None:
        folder = context.folder.path
        config = self.config.to_dict() | {"stage": _stage_name(folder.name)} | more
        write_pt(output, pack(context.best, context.tokenizer, config, step, folder / CRITIC))

    def _context(self, name: str, opened: OpenedModel, tokenizer: Tokenizer) -> Context:
        engine = open_engine(EngineConfig(device=self.device, optimizer=self.config.optimizer), tokenizer.decode)
        return Context(engine, tokenizer, StageFolder(self.save_dir / name), opened.model, self.config.seed)

    def _asked(self, stage: str, tokenizer: Tokenizer, data: str, **models: str) -> dict[str, Any]:
        """All that the outcome of a stage depends on."""
        own = {"dpo": "preference_", "kto": "preference_"}.get(stage, f"{_stage_name(stage)}_")
        names = [name for name in self.config.to_dict() if name.startswith(own) and not name.endswith("_path")]
        names += ["max_length", "seed", "optimizer"] + (["freeze_reward_backbone"] if own == "reward_" else [])
        settings = {name: getattr(self.config, name) for name in names}
        content = file_digest(Path(data)) if Path(data).is_file() else data
        return settings | models | {"tokenizer": text_digest(tokenizer_files(tokenizer)), "data": content}

    def _tokenizer_of(self, opened: OpenedModel) -> Tokenizer:
        """A .pt brings its own; otherwise the one that tokenizer_path names, or the model's."""
        tokenizer = opened.tokenizer
        if not opened.config and self.config.tokenizer_path is not None:
            tokenizer = open_tokenizer_at(self.config.tokenizer_path)
        if tokenizer is None:
            raise ConfigError("tokenizer_path: got null, and the model brings no tokenizer; name one")
        check_fit(tokenizer, empty_trunk(opened.model).vocab_size, "tokenizer_path")
        return tokenizer

    def _load_ppo_prompts(self, tokenizer: Tokenizer, limit: int) -> tuple[list[Prompt], int]:
        """The prompts of ppo_data_path that leave room for a reply, and the tokens of the longest."""
        return load_prompts(self.config.ppo_data_path, tokenizer, stages.prompt_limit(limit))

    def _limit(self, opened: OpenedModel) -> int:
        """The longest sequence, tokens."""
        context = empty_trunk(opened.model).context
        if context < self.config.max_length:
            self.logger.info("sequences end at %d tokens, the model's context", context)
        return min(context, self.config.max_length)

    def _open_policy(self, source: ModelSource) -> Policy:
        identity = source.identity()
        if self._policy is None or self._policy[0] != identity:
            with source.open(self._work) as opened:
                require_policy(opened, source)
                tokenizer = self._tokenizer_of(opened)
                engine = open_engine(EngineConfig(device=self.device), tokenizer.decode)
                spec = ModelSpec("policy", opened.model, trainable=False, seed=self.config.seed)
                handle = engine.create(spec)
                policy = Policy(engine, handle, engine.snapshot(handle), tokenizer, self._limit(opened))
            self._policy = (identity, policy)
        return self._policy[1]

    def _newest(self) -> ModelSource:
        """What the last stage of this object left, else what one left in save_dir, else the base model."""
        names = ("ppo/final_model.pt", "dpo/best_model.pt", "kto/best_model.pt", "sft/best_model.pt")
        found = [self.save_dir / name for name in names]
        newest = self._latest or next((path for path in found if path.exists()), None)
        return self._base_source() if newest is None else self._source_of(newest)

    def _base_source(self) -> ModelSource:
        if self._base is None:
            self._base = self._source_of(self.config.model_name)
        return self._base

    def _source_of(self, model: Made | str | Path) -> ModelSource:
        return source_of(model, self._made)

    @property
    def _work(self) -> Path:
        return self.save_dir / ".work"

    def _save_config(self) -> None:
        """The settings, next to the stages and once more next to the log."""
        for folder in (self.save_dir, self.save_dir / "logs"):
            write_json(folder / "config.json", self.config.to_dict())

    @contextmanager
    def _init_logging(self) -> Iterator[None]:
        with log_to(self.save_dir / "logs" / "pipeline.log", self.config.log_level):
            yield

    @contextmanager
    def _stage(self) -> Iterator[None]:
        """Log, and save_dir for this process alone."""
        OPTIMIZERS[self.config.optimizer]  # raises for a name that is none
        with self._init_logging(), RunFolder(self.save_dir).lock():
            self._save_config()
            yield


def _stage_name(folder: str) -> str:
    """The stage that a folder is of, as its settings and its .pt call it."""
    return folder.removesuffix("_model")


def require_policy(opened: OpenedModel, source: ModelSource) -> None:
    """Raises ConfigError for a reward model."""
    if opened.start is not None:
        raise ConfigError(f"{source.label} is a reward model, which scores and does not write")


def choose_device(wanted: str) -> str:
    """The device of that name, of auto the fastest here; raises ConfigError for one that is not there."""
    if wanted == "auto":
        return str(fastest_device())
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if wanted not in there and not (wanted == "cuda" and torch.cuda.is_available()):
        raise ConfigError(f"device: got {wanted!r}; this machine has {', '.join(there)}; auto takes the fastest")
    return wanted
