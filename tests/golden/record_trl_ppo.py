"""The statistics of TRL 0.11.4 that tests/golden/test_trl_ppo_numbers.py compares ours with.

    python -m venv trl && trl/bin/pip install -r benchmarks/peers/trl_step.txt
    trl/bin/python tests/golden/record_trl_ppo.py

runs every case of trl_case.py there and writes trl_ppo.json. TRL 0.11.4 is the last version with `PPOTrainer.step`.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import trl  # pyright: ignore[reportMissingImports] (in the other environment)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl_case import CASES, STATISTICS, VOCABULARY, batches, settings, value_head, write_model


def record(case: str) -> list[dict[str, float]]:
    """The scalar statistics of each step."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(case, Path(folder))
        model = trl.AutoModelForCausalLMWithValueHead.from_pretrained(folder)
        reference = trl.AutoModelForCausalLMWithValueHead.from_pretrained(folder)
    weight, bias = value_head()
    with torch.no_grad():
        model.v_head.summary.weight.copy_(weight[None])
        model.v_head.summary.bias.copy_(bias[None])
    trainer = trl.PPOTrainer(trl.PPOConfig(**settings(case)), model, reference, tokenizer())
    seen = []
    for number, (queries, responses, scores, masks) in enumerate(batches(case)):
        np.random.seed(number)
        stats = trainer.step(queries, responses, scores, response_masks=masks)
        seen.append({name: float(stats[name]) for name in STATISTICS})
    return seen


def tokenizer() -> Any:
    """One that pads; nothing is encoded with it."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w3")))  # noqa: S106
    made.eos_token, made.pad_token = "w1", "w2"
    return made


def main() -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    cases = ",\n".join(f"{json.dumps(case)}: [\n{_lines(record(case))}\n]" for case in CASES)
    text = f'{{"versions": {json.dumps(versions)},\n"cases": {{\n{cases}\n}}}}\n'
    (Path(__file__).parent / "trl_ppo.json").write_text(text, encoding="utf-8")


def _lines(steps: list[dict[str, float]]) -> str:
    """A step a line, seven digits."""
    return ",\n".join(json.dumps({name: float(f"{value:.7g}") for name, value in step.items()}) for step in steps)


if __name__ == "__main__":
    main()
