"""What is computed for rows: their prompts are read, they decode by one token, and the next token is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.rollout.batch import ROOM, DecodingBatch, Prefilled
from thumbs.rollout.draw import draw, tempered
from thumbs.rollout.prompt_reading import likeliest, read_prompt
from thumbs.rollout.sampler import Top
from thumbs.rollout.scheduler import DecodingRow


class Runner:
    """One frozen model, whose rows may each have an adapter."""

    def __init__(self, model: Trunk) -> None:
        self.model = model

    def read(self, rows: Sequence[DecodingRow]) -> list[Prefilled]:
        """Reads the prompts of new rows, equal ones once, and what was asked about them; a part per adapter."""
        parts = [self._prefill([rows[place] for place in places]) for places in _by_adapter(rows).values()]
        for job in dict.fromkeys(row.job for row in rows):
            if job.request.about_prompt is not None and job.about_prompt is None:
                job.about_prompt = read_prompt(self.model, job.request, job.adapter)
        return parts

    def decode(self, batch: DecodingBatch) -> None:
        """Reads the last token of each row."""
        batch.grow()
        tokens = torch.tensor([row.tokens[-1] for row in batch.rows], device=batch.hidden.device)
        adapters: list[tuple[slice | Tensor, FrozenAdapter]] = []
        for places in _by_adapter(batch.rows).values():
            if (adapter := batch.rows[places[0]].job.adapter) is not None:
                alone = len(places) == len(batch.rows)
                adapters.append((slice(None) if alone else torch.tensor(places, device=tokens.device), adapter))
        batch.hidden = self.model.decode(tokens, batch.cache, adapters)

    def draw(self, batch: DecodingBatch) -> list[tuple[DecodingRow, int, float, Top]]:
        """The next token of each row that is not done, its logprob and the likeliest tokens in its place."""
        logits, drawn = self.model.logits(batch.hidden), []
        groups: dict[tuple[float, int, float], list[int]] = {}
        for place, row in enumerate(batch.rows):
            p = row.job.request.params
            if not row.done:
                groups.setdefault((p.temperature, p.top_k, p.top_p), []).append(place)
        for places in groups.values():
            # If all draw alike they do so where they stand, with those that are done: to pick rows would copy logits.
            places = range(len(batch.rows)) if len(groups) == 1 else places
            own = logits if len(groups) == 1 else logits[torch.tensor(places, device=logits.device)]
            drawn += _drawn([batch.rows[place] for place in places], own)
        return drawn

    def _prefill(self, rows: list[DecodingRow]) -> Prefilled:
        """Equal prompts are read once."""
        prompts = list(dict.fromkeys(row.job.prompt for row in rows))
        new = max(row.job.request.params.max_new_tokens for row in rows)
        cache = self.model.new_cache(len(prompts), max(map(len, prompts)) + min(new, ROOM))
        hidden = self.model.prefill([list(prompt) for prompt in prompts], cache, rows[0].job.adapter)
        if len(prompts) < len(rows):
            place = {prompt: number for number, prompt in enumerate(prompts)}
            at = torch.tensor([place[row.job.prompt] for row in rows], device=hidden.device)
            cache.select(at)
            hidden = hidden[at]
        return Prefilled(rows, cache, hidden)


def _by_adapter(rows: Sequence[DecodingRow]) -> dict[int, list[int]]:
    """Places of the rows of each adapter."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(id(row.job.adapter), []).append(place)
    return places


def _drawn(rows: Sequence[DecodingRow], logits: Tensor) -> list[tuple[DecodingRow, int, float, Top]]:
    """Draws for rows that draw alike; says nothing of those that are done."""
    params = next(row.job.request.params for row in rows if not row.done)
    numbers = [0.0 if row.done else float(row.u[len(row.tokens)]) for row in rows]
    tokens, logprobs = draw(logits, torch.tensor(numbers, device=logits.device), params)
    drawn = []
    # One copy to the host per token; float64 holds every token and every float32.
    found = torch.stack([tokens.double(), logprobs.double()]).tolist()
    for place, (row, token, logprob) in enumerate(zip(rows, map(int, found[0]), found[1], strict=True)):
        if not row.done:
            count = row.job.request.top
            at = tempered(logits[place : place + 1], params.temperature or 1.0) if count else None
            drawn.append((row, token, logprob, [] if at is None else likeliest(at, count)[0]))
    return drawn
