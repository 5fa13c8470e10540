"""Questions with answers that can be checked: one message, one reward."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from thumbs.clients.types import ModelInput
from thumbs.recipe.renderers import Message, Renderer, StopCondition, get_text_content
from thumbs.recipe.rl.types import Action, ActionExtra, Env, EnvGroupBuilder, StepResult

logger = logging.getLogger(__name__)  # which environments of tinker_cookbook import from here


class ProblemEnv(Env):
    """Reward: 1 for a right answer, and format_coef less where the format is wrong or the reply did not end."""

    def __init__(
        self,
        renderer: Renderer,
        convo_prefix: list[Message] | None = None,
        format_coef: float = 0.1,
        require_stop_sequence_for_format: bool = True,
    ) -> None:
        self.renderer = renderer
        self.convo_prefix = convo_prefix or []
        self.format_coef = format_coef
        self.require_stop_sequence_for_format = require_stop_sequence_for_format

    @abstractmethod
    def get_question(self) -> str:
        """The user's message."""

    @abstractmethod
    def check_answer(self, sample_str: str) -> bool:
        """Whether a reply is right."""

    @abstractmethod
    def check_format(self, sample_str: str) -> bool:
        """Whether a reply has the right form."""

    @abstractmethod
    def get_reference_answer(self) -> str:
        """The right answer, for logs."""

    async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
        """The prompt."""
        question: Message = {"role": "user", "content": self.get_question()}
        prompt = self.renderer.build_generation_prompt([*self.convo_prefix, question])
        return prompt, self.renderer.get_stop_sequences()

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """The reward for a reply."""
        message, ending = self.renderer.parse_response(action)
        text = get_text_content(message)
        ended = ending.is_stop_sequence if self.require_stop_sequence_for_format else ending.is_clean
        formed, correct = float(ended and self.check_format(text)), float(self.check_answer(text))
        return StepResult(
            reward=self.format_coef * (formed - 1) + correct,
            episode_done=True,
            next_observation=ModelInput.empty(),
            next_stop_condition=self.renderer.get_stop_sequences(),
            metrics={"format": formed, "correct": correct},
            logs={"reply": text, "reference": self.get_reference_answer()},
        )


@dataclass(frozen=True)
class ProblemGroupBuilder(EnvGroupBuilder):
    """Several attempts at one problem."""

    env_thunk: Callable[[], ProblemEnv]
    num_envs: int
    dataset_name: str = "problems"

    async def make_envs(self) -> Sequence[Env]:
        """`num_envs` environments of the same problem."""
        return [self.env_thunk() for _ in range(self.num_envs)]

    def logging_tags(self) -> list[str]:
        """The name of the dataset."""
        return [self.dataset_name]
