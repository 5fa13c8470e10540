"""The pipeline's .pt files: weights, settings and step in one file that holds no code; to and from folders.

* `model_state_dict`: tensors under Hugging Face names; of a reward model also scalar_head.weight [D] and .bias [].
* `config`: the flat settings, and beside them `stage` (sft, reward, ppo), `architecture` (config.json of the model, or
  null for a torch module of a program's own), `tokenizer` (file name → text), and `score` (mean and deviation of a
  reward model's scores on the replies that it was trained on).
* `step`: optimizer steps of SFT and reward model, rounds of PPO.
"""

from __future__ import annotations

import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from thumbs.compat.rlhf_pipeline.tokenizer import tokenizer_files, tokenizer_of, write_tokenizer
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.checkpoints import MANIFEST, read_tensors, write_checkpoint
from thumbs.engine.local import HEAD, MODEL
from thumbs.errors import ConfigError, ModelError, RunError
from thumbs.tracking.files import plain, read_json, replacing, write_json, writing

PARTS = ("model_state_dict", "config", "step")
SUFFIXES = (".pt", ".pth", ".bin")

_HEAD = "scalar_head."
_OUTPUT = ("lm_head.weight", "embed_out.weight")


@dataclass(frozen=True)
class PtFile:
    """What one of our .pt files holds."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    step: int

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


def pack(folder: Path, tokenizer: Tokenizer, config: dict[str, Any], step: int) -> PtFile:
    """What the checkpoint in `folder` becomes as a .pt file."""
    state = read_tensors(folder / MODEL)
    if (folder / HEAD).exists():
        state |= {_HEAD + name: tensor for name, tensor in read_tensors(folder / HEAD).items()}
    architecture = read_json(folder / "config.json") if (folder / "config.json").exists() else None
    return PtFile(
        state, plain(config) | {"architecture": architecture, "tokenizer": tokenizer_files(tokenizer)}, int(step)
    )


def write_pt(path: Path, content: PtFile) -> None:
    """Writes the file so that a reader finds the old one or the new one, never a part."""
    values = dict(zip(PARTS, (content.state, content.config, content.step), strict=True))
    with writing(path), replacing(path) as temporary:
        torch.save(values, temporary)


def read_pt(path: Path) -> PtFile:
    """Reads one of our files without running anything in it; raises ModelError for any other."""
    mend = "allowed is a .pt that this pipeline wrote; another program's weights come as a folder with safetensors"
    if not path.is_file():
        raise ModelError(f"no file at {path}; was the stage that writes it run?")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} cannot be read as weights alone ({reason}); {mend}") from None
    missing = [part for part in PARTS if not isinstance(values, dict) or part not in values]
    if (
        missing
        or not isinstance(values["config"], dict)
        or not {"architecture", "tokenizer"} <= values["config"].keys()
    ):
        got = sorted(map(str, values))[:5] if isinstance(values, dict) else type(values).__name__
        raise ModelError(f"{path} holds {got}, not {', '.join(PARTS)} with settings and tokenizer; {mend}")
    return PtFile(values["model_state_dict"], values["config"], int(values["step"]))


def unpack(content: PtFile, folder: Path, model: dict[str, Any]) -> None:
    """Writes a folder that is a Hugging Face model and one of the engine's checkpoints; `model`: its settings there."""
    tensors = {MODEL: content.trunk()} | ({HEAD: content.head()} if content.is_reward else {})
    heads = ["scalar"] if content.is_reward else ["lm"]
    files: dict[str, Any] = {MANIFEST: {"model": model, "heads": heads, "seed": 0, "steps": content.step}}
    if content.config["architecture"] is not None:
        files["config.json"] = content.config["architecture"]
    write_checkpoint(folder, tensors, files)
    write_tokenizer(content.config["tokenizer"], folder)


def export_pt(path: Path, out: Path) -> Path:
    """Writes a .pt as a Hugging Face folder: a causal language model, or a sequence classifier with one score.

    The classifier has no bias, which config.json keeps as `score_bias`, with score_mean and score_std beside it.
    """
    content = read_pt(path)
    if content.config["architecture"] is None:
        raise ConfigError(f"{path} holds a torch module of a program's own, which transformers cannot open")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not empty; name another folder")
    tokenizer = content.tokenizer()
    special = {"eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id, "dtype": "float32"}
    tensors, architecture = content.trunk(), content.config["architecture"] | special
    if content.is_reward:
        tensors, architecture = _classifier(content, architecture)
    scratch = out.with_name(f".{out.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    with writing(out):
        scratch.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in tensors.items()}, scratch / "model.safetensors", {"format": "pt"})
        write_json(scratch / "config.json", architecture)
        write_tokenizer(content.config["tokenizer"], scratch)
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    return out


def _classifier(content: PtFile, architecture: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES  # slow to import

    name = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(architecture["model_type"])
    if name is None:
        raise ConfigError(f"transformers has no sequence classifier of type {architecture['model_type']!r}")
    tensors = {key: tensor for key, tensor in content.trunk().items() if key not in _OUTPUT}
    head, score = content.head(), content.config["score"]
    labels = {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}, "architectures": [name]}
    kept = {"score_bias": float(head["bias"]), "score_mean": score["mean"], "score_std": score["std"]}
    return tensors | {"score.weight": head["weight"][None]}, architecture | labels | kept
