"""The two signatures of a reward function that are understood, and what a function is called with.

def polite(rollout) -> float                            # one reply: a number, or one number for each sampled token
def polite(prompts, completions, **columns) -> list     # as TRL calls it: a number for each reply, None for no say
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thumbs.errors import ConfigError
from thumbs.records import Message, Rollout

SIGNATURES = "f(rollout), or as TRL calls it f(prompts, completions, **columns)"
COLUMNS = ("prompts", "completions", "completion_ids", "answer")
"""What a function of TRL's signature may ask for: of each reply its prompt, its text or messages, its tokens, and the
`answer` of its prompt (None if the row has none). Other columns of the rows are not kept.
"""


def batch_arguments(function: Callable[..., Any], name: str) -> tuple[str, ...] | None:
    """The columns that a function of TRL's signature takes; None for one that takes a rollout.

    Raises ConfigError, which says what is right, for any other signature.
    """
    call = getattr(function, "__call__", None)  # noqa: B004 - an object with one is called, and may be a coroutine
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        raise ConfigError(f"{name} is a coroutine (async def), which nothing awaits; write a plain {SIGNATURES}")
    if isinstance(function, type):
        raise ConfigError(f"{name} is a class; a reward is a function {SIGNATURES}")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have none
        return None
    required = [
        p.name for p in parameters.values() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    shown = f"{name}({', '.join(str(parameter) for parameter in parameters.values())})"
    if not {"prompts", "completions"} & parameters.keys():
        if _takes_one(parameters, required):
            return None
        raise ConfigError(f"{shown} has no signature that is understood; a reward function is {SIGNATURES}")
    strange = [parameter for parameter in required if parameter not in COLUMNS]
    if strange or any(p.kind is p.POSITIONAL_ONLY for p in parameters.values()):
        raise ConfigError(
            f"{shown} asks for {', '.join(strange) or 'arguments without names'}; of a row thumbs keeps and hands on "
            f"{', '.join(COLUMNS)}, so take the rest out or give it a default"
        )
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return tuple(column for column in COLUMNS if takes_all or column in parameters)


def untouchable(rollout: Rollout) -> Rollout:
    """A copy whose arrays cannot be written to, so that nothing done to it reaches what is trained on."""
    arrays = {name: value.copy() for name, value in vars(rollout).items() if isinstance(value, np.ndarray)}
    for array in arrays.values():
        array.setflags(write=False)
    return replace(rollout, **arrays)


def batch_columns(rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
    """The arguments of TRL's signature, a list entry for each rollout.

    As TRL has it, prompts that were written as text come as text, with completions as text; others as lists of
    messages, with completions as lists of the messages that followed (TRL's GRPO trainer, "Using a custom reward
    function").
    """
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for rollout in rollouts:
        begin = _end_of_prompt(rollout)
        prompt, completion = _messages(rollout.messages[:begin]), _messages(rollout.messages[begin:])
        plain = rollout.as_text and bool(prompt)
        columns["prompts"].append(prompt[-1]["content"] if plain else prompt)
        columns["completions"].append(rollout.text if plain else completion)
        columns["completion_ids"].append(rollout.tokens[rollout.prompt_length :].tolist())
        columns["answer"].append(rollout.answer)
    return columns


def _messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _end_of_prompt(rollout: Rollout) -> int:
    """How many messages are the prompt's: those before the first reply of the policy, which are as many as the runs of
    sampled tokens.
    """
    replies = max(sum(sampled for sampled, _ in itertools.groupby((rollout.mask > 0).tolist())), 1)
    own = [place for place, message in enumerate(rollout.messages) if message.role == "assistant"]
    return own[-replies] if len(own) >= replies else len(rollout.messages)


def _takes_one(parameters: Mapping[str, inspect.Parameter], required: Sequence[str]) -> bool:
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    by_name = any(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in required)
    return (bool(positional) or several) and len(required) <= 1 and not by_name
