"""Tool calls, replies token by token, and renderers that are registered: the published template, or by hand."""

from __future__ import annotations

import json

import pytest
from test_recipe_renderers import QWEN, byte_level

from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, DataError
from thumbs.recipe import renderers
from thumbs.recipe.renderers import (
    ParseTermination,
    StreamingMessageHeader,
    StreamingTextDelta,
    StreamingThinkingDelta,
    ToolCall,
    get_renderer,
)
from thumbs.recipe.renderers.chat_template import ChatTemplateRenderer
from thumbs.recipe.renderers.messages import classify_parse_failure

# What the chat template that Qwen3 is published with writes of tools.
QWEN3_TOOLS = """
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
    {%- for tool in tools %}{{- "\n" }}{{- tool | tojson }}{%- endfor %}
    {{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not (tools and loop.first)) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role + '\n' + message.content }}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and message.content) or (not loop.first) %}{{- '\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' }}{{- message.content }}{{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""  # noqa: E501
TOKENIZER = byte_level("qwen3", QWEN3_TOOLS)
RENDERER = get_renderer("qwen3_instruct", TOKENIZER)
TOOLS = [{"name": "find", "description": "Finds “it”.", "parameters": {"type": "object", "properties": {}}}]


def call(name: str, **arguments) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}


CHAT = [
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Looking.", "tool_calls": [call("find", what="é"), call("find", what=2)]},
    {"role": "tool", "content": "here"},
    {"role": "tool", "content": "there"},
    {"role": "assistant", "content": "", "tool_calls": [call("find", deep={"a": [1]})]},
    {"role": "tool", "content": "nowhere"},
]


def oracle(messages: list, tools: list | None = None, opens: bool = True) -> str:
    return TOKENIZER.apply_chat_template(messages, tools=tools, add_generation_prompt=opens, tokenize=False)


def test_tool_calls_and_their_answers_are_those_of_the_published_template() -> None:
    assert TOKENIZER.decode(RENDERER.build_generation_prompt(CHAT).to_ints()) == oracle(CHAT)
    for end in range(1, len(CHAT)):
        tokens, _ = RENDERER.build_supervised_example(CHAT[:end])
        # Answers that stand last are not closed before the next ones.
        assert oracle(CHAT[:end], opens=False).startswith(TOKENIZER.decode(tokens.to_ints()))


@pytest.mark.parametrize("system", ["", "Be kind."])
def test_tools_are_told_as_in_the_published_template(system: str) -> None:
    prefix = RENDERER.create_conversation_prefix_with_tools(TOOLS, system)
    messages = ([{"role": "system", "content": system}] if system else []) + CHAT[:1]
    wrapped = [{"type": "function", "function": tool} for tool in TOOLS]
    prompt = RENDERER.build_generation_prompt([*prefix, CHAT[0]])
    # transformers sorts no keys and writes letters as they are, as we do.
    assert TOKENIZER.decode(prompt.to_ints()) == oracle(messages, wrapped)


def test_calls_are_read_and_written_back() -> None:
    text = 'Looking.\n<tool_call>\n{"name": "find", "arguments": {"what": "é"}}\n</tool_call><|im_end|>'
    message, ending = RENDERER.parse_response(TOKENIZER.encode(text))
    function = ToolCall.FunctionBody(name="find", arguments='{"what": "é"}')
    assert message == {"role": "assistant", "content": "Looking.", "tool_calls": [ToolCall(function=function)]}
    assert classify_parse_failure(message, ending) is None
    tokens, weights = RENDERER.build_supervised_example([CHAT[0], message])
    trained = [token for token, weight in zip(tokens.to_ints(), weights.tolist(), strict=True) if weight]
    assert TOKENIZER.decode(trained) == text
    assert RENDERER.to_openai_message(message)["tool_calls"][0]["function"] == {
        "name": "find",
        "arguments": '{"what": "é"}',
    }


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("<tool_call>nonsense</tool_call>", "not JSON"),
        ("<tool_call>[1]</tool_call>", "'name'"),
        ('<tool_call>{"name": "find", "arguments": "x"}</tool_call>', "'arguments' must be a JSON object"),
        ('<tool_call>{"name": "find"', "no </tool_call>"),
    ],
)
def test_calls_that_are_none_are_told_apart_from_those_that_are(body: str, error: str) -> None:
    good = '<tool_call>{"name": "find", "arguments": {}}</tool_call>'
    message, ending = RENDERER.parse_response(TOKENIZER.encode(f"{good}{body}<|im_end|>"))
    assert [one.function.name for one in message["tool_calls"]] == ["find"]
    (unparsed,) = message["unparsed_tool_calls"]
    assert (unparsed.raw_text, error in unparsed.error) == (body, True)
    kind, why = classify_parse_failure(message, ending)
    assert (kind, error in why) == ("content", True)
    assert classify_parse_failure(message, ParseTermination.MALFORMED)[0] == "structural"


def test_formats_without_tools_say_so() -> None:
    plain = get_renderer("role_colon", ByteTokenizer())
    with pytest.raises(ConfigError, match="RoleColonRenderer has no format for tools"):
        plain.create_conversation_prefix_with_tools(TOOLS)
    with pytest.raises(DataError, match="message 1 has tool_calls"):
        plain.build_generation_prompt(CHAT[:2])
    with pytest.raises(DataError, match="needs 'function' with 'name'"):
        RENDERER.build_generation_prompt([CHAT[0], {"role": "assistant", "content": "", "tool_calls": [{"x": 1}]}])


def test_a_reply_token_by_token() -> None:
    tokens = QWEN.encode("<think>\nHm é.\n</think>\n\nYes ☃ <b><|im_end|>")
    *deltas, whole = get_renderer("qwen3", QWEN).parse_response_streaming(iter(tokens))
    assert deltas[0] == StreamingMessageHeader("assistant")
    thoughts = [one for one in deltas if isinstance(one, StreamingThinkingDelta)]
    texts = [one for one in deltas if isinstance(one, StreamingTextDelta)]
    assert "".join(one.thinking for one in thoughts) == "\nHm é.\n"
    assert "".join(one.text for one in texts) == "\n\nYes ☃ <b>"
    assert ({one.content_index for one in thoughts}, {one.content_index for one in texts}) == ({0}, {1})
    assert min(len(thoughts), len(texts)) > 3
    assert "\ufffd" not in str(deltas)
    assert whole == get_renderer("qwen3", QWEN).parse_response(tokens)[0]
    plain = list(get_renderer("qwen3_instruct", QWEN).parse_response_streaming(QWEN.encode("<think>a<|im_end|>b")))
    assert "".join(one.text for one in plain[1:-1]) == "<think>a"


CHATS = {
    "prompt": [("user", "Hi"), ("assistant", "<think>\nHm\n</think>\n\nYo"), ("user", " And? ")],
    "reply": [("user", "Hi"), ("assistant", "<think>\nHm\n</think>\n\nYo")],
    "plain": [("user", "Hi"), ("assistant", "Yo")],
}
BEFORE = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
QWEN35 = {
    # What is before the ¶ is given, what is after it trained on: from the template that Qwen3.5 is published with.
    ("qwen3_5", "prompt"): f"{BEFORE}Yo<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    ("qwen3_5", "reply"): f"{BEFORE}<think>\n¶Hm\n</think>\n\nYo<|im_end|>",
    ("qwen3_5", "plain"): f"{BEFORE}<think>\n¶\n</think>\n\nYo<|im_end|>",
    ("qwen3_5_disable_thinking", "prompt"): (
        f"{BEFORE}Yo<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ),
    ("qwen3_5_disable_thinking", "reply"): f"{BEFORE}<think>\n\n</think>\n\n¶Yo<|im_end|>",
}


@pytest.mark.parametrize(("name", "chat"), QWEN35)
def test_qwen3_5(name: str, chat: str) -> None:
    renderer = get_renderer(name, QWEN)
    messages = [{"role": role, "content": text} for role, text in CHATS[chat]]
    given, _, trained = QWEN35[name, chat].partition("¶")
    if not trained:
        assert QWEN.decode(renderer.build_generation_prompt(messages).to_ints()) == given
        return
    assert QWEN.decode(renderer.build_generation_prompt(messages[:1]).to_ints()) == given
    tokens, weights = renderer.build_supervised_example(messages)
    learned = [token for token, weight in zip(tokens.to_ints(), weights.tolist(), strict=True) if weight]
    assert (QWEN.decode(tokens.to_ints()), QWEN.decode(learned)) == (given + trained, trained)


def test_a_thought_that_the_prompt_has_opened_is_read() -> None:
    message, _ = get_renderer("qwen3_5", QWEN).parse_response(QWEN.encode("Hm\n</think>\n\nYo<|im_end|>"))
    assert message["content"] == [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Yo"}]


def test_renderers_of_other_families_are_the_chat_template(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(get_renderer("deepseekv3_thinking", QWEN), ChatTemplateRenderer)
    assert "no renderer 'deepseekv3_thinking' here" in caplog.text


@pytest.mark.parametrize(
    "factory", [ChatTemplateRenderer, lambda t: ChatTemplateRenderer(t), lambda t, _: ChatTemplateRenderer(t)]
)
def test_own_renderers(factory) -> None:
    assert not renderers.is_renderer_registered("mine")
    renderers.register_renderer("mine", factory)
    try:
        assert isinstance(get_renderer("mine", QWEN), ChatTemplateRenderer)
        assert renderers.get_registered_renderer_names() == ["mine"]
    finally:
        assert renderers.unregister_renderer("mine")
    assert not renderers.unregister_renderer("mine")
    assert not renderers.unregister_renderer("qwen3")
    with pytest.raises(ConfigError, match="unknown renderer 'mine'"):
        get_renderer("mine", QWEN)


def test_parts_of_content() -> None:
    parts, calls = renderers.parse_content_blocks(
        '<think>a</think>b<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    )
    assert parts == [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "b"}]
    assert [one.function.name for one in calls] == ["f"]
    assert renderers.parse_content_blocks("plain") is None
    assert renderers.format_content_as_string(parts, "|") == "<think>a</think>|b"
    assert renderers.ensure_text(parts[1:]) == renderers.ensure_text("b") == "b"
    with pytest.raises(DataError, match="must be one text"):
        renderers.ensure_text(parts)
