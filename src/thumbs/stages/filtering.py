"""What filters take out of a stage: prompts before it begins, replies before they are trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from thumbs.errors import DataError
from thumbs.records import Prompt, Rollout
from thumbs.safety.filters import FilterSet
from thumbs.stages.context import Context


def usable_prompts(context: Context, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts in which no filter finds something; the others are rows of filtered.jsonl, of step 0.

    Raises DataError if none is left.
    """
    if context.filters is None:
        return list(prompts)
    hits = context.filters.of_prompts([prompt.messages for prompt in prompts])
    context.folder.filtered.drop(0)
    for prompt, hit in zip(prompts, hits, strict=True):
        if hit is not None:
            text = "\n".join(message.content for message in prompt.messages)
            context.folder.filtered.append(0, {"prompt_id": prompt.id, **hit.row("prompt", text)})
    left = [prompt for prompt, hit in zip(prompts, hits, strict=True) if hit is None]
    if len(left) < len(prompts):
        where = context.folder.filtered.path
        print(f"{len(prompts) - len(left)} of {len(prompts)} prompts are filtered: {where}", file=sys.stderr)  # noqa: T201
    if not left:
        raise DataError(
            f"the filters of `safety.filters` leave no prompt; {context.folder.filtered.path} has the reasons"
        )
    return left


def filtered(
    filters: FilterSet | None, rollouts: Sequence[Rollout], each: int
) -> tuple[list[int], list[dict[str, str]]]:
    """(places of the rollouts that stay, rows of filtered.jsonl), where `each` replies to one prompt are side by side.

    A filtered reply takes the others to its prompt with it, since these are compared with each other. Raises DataError
    if nothing stays.
    """
    if filters is None or not rollouts:
        return list(range(len(rollouts))), []
    said = [_said(rollout) for rollout in rollouts]
    hits = filters.of_replies([rollout.messages[:-1] for rollout in rollouts], said)
    rows = [
        {"prompt_id": rollout.prompt_id, **hit.row("reply", text)}
        for rollout, text, hit in zip(rollouts, said, hits, strict=True)
        if hit is not None
    ]
    kept = [i for i in range(len(hits)) if not any(hits[i - i % each : i - i % each + each])]
    if not kept:
        raise DataError(
            f"the filters of `safety.filters` leave none of {len(hits)} replies; the last one was filtered by "
            f"{rows[-1]['filter']}: {rows[-1]['reason']}. Take more prompts per step, or loosen the filters"
        )
    return kept, rows


def _said(rollout: Rollout) -> str:
    """Every turn of the assistant; of a conversation of several turns, all of them."""
    return "\n".join(message.content for message in rollout.messages if message.role == "assistant")
