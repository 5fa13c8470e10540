"""SmolLM2-135M-Instruct as `smollm2-135m` resolves to it: its tokenizer, template and weights."""

import json
from itertools import pairwise

import pytest
import regex
import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer

from thumbs.config.sampling import SamplingConfig
from thumbs.errors import ModelError
from thumbs.models.catalog import resolve
from thumbs.pipeline.artifacts import export, sample_text
from thumbs.tracking.files import write_json

pytestmark = pytest.mark.real_model

TEXTS = [
    "Hello world",
    "one\ntwo\n\nthree\n\n\n",
    "\tindent\t\ttwice\r\n",
    "def add(a, b):\n    return a + b  # sum\n",
    "2024-11-05, 3.14159, 1000000, x²",
    "naïve café, Ünïcödé, Привет, 日本語のテキスト, مرحبا, ไทย",
    "🎉 👩‍👩‍👧‍👦 🏳️‍🌈",
    "it's we'LL they've   many   spaces  ",
    '<p>&amp;</p> {"key": [1, 2]} https://example.org/?q=a%20b',
    " ",
    "",
]
# Standard GPT-2 pre-tokenisation (Radford et al. 2019), after every digit has become a piece of its own.
PIECES = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


@pytest.fixture(scope="module")
def folder():
    try:
        return resolve("smollm2-135m")
    except ModelError as error:
        pytest.skip(f"SmolLM2 weights cannot be had: {error}")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def byte_letters() -> dict[int, str]:
    """GPT-2's printable stand-in for every byte: itself where it is printable, else a letter from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def slow_bpe(text: str, vocabulary: dict[str, int], ranks: dict[tuple[str, str], int]) -> list[int]:
    """Byte-pair encoding as its paper tells it (arXiv:1508.07909): join the best pair until none is left."""
    letters, ids = byte_letters(), []
    for part in regex.findall(r"\p{N}|\P{N}+", text):
        for piece in PIECES.findall(part):
            symbols = [letters[byte] for byte in piece.encode()]
            while pairs := [p for p in pairwise(symbols) if p in ranks]:
                best = min(pairs, key=ranks.__getitem__)
                joined, i = [], 0
                while i < len(symbols):
                    whole = tuple(symbols[i : i + 2]) == best
                    joined.append("".join(best) if whole else symbols[i])
                    i += 2 if whole else 1
                symbols = joined
            ids += [vocabulary[symbol] for symbol in symbols]
    return ids


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_a_slow_bpe_and_decode_to_the_text(tokenizer, text):
    model = json.loads(tokenizer.to_str())["model"]
    ranks = {tuple(merge): rank for rank, merge in enumerate(model["merges"])}
    ids = tokenizer.encode(text).ids
    assert ids == slow_bpe(text, model["vocab"], ranks)
    assert tokenizer.decode(ids) == text
    assert all(0 < token < 49152 for token in ids)


def test_byte_letters_are_those_of_the_library():
    assert set(byte_letters().values()) == set(ByteLevel.alphabet())


def test_special_tokens_have_their_published_ids(folder, tokenizer):
    assert tokenizer.get_vocab_size() == 49152
    assert tokenizer.encode("<|im_start|>user\nHi<|im_end|>\n").ids == [1, 4093, 198, 26843, 2, 198]
    fast = AutoTokenizer.from_pretrained(folder)
    assert (fast.bos_token_id, fast.eos_token_id) == (1, 2)
    assert len(fast) == 49152


def test_transformers_reads_the_same_tokenizer(folder, tokenizer):
    fast = AutoTokenizer.from_pretrained(folder)
    assert [fast(text)["input_ids"] for text in TEXTS] == [tokenizer.encode(text).ids for text in TEXTS]


def test_chat_template_is_chatml_with_the_default_system_turn(folder):
    messages = [{"role": "user", "content": "Hi"}]
    text = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_llama_cpp_continues_an_exported_file_as_our_decoder_does(folder, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    questions = ["How do I boil an egg?", "What is the capital of Australia?", "Write a haiku about 2024."]
    write_json(tmp_path / "run" / "config.json", {"model": {"name": "smollm2-135m", "dtype": "float32"}})
    path = export(tmp_path / "run", "base", tmp_path / "out", "gguf", "float32") / "model.gguf"
    greedy = SamplingConfig(max_new_tokens=40, temperature=0.0)
    ours = sample_text(tmp_path / "run", "base", questions, 1, greedy, 0)
    model = llama_cpp.Llama(str(path), n_ctx=512, verbose=False)
    for question, (reply,) in zip(questions, ours, strict=True):
        asked = [{"role": "user", "content": question}]
        answer = model.create_chat_completion(asked, temperature=0, max_tokens=40)["choices"][0]["message"]["content"]
        assert answer.strip() == reply.text.strip()


def test_the_model_knows_the_capital_of_france(folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.tensor([tokenizer.encode("The capital of France is").ids])
    with torch.no_grad():
        answer = model.generate(tokens, max_new_tokens=4, do_sample=False)[0, tokens.shape[1] :]
    assert "Paris" in tokenizer.decode(answer.tolist())
