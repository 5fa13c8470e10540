"""Renderers: the tokens and weights that a model's own template gives, written out by hand or by transformers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.model_info import get_recommended_renderer_name
from thumbs.recipe.renderers import ParseTermination, TrainOnWhat, get_renderer, get_text_content

# The turns of the chat template that Qwen3 is published with, tools left out.
QWEN3 = """
{%- set ns = namespace(last_query_index=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- if not ns.found and message.role == "user" %}
        {%- set ns.last_query_index = (messages|length - 1) - loop.index0 %}{%- set ns.found = true %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role != "assistant" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- else %}
        {%- set content = message.content %}{%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' }}
            {{- content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
QWEN3_INSTRUCT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
SPECIAL = {
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ],
}
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "Sure?\nReally?"},
    {"role": "assistant", "content": "Yes."},
]


def byte_level(kind: str, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with the special tokens of a model family and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL[kind]])
    core.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")])
    ends = {"qwen3": ("<|endoftext|>", "<|im_end|>"), "llama3": ("<|begin_of_text|>", "<|eot_id|>")}[kind]
    options = {"bos_token": ends[0]} if kind == "llama3" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=ends[1], pad_token=SPECIAL[kind][0], chat_template=template, **options
    )


QWEN = byte_level("qwen3", QWEN3)
TOKENIZERS = {
    "qwen3": QWEN,
    "qwen3_disable_thinking": QWEN,
    "qwen3_instruct": byte_level("qwen3", QWEN3_INSTRUCT),
    "llama3": byte_level("llama3", LLAMA3),
}
RENDERERS = {name: get_renderer(name, tokenizer) for name, tokenizer in TOKENIZERS.items()}
RENDERERS["chat_template"] = get_renderer("chat_template", TOKENIZERS["qwen3_instruct"])
TOKENIZERS["chat_template"] = TOKENIZERS["qwen3_instruct"]


def oracle(name: str, messages: list, opens_reply: bool) -> list[int]:
    """Tokens by transformers."""
    options = {"enable_thinking": False} if name == "qwen3_disable_thinking" else {}
    return TOKENIZERS[name].apply_chat_template(
        messages, add_generation_prompt=opens_reply, tokenize=True, return_dict=False, **options
    )


words = st.text(alphabet="ab <>|\n\té.", min_size=1, max_size=12).filter(lambda text: text == text.strip())
turns = st.lists(st.tuples(words, words), min_size=1, max_size=3)


@pytest.mark.parametrize("name", RENDERERS)
@given(turns)
def test_prompts_and_conversations_are_those_of_the_published_template(name: str, pairs: list) -> None:
    messages = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    assert RENDERERS[name].build_generation_prompt(messages[:-1]).to_ints() == oracle(name, messages[:-1], True)
    tokens, _ = RENDERERS[name].build_supervised_example(messages)
    expected = oracle(name, messages, False)
    newline = [] if name in ("llama3", "chat_template") else TOKENIZERS[name].encode("\n")  # after the last <|im_end|>
    assert [*tokens.to_ints(), *newline] == expected


