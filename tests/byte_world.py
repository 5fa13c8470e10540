"""The smallest setting in which a stage runs: a byte model in float32, the local engine, a folder."""

from __future__ import annotations

from pathlib import Path

from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.local import LocalEngine
from thumbs.records import Generator, Judgement, Message, Preference, Prompt, Reply
from thumbs.stages.context import Context
from thumbs.tracking.run_folder import StageFolder

MAKER = Generator("file", "test")


def byte_context(folder: Path, *, lora: AdapterConfig | None = None, seed: int = 0) -> Context:
    """What a stage is given, on `byte-tiny`."""
    tokenizer = ByteTokenizer()
    model = ModelConfig(name="byte-tiny", lora=lora, dtype="float32")
    return Context(LocalEngine(tokenizer.decode), tokenizer, StageFolder(folder), model, seed)


def user(text: str) -> tuple[Message, ...]:
    """A prompt's messages."""
    return (Message("user", text),)


def prompt(text: str) -> Prompt:
    """A prompt whose id is its text."""
    return Prompt(text, user(text))


def pair(question: str, first: str, second: str, verdict: str = "first", margin: float = 0.0) -> Preference:
    """A judged pair; verdict is first, second, tie or skip."""
    judgement = {
        "first": Judgement("test", "", "prefer", -1),
        "second": Judgement("test", "", "prefer", 1),
        "tie": Judgement("test", "", "tie"),
        "skip": Judgement("test", "", "skip"),
    }[verdict]
    replies = (Reply(first, MAKER), Reply(second, MAKER))
    return Preference(f"{question}/{first}/{second}", user(question), replies, (judgement,), margin)
