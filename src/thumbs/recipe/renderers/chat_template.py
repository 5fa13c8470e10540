"""The renderer for any model: its own chat template."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from thumbs import records
from thumbs.clients.types import ModelInput
from thumbs.data.messages import mask_of
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.renderers.base import Renderer, check_message, last_turn_start
from thumbs.recipe.renderers.messages import (
    Message,
    ParseTermination,
    Role,
    StopCondition,
    TrainOnWhat,
    get_text_content,
)


class ChatTemplateRenderer(Renderer):
    """Writes what the tokenizer's chat template writes; `User:\\n…\\n\\nAssistant:\\n…` where it has none.

    Which tokens a reply holds is found from the prompt that the template writes before it. A template that rewrites a
    prompt once its reply is there is refused with a DataError.
    """

    def get_stop_sequences(self) -> StopCondition:
        """The tokens that end a reply in the template."""
        return list(self._text.stop_ids)

    def parse_response(self, response: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The words before the token that ends a reply."""
        text, ending = self._before_end(response)
        return {"role": "assistant", "content": text}, ending

    def build_generation_prompt(
        self, messages: Sequence[Message], role: Role = "assistant", prefill: str | None = None
    ) -> ModelInput:
        """Tokens up to where the next reply begins; raises ConfigError for a role other than assistant."""
        if role != "assistant":
            raise ConfigError(f"role={role!r}; a chat template opens turns of the assistant alone")
        return ModelInput.from_ints(self._text.render_prompt(_turns(messages)) + self._text.encode(prefill or ""))

    def build_supervised_example(
        self,
        messages: Sequence[Message],
        train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
    ) -> tuple[ModelInput, torch.Tensor]:
        """Tokens and weights; raises ConfigError where other turns than the assistant's should be trained on."""
        turns = _turns(messages)
        tokens, spans = self._text.render_turns(turns)
        weights = np.array(mask_of(turns, len(tokens), spans), dtype=np.float32)
        match TrainOnWhat(train_on_what):
            case TrainOnWhat.ALL_TOKENS:
                weights[:] = 1
            case TrainOnWhat.ALL_ASSISTANT_MESSAGES:
                _check_turns(turns, spans, 0)
            case TrainOnWhat.LAST_ASSISTANT_TURN:
                first = last_turn_start(messages)
                _check_turns(turns, spans, first)
                weights[: len(self._text.render_prompt(turns[:first])) if first else 0] = 0
            case TrainOnWhat.LAST_ASSISTANT_MESSAGE:
                last = len(self._text.render_prompt(turns[:-1])) if turns[-1].role == "assistant" else len(tokens)
                weights[:last] = 0
            case other:
                raise ConfigError(
                    f"train_on_what={other.value!r}; a chat template tells replies from the rest alone, so it can "
                    "be last_assistant_message, last_assistant_turn, all_assistant_messages or all_tokens"
                )
        return ModelInput.from_ints(tokens), torch.from_numpy(weights)


def _check_turns(turns: Sequence[records.Message], spans: Collection[int], first: int) -> None:
    """Raises DataError for an assistant's turn that the template writes in another way than when it was the last."""
    rewritten = [i for i, turn in enumerate(turns) if turn.role == "assistant" and i >= first and i not in spans]
    if rewritten:
        raise DataError(
            f"message {rewritten[0]} is written by the chat template in another way than when it was the last (it "
            "drops reasoning, say), so it cannot be learned here; make an example of each turn with "
            "last_assistant_message"
        )


def _turns(messages: Sequence[Message]) -> list[records.Message]:
    if not messages:
        raise DataError("got a conversation without messages; it needs at least one")
    for index, message in enumerate(messages):
        check_message(message, index)
    return [records.Message(message["role"], get_text_content(message)) for message in messages]  # type: ignore[arg-type]
