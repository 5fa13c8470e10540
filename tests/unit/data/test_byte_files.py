"""The byte tokenizer's files open in `transformers` and give the byte tokenizer's own tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from thumbs.data.tokenizers import ByteTokenizer, load_tokenizer
from thumbs.records import Message

OURS = ByteTokenizer()
CHATS = [
    [("user", "Hi")],
    [("user", "Grüß dich, 你好 🙂\n"), ("assistant", "Hallo\x00!")],
    [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")],
    [("assistant", "I begin."), ("user", "Then go on.")],
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("tokenizer")
    OURS.save(folder)
    assert isinstance(load_tokenizer(folder), ByteTokenizer)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("opens", [False, True])
def test_chats_become_the_same_tokens(theirs, chat: list[tuple[str, str]], opens: bool):
    messages = [Message(role, text) for role, text in chat]
    ours = OURS.render_prompt(messages) if opens else OURS.render(messages)[0]
    asked = [{"role": role, "content": text} for role, text in chat]
    assert theirs.apply_chat_template(asked, add_generation_prompt=opens)["input_ids"] == ours


def test_every_byte_and_mark_has_its_number(theirs):
    text = "".join(map(chr, range(0x250))) + "🙂"
    assert theirs.encode(text, add_special_tokens=False) == OURS.encode(text)
    assert theirs.decode(OURS.encode(text)) == text
    assert theirs.convert_tokens_to_ids(["[PAD]", "[BOS]", "[SEP]", "[EOS]"]) == [256, 257, 258, 259]
    assert (theirs.pad_token_id, theirs.eos_token_id, len(theirs)) == (256, 259, 260)


def test_a_folder_of_an_older_version_is_known(tmp_path: Path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ThumbsByteTokenizer"}))
    assert isinstance(load_tokenizer(tmp_path), ByteTokenizer)
