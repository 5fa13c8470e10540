"""The byte tokenizer as files that `transformers` opens: tokenizer.json, tokenizer_config.json, chat_template.jinja."""

from __future__ import annotations

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from thumbs.data.token_bytes import BYTES

MARKS = ("[PAD]", "[BOS]", "[SEP]", "[EOS]")
"""Names of the tokens 256 … 259."""

TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{ '[SEP]' + message['content'] + '[EOS]' }}
{%- else -%}
{%- if loop.first or messages[loop.index0 - 1]['role'] != 'system' -%}{{ '[BOS]' }}{%- endif -%}
{{ message['content'] + ('\\n' if message['role'] == 'system' else '') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '[SEP]' }}{%- endif -%}
"""


def byte_files(mark: str) -> dict[str, str]:
    """File name → text of a tokenizer whose ids are those of ByteTokenizer; `mark` is by what it is known as that."""
    encoder = Tokenizer(models.BPE(vocab=BYTES, merges=[]))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoder.decoder = decoders.ByteLevel()
    encoder.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "thumbs_tokenizer": mark,
        "pad_token": "[PAD]",
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "additional_special_tokens": ["[SEP]"],
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": encoder.to_str(),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "chat_template.jinja": TEMPLATE,
    }
