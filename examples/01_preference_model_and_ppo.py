"""Preference pairs → a preference model → a policy trained against it by PPO, with the clients of a hosted service.

    python examples/01_preference_model_and_ppo.py            # smollm2-135m, a few minutes on two cores
    python examples/01_preference_model_and_ppo.py --smoke    # a byte model from scratch, seconds

Written as older documents of such services write it: an `…_async` call is used at once as a future, loss inputs are
lists. With `import mint` instead of `import thumbs as mint` it is a script for
the service itself. See examples/02 for a preference model that scores, and the guide docs/guides/clients.md.
"""

from __future__ import annotations

import argparse
import asyncio
import math
from pathlib import Path

import thumbs as mint

PAIRS = [
    ("Say hello to my grandmother.", "Good morning! I hope you slept well.", "Hey. What do you want?"),
    ("My bike was stolen.", "I am sorry to hear that. Shall we report it together?", "Should have locked it."),
    ("I failed the exam.", "That is hard. You can take it again, and I can help you learn.", "So did I say."),
    ("Can you help me with this form?", "Of course! Which part is unclear?", "Read the instructions."),
    ("What should I cook tonight?", "How about a warm lentil soup? I can give you the recipe.", "Food."),
    ("I think I am lost.", "No problem, tell me what you see and we will find the way.", "Look at a map."),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--epochs", type=int, default=3, help="of the preference model")
    parser.add_argument("--steps", type=int, default=6, help="of PPO")
    parser.add_argument("--smoke", action="store_true", help="a byte model, few steps")
    parser.add_argument("--out", type=Path, help="where the store of checkpoints is; default: THUMBS_STORE")
    options = parser.parse_args()
    if options.smoke:
        options.model, options.steps = "byte-tiny", 2
    if options.out:
        import os

        os.environ["THUMBS_STORE"] = str(options.out)
    asyncio.run(train(options))


async def train(options: argparse.Namespace) -> None:
    service = mint.ServiceClient()
    preference = service.create_lora_training_client(base_model=options.model, rank=16, seed=0)
    tokenizer = preference.get_tokenizer()
    await learn_preferences(preference, tokenizer, options.epochs)
    policy = service.create_lora_training_client(base_model=options.model, rank=16, seed=1)
    await improve(policy, preference, tokenizer, options.steps)
    for name, client in (("preference", preference), ("policy", policy)):
        saved = await client.save_weights_for_sampler_async(f"{name}-{options.model.replace('/', '-')}").result_async()
        print(f"{name} model saved as {saved.path}")


async def learn_preferences(client: mint.TrainingClient, tokenizer, epochs: int) -> None:
    """Teaches the model to call the better reply good and the other bad: one datum at a time, by cross-entropy."""
    for epoch in range(epochs):
        losses = []
        for prompt, chosen, rejected in PAIRS:
            for reply, verdict in ((chosen, " good"), (rejected, " bad")):
                futures = [
                    client.forward_backward_async([verdict_datum(tokenizer, prompt, reply, verdict)], "cross_entropy")
                ]
                client.optim_step_async(mint.AdamParams(learning_rate=2e-4))
                losses += [(await future.result_async()).loss for future in futures]
        print(f"preference model, epoch {epoch}: loss {sum(losses) / len(losses):.3f} nats per token")


async def improve(client: mint.TrainingClient, preference: mint.TrainingClient, tokenizer, steps: int) -> None:
    """PPO of the policy against how much likelier the preference model finds `good` than `bad`."""
    judge = preference.save_weights_and_get_sampling_client()
    params = mint.SamplingParams(max_tokens=24, temperature=1.0)
    for step in range(steps):
        sampler = client.save_weights_and_get_sampling_client()
        data, scores = [], []
        for prompt, _, _ in PAIRS:
            tokens = tokenizer.encode(question(prompt))
            response = await sampler.sample_async(mint.ModelInput.from_ints(tokens), 4, params)
            replies = response.sequences
            values = [await score(judge, tokenizer, prompt, tokenizer.decode(reply.tokens)) for reply in replies]
            mean = sum(values) / len(values)
            scores += values
            data += [ppo_datum(tokens, reply, value - mean) for reply, value in zip(replies, values, strict=True)]
        client.forward_backward_async(data, "ppo")
        await client.optim_step_async(mint.AdamParams(learning_rate=1e-4)).result_async()
        print(f"ppo, step {step}: mean score {sum(scores) / len(scores):+.3f} nats")


def question(prompt: str) -> str:
    return f"Request: {prompt}\nAnswer:"


def verdict_datum(tokenizer, prompt: str, reply: str, verdict: str) -> mint.Datum:
    """The verdict alone carries weight; inputs and targets are shifted against each other by one."""
    head = tokenizer.encode(f"{question(prompt)} {reply}\nVerdict:")
    tail = tokenizer.encode(verdict)
    tokens = head + tail
    weights = [0.0] * (len(head) - 1) + [1.0] * len(tail)
    return mint.Datum(
        model_input=mint.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": weights},
    )


async def score(judge: mint.SamplingClient, tokenizer, prompt: str, reply: str) -> float:
    """log P(good) - log P(bad), each verdict divided by its number of tokens, nats."""
    found = []
    for verdict in (" good", " bad"):
        head = tokenizer.encode(f"{question(prompt)} {reply}\nVerdict:")
        tail = tokenizer.encode(verdict)
        logprobs = await judge.compute_logprobs_async(mint.ModelInput.from_ints(head + tail))
        found.append(math.fsum(logprobs[len(head) :]) / len(tail))
    return found[0] - found[1]


def ppo_datum(prompt: list[int], reply, advantage: float) -> mint.Datum:
    """The prompt's targets get an advantage of 0, and so no loss."""
    tokens, head = prompt + reply.tokens, len(prompt) - 1
    return mint.Datum(
        model_input=mint.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tokens[1:],
            "logprobs": [0.0] * head + reply.logprobs,
            "advantages": [0.0] * head + [advantage] * len(reply.tokens),
        },
    )


if __name__ == "__main__":
    main()
