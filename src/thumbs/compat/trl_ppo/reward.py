"""TRL's `RewardTrainer` and `RewardConfig`, and the sequence classifier that tutorials train with them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thumbs.compat.rlhf_pipeline.parts import create_preference_loss, padded
from thumbs.compat.settings import CheckedSettings, Count, Positive
from thumbs.config.base import build_config
from thumbs.config.optim import AdamConfig
from thumbs.data.preferences import preferred, read_preference
from thumbs.data.reading import reading
from thumbs.data.sources import RowError
from thumbs.errors import ConfigError, DataError, NonFiniteError, needs
from thumbs.models.catalog import resolve
from thumbs.stages.context import adam_at, batch_at

_TELLS_HOW = (
    "bf16", "dataloader_num_workers", "dataset_num_proc", "disable_tqdm", "eval_steps", "eval_strategy",
    "evaluation_strategy", "fp16", "gradient_checkpointing", "logging_dir", "logging_first_step", "logging_steps",
    "logging_strategy", "overwrite_output_dir", "remove_unused_columns", "report_to", "run_name", "save_steps",
    "save_strategy", "save_total_limit",
)  # fmt: skip


@dataclass(init=False)
class RewardConfig(CheckedSettings):
    """Settings of a `RewardTrainer` under TRL's names.

    A step is per_device_train_batch_size · gradient_accumulation_steps pairs. lr_scheduler_type is linear, cosine or
    constant, after a linear warm-up; center_rewards_coefficient is the price of (chosen + rejected)²; a pair with a
    side of more than max_length tokens is refused. Raises ConfigError for a name that is not here.
    """

    without_effect = dict.fromkeys(_TELLS_HOW, "it says how a trainer of transformers works, not what is learned")

    output_dir: str = "reward_model"
    per_device_train_batch_size: Count = 8
    per_device_eval_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    num_train_epochs: Positive = 1
    learning_rate: float = 1e-5
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: Count = 1024
    center_rewards_coefficient: float = 0.0
    seed: int = 42

    def __post_init__(self) -> None:
        self.adam()

    def adam(self) -> AdamConfig:
        """The same as the stages have it; raises ConfigError for what it cannot be."""
        settings = {
            "learning_rate": self.learning_rate,
            "schedule": self.lr_scheduler_type,
            "warmup_fraction": self.warmup_ratio,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
        }
        return build_config(AdamConfig, settings, "RewardConfig")


class AutoModelForSequenceClassification:
    """Opens sequence classifiers of transformers that also score a list of token rows of different lengths."""

    @staticmethod
    @needs("hf", "AutoModelForSequenceClassification")
    def from_pretrained(name: str | Path, num_labels: int = 1, **settings: Any) -> Any:
        """The classifier in a folder, of a hub name or of a name of ours, with one score; its head is new if the
        folder has none. `settings` are those of transformers.
        """
        import transformers

        if num_labels != 1:
            raise ConfigError(f"num_labels={num_labels}; a reward model gives one score, so num_labels must be 1")
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            resolve(str(name)), num_labels=1, **settings
        )
        if model.config.pad_token_id is None:  # without one, transformers scores no batch of rows
            end = model.config.eos_token_id
            model.config.pad_token_id = end[0] if isinstance(end, Sequence) else end or 0
        own = type(model)
        model.__class__ = type(own.__name__, (_ScoresRows, own), {"__module__": own.__module__})
        return model


class _ScoresRows:
    """Before a classifier's class: a list of rows becomes a padded batch with its mask."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **keywords: Any) -> Any:
        if isinstance(input_ids, list | tuple):
            input_ids, attention_mask = padded(input_ids, self.config.pad_token_id)  # type: ignore[attr-defined]
        return super().forward(input_ids, attention_mask=attention_mask, **keywords)  # type: ignore[misc]


