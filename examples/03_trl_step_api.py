"""The loop that TRL's tutorials taught, generate → reward → step, on thumbs: film reviews that end well.

    python examples/03_trl_step_api.py --out runs/step            # smollm2-135m with adapters, minutes on two cores
    python examples/03_trl_step_api.py --smoke --out runs/smoke   # a byte model from scratch, seconds

The model goes on with the beginning of a review; the reward is the sentiment of what it wrote, from -1 to 1, by the
words of VADER's list (for the byte model: the share of letters). Statistics go to OUT/ppo_stats.jsonl, the policy to
OUT/policy. docs/guides/trl_ppo.md says what is as in TRL and what is not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from thumbs.compat.trl_ppo import AutoModelForCausalLMWithValueHead, LengthSampler, PPOConfig, PPOTrainer
from thumbs.config.model import ModelConfig
from thumbs.models.trunk import open_tokenizer

BEGINNINGS = [
    "The film that I saw last night", "My review of this movie: the plot", "The acting in the second half",
    "If you ask me about the music,", "The director of this picture", "I went to the cinema with friends and",
    "The ending of the story", "Compared with the book, the film", "The first thing that I noticed was",
    "The main character", "After ten minutes I", "The dialogue between the two sisters", "The camera work",
    "My children and I", "What the trailer does not tell you:", "For a film of this budget it",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--smoke", action="store_true", help="a byte model, few steps")
    parser.add_argument("--out", type=Path, default=Path("runs/step-api"))
    options = parser.parse_args()
    adapters = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
    if options.smoke:
        options.model, options.steps, adapters = "byte-tiny", 3, None

    config = PPOConfig(
        model_name=options.model,
        learning_rate=1e-3 if options.smoke else 1e-4,
        batch_size=16,
        mini_batch_size=8,
        ppo_epochs=2,
        init_kl_coef=0.05,
        target=6.0,
        project_kwargs={"logging_dir": str(options.out)},
    )
    tokenizer = open_tokenizer(ModelConfig(name=config.model_name))
    model = AutoModelForCausalLMWithValueHead.from_pretrained(config.model_name, peft_config=adapters)
    dataset = [{"query": text, "input_ids": torch.tensor(tokenizer.encode(text))} for text in BEGINNINGS]
    ppo_trainer = PPOTrainer(
        config=config, model=model, ref_model=None, tokenizer=tokenizer, dataset=dataset, data_collator=collator
    )
    generation_kwargs = {"min_length": -1, "top_k": 0.0, "top_p": 1.0, "do_sample": True}
    output_length_sampler = LengthSampler(8, 16)
    reward = share_of_letters if options.smoke else sentiment

    for epoch in range(options.steps):  # the data set is one batch long
        for batch in ppo_trainer.dataloader:
            query_tensors = batch["input_ids"]
            response_tensors = ppo_trainer.generate(
                query_tensors, return_prompt=False, length_sampler=output_length_sampler, **generation_kwargs
            )
            batch["response"] = [tokenizer.decode(response.tolist()) for response in response_tensors]
            rewards = [torch.tensor(reward(text)) for text in batch["response"]]
            stats = ppo_trainer.step(query_tensors, response_tensors, rewards)
            ppo_trainer.log_stats(stats, batch, rewards)
            print(
                f"step {epoch}: reward {stats['ppo/mean_scores']:+.3f}, KL {stats['objective/kl']:.2f} nats, "
                f"{batch['query'][0]!r} → {batch['response'][0]!r}",
                flush=True,
            )
    ppo_trainer.save_pretrained(options.out / "policy")


def collator(rows: list[dict]) -> dict[str, list]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def sentiment(text: str) -> float:
    return float(SentimentIntensityAnalyzer().polarity_scores(text)["compound"])


def share_of_letters(text: str) -> float:
    return sum(letter.isalpha() for letter in text) / max(len(text), 1)


if __name__ == "__main__":
    main()
