"""The bytes of tokens, for each kind of vocabulary, against what the library decodes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from thumbs.data.hf_tokenizer import HfTokenizer

TEXT = "Où est le 漢字, naïve 😀🦄? Le mot est là: voilà! <0x41> don't stop"
END = "<|end|>"


def _byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([TEXT[:20]] * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return made


def _with_byte_fallback(strips: bool) -> Tokenizer:
    """As SentencePiece models are: ▁ for a space, bytes for what is not a piece; Llama strips the first space."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *"abcdefghijklmnopqrstuvwxyz,?!:", "▁e", "▁es", "▁est"]
    vocab = {piece: i for i, piece in enumerate(["<unk>", *pieces])}
    merges = [("▁", "e"), ("▁e", "s"), ("▁es", "t")]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))  # noqa: S106
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if strips else [])])
    return made


def _metaspace(scheme: str) -> Tokenizer:
    made = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in sorted({*TEXT} - {" "}))], 0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return made


def _word_piece() -> Tokenizer:
    letters = sorted({*TEXT} - {" "})
    vocab = {
        piece: i for i, piece in enumerate(["[UNK]", *letters, *(f"##{letter}" for letter in letters), "est", "le"])
    }
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    return made


def _plain() -> Tokenizer:
    """Without a decoder, tokens are joined by spaces."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *TEXT.split()])}, unk_token="[UNK]"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


MADE: dict[str, Any] = {
    "byte-level": _byte_level,
    "byte fallback": lambda: _with_byte_fallback(False),
    "byte fallback, first space stripped": lambda: _with_byte_fallback(True),
    "metaspace": lambda: _metaspace("always"),
    "metaspace, first": lambda: _metaspace("first"),
    "metaspace, never": lambda: _metaspace("never"),
    "word pieces": _word_piece,
    "words": _plain,
}


def _opened(made: Tokenizer, folder: Path) -> HfTokenizer:
    made.add_special_tokens([AddedToken(END, special=True)])
    made.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return HfTokenizer(folder)


def _joined(tokenizer: HfTokenizer, tokens: list[int]) -> bytes:
    """First is the first token that is told, as special ones are not."""
    told, first = b"", True
    for token in tokens:
        told += tokenizer.token_bytes(token, first)
        first = first and not tokenizer.token_bytes(token)
    return told


@pytest.mark.parametrize("kind", MADE)
def test_bytes_of_tokens_are_the_text(kind: str, tmp_path: Path) -> None:
    tokenizer = _opened(MADE[kind](), tmp_path)
    think = tokenizer.encode("<think>")
    for text in (TEXT, " est", "est", "e", "  two  ", "<think> est"):
        tokens = tokenizer.encode(text)
        own = _joined(tokenizer, tokens)
        assert own == tokenizer.decode(tokens).encode(), text
    assert b"<think>" in _joined(tokenizer, [*think, *tokenizer.encode("est")])
    assert tokenizer.token_bytes(tokenizer.eos_id) == tokenizer.token_bytes(10**6) == b""
    mixed = [tokenizer.eos_id, *tokenizer.encode("est"), tokenizer.eos_id, *tokenizer.encode("le")]
    assert _joined(tokenizer, mixed) == tokenizer.decode(mixed).encode()


# Without word pieces, whose clean-up of punctuation looks at more than one neighbour.
@pytest.mark.parametrize("kind", [kind for kind in MADE if kind != "word pieces"])
def test_random_tokens(kind: str, tmp_path: Path) -> None:
    """Whatever a model draws; where the bytes are not text, the library's text is that of all of them together."""
    tokenizer, source = _opened(MADE[kind](), tmp_path), random.Random(1)
    checked = 0
    for _ in range(300):
        tokens = source.choices(range(tokenizer.vocab_size), k=source.randrange(1, 8))
        own = _joined(tokenizer, tokens)
        text = own.decode("utf-8", "replace")
        checked += "\ufffd" not in text
        if "\ufffd" not in text or kind == "byte-level":
            assert text == tokenizer.decode(tokens)
    assert checked > 10


def test_every_part_of_a_character_is_its_own_byte(tmp_path: Path) -> None:
    for kind in ("byte-level", "byte fallback"):
        folder = tmp_path / kind
        folder.mkdir()
        tokenizer = _opened(MADE[kind](), folder)
        pieces = [tokenizer.token_bytes(token) for token in tokenizer.encode("🦄")][-4:]
        assert pieces == [b"\xf0", b"\x9f", b"\xa6", b"\x84"]
