"""Reinforcement learning where the replies of a group are judged against each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from thumbs.clients.types import ModelInput
from thumbs.errors import ConfigError
from thumbs.recipe.configs import config_class
from thumbs.recipe.preference.data import ComparisonDatasetBuilder
from thumbs.recipe.preference.types import Comparison, PreferenceModel, PreferenceModelBuilder
from thumbs.recipe.renderers import Message, Renderer, StopCondition, get_renderer, get_text_content
from thumbs.recipe.rl.types import (
    Action,
    ActionExtra,
    Env,
    EnvGroupBuilder,
    Metrics,
    RLDataset,
    RLDatasetBuilder,
    StepResult,
    Trajectory,
)
from thumbs.recipe.tokenizers import get_tokenizer

ContentPreprocessor = Callable[[str], str]


class TournamentPattern(StrEnum):
    """Who is compared with whom."""

    ALL_PAIRS_BOTH_WAYS = "all_pairs_both_ways"
    ALL_PAIRS_ONE_WAY = "all_pairs_one_way"


def get_pairs(n: int, pattern: TournamentPattern) -> list[tuple[int, int]]:
    """Every two of n, in both orders or one."""
    both = TournamentPattern(pattern) is TournamentPattern.ALL_PAIRS_BOTH_WAYS
    return [(i, j) for i in range(n) for j in range(n) if i < j or (both and i != j)]


class PreferenceEnv(Env):
    """One reply; its reward comes from the group."""

    def __init__(self, convo_prefix: list[Message], policy_renderer: Renderer) -> None:
        self.convo_prefix, self.policy_renderer = convo_prefix, policy_renderer

    async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
        """The prompt."""
        prompt = self.policy_renderer.build_generation_prompt(self.convo_prefix)
        return prompt, self.policy_renderer.get_stop_sequences()

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """The end of the episode."""
        reply = get_text_content(self.policy_renderer.parse_response(action)[0])
        stop = self.policy_renderer.get_stop_sequences()
        return StepResult(0.0, True, ModelInput.empty(), stop, logs={"reply": reply})


@dataclass(frozen=True)
class PairwisePreferenceGroupBuilder(EnvGroupBuilder):
    """Replies to one prompt play a tournament.

    Reward: wins minus losses over matches, −1 … 1; less 1 for a reply that did not end as it should.
    """

    convo_prefix: list[Message]
    policy_renderer: Renderer
    tournament_pattern: TournamentPattern
    preference_model: PreferenceModel
    num_envs: int
    content_preprocessor: ContentPreprocessor | None = None

    async def make_envs(self) -> Sequence[Env]:
        """`num_envs` attempts."""
        return [PreferenceEnv(self.convo_prefix, self.policy_renderer) for _ in range(self.num_envs)]

    async def compute_group_rewards(
        self, trajectory_group: list[Trajectory], env_group: Sequence[Env]
    ) -> list[tuple[float, Metrics]]:
        """The result of the tournament, all matches judged at once."""
        replies = [self.policy_renderer.parse_response(one.transitions[-1].ac.tokens) for one in trajectory_group]
        completions = [self._completion(message) for message, _ in replies]
        pairs = get_pairs(len(completions), self.tournament_pattern)
        verdicts = await asyncio.gather(
            *(self.preference_model(Comparison(self.convo_prefix, completions[i], completions[j])) for i, j in pairs)
        )
        scores: list[list[float]] = [[] for _ in completions]
        for (i, j), verdict in zip(pairs, verdicts, strict=True):
            scores[i].append(-verdict)
            scores[j].append(verdict)
        rewards = []
        for matches, (_, ending) in zip(scores, replies, strict=True):
            tournament, form = sum(matches) / len(matches), float(ending.is_clean) - 1
            rewards.append((tournament + form, {"reward/tournament": tournament, "reward/format": form}))
        return rewards

    def _completion(self, message: Message) -> list[Message]:
        text = get_text_content(message)
        return [
            {"role": "assistant", "content": self.content_preprocessor(text) if self.content_preprocessor else text}
        ]


class PairwisePreferenceDataset(RLDataset):
    """Batches of prompts; rows that do not fill the last batch are left out."""

    def __init__(self, groups: Sequence[EnvGroupBuilder], batch_size: int) -> None:
        if not 1 <= batch_size <= len(groups):
            raise ConfigError(f"batch_size={batch_size} with {len(groups)} prompts; it must be from 1 to that number")
        self._groups, self._batch_size = groups, batch_size

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        """The groups of a batch."""
        return self._groups[index * self._batch_size : (index + 1) * self._batch_size]

    def __len__(self) -> int:
        return len(self._groups) // self._batch_size


@config_class
class PairwisePreferenceRLDatasetBuilder(RLDatasetBuilder):
    """Tournaments on the prompts of comparisons; content_preprocessor changes a reply before it is judged."""

    comparison_builder: ComparisonDatasetBuilder
    batch_size: int
    policy_renderer_name: str
    policy_model_name: str
    group_size: int
    preference_model_builder: PreferenceModelBuilder
    tournament_pattern: TournamentPattern = TournamentPattern.ALL_PAIRS_BOTH_WAYS
    content_preprocessor: ContentPreprocessor | None = None

    async def __call__(self) -> tuple[RLDataset, RLDataset | None]:
        """The dataset to train on; the test prompts, if there are any, are one batch."""
        if self.group_size < 2:
            raise ConfigError(f"group_size={self.group_size}; a tournament needs at least 2 replies")
        judge = await asyncio.to_thread(self.preference_model_builder)
        renderer = get_renderer(self.policy_renderer_name, get_tokenizer(self.policy_model_name))
        train, test = (
            [
                PairwisePreferenceGroupBuilder(
                    convo_prefix=labeled.comparison.prompt_conversation,
                    policy_renderer=renderer,
                    tournament_pattern=self.tournament_pattern,
                    preference_model=judge,
                    num_envs=self.group_size,
                    content_preprocessor=self.content_preprocessor,
                )
                for labeled in comparisons or []
            ]
            for comparisons in self.comparison_builder.get_labeled_comparisons()
        )
        return PairwisePreferenceDataset(train, self.batch_size), (
            PairwisePreferenceDataset(test, len(test)) if test else None
        )
