"""Recipes: supervised fine-tuning, reinforcement learning and DPO, through any client with the Tinker surface."""

from thumbs.recipe import completers, eval, model_info, preference, renderers, rl, supervised
from thumbs.recipe.model_info import get_recommended_renderer_name
from thumbs.recipe.names import install
from thumbs.recipe.renderers import Message
from thumbs.recipe.rl.message_env import EnvFromMessageEnv, MessageEnv, MessageStepResult
from thumbs.recipe.supervised import conversation_to_datum, datum_from_model_input_weights
from thumbs.recipe.tokenizers import get_tokenizer

__all__ = [
    "EnvFromMessageEnv",
    "Message",
    "MessageEnv",
    "MessageStepResult",
    "completers",
    "conversation_to_datum",
    "datum_from_model_input_weights",
    "eval",
    "get_recommended_renderer_name",
    "get_tokenizer",
    "model_info",
    "preference",
    "renderers",
    "rl",
    "supervised",
]

install(__name__)
