"""A trained policy at work: a reply to a prompt, and how well it knows and writes what test conversations say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thumbs.config.sampling import SamplingConfig
from thumbs.data.messages import Conversation
from thumbs.data.prompts import prompt_id, read_prompt
from thumbs.data.tokenizers import Tokenizer, training_sequences
from thumbs.engine.base import Engine, Handle
from thumbs.errors import DataError
from thumbs.evaluation.text import bleu, rouge
from thumbs.records import Prompt
from thumbs.rollout.rounds import collect, seed_of
from thumbs.rollout.sampler import Sampler
from thumbs.stages.sft import heldout_loss


@dataclass(frozen=True)
class Policy:
    """A frozen language model, its sampler, its tokenizer, and the longest sequence that it takes (tokens)."""

    engine: Engine
    handle: Handle
    sampler: Sampler
    tokenizer: Tokenizer
    limit: int

    def reply(self, text: str, temperature: float, max_new_tokens: int, seed: int) -> str:
        """A sampled reply; raises DataError for a prompt that says nothing or leaves no room."""
        prompt = read_prompt(text)
        room = self.limit - len(self.tokenizer.render_prompt(prompt.messages))
        if room < 1:
            raise DataError(f"the prompt has {self.limit - room} tokens; with a reply at most {self.limit} are allowed")
        sampling = SamplingConfig(max_new_tokens=min(max_new_tokens, room), temperature=temperature)
        (rollout,) = collect(self.sampler, [prompt], self.tokenizer, sampling, [seed_of(seed, "sample", prompt.id)])
        return rollout.text


def evaluate(policy: Policy, rows: Sequence[Conversation]) -> dict[str, float]:
    """Perplexity of the assistant's tokens, and BLEU and ROUGE of greedy replies against the last assistant turns."""
    sequences = [sequence for row in rows for sequence in training_sequences(policy.tokenizer, row)]
    loss, tokens = heldout_loss(policy.engine, policy.handle, sequences), sum(mask.sum() for _, mask in sequences)
    asked, references = zip(*(last_turn(row) for row in rows), strict=True)
    replies = greedy_replies(policy, asked, references)
    scores = rouge(replies, references)
    return {
        "perplexity": math.exp(min(loss, 700.0)),
        "bleu_score": bleu(replies, references),
        "rouge_score": scores["rougeL"],
        "rouge1": scores["rouge1"],
        "rouge2": scores["rouge2"],
        "loss": loss,
        "tokens": float(tokens),
        "conversations": float(len(rows)),
    }


def last_turn(row: Conversation) -> tuple[Prompt, str]:
    """What comes before the last assistant turn, as a prompt, and that turn."""
    end = max(i for i, message in enumerate(row) if message.role == "assistant")
    return Prompt(prompt_id(row[:end]), row[:end]), row[end].content


def greedy_replies(policy: Policy, prompts: Sequence[Prompt], references: Sequence[str]) -> list[str]:
    """The likeliest tokens one by one, for each prompt at most as many as the longest reference has."""
    longest = max(len(policy.tokenizer.render_prompt(prompt.messages)) for prompt in prompts)
    wanted = max(len(policy.tokenizer.encode(reference)) for reference in references) + 1
    sampling = SamplingConfig(max_new_tokens=max(min(wanted, policy.limit - longest), 1), temperature=0.0)
    rollouts = collect(policy.sampler, prompts, policy.tokenizer, sampling, [0] * len(prompts))
    return [rollout.text for rollout in rollouts]
