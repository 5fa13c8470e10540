"""What would make an evaluation flatter: prompts that were trained on, and a gold that methods were paid by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from thumbs.config.evaluation import GoldConfig
from thumbs.config.named import load_callable
from thumbs.config.pipeline import METHODS, STAGES, PipelineConfig
from thumbs.config.reward_parts import RewardPart
from thumbs.data.load import Loaded, load_prompts
from thumbs.data.prompts import prompt_id
from thumbs.data.splits import is_heldout
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import ConfigError, DataError
from thumbs.evaluation.judges import gold_judge
from thumbs.pipeline.identity import asks_own_reward
from thumbs.pipeline.inputs import Inputs, read_inputs
from thumbs.pipeline.labels import heldout_share
from thumbs.records import Message, Prompt

Words: TypeAlias = tuple[tuple[str, str], ...]

MOST = 128
"""Held-out prompts of a run's own data that an evaluation takes, if it is given none."""


def words(messages: Sequence[Message]) -> Words:
    """A prompt without its system message, case and spacing: what makes it the same prompt."""
    return tuple((m.role, " ".join(m.content.split()).casefold()) for m in messages if m.role != "system")


def trained_prompts(config: PipelineConfig, inputs: Inputs) -> dict[str, set[Words]]:
    """The prompts that each section of a config trains on."""
    c, source = config, config.labels
    found: dict[str, Iterable[Sequence[Message]]] = {}
    if c.sft is not None and inputs.conversations is not None:
        share = c.sft.data.holdout
        rows = [row for row in inputs.conversations.rows if not is_heldout(row, share)]
        found["sft"] = [row[:i] for row in rows for i, m in enumerate(row) if m.role == "assistant"]
    if source is not None and inputs.pairs is not None:
        found["labels"] = _trained((row.prompt for row in inputs.pairs.rows), heldout_share(source))
    if source is not None and inputs.pair_prompts is not None:
        found["labels"] = _trained((row.messages for row in inputs.pair_prompts.rows), heldout_share(source))
    if c.reward_model is not None and c.reward_model.data is not None and inputs.graded is not None:
        share = c.reward_model.data.holdout
        found["reward_model"] = _trained((row.prompt for row in inputs.graded.rows), share)
    if c.direct is not None and c.direct.unpaired is not None and inputs.judged is not None:
        found["direct"] = _trained((row.messages for row in inputs.judged.rows), c.direct.unpaired.holdout)
    for section, prompts in _method_prompts(inputs):
        found[section] = [row.messages for row in prompts.rows]
    return {section: {words(messages) for messages in rows} for section, rows in found.items()}


def flattering(config: PipelineConfig, inputs: Inputs) -> Iterator[str]:
    """Sentences on all that would make the evaluation flatter, for `plan`, `run` and `eval`."""
    yield from overlaps(config, inputs)
    yield from gold_leaks(config)


def overlaps(config: PipelineConfig, inputs: Inputs) -> Iterator[str]:
    """A sentence for each section whose training has prompts of the evaluation."""
    if config.evaluation is None or inputs.evaluation_prompts is None:
        return
    evaluated = {words(prompt.messages) for prompt in inputs.evaluation_prompts.rows}
    for section, prompts in trained_prompts(config, inputs).items():
        if shared := evaluated & prompts:
            yield (
                f"{len(shared)} of {len(evaluated)} evaluation prompts are also {section} prompts: "
                "the evaluation would measure memory"
            )


def heldout_prompts(config: PipelineConfig, inputs: Inputs) -> list[Prompt]:
    """Prompts of SFT and the labels that are held out and that no section trains on; at most `MOST`, by their ids.

    If methods train on all of them, those that at least SFT and the labels hold out: `overlaps` says so.
    """
    rows: list[Sequence[Message]] = []
    if config.sft is not None and inputs.conversations is not None:
        share = config.sft.data.holdout
        held = [row for row in inputs.conversations.rows if is_heldout(row, share)]
        rows += [row[:i] for row in held for i in [_last_reply(row)] if i]
    if config.labels is not None:
        share = heldout_share(config.labels)
        pairs = [] if inputs.pairs is None else [row.prompt for row in inputs.pairs.rows]
        prompts = [] if inputs.pair_prompts is None else [row.messages for row in inputs.pair_prompts.rows]
        rows += [prompt for prompt in (*pairs, *prompts) if is_heldout(prompt, share)]
    trained = trained_prompts(config, inputs)
    learned, all_of_it = (set().union(*(trained.get(name, set()) for name in names)) for names in (STAGES[:3], trained))
    found = {words(row): Prompt(prompt_id(row), tuple(row)) for row in rows if words(row) not in learned}
    kept = [prompt for key, prompt in found.items() if key not in all_of_it] or list(found.values())
    return sorted(kept, key=lambda prompt: prompt.id)[:MOST]


