"""The pipeline's .pt files: weights, settings and step in one file that holds no code; to and from folders.

* `model_state_dict`: tensors under Hugging Face names; of a reward model also scalar_head.weight [D] and .bias [].
* `config`: the flat settings, and next to them `stage` (sft, reward, ppo), `architecture` (config.json of the model, or
  null for a torch module of a program's own), `tokenizer` (file name → text), and `score` (mean and deviation of a
  reward model's scores on the replies that it was trained on).
* `step`: optimizer steps of SFT and reward model, rounds of PPO.
* `value_model_state_dict`, of PPO alone: the critic, named as a reward model's tensors are.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thumbs.compat.rlhf_pipeline.tokenizer import tokenizer_files, tokenizer_of, write_tokenizer
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.checkpoints import HEAD, MANIFEST, MODEL, read_tensors, write_checkpoint
from thumbs.errors import ConfigError, ModelError, RunError
from thumbs.models.checkpoint_files import SCORED_AT
from thumbs.pipeline.exports import DTYPES, classifier, write_model
from thumbs.stages.ppo_run import CRITIC
from thumbs.tracking.files import new_folder, plain, read_json, replacing, write_json, writing

PARTS = ("model_state_dict", "config", "step")
VALUE_MODEL = "value_model_state_dict"
SUFFIXES = (".pt", ".pth", ".bin")

_HEAD = "scalar_head."


@dataclass(frozen=True)
class PtFile:
    """What one of our .pt files holds."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    step: int
    value_model: dict[str, Tensor] | None = None

    @property
    def is_reward(self) -> bool:
        """Whether it scores, and does not write."""
        return any(name.startswith(_HEAD) for name in self.state)

    def trunk(self) -> dict[str, Tensor]:
        """The tensors of the language model."""
        return {name: tensor for name, tensor in self.state.items() if not name.startswith(_HEAD)}

    def head(self) -> dict[str, Tensor]:
        """The tensors of the scalar head, as the engine names them."""
        return {n.removeprefix(_HEAD): tensor for n, tensor in self.state.items() if n.startswith(_HEAD)}

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with."""
        return tokenizer_of(self.config["tokenizer"])


def pack(folder: Path, tokenizer: Tokenizer, config: dict[str, Any], step: int, critic: Path | None = None) -> PtFile:
    """What the checkpoint in `folder` becomes as a .pt file, with the critic's if there is one."""
    architecture = read_json(folder / "config.json") if (folder / "config.json").exists() else None
    settings = plain(config) | {"architecture": architecture, "tokenizer": tokenizer_files(tokenizer)}
    value_model = checkpoint_state(critic) if critic is not None and critic.exists() else None
    return PtFile(checkpoint_state(folder), settings, int(step), value_model)


def checkpoint_state(folder: Path) -> dict[str, Tensor]:
    """The tensors of one of the engine's checkpoints as a .pt names them."""
    state = read_tensors(folder / MODEL)
    if (folder / HEAD).exists():
        state |= {_HEAD + name: tensor for name, tensor in read_tensors(folder / HEAD).items()}
    return state


def write_pt(path: Path, content: PtFile) -> None:
    """Writes the file so that a reader finds the old one or the new one, never a part."""
    values: dict[str, Any] = dict(zip(PARTS, (content.state, content.config, content.step), strict=True))
    values |= {} if content.value_model is None else {VALUE_MODEL: content.value_model}
    with writing(path), replacing(path) as temporary:
        torch.save(values, temporary)


def read_pt(path: Path, *, mmap: bool = False) -> PtFile:
    """Reads one of our files without running anything in it; raises ModelError for any other.

    mmap: leave the tensors on the disk, where they are read when they are used.
    """
    mend = "allowed is a .pt that this pipeline wrote; another program's weights come as a folder with safetensors"
    if not path.is_file():
        raise ModelError(f"no file at {path}; was the stage that writes it run?")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read as weights alone ({reason}); {mend}") from None
    config = values.get("config") if isinstance(values, dict) and values.keys() >= set(PARTS) else None
    if not isinstance(config, dict) or not {"architecture", "tokenizer"} <= config.keys():
        got = sorted(map(str, values))[:5] if isinstance(values, dict) else type(values).__name__
        raise ModelError(f"{path} holds {got}, not {', '.join(PARTS)} with settings and tokenizer; {mend}")
    if unknown := [str(key) for key in values if key not in (*PARTS, VALUE_MODEL)]:
        raise ModelError(f"{path} also holds {', '.join(unknown)}, which nothing here reads; {mend}")
    return PtFile(values["model_state_dict"], values["config"], int(values["step"]), values.get(VALUE_MODEL))


def unpack(content: PtFile, folder: Path, model: dict[str, Any]) -> None:
    """Writes a folder that is a Hugging Face model and one of the engine's checkpoints; `model`: its settings there.

    A critic becomes a checkpoint in its folder `critic`.
    """
    tensors = {MODEL: content.trunk()} | ({HEAD: content.head()} if content.is_reward else {})
    heads = ["scalar"] if content.is_reward else ["lm"]
    files: dict[str, Any] = {MANIFEST: {"model": model, "heads": heads, "seed": 0, "steps": content.step}}
    if content.config["architecture"] is not None:
        files["config.json"] = content.config["architecture"]
    write_checkpoint(folder, tensors, files)
    write_tokenizer(content.config["tokenizer"], folder)
    if content.value_model is not None:
        unpack(PtFile(content.value_model, content.config, content.step), folder / CRITIC, model)


def export_pt(path: Path, out: Path, dtype: str | None = None) -> Path:
    """Writes a .pt as a Hugging Face folder: a causal language model, or a sequence classifier with one score.

    dtype: of the weights; None: float32, in which they were trained. score_mean and score_std in a classifier's
    config.json say how the pipeline scaled its scores. Raises RunError for what cannot be exported.
    """
    content = read_pt(path)
    if content.config["architecture"] is None:
        raise ConfigError(f"{path} holds a torch module of a program's own, which transformers cannot open")
    if dtype is not None and dtype not in DTYPES:
        raise RunError(f"--dtype {dtype}: allowed are {', '.join(DTYPES)}")
    tokenizer = content.tokenizer()
    special = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    tensors, architecture = content.trunk(), content.config["architecture"] | special
    with new_folder(out) as scratch:
        if content.is_reward:
            tensors, architecture = classifier(tensors, architecture, content.head())
            score = content.config["score"]
            architecture |= {"score_bias": 0.0, "score_mean": score["mean"], "score_std": score["std"]}
            write_json(scratch / SCORED_AT, {"scored_at": "end_token"})
        write_model(scratch, tensors, architecture, dtype or "float32")
        write_tokenizer(content.config["tokenizer"], scratch)
    return out
