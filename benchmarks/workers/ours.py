"""thumbs: the verbs that its stages call, on the batches that the peers get."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from turns import Turns

from thumbs.config.data import DataConfig
from thumbs.config.group import GroupConfig
from thumbs.config.losses import CROSS_ENTROPY, PairLoss, ScoreLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import CriticConfig, KlConfig, PpoConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import AdamStep, Handle, Head, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.records import Message, Prompt, Rollout
from thumbs.rewards.base import CallableReward
from thumbs.rewards.model import RewardModel
from thumbs.rollout.sampler import DecodingParams
from thumbs.stages import direct_batch
from thumbs.stages.answers import AnswerPair, TokenisedReply, reply_logprobs
from thumbs.stages.context import Context
from thumbs.stages.group import Group
from thumbs.stages.ppo import Models, Ppo
from thumbs.stages.reward_items import Item, item_data, pair_term
from thumbs.stages.sft import weighted
from thumbs.tracking.run_folder import StageFolder

turns = Turns("thumbs", "torch")
job = turns.job
engine = LocalEngine()
model = ModelConfig(
    name=job["model"], lora=AdapterConfig(rank=16, alpha=32) if job["lora"] else None, dtype=job["dtype"]
)
adam = AdamStep(learning_rate=job["learning_rate"], head_learning_rate=job["learning_rate"])

Batch = list[dict[str, Any]]


class TokensAsText:
    """A tokenizer that hands through prompts that are tokens already, and knows no token that ends a reply."""

    name, vocab_size, pad_id, eos_id, stop_ids = "tokens", 0, 0, -1, ()

    def render_prompt(self, messages: Sequence[Message]) -> list[int]:
        return [int(token) for token in messages[0].content.split()]

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        return ""


def create(name: str, *heads: Head, trainable: bool = True) -> Handle:
    return engine.create(ModelSpec(name, model, heads, trainable=trainable))


def sft() -> Callable[[Batch], dict[str, float]]:
    policy = create("policy", "lm")

    def step(batch: Batch) -> dict[str, float]:
        data = weighted([(np.array(r["ids"]), np.array(r["mask"][1:], dtype=np.float32)) for r in batch])
        output = engine.forward_backward(policy, data, [CROSS_ENTROPY])
        engine.optim_step(policy, adam)
        return {"loss": output.loss, "tokens": sum(len(r["ids"]) for r in batch)}

    return step


def reward() -> Callable[[Batch], dict[str, float]]:
    scorer = create("reward", "scalar")

    def step(batch: Batch) -> dict[str, float]:
        output = engine.forward_backward(scorer, item_data(items_of(batch)), [ScoreLoss.of("bradley_terry")])
        engine.optim_step(scorer, adam)
        return {"loss": output.loss, "accuracy": output.metrics["bradley_terry/accuracy"]}

    return step


def dpo() -> Callable[[Batch], dict[str, float]]:
    reference, policy = create("reference", "lm", trainable=False), create("policy", "lm")
    # As the peer: the reference's logprobs are taken once, before training.
    known = {id(batch): answer_pairs(batch, reference) for batch in job["batches"]}
    loss = PairLoss(formula="dpo", settings={"beta": job["beta"]})

    def step(batch: Batch) -> dict[str, float]:
        data = direct_batch.pair_data(known[id(batch)])
        output = engine.forward_backward(policy, data, [loss])
        engine.optim_step(policy, adam)
        return {"loss": output.loss}

    return step


def answer_pairs(batch: Batch, reference: Handle) -> list[AnswerPair]:
    sides = [
        TokenisedReply(np.array(r["prompt"] + r[side]), len(r[side])) for r in batch for side in ("chosen", "rejected")
    ]
    known = reply_logprobs(engine, reference, sides)
    sides = [replace(answer, reference=float(logprob)) for answer, logprob in zip(sides, known, strict=True)]
    return [AnswerPair((), *pair, 1.0) for pair in zip(sides[0::2], sides[1::2], strict=True)]


def items_of(batch: Batch) -> list[Item]:
    sides = [(np.array(r["prompt"] + r["chosen"]), np.array(r["prompt"] + r["rejected"])) for r in batch]
    return [Item(number, (), (pair_term(both, 1.0),)) for number, both in enumerate(sides)]


def ppo() -> Callable[[Batch], dict[str, float]]:
    shared = bool(job["lora"])
    policy = create("policy", "lm", "scalar") if shared else create("policy", "lm")
    critic = policy if shared else create("critic", "scalar")
    models = Models(policy, critic, create("reference", "lm", trainable=False))
    config = PpoConfig(
        prompts=DataConfig(path="the batches"),
        steps=len(job["batches"]),
        batch_size=job["batch_size"],
        minibatch_size=job["batch_size"],
        epochs=job["epochs"],
        kl=KlConfig(coef=job["kl_coef"], target=None, stop_above=None),
        critic=CriticConfig(init="shared" if shared else "policy", learning_rate=job["learning_rate"]),
        sampling=SamplingConfig(max_new_tokens=job["new_tokens"]),
        optim=AdamConfig(learning_rate=job["learning_rate"], schedule="constant"),
    )
    odd = job["odd_reward"]
    scorer = CallableReward(odd_share) if odd else RewardModel(engine, create("reward", "scalar", trainable=False))
    numbers = itertools.count()

    def step(batch: Batch) -> dict[str, float]:
        report = Ppo(context(), config, models, scorer, prompts_of(batch)).step(next(numbers), config.kl.coef)
        tokens = sum(int(rollout.mask.sum()) for rollout in report.rollouts)
        return {"tokens": tokens} | ({"score": report.metrics["ppo/score"]} if odd else {})

    return step


def odd_share(rollout: Rollout) -> float:
    """Which share of the sampled tokens is odd."""
    return float(np.mean(rollout.tokens[rollout.prompt_length :] % 2))


def grouped(method: Literal["grpo", "rloo"], **as_the_peer: Any) -> Callable[[Batch], dict[str, float]]:
    policy = create("policy", "lm")
    config = GroupConfig(
        prompts=DataConfig(path="unused"),
        method=method,
        kl="none",
        **as_the_peer,
        steps=len(job["batches"]),
        batch_size=len(job["batches"][0]) * job["group_size"],
        minibatch_size=len(job["batches"][0]) * job["group_size"],
        group_size=job["group_size"],
        sampling=SamplingConfig(max_new_tokens=job["new_tokens"]),
        optim=AdamConfig(learning_rate=job["learning_rate"], schedule="constant"),
    )
    scorer = CallableReward(odd_share)
    numbers = itertools.count()

    def step(batch: Batch) -> dict[str, float]:
        report = Group(context(), config, policy, scorer, prompts_of(batch)).step(next(numbers))
        tokens = sum(int(rollout.mask.sum()) for rollout in report.rollouts)
        return {"tokens": tokens, "score": report.metrics["group/score"]}

    return step


def context() -> Context:
    return Context(engine, cast(Tokenizer, TokensAsText()), StageFolder(Path(tempfile.mkdtemp())), model, 0)


def prompts_of(batch: Batch) -> list[Prompt]:
    return [Prompt(str(i), (Message("user", " ".join(map(str, r["ids"]))),)) for i, r in enumerate(batch)]


def decode() -> Callable[[Batch], dict[str, float]]:
    sampler = engine.snapshot(create("policy", "lm", trainable=False))
    params = DecodingParams(max_new_tokens=job["new_tokens"], stop_tokens=())

    def step(batch: Batch) -> dict[str, float]:
        samples = sampler.sample([r["ids"] for r in batch], params, range(len(batch)))
        return {"tokens": sum(len(sample.tokens) for sample in samples)}

    return step


MAKE = {
    "sft": sft,
    "reward": reward,
    "dpo": dpo,
    "ppo": ppo,
    "grpo": lambda: grouped("grpo", normaliser="token"),
    "rloo": lambda: grouped("rloo"),
    "decode": decode,
}
step = MAKE[job["kind"]]()
turns.ready()
while True:
    turn = turns.next()
    turns.done(**step(job["batches"][turn]))
