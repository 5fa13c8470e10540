"""What each stage of a run is given: its data, its starting weights, its reward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from thumbs.config.cost_model import CostModelConfig
from thumbs.config.data import DataConfig
from thumbs.config.direct import DirectConfig
from thumbs.config.environment import EnvironmentConfig
from thumbs.config.evaluation import EvaluationConfig
from thumbs.config.group import GroupConfig
from thumbs.config.labels import LabelsConfig, PeopleConfig
from thumbs.config.pipeline import METHODS, PipelineConfig, place
from thumbs.config.ppo import PpoConfig
from thumbs.config.rejection import RejectionConfig
from thumbs.config.reward_model import RewardModelConfig
from thumbs.config.reward_parts import RewardPart
from thumbs.config.rounds import RoundsConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.config.sft import SftConfig
from thumbs.config.watch import WatchConfig
from thumbs.data.annotators import Annotator, SimulatedAnnotator
from thumbs.data.load import (
    load_conversations,
    load_graded,
    load_pairs,
    load_prompts,
    load_replies,
    load_safety,
    with_system,
)
from thumbs.data.pair_choice import Choice
from thumbs.data.preferences import PreferenceStore, preferred
from thumbs.data.prompts import read_prompt
from thumbs.data.splits import is_heldout
from thumbs.data.tokenizers import Tokenizer, training_sequences
from thumbs.engine.base import ModelSpec, OpenEngine
from thumbs.errors import ConfigError
from thumbs.evaluation import replies
from thumbs.evaluation.gold import ANSWERS, open_gold
from thumbs.evaluation.heldout import Evaluation
from thumbs.evaluation.judges import gold_judge
from thumbs.evaluation.results import verdicts
from thumbs.evaluation.reward_audit import audit
from thumbs.pipeline.artifacts import OpenRun
from thumbs.pipeline.labels import checked_split, heldout_share, labels_until
from thumbs.pipeline.overlap import asked_prompts
from thumbs.pipeline.people_gold import PeopleJudge, gold_of
from thumbs.records import Example, Preference, Prompt, Reply
from thumbs.rewards.base import EnvironmentReward, RewardSource
from thumbs.rewards.build import build_rewards, open_part, open_reward_model
from thumbs.rewards.judge import open_judge
from thumbs.rewards.trained import TrainedReward, open_scores, scorer_of
from thumbs.rollout.episodes import Episodes, open_episodes
from thumbs.rollout.rounds import seed_of
from thumbs.safety.filters import FilterSet, open_filters
from thumbs.safety.guard_model import ask_model
from thumbs.stages.context import Context, Resume
from thumbs.stages.cost_model import run_cost_model, told
from thumbs.stages.direct import run_direct
from thumbs.stages.filtering import usable_prompts
from thumbs.stages.group import run_group
from thumbs.stages.kto import Row, judged_of_pairs, judged_of_rows, run_kto
from thumbs.stages.labels import sample_labels, store_path
from thumbs.stages.online_dpo import run_online_dpo
from thumbs.stages.people import LabelSource, ask_people, choose_first, choose_informative
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.rejection import run_rejection
from thumbs.stages.reward_items import Row as RewardRow
from thumbs.stages.reward_items import judged_pairs
from thumbs.stages.reward_model import run_reward_model
from thumbs.stages.sft import run_sft
from thumbs.stages.watch import OpenWatch, Watch, watch_set
from thumbs.tracking.files import read_object, write_json
from thumbs.tracking.run_folder import RunFolder, StageFolder

SECOND = "second"
"""Folder of the second reward model, in that of the first."""


@dataclass(frozen=True)
class Pipeline:
    """One iteration of a run: config, folder, tokenizer, the engine that all stages share.

    A method for each stage has the stage's name, and gets its context and its section of the config.
    """

    config: PipelineConfig
    folder: RunFolder
    tokenizer: Tokenizer
    engine: OpenEngine
    iteration: int = 1
    people: LabelSource | None = None

    def context(self, name: str) -> Context:
        """What a stage is given."""
        c = self.config
        frontier = () if c.evaluation is None else c.evaluation.frontier
        filters = self.filters() if name in METHODS else None
        return Context(self.engine, self.tokenizer, self.folder_of(name), c.model, c.seed, frontier, c.rollout, filters)

    def filters(self) -> FilterSet | None:
        """What prompts and replies are not trained on."""
        guard = None if self.config.safety is None else self.config.safety.guard
        return open_filters(self.config.safety, None if guard is None else ask_model(self.engine, guard.model))

    def folder_of(self, name: str) -> StageFolder:
        """The folder of a stage in this iteration."""
        return self.folder.stage(place(name, self.iteration))

    def sft(self, context: Context, c: SftConfig) -> dict[str, Any]:
        loaded = load_conversations(c.data, self.tokenizer, self.config.system)
        say(loaded.summary())
        return run_sft(context, c, *checked_split(loaded.rows, lambda row: row, c.data.holdout, "sft.data"))

    def cost_model(self, context: Context, c: CostModelConfig) -> dict[str, Any]:
        loaded = load_safety(c.data, self.tokenizer, self.config.system)
        say(loaded.summary())
        rows = checked_split(loaded.rows, lambda row: row.prompt, c.data.holdout, "cost_model.data")
        results = run_cost_model(context, c, self.sft_model(), *rows)
        say(told(results["calibration"]))
        return results

    def labels(self, context: Context, c: LabelsConfig) -> dict[str, Any]:
        if c.data is not None:
            loaded = load_pairs(c.data, c.form, self.tokenizer, self.config.system)
            say(loaded.summary())
            store = PreferenceStore(store_path(context))
            store.append(loaded.rows)
            return {"pairs": len(store), "source": ", ".join(c.data.paths)}
        if c.prompts is None:
            raise ConfigError("labels: give `data` (a file of pairs) or `prompts` (to sample pairs for)")
        created = read_object(self.folder.path / "versions.json")["created"]
        prompts = self.prompts(c.prompts)
        if c.people is not None:
            if self.people is None:
                raise ConfigError("labels.people needs somebody who asks them; give run_pipeline(…, people=…)")
            ask = partial(self.people.ask, c.people, self.folder.path, self.iteration)
            return ask_people(context, c, self.start(), prompts, ask, self.chooser(c, c.people), self.iteration)
        return sample_labels(context, c, self.start(), prompts, self.annotators(c), created)

    def chooser(self, c: LabelsConfig, people: PeopleConfig) -> Callable[[Prompt, Sequence[Reply], int], Choice | None]:
        """What picks the pairs that people are asked about: those that tell most, where that is wanted and known."""
        if people.active is None or (self.iteration == 1 and people.reward_model is None):
            return choose_first
        if people.reward_model is not None:
            source = open_reward_model(self.engine, Path(people.reward_model))
        else:
            source = replace(self, iteration=self.iteration - 1).reward_source()
        scores, fraction = scorer_of(source, self.tokenizer), heldout_share(c)
        return choose_informative(
            people, scores, lambda prompt: is_heldout(prompt.messages, fraction), self.config.seed
        )

    def annotators(self, c: LabelsConfig) -> list[Annotator]:
        """Who judges sampled pairs: a model, or the simulated annotators."""
        if c.judge_model is not None:
            return [open_judge(self.engine, c.judge_model)]
        judge = gold_judge(c.judge)
        seeds = [seed_of(self.config.seed, "annotator", i) for i in range(c.annotators)]
        return [
            SimulatedAnnotator(f"simulated-{i + 1}", judge, c.label_noise, c.tie_below, seed)
            for i, seed in enumerate(seeds)
        ]

    def reward_model(self, context: Context, c: RewardModelConfig) -> dict[str, Any]:
        results = run_reward_model(context, c, self.sft_model(), *self.reward_rows(c))
        found = results.pop("heldout")
        return results | ({"audit": audit(**found)} if found["preferred"] else {})

    def direct(self, context: Context, c: DirectConfig) -> dict[str, Any]:
        if c.online is not None:
            held = () if self.config.labels is None else self.pairs("direct")[1]
            reward, prompts = self.rewards(c.online.reward), usable_prompts(context, self.prompts(c.online.prompts))
            watch = self.watch(context, reward, prompts, c.online.sampling)
            return run_online_dpo(context, c, reward, self.start(), prompts, held, watch=watch)
        if c.preset.data == "replies":
            return run_kto(context, c, self.start(), *self.judged_replies(c))
        return run_direct(context, c, self.start(), *self.pairs("direct"))

    def ppo(self, context: Context, c: PpoConfig) -> dict[str, Any]:
        scorer, reward = self.config.reward_model, self.rewards(c.reward, c.environment)
        prompts = usable_prompts(context, self.prompts(c.prompts))
        episodes = open_episodes(c.environment)
        return run_ppo(
            context,
            c,
            reward,
            self.start(),
            prompts,
            reward_checkpoint=self.checkpoint("reward_model") if scorer is not None and scorer.heads == 1 else None,
            fixed_prompts=self.fixed_prompts(),
            pretraining=self.pretraining() if c.ptx_coef else (),
            episodes=episodes,
            watch=self.watch(context, reward, prompts, c.sampling, episodes),
            cost=self.cost(c),
        )

    def group(self, context: Context, c: GroupConfig) -> dict[str, Any]:
        reward, prompts = self.rewards(c.reward, c.environment), usable_prompts(context, self.prompts(c.prompts))
        episodes = open_episodes(c.environment)
        return run_group(
            context,
            c,
            reward,
            self.start(),
            prompts,
            fixed_prompts=self.fixed_prompts(),
            episodes=episodes,
            watch=self.watch(context, reward, prompts, c.sampling, episodes),
            cost=self.cost(c),
        )

    def rejection(self, context: Context, c: RejectionConfig) -> dict[str, Any]:
        reward, prompts = self.rewards(c.reward), usable_prompts(context, self.prompts(c.prompts))
        watch = self.watch(context, reward, prompts, c.sampling)
        return run_rejection(context, c, reward, self.start(), prompts, watch=watch)

    def evaluation(self, context: Context, c: EvaluationConfig) -> dict[str, Any]:
        prompts, warnings = asked_prompts(self.config, self.tokenizer)
        second = self.held_out_reward() if c.gold is None else None
        gold = gold_of(c, self.engine, self.folder.path, self.people, self.iteration, self.config.seed)
        draws = 1 if isinstance(gold, PeopleJudge) else None
        seed, fixed = self.config.seed, self.fixed_prompts()
        evaluation = Evaluation(self.engine, self.tokenizer, c, self.proxy(), prompts, seed, gold, second, draws)
        policies = OpenRun(self.folder.path, self.config, self.tokenizer, self.engine).policies()
        results, rows = evaluation.run(policies, "base" if self.config.sft is None else "sft", fixed)
        results["warnings"] = [*warnings, *results["warnings"]]
        for text in (*results["warnings"], *verdicts(results)):
            say(f"evaluation: {text}")
        replies.write(context.folder.path / replies.REPLIES, rows)
        write_json(context.folder.path / "results.json", results)
        return {name: results[name] for name in ("systems", "win_rates", "comparisons", "warnings")}

    def watch(
        self,
        context: Context,
        proxy: RewardSource,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        episodes: Episodes | None = None,
    ) -> OpenWatch | None:
        """What looks at the policy of a method while it trains; None if the config asks for none."""
        if (c := self.config.watch) is None:
            return None
        return partial(
            Watch,
            config=c,
            proxy=proxy,
            second=None if c.gold is not None and c.second_proxy is None else self.second_proxy(c),
            gold=None if c.gold is None else open_gold(c.gold, self.engine, self.folder.path / ANSWERS),
            by_gold=c.gold is not None,
            prompts=watch_set(prompts, c.prompts, self.config.seed),
            sampling=sampling,
            episodes=episodes,
        )

    def second_proxy(self, c: WatchConfig) -> RewardSource:
        """The second opinion: a reward model of others, or one of the pairs that the run's own has not seen."""
        if c.second_proxy is not None:
            return open_reward_model(self.engine, Path(c.second_proxy))
        return cast(RewardSource, self.held_out_reward())  # `check_watch` has refused a run without

    def held_out_reward(self) -> RewardSource | None:
        """A reward model of the held-out pairs, which the run's own has not seen; None if there are none."""
        own = self.config.reward_model
        if self.config.labels is None and (own is None or own.form != "pairs"):
            return None
        of_pairs = own if own is not None and own.form == "pairs" else RewardModelConfig()
        seen, unseen = self.reward_rows(of_pairs)
        if all(preferred(pair) in (None, 0.5) for pair in judged_pairs(unseen)):
            return None
        home = self.folder_of("reward_model").path if own is not None else self.folder.path
        folder = StageFolder(home / SECOND)
        if not folder.is_done():
            say(f"{SECOND}: a reward model on the held-out pairs, for a second opinion")
            context = replace(self.context("reward_model"), folder=folder)
            alone = of_pairs.model_copy(update={"heads": 1, "adapters": 1})
            results = run_reward_model(context, alone, self.sft_model(), unseen, seen)
            folder.mark_done(results | {"audit": audit(**results.pop("heldout"))})
            Resume(context, {}).close(keep=False)
        spec = ModelSpec(
            SECOND, self.config.model, ("scalar",), folder.path / "model", trainable=False, seed=self.config.seed
        )
        return open_scores(self.engine, spec, folder.results(), self.tokenizer)

    def prompts(self, data: DataConfig) -> list[Prompt]:
        """The prompts of a section."""
        return list(load_prompts(data, self.tokenizer, self.config.system).rows)

    def sft_model(self) -> Path | None:
        """The SFT model; None is the base model, where the run has no SFT."""
        return None if self.config.sft is None else self.checkpoint("sft")

    def start(self) -> Path | None:
        """What sampling and methods start from: the SFT model, later the policy of the iteration before."""
        if self.iteration == 1:
            return self.sft_model()
        method = next(name for name in METHODS if getattr(self.config, name) is not None)
        return self.folder.path / place(method, self.iteration - 1) / "model"

    def pairs(self, stage: str) -> tuple[list[Preference], list[Preference]]:
        """(training, held-out) preferences of this iteration and those before, split by a hash of the prompt."""
        source = self.config.labels
        if source is None:
            raise ConfigError(f"{stage} needs the section `labels`, which says where the pairs come from")
        rows = labels_until(self.folder.path, self.iteration)
        name = "labels.data" if source.data is not None else "labels.prompts"
        return checked_split(rows, lambda row: row.prompt, heldout_share(source), name)

    def reward_rows(self, c: RewardModelConfig) -> tuple[list[RewardRow], list[RewardRow]]:
        """(training, held-out) rows of the reward model: the run's pairs, or those of a file, split in the same way."""
        if c.data is None:
            train, held = self.pairs("reward_model")
            return list(train), list(held)
        loaded = load_graded(c.data, c.form, self.tokenizer, self.config.system)
        say(loaded.summary())
        return checked_split(list(loaded.rows), lambda row: row.prompt, c.data.holdout, "reward_model.data")

    def judged_replies(self, c: DirectConfig) -> tuple[list[Row], list[Row]]:
        """(training, held-out) single replies that are good or bad: those of a file, or the sides of the pairs."""
        if c.unpaired is None:
            train, held = self.pairs("direct")
            return judged_of_pairs(train), judged_of_pairs(held)
        loaded = load_replies(c.unpaired, self.tokenizer, self.config.system)
        say(loaded.summary())
        rows = judged_of_rows(loaded.rows)
        return checked_split(rows, lambda row: row[0], c.unpaired.holdout, "direct.unpaired")

    def rewards(self, parts: Sequence[RewardPart], environment: EnvironmentConfig | None = None) -> RewardSource:
        """What a method is rewarded by: its own mix, its environment, or the run's reward model."""
        if parts:
            return build_rewards(parts, self.engine, self.reward_source, self.cost_source)
        return self.reward_source() if environment is None else EnvironmentReward()

    def cost(self, c: RoundsConfig) -> RewardSource | None:
        """What a reply costs, where the method has a limit on that."""
        if c.constraint is None:
            return None
        return open_part(c.constraint.source, self.engine, self.reward_source, self.cost_source)

    def proxy(self) -> RewardSource | None:
        """What the evaluation compares with the gold judge: the run's reward model, or a method's mix, or nothing.

        Rewards of an environment are left out: evaluation is of single replies.
        """
        if self.config.reward_model is not None:
            return self.reward_source()
        online = None if self.config.direct is None else self.config.direct.online
        for method in (self.config.ppo, self.config.group, self.config.rejection, online):
            parts = [] if method is None else [part for part in method.reward if not part.environment]
            if parts:
                return build_rewards(parts, self.engine, self.reward_source, self.cost_source)
        return None

    def reward_source(self) -> TrainedReward:
        """The trained reward model, its scores normalised as the config asks."""
        scaled = self.config.ppo is None or self.config.ppo.score_scale
        return self.scorer("reward_model", "`labels` and `reward_model`", scaled=scaled)

    def cost_source(self) -> TrainedReward:
        """The run's cost model."""
        return self.scorer("cost_model", "`cost_model`")

    def scorer(self, stage: str, needed: str, *, scaled: bool = True) -> TrainedReward:
        """The model of a stage that scores; raises ConfigError, which names the sections that it needs."""
        c = self.config
        if getattr(c, stage) is None:
            raise ConfigError(f"this run has no {stage.replace('_', ' ')}; give it the sections {needed}")
        spec = ModelSpec(stage, c.model, ("scalar",), self.checkpoint(stage), trainable=False, seed=c.seed)
        return open_scores(self.engine, spec, self.folder_of(stage).results(), self.tokenizer, scaled=scaled)

    def checkpoint(self, stage: str) -> Path:
        """Where a stage left its model."""
        return self.folder_of(stage).path / "model"

    def fixed_prompts(self) -> list[Prompt]:
        """The prompts whose replies the report shows."""
        return [with_system(read_prompt(text), self.config.system) for text in self.config.fixed_prompts]

    def pretraining(self) -> list[Example]:
        """The SFT data again, for the pretraining mix."""
        c = self.config.sft
        if c is None:
            raise ConfigError("ppo.ptx_coef mixes in the SFT data, so the config needs the section `sft`")
        rows = load_conversations(c.data, self.tokenizer, self.config.system).rows
        train = [row for row in rows if not is_heldout(row, c.data.holdout)]
        tokenised = [sequence for row in train for sequence in training_sequences(self.tokenizer, row)]
        return [Example.next_token(tokens, weights=mask) for tokens, mask in tokenised]


def say(text: str) -> None:
    """One line for the person who watches."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
