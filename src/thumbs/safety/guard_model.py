"""A guard's model that runs here."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from thumbs.config.model import ModelConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import Engine, ModelSpec
from thumbs.models.trunk import open_tokenizer
from thumbs.records import Message, Prompt
from thumbs.rollout.rounds import collect
from thumbs.safety.guard import MOST_TOKENS, Ask


def ask_model(engine: Engine, name: str) -> Ask:
    """Puts questions to a model (a catalog name or a folder), whose likeliest answers come back.

    The model is loaded when the first question is put. Threads that ask take turns.
    """
    model, likeliest = ModelConfig(name=name, lora=None), SamplingConfig(temperature=0, max_new_tokens=MOST_TOKENS)
    handles, lock = [], threading.Lock()

    def ask(questions: Sequence[str]) -> list[str]:
        prompts = [Prompt(str(number), (Message("user", question),)) for number, question in enumerate(questions)]
        with lock:
            if not handles:
                handles.append(engine.create(ModelSpec("guard", model, ("lm",), trainable=False)))
            sampler = engine.snapshot(handles[0])
            return [r.text for r in collect(sampler, prompts, open_tokenizer(model), likeliest, [0] * len(prompts))]

    return ask
