# ruff: noqa: E501
"""Chat templates in the manner of known models, written for these tests, and a tiny tokenizer of bytes for them.

The tokens of a text are its bytes, but for the marks, so where a text stands in the tokens is where it stands in the
bytes: the oracle of the masks needs no tokenizer.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Encoder

from thumbs.config.model import TemplateConfig
from thumbs.data.hf_tokenizer import HfTokenizer

MARKS = ("<|pad|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
PLAIN = ("<think>", "</think>", "  ")
"""Added tokens that are not special, as Qwen3's and the runs of spaces of GPT-NeoX's vocabulary."""

ADD = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
CHATML = "{% for m in messages %}" + TURN + "{% endfor %}" + ADD
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content %}{% set r = '' %}"
    "{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last %}{{ '<think>\n' + r + '\n</think>\n\n' }}{% endif %}{{ c + '<|im_end|>\n' }}"
    "{% else %}" + TURN + "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% set c = m.content %}"
    "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}{{ '<|assistant|>' + c + '<|end|>' }}"
    "{% elif m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set sys = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set ms = messages[1:] %}{% else %}{% set sys = '' %}{% set ms = messages %}{% endif %}{% for m in ms %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + (sys if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% set day = strftime_now('%d %b %Y') %}"
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content | trim %}{% set ms = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set ms = messages %}{% endif %}"
    "{{ '<|system|>\n\nToday Date: ' + day + '\n\n' + s + '<|end|>' }}"
    "{% for m in ms %}{{ '<|' + m.role + '|>\n\n' + m.content | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for p in m.content %}{% if p.type == 'text' %}"
    "{{ p.text }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}" + ADD
)
MIXED_PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{{ m.content }}{% else %}"
    "{{ m.content[0].text }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}" + ADD
)
ASSISTANT_LAST = (
    "{% if messages[-1].role == 'user' and not add_generation_prompt %}{{ raise_exception('a reply must follow') }}{% endif %}"
) + CHATML
UNCLOSED = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% if m.role == 'user' or loop.last %}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
END_ONLY = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% else %}{{ eos_token }}{% endif %}"
)
NO_OPENING = "{% for m in messages %}" + TURN + "{% endfor %}"
ALWAYS_OPEN = NO_OPENING + "{{ '<|im_start|>assistant\n' }}"
MOVED_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}{% set ms = messages[1:] %}{% else %}"
    "{% set s = '' %}{% set ms = messages %}{% endif %}{% set ns = namespace(last=-1) %}{% for m in ms %}"
    "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in ms %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + (s if loop.index0 == ns.last else '') + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful seal.<|im_end|>\n' }}{% endif %}"
    + CHATML
)
GENERATION = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}{% generation %}"
    "{{- m.content + '<|im_end|>' }}{% endgeneration %}{{- '\n' }}{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content"
    " + '<|im_end|>\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
THINKING_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{{ '<think>\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.role == 'assistant' %}{{ '<|system|>final' }}{% endif %}"
    "{{ '<|user|>' + m.content + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
TWICE = "{{ bos_token }}{{ bos_token }}" + CHATML


def write(
    folder: Path,
    template: object,
    *,
    special: bool = True,
    options: TemplateConfig | None = None,
    normalizer: str | None = None,
    **flags: bool,
) -> HfTokenizer:
    """The tokenizer of a folder with that template; flags (normalized, lstrip, rstrip) are those of its marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    encoder = Encoder(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoder.decoder = decoders.ByteLevel()
    if normalizer is not None:
        encoder.normalizer = getattr(normalizers, normalizer)()
    marks = [AddedToken(mark, special=special, **{"normalized": False, **flags}) for mark in MARKS]
    encoder.add_tokens([*marks, *(AddedToken(text, special=False, normalized=False) for text in PLAIN)])
    folder.mkdir(exist_ok=True)
    encoder.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|pad|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return HfTokenizer(folder, options)