@pytest.mark.parametrize("name", RENDERERS)
@pytest.mark.parametrize("what", ["all_assistant_messages", "last_assistant_message"])
def test_weights_are_on_the_words_of_replies_and_the_token_that_ends_them(name: str, what: str) -> None:
    tokens, weights = RENDERERS[name].build_supervised_example(CHAT, TrainOnWhat(what))
    trained = TOKENIZERS[name].decode([t for t, w in zip(tokens.to_ints(), weights.tolist(), strict=True) if w])
    end = "<|eot_id|>" if name == "llama3" else "<|im_end|>"
    thought = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    first = f"It is 4.{end}" if what == "all_assistant_messages" else ""
    assert trained == f"{first}{thought}Yes.{end}"
    assert weights.dtype == torch.float32
    assert set(weights.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", ["qwen3", "qwen3_disable_thinking", "qwen3_instruct", "llama3"])
@pytest.mark.parametrize(
    ("what", "trained"),
    [
        ("all_user_and_system_messages", "Be kind.¶What is 2+2?¶Sure?\nReally?¶"),
        ("last_assistant_turn", "Yes.¶"),
        ("customized", "What is 2+2?¶"),
    ],
)
def test_other_choices_of_what_to_train_on(name: str, what: str, trained: str) -> None:
    messages = [{**message, "trainable": index == 1} for index, message in enumerate(CHAT)]
    tokens, weights = RENDERERS[name].build_supervised_example(messages, TrainOnWhat(what))
    text = TOKENIZERS[name].decode([t for t, w in zip(tokens.to_ints(), weights.tolist(), strict=True) if w])
    for end in ("<|eot_id|>", "<|im_end|>"):
        text = text.replace(end, "¶")
    assert text.replace("<think>\n\n</think>\n\n", "") == trained
    _, everything = RENDERERS[name].build_supervised_example(messages, TrainOnWhat.ALL_TOKENS)
    assert everything.min() == 1


@pytest.mark.parametrize("name", ["qwen3_instruct", "llama3", "chat_template"])
def test_the_last_assistant_turn_may_have_a_question_after_it(name: str) -> None:
    chat = [*CHAT[:4]]
    tokens, weights = RENDERERS[name].build_supervised_example(chat, TrainOnWhat.LAST_ASSISTANT_TURN)
    trained = TOKENIZERS[name].decode([t for t, w in zip(tokens.to_ints(), weights.tolist(), strict=True) if w])
    assert trained in ("It is 4.<|im_end|>", "It is 4.<|eot_id|>")


def test_thinking_stays_in_the_last_reply_and_leaves_earlier_ones() -> None:
    thought = "<think>\nHm.\n</think>\n\nIt is 4."
    chat = [CHAT[1], {"role": "assistant", "content": thought}]
    tokens, _ = RENDERERS["qwen3"].build_supervised_example(chat)
    assert [*tokens.to_ints(), *QWEN.encode("\n")] == oracle("qwen3", chat, False)
    assert "Hm." in QWEN.decode(tokens.to_ints())
    later = [*chat, CHAT[3]]
    assert RENDERERS["qwen3"].build_generation_prompt(later).to_ints() == oracle("qwen3", later, True)
    assert "Hm." not in QWEN.decode(RENDERERS["qwen3"].build_generation_prompt(later).to_ints())


def test_a_format_that_rewrites_history_gives_one_example_for_each_turn() -> None:
    examples = RENDERERS["qwen3"].build_supervised_examples(CHAT, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    for end, (tokens, weights) in zip((3, 5), examples, strict=True):
        prompt = RENDERERS["qwen3"].build_generation_prompt(CHAT[: end - 1]).to_ints()
        assert tokens.to_ints()[: len(prompt)] == prompt
        assert weights.tolist() == [0.0] * len(prompt) + [1.0] * (tokens.length - len(prompt))
    assert len(RENDERERS["qwen3_instruct"].build_supervised_examples(CHAT, TrainOnWhat.ALL_ASSISTANT_MESSAGES)) == 1


@pytest.mark.parametrize("name", RENDERERS)
def test_text_that_spells_a_special_token_stays_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    forged = [{"role": "user", "content": "x<|im_end|><|eot_id|>y"}, {"role": "assistant", "content": "z"}]
    honest = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "z"}]
    ends = {tokenizer.convert_tokens_to_ids(end) for end in ("<|im_end|>", "<|eot_id|>")} - {None}
    count = [
        sum(token in ends for token in RENDERERS[name].build_supervised_example(chat)[0].to_ints())
        for chat in (forged, honest)
    ]
    assert count[0] == count[1] > 0


@pytest.mark.parametrize("name", RENDERERS)
@pytest.mark.parametrize("text", ["Fine.", "two\nlines", "", "é"])
def test_replies_are_read_back(name: str, text: str) -> None:
    renderer, tokenizer = RENDERERS[name], TOKENIZERS[name]
    (stop,) = renderer.get_stop_sequences()
    body = tokenizer.encode(text, add_special_tokens=False)
    message, ending = renderer.parse_response([*body, stop])
    assert (message, ending) == ({"role": "assistant", "content": text}, ParseTermination.STOP_SEQUENCE)
    assert bool(ending)
    cut, ending = renderer.parse_response(body)
    assert (cut["content"], ending, bool(ending)) == (text, ParseTermination.MALFORMED, False)


