"""A tiny Llama with a tokenizer of whole words, as a folder that tutorials of TRL's step API can be pointed at."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tiny_models import LLAMA, VOCABULARY, save_random

WORDS = ["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(3, VOCABULARY))]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Ids are places in WORDS."""
    encoder = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w3"))  # noqa: S106
    encoder.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=encoder, padding_side="left")
    tokenizer.add_special_tokens(dict(zip(("bos_token", "eos_token", "pad_token"), WORDS, strict=False)))
    return tokenizer


def write_world(folder: Path) -> Path:
    """Weights, config and tokenizer."""
    save_random(LLAMA, folder)
    word_tokenizer().save_pretrained(folder)
    return folder
