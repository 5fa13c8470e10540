"""The parts of a pipeline under the names by which programs take it apart: data, losses, models and trainers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from thumbs.compat.rlhf_pipeline.pipeline import RLHFPipeline
from thumbs.compat.rlhf_pipeline.pt_files import export_pt
from thumbs.compat.rlhf_pipeline.rows import load_conversations, load_pairs
from thumbs.data.tokenizers import Tokenizer, training_sequences
from thumbs.engine.objectives import OBJECTIVES, is_objective, pair_losses
from thumbs.errors import ConfigError, needs
from thumbs.functional.reward_losses import bradley_terry
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.records import Message

IGNORED = -100
"""Label of a token that carries no loss, as torch's cross_entropy has it."""

PreferenceLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class ConversationDataset(Dataset[dict[str, Tensor]]):
    """Conversations of a file as {"input_ids", "labels"} [N] each; labels are IGNORED outside the assistant's turns."""

    def __init__(self, path: str | Path, tokenizer: Tokenizer, max_length: int = 512) -> None:
        conversations = load_conversations(str(path), tokenizer, max_length)
        self._rows = [row for messages in conversations for row in training_sequences(tokenizer, messages)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens, mask = self._rows[index]
        inputs = torch.tensor(tokens)
        learned = torch.cat([torch.zeros(1), torch.as_tensor(mask)]) > 0  # the mask is of targets: it begins at token 1
        return {"input_ids": inputs, "labels": inputs.where(learned, IGNORED)}


def create_preference_dataloader(
    path: str | Path, tokenizer: Tokenizer, batch_size: int, max_length: int = 512, *, shuffle: bool = True
) -> DataLoader[dict[str, Tensor]]:
    """Batches of pairs: input_ids and attention_mask [B, N] of `chosen_` and of `rejected_`, padded on the right.

    Incomplete rows are skipped and counted in the log.
    """
    rows = [
        tuple(tokenizer.render((*pair.prompt, Message("assistant", reply.text)))[0] for reply in pair.replies)
        for pair in load_pairs(str(path), tokenizer, max_length)
    ]

    def collate(batch: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
        columns = {}
        for name, side in zip(("chosen", "rejected"), zip(*batch, strict=True), strict=True):
            columns[f"{name}_input_ids"], columns[f"{name}_attention_mask"] = padded(side, tokenizer.pad_id)
        return columns

    return DataLoader(rows, batch_size, shuffle=shuffle, collate_fn=collate)  # type: ignore[arg-type]


def padded(rows: Sequence[Any], pad: int) -> tuple[Tensor, Tensor]:
    """Token rows as a batch [B, N] filled up on the right, and its mask."""
    tensors = [torch.as_tensor(row).long().flatten() for row in rows]
    ones = [torch.ones_like(row) for row in tensors]
    return pad_sequence(tensors, batch_first=True, padding_value=pad), pad_sequence(ones, batch_first=True)


def create_preference_loss(objective: str = "bradley_terry", center_coef: float = 0.0) -> PreferenceLoss:
    """A function of the scores of chosen and rejected replies [P] that gives their mean loss, a scalar.

    Bradley–Terry: -log σ(chosen - rejected) + center_coef · (chosen + rejected)², which ties the free constant of the
    scores down (Eisenstein et al. 2023, arXiv:2312.09244, eq. 2); or an objective by the name that it was registered
    under. A loss of one's own gets into the pipeline by register_reward_objective.
    """
    if objective == "bradley_terry":
        return lambda chosen, rejected: (
            bradley_terry(chosen, rejected, torch.tensor(0.0)) + center_coef * (chosen + rejected) ** 2
        ).mean()
    if not is_objective(objective):
        known = ", ".join(("bradley_terry", *OBJECTIVES.names))
        raise ConfigError(f"objective: got {objective!r}; allowed are {known}")
    return lambda chosen, rejected: pair_losses(objective, chosen, rejected).mean()


@needs("hf", "create_model")
def create_model(name: str | Path) -> nn.Module:
    """The causal language model of transformers that a folder, a hub name or a name of ours stands for."""
    from transformers import AutoModelForCausalLM  # takes seconds

    if is_builtin_byte(str(name)):
        raise ConfigError(f"{name} has no folder for transformers; give its name to load_base_model")
    return AutoModelForCausalLM.from_pretrained(resolve(str(name)))


def create_reward_model(sft_model_path: str | Path, *, freeze_backbone: bool = False) -> nn.Module:
    """A sequence classifier with one score on the trunk of the SFT model, for training loops of one's own.

    Its head is new and gives 0. The pipeline's own reward model is trained by run_reward_training.
    """
    return _with_head("AutoModelForSequenceClassification", sft_model_path, freeze_backbone=freeze_backbone)


def create_value_model(sft_model_path: str | Path) -> nn.Module:
    """A token classifier with one value per token on the trunk of the SFT model; its head is new and gives 0."""
    return _with_head("AutoModelForTokenClassification", sft_model_path, freeze_backbone=False)


@needs("hf", "a model with a head")
def _with_head(kind: str, path: str | Path, *, freeze_backbone: bool) -> nn.Module:
    import transformers

    with tempfile.TemporaryDirectory() as scratch:
        folder = export_pt(Path(path), Path(scratch) / "model")
        model = getattr(transformers, kind).from_pretrained(folder, num_labels=1)
    trunk = set(map(id, model.base_model.parameters()))
    for weight in model.parameters():
        if id(weight) not in trunk:
            nn.init.zeros_(weight)
        weight.requires_grad_(not (freeze_backbone and id(weight) in trunk))
    return model


@dataclass(frozen=True)
class StageTrainer:
    """A stage of a pipeline that is ready to run; `train` runs it, or goes on with it, and returns the path of what it
    leaves.
    """

    pipeline: RLHFPipeline
    train: Callable[[], str]


_STAGES = {
    "sft": "run_sft",
    "reward": "run_reward_training",
    "ppo": "run_ppo_training",
    "dpo": "run_dpo_training",
    "kto": "run_kto_training",
}


def create_trainer(kind: str, pipeline: RLHFPipeline, *paths: str | Path, **named: Any) -> StageTrainer:
    """The trainer of a stage; `paths` are those of its run_… method. Raises ConfigError for an unknown kind."""
    if kind not in _STAGES:
        raise ConfigError(f"create_trainer: got {kind!r}; allowed are {', '.join(_STAGES)}")
    return StageTrainer(pipeline, partial(getattr(pipeline, _STAGES[kind]), *paths, **named))


SFTTrainer = partial(create_trainer, "sft")
RewardTrainer = partial(create_trainer, "reward")
PPOTrainer = partial(create_trainer, "ppo")
DPOTrainer = partial(create_trainer, "dpo")
KTOTrainer = partial(create_trainer, "kto")