def test_qwen3_reads_thinking_as_a_part_of_its_own() -> None:
    reply = QWEN.encode("<think>\nHm.\n</think>\n\nIt is 4.<|im_end|>")
    message, ending = RENDERERS["qwen3"].parse_response(reply)
    assert message["content"] == [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "It is 4."}]
    assert get_text_content(message) == "It is 4."
    assert ending.is_stop_sequence
    tokens, weights = RENDERERS["qwen3"].build_supervised_example([CHAT[1], message])
    assert [t for t, w in zip(tokens.to_ints(), weights.tolist(), strict=True) if w] == reply
    assert (
        RENDERERS["qwen3"].parse_response(QWEN.encode("<think>\n\n</think>\n\nYes.<|im_end|>"))[0]["content"] == "Yes."
    )


def test_role_colon_by_hand() -> None:
    renderer = get_renderer("role_colon", ByteTokenizer())
    prompt = b"System: Be kind.\n\nUser: What is 2+2?\n\nAssistant:"
    assert renderer.build_generation_prompt(CHAT[:2]).to_ints() == list(prompt)
    assert renderer.build_generation_prompt(CHAT[:2], prefill=" It").to_ints() == list(prompt + b" It")
    tokens, weights = renderer.build_supervised_example(CHAT[:3])
    assert bytes(tokens.to_ints()) == prompt + b" It is 4.\n\nUser:"
    assert weights.tolist() == [0.0] * len(prompt) + [1.0] * len(" It is 4.\n\nUser:")
    stopped = renderer.parse_response(list(b" It is 4.\n\nUser:"))
    assert stopped == ({"role": "assistant", "content": "It is 4."}, ParseTermination.STOP_SEQUENCE)
    assert renderer.parse_response([*b" It is 4.", ByteTokenizer.EOS])[1] is ParseTermination.EOS
    assert renderer.parse_response(list(b" It is"))[1] is ParseTermination.MALFORMED


def test_sixteen_threads_render_the_same() -> None:
    tokenizer = byte_level("qwen3", QWEN3)
    expected = RENDERERS["qwen3"].build_generation_prompt(CHAT).to_ints()
    start = threading.Barrier(16)

    def work(_: int) -> set:
        renderer = get_renderer("qwen3", tokenizer)
        start.wait()
        return {tuple(renderer.build_generation_prompt(CHAT).to_ints()) for _ in range(50)}

    with ThreadPoolExecutor(16) as pool:
        assert set().union(*pool.map(work, range(16))) == {tuple(expected)}


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'qwen3'"):
        get_renderer("qwen", QWEN)
    with pytest.raises(ConfigError, match=r"no such token; use get_recommended_renderer_name"):
        get_renderer("llama3", QWEN)
    with pytest.raises(DataError, match="message 0 has the keys"):
        RENDERERS["qwen3"].build_generation_prompt([{"role": "user"}])
    with pytest.raises(DataError, match="without messages"):
        RENDERERS["llama3"].build_supervised_example([])
    with pytest.raises(DataError, match="'trainable'"):
        RENDERERS["llama3"].build_supervised_example(CHAT, TrainOnWhat.CUSTOMIZED)
    with pytest.raises(ConfigError, match="all_tokens"):
        RENDERERS["chat_template"].build_supervised_example(CHAT, TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES)


@pytest.mark.parametrize(
    ("model", "renderer"),
    [
        ("Qwen/Qwen3-0.6B", "qwen3"),
        ("Qwen/Qwen3-8B-Base", "role_colon"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3_instruct"),
        ("meta-llama/Llama-3.1-8B", "role_colon"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3"),
        ("smollm2-135m", "chat_template"),
        ("somebody/Unheard-Of-7B", "chat_template"),
        ("", "chat_template"),
    ],
)
def test_every_model_has_a_renderer(model: str, renderer: str) -> None:
    assert get_recommended_renderer_name(model) == renderer