class RewardTrainer:
    """Bradley–Terry training of a sequence classifier with one score on rows of prompt, chosen and rejected.

    model: as `AutoModelForSequenceClassification.from_pretrained` gives it, or any torch module whose output has
    logits [B, 1]; tokenizer (or processing_class): of transformers. Rows may be a list or a datasets.Dataset.
    Raises ConfigError for arguments that do not fit, DataError for rows that cannot be used, with their place.
    """

    def __init__(
        self,
        model: Any = None,
        args: RewardConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        tokenizer: Any = None,
        processing_class: Any = None,
    ) -> None:
        self.model, self.args, self.tokenizer = model, args or RewardConfig(), tokenizer or processing_class
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(f"model must be a sequence classifier, got {type(model).__name__}")
        labels = getattr(getattr(model, "config", None), "num_labels", 1)
        if labels != 1:
            raise ConfigError(f"the model has {labels} labels; load it with num_labels=1")
        if not callable(self.tokenizer) or not hasattr(self.tokenizer, "decode"):
            raise ConfigError(f"tokenizer must be one of transformers, got {type(self.tokenizer).__name__}")
        self.train_pairs = self._read(train_dataset, "train_dataset")
        self.eval_pairs = [] if eval_dataset is None else self._read(eval_dataset, "eval_dataset")
        self.loss = create_preference_loss(center_coef=self.args.center_rewards_coefficient)
        self.log_history: list[dict[str, float]] = []

    def train(self) -> SimpleNamespace:
        """Trains the model in place, saves it to output_dir, and returns training_loss and metrics."""
        c, pairs, adam = self.args, self.train_pairs, self.args.adam()
        size, small = c.per_device_train_batch_size * c.gradient_accumulation_steps, c.per_device_train_batch_size
        steps = math.ceil(math.ceil(len(pairs) / size) * c.num_train_epochs)
        optimizer = torch.optim.AdamW(self._trained(), lr=c.learning_rate, weight_decay=c.weight_decay)
        self.model.train()
        for step in range(steps):
            batch = batch_at(pairs, step, size, c.seed, "reward-trainer")
            optimizer.param_groups[0]["lr"] = adam_at(adam, step, steps).learning_rate
            optimizer.zero_grad()
            loss = 0.0
            for start in range(0, len(batch), small):
                part = batch[start : start + small]
                share = self.loss(*self._scores(part)) * (len(part) / len(batch))
                share.backward()
                loss += share.item()
            norm = torch.nn.utils.clip_grad_norm_(self._trained(), c.max_grad_norm)
            if not (math.isfinite(loss) and torch.isfinite(norm)):
                raise NonFiniteError(f"step {step + 1}: loss {loss}, gradient norm {float(norm)}; lower learning_rate")
            optimizer.step()
            self.log_history.append({"step": step + 1, "loss": loss, "grad_norm": float(norm)})
        self.model.eval()
        self.save_model()
        metrics = {"train_loss": float(np.mean([row["loss"] for row in self.log_history[-steps:]]))} | self._measure()
        return SimpleNamespace(global_step=steps, training_loss=metrics["train_loss"], metrics=metrics)

    def evaluate(self) -> dict[str, float]:
        """eval_loss (nats per pair) and eval_accuracy on eval_dataset; raises ConfigError without one."""
        if not self.eval_pairs:
            raise ConfigError("evaluate needs an eval_dataset")
        return self._measure()

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Writes model and tokenizer as a folder for transformers, and for `reward: [{model: FOLDER}]`."""
        folder = Path(output_dir or self.args.output_dir)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        if not self.eval_pairs:
            return {}
        self.model.eval()
        size = self.args.per_device_eval_batch_size
        parts = [self._scores(self.eval_pairs[i : i + size]) for i in range(0, len(self.eval_pairs), size)]
        chosen, rejected = (torch.cat(side) for side in zip(*parts, strict=True))
        loss, right = float(self.loss(chosen, rejected)), float((chosen > rejected).float().mean())
        return {"eval_loss": loss, "eval_accuracy": right}

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        """Scores [P] of chosen and of rejected replies, which are computed together."""
        pad = self.tokenizer.pad_token_id
        tokens, mask = padded([*chain.from_iterable(pairs)], 0 if pad is None else pad)
        device = next(self.model.parameters()).device
        logits = self.model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits
        scores = logits.float().view(-1, 2)
        return scores[:, 0], scores[:, 1]

    def _trained(self) -> list[Tensor]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def _read(self, rows: Any, name: str) -> list[tuple[list[int], list[int]]]:
        """Token rows of chosen and rejected; a pair that nobody decided is left out, with a warning."""
        if rows is None or not len(rows):
            raise ConfigError(f"{name} is empty; give rows of prompt, chosen and rejected")
        pairs, ignored, ties = [], set(), 0
        for i in range(len(rows)):
            try:
                with reading() as notes:
                    pair = read_preference(rows[i])
            except RowError as error:
                raise DataError(f"{name}[{i}]: {error}") from None
            ignored |= set(notes.ignored)
            better = preferred(pair)
            if better is None or better == 0.5:
                ties += 1
                continue
            sides = [self._tokens(pair.prompt, reply.text, f"{name}[{i}]") for reply in pair.replies]
            pairs.append((sides[0], sides[1]) if better > 0.5 else (sides[1], sides[0]))
        if ignored or ties:
            said = [f"ignored keys: {', '.join(sorted(ignored))}"] if ignored else []
            said += [f"{ties} pairs that say of neither reply that it is better are left out"] if ties else []
            warnings.warn(f"{name}: {'; '.join(said)}", stacklevel=3)
        if not pairs:
            raise DataError(f"{name}: no pair says which reply is better")
        return pairs

    def _tokens(self, prompt: Sequence[Any], reply: str, place: str) -> list[int]:
        """By the chat template if the tokenizer has one; else prompt, reply and end token, as they stand."""
        if getattr(self.tokenizer, "chat_template", None):
            messages = [{"role": m.role, "content": m.content} for m in prompt]
            messages.append({"role": "assistant", "content": reply})
            tokens = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        else:
            text = "\n".join([*(m.content for m in prompt), reply])
            end = self.tokenizer.eos_token_id
            tokens = [*self.tokenizer(text)["input_ids"], *([] if end is None else [end])]
        if len(tokens) > self.args.max_length:
            raise DataError(
                f"{place} has {len(tokens)} tokens, more than max_length={self.args.max_length}; raise it, or leave "
                "the row out"
            )
        return list(tokens)
