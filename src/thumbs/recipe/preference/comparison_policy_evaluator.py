"""How often a judge prefers a policy's replies to those that it is compared with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from thumbs.errors import DataError
from thumbs.recipe.completers import TinkerMessageCompleter
from thumbs.recipe.eval.evaluators import SamplingClientEvaluator
from thumbs.recipe.preference.types import Comparison, PreferenceModel
from thumbs.recipe.renderers import Message, get_renderer, get_text_content
from thumbs.recipe.tokenizers import get_tokenizer


class ComparisonEvaluator(SamplingClientEvaluator):
    """The policy's reply takes the place of completion B, and is judged against completion A.

    both_ways: with the two exchanged as well, so that a judge who favours a place does not count.
    content_preprocessor: changes a reply before it is judged.
    """

    def __init__(
        self,
        preference_model_builder: Callable[[], PreferenceModel],
        comparisons: Sequence[Comparison],
        renderer_name: str,
        model_name_for_tokenizer: str,
        both_ways: bool = True,
        max_tokens: int = 1024,
        content_preprocessor: Callable[[str], str] | None = None,
    ) -> None:
        if not comparisons:
            raise DataError("comparisons is empty; a win rate needs at least one")
        self._build_judge, self._comparisons, self._both_ways = preference_model_builder, comparisons, both_ways
        self._renderer = get_renderer(renderer_name, get_tokenizer(model_name_for_tokenizer))
        self._max_tokens, self._preprocess = max_tokens, content_preprocessor

    async def __call__(self, sampling_client: Any) -> dict[str, float]:
        """win_rate, 1 where the judge is sure of the policy's reply and 0 where it is of the other, and its stderr."""
        judge = await asyncio.to_thread(self._build_judge)
        policy = TinkerMessageCompleter(sampling_client, self._renderer, self._max_tokens)

        async def won(comparison: Comparison) -> float:
            text = get_text_content(await policy(comparison.prompt_conversation))
            reply: Message = {"role": "assistant", "content": self._preprocess(text) if self._preprocess else text}
            judged = replace(comparison, completion_B=[reply])
            if not self._both_ways:
                return (1 + await judge(judged)) / 2
            first, second = await asyncio.gather(judge(judged), judge(judged.swap()))
            return (2 + first - second) / 4

        wins = await asyncio.gather(*(won(comparison) for comparison in self._comparisons))
        spread = float(np.std(wins, ddof=1)) / len(wins) ** 0.5 if len(wins) > 1 else 0.0
        return {"win_rate": float(np.mean(wins)), "stderr": spread}