def with_prompts(config: PipelineConfig, inputs: Inputs, tokenizer: Tokenizer) -> Inputs:
    """The inputs, with the held-out prompts that an evaluation takes which is given none."""
    if config.evaluation is None or inputs.evaluation_prompts is not None:
        return inputs
    kept = heldout_prompts(config, inputs)
    told = [(prompt, len(tokenizer.render_prompt(prompt.messages))) for prompt in kept]
    told = [(prompt, length) for prompt, length in told if length <= _longest(config)]
    rows, lengths = [prompt for prompt, _ in told], [length for _, length in told]
    found = Loaded("the held-out prompts of the run", rows, lengths, [], len(kept))
    return replace(inputs, evaluation_prompts=found)


def _longest(config: PipelineConfig) -> float:
    """Tokens that a prompt may have in every section that samples: a longer one might leave no room for a reply."""
    online = None if config.direct is None else config.direct.online
    sections: list[Any] = [config.labels, config.ppo, config.group, config.rejection, online]
    limits = [section.prompts.max_tokens for section in sections if section is not None and section.prompts is not None]
    return min(limits, default=math.inf)


def asked_prompts(config: PipelineConfig, tokenizer: Tokenizer) -> tuple[list[Prompt], list[str]]:
    """The different prompts of the evaluation, and what would make it flatter.

    Raises ConfigError if the config names none and its own data leave none. Where training data are gone, the prompts
    that are named are taken, and a sentence says that they could not be compared.
    """
    try:
        inputs = with_prompts(config, read_inputs(config, tokenizer), tokenizer)
    except DataError as error:
        if config.evaluation is None or config.evaluation.prompts is None:
            raise
        found = load_prompts(config.evaluation.prompts, tokenizer, config.system).rows
        unknown = f"whether evaluation prompts were trained on is not known, since the data cannot be read: {error}"
        return list({p.id: p for p in found}.values()), [unknown, *gold_leaks(config)]
    rows = [] if inputs.evaluation_prompts is None else inputs.evaluation_prompts.rows
    if not rows:
        raise ConfigError(
            "no prompts to evaluate on: the config names none, and of the run's own no prompt is held out that no "
            "stage trains on; give evaluation.prompts, or `thumbs eval RUN --prompts FILE`"
        )
    return list({prompt.id: prompt for prompt in rows}.values()), list(flattering(config, inputs))


def gold_leaks(config: PipelineConfig) -> Iterator[str]:
    """A sentence for each reward that is the evaluation's gold by name; functions are compared, not their names."""
    gold = None if config.evaluation is None else config.evaluation.gold
    if gold is None:
        return
    paid = [section for section, part in _parts(config) if _is_gold(part, gold)]
    if gold.model is not None and _is_own(Path(gold.model), Path(config.run)):
        paid += [
            method for method in METHODS if getattr(config, method) is not None and asks_own_reward(config, method)
        ]
    for section in dict.fromkeys(paid):
        yield (
            f"{section} is paid by the evaluation's gold ({gold.title}): what is optimised cannot say whether the "
            "optimum is good; give evaluation.gold something that no method sees"
        )


def _is_gold(part: RewardPart, gold: GoldConfig) -> bool:
    function = _function(part.function)
    if function is not None and (gold.function is not None or gold.rule is not None):
        return function is (_function(gold.function) or gold_judge(str(gold.rule)))
    if gold.verifier is not None:
        return (part.verifier, part.pattern) == (gold.verifier, gold.pattern)
    if gold.model is not None:
        return part.model == gold.model
    return gold.judge is not None and gold.endpoint is None and part.judge == gold.judge


def _is_own(model: Path, run: Path) -> bool:
    """Whether a path is that of the run's own reward model."""
    own = (run / "reward_model").resolve()
    return model.expanduser().resolve() in (own, own / "model")


def _function(name: str | None) -> Callable[..., Any] | None:
    return None if name is None else load_callable(name)


def _parts(config: PipelineConfig) -> Iterator[tuple[str, RewardPart]]:
    """(dotted key, part) of every reward that a method is paid by."""
    for section in METHODS:
        method: Any = getattr(config, section)
        method, key = (method.online, "direct.online") if section == "direct" and method else (method, section)
        for number, part in enumerate(method.reward if method is not None else ()):
            yield f"{key}.reward[{number}]", part


def _method_prompts(inputs: Inputs) -> list[tuple[str, Loaded[Prompt]]]:
    named = (
        ("ppo", inputs.prompts),
        ("group", inputs.group_prompts),
        ("rejection", inputs.rejection_prompts),
        ("direct.online", inputs.online_prompts),
    )
    return [(section, prompts) for section, prompts in named if prompts is not None]


def _trained(prompts: Iterable[Sequence[Message]], share: float) -> list[Sequence[Message]]:
    return [prompt for prompt in prompts if not is_heldout(prompt, share)]


def _last_reply(row: Sequence[Message]) -> int:
    return max((i for i, message in enumerate(row) if message.role == "assistant"), default=0)
