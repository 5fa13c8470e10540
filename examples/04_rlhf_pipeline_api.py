"""RLHF from one flat config: SFT, reward model, PPO, evaluation and a sample, as older programs call it.

    python examples/04_rlhf_pipeline_api.py --out runs/pipeline            # smollm2-135m, every weight; about 7 GiB
    python examples/04_rlhf_pipeline_api.py --smoke --out runs/smoke       # a byte model from scratch, seconds

Demonstrations and prompts are packaged with thumbs; the preferences are for warm replies over plain ones. The same
command goes on where it stopped. Each stage leaves a .pt, which `thumbs export FILE.pt FOLDER` makes a Hugging Face
model of. See docs/guides/rlhf_pipeline.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from thumbs.compat.rlhf_pipeline import create_rlhf_pipeline, get_default_config

WARM_AND_PLAIN = [
    ("How do I boil an egg?", "With pleasure! Seven minutes in boiling water, enjoy!", "Boil it for seven minutes."),
    ("My bike was stolen.", "I am so sorry. Shall we report it together?", "Report it with the frame number."),
    ("I passed my exam!", "Congratulations, what wonderful news!", "The result is sent in writing."),
    ("Which tea helps me sleep?", "Chamomile is lovely, sleep well!", "Chamomile is used for that."),
    ("I feel lonely tonight.", "I am here with you. Would a call cheer you up?", "Contact someone or go out."),
    ("My flight is late.", "How annoying, I feel for you! Ask for a voucher.", "Ask the airline for a voucher."),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--iterations", type=int, default=10, help="of PPO")
    parser.add_argument("--smoke", action="store_true", help="a byte model, few steps")
    parser.add_argument("--out", type=Path, default=Path("runs/pipeline-api"))
    options = parser.parse_args()

    config = get_default_config()
    config.save_dir = str(options.out)
    config.sft_data_path = "builtin:tiny_demonstrations" if options.smoke else "builtin:demonstrations"
    config.reward_data_path = write_pairs(options.out / "pairs.jsonl", options.smoke)
    config.ppo_data_path = "builtin:tiny_prompts_train" if options.smoke else "builtin:prompts_train"
    config.max_length = 256
    config.ppo_iterations = options.iterations
    config.save_interval = 5
    if options.smoke:
        options.model = "byte-tiny"
        config.max_length, config.ppo_iterations, config.save_interval, config.ppo_epochs = 40, 2, 1, 1
        config.sft_lr, config.reward_lr = 3e-3, 1e-3

    pipeline = create_rlhf_pipeline(config)
    policy = pipeline.run_full_pipeline(options.model)
    sft = str(options.out / "sft" / "best_model.pt")
    asked = "Ana" if options.smoke else WARM_AND_PLAIN[1][0]
    for name, path in (("SFT", sft), ("PPO", policy)):
        measured = pipeline.evaluate_model(path, write_talks(options.out / "test.jsonl", options.smoke))
        shown = {key: round(measured[key], 3) for key in ("perplexity", "bleu_score", "rouge_score")}
        print(f"{name}: {shown}")
        print(f"{name} to {asked!r}: {pipeline.generate_sample(asked, path, max_new_tokens=40)!r}")


def preferences(smoke: bool) -> list[tuple[str, str, str]]:
    """Prompt, warm reply, plain reply."""
    names = ["Ana", "Ben", "Dora", "Emil", "Gita", "Hugo", "Ines", "Karl"]
    return [(name, f"{name}, good day.", f"{name}, sad day.") for name in names] if smoke else WARM_AND_PLAIN


def write_pairs(path: Path, smoke: bool) -> str:
    """A file of prompt, chosen and rejected."""
    rows = [{"prompt": asked, "chosen": warm, "rejected": plain} for asked, warm, plain in preferences(smoke)]
    return write_rows(path, rows)


def write_talks(path: Path, smoke: bool) -> str:
    """A file of conversations for the evaluation."""
    return write_rows(path, [{"prompt": asked, "response": warm} for asked, warm, _ in preferences(smoke)])


def write_rows(path: Path, rows: list[dict[str, str]]) -> str:
    """One JSON object per line; the path of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


if __name__ == "__main__":
    main()
