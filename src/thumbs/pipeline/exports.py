"""What leaves a run: a whole model, an adapter, or either of them as a sequence classifier that scores.

Everything that can be refused is refused before a file is written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thumbs.config.pipeline import PipelineConfig
from thumbs.data.chat_template import ROLE_COLON
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.checkpoints import ADAPTER, HEAD, MODEL, read_tensors
from thumbs.errors import RunError, needs
from thumbs.models.base_identity import BaseIdentity, identify
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.models.checkpoint_files import SCORED_AT
from thumbs.models.decoder_config import why_not_covered
from thumbs.models.tensor_files import write_tensors
from thumbs.models.trunk import open_trunk
from thumbs.models.weights import read_tensors as read_weights
from thumbs.tracking.files import read_json, write_json, write_text

FORMATS = ("peft", "hf", "gguf")
"""An adapter, a whole model for transformers, a whole model in one file for llama.cpp and Ollama."""
DTYPES = ("float32", "bfloat16", "float16")
GGUF = "model.gguf"
GENERATION, PEFT_CONFIG = "generation_config.json", "adapter_config.json"
_TOKENIZER_FILES = (
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "vocab.json",
    "tokenizer.model",
)
_OUTPUT = ("lm_head.weight", "embed_out.weight")
# Of the folder that the weights came from, not of those that are written.
_NOT_OURS = ("quantization_config", "auto_map", "torch_dtype", "_name_or_path", "transformers_version")


@dataclass(frozen=True)
class Exported:
    """What an export is. scores: a reward model; form: one of FORMATS; dtype: of a whole model's weights."""

    scores: bool
    form: str
    base: BaseIdentity
    dtype: str

    @property
    def merged(self) -> bool:
        """Whether it stands alone."""
        return self.form != "peft"

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever loads it must know."""
        return () if self.merged or self.base.warning is None else (self.base.warning,)


def plan_export(run: Path, config: PipelineConfig, stage: str, *, form: str | None, dtype: str | None) -> Exported:
    """What the export will be; raises RunError, which names the reason and the way out, if it cannot be.

    form: one of FORMATS; None: an adapter if there is one, else a whole model for transformers.
    """
    name = stage.rpartition("/")[2]
    if name == "cost_model":
        raise RunError(
            f"{run / stage}: a cost model is not exported, since its head has a bias and a scaling that a sequence "
            "classifier has no place for; use it from here, as `cost` of a constraint or `model` of a reward"
        )
    whole = name == "base" or config.model.lora is None
    if form is not None and form not in FORMATS:
        raise RunError(f"--format {form}: allowed are {', '.join(FORMATS)}")
    if form == "peft" and whole:
        raise RunError(f"--format peft: {stage} of this run has no adapter; use --format hf, or leave it out")
    form = form or ("hf" if whole else "peft")
    allowed = _gguf_types() if form == "gguf" else DTYPES
    if dtype is not None and dtype not in allowed:
        raise RunError(f"--dtype {dtype}: allowed are {', '.join(allowed)}")
    if dtype is not None and form == "peft":
        raise RunError("--dtype belongs to --format hf and gguf: an adapter is written in float32, as it was trained")
    if name == "reward_model":
        if form == "gguf":
            raise RunError("--format gguf: a reward model gives a score, which a GGUF file has no place for; use hf")
        _refuse_reward(run / stage, config)
    dtype = dtype or base_dtype(config.model.name)
    return Exported(name == "reward_model", form, identify(config.model.name), dtype)


def _gguf_types() -> tuple[str, ...]:
    with needs("gguf", "writing a GGUF file"):
        from thumbs.models.gguf_writer import TYPES
    return tuple(TYPES)


def base_dtype(name: str) -> str:
    """The format in which the base was published, float32 where its config.json does not tell."""
    raw = base_json(name)
    told = raw.get("dtype") or raw.get("torch_dtype")
    return told if told in DTYPES else "float32"


def base_json(name: str, file: str = "config.json") -> dict[str, Any]:
    """A file of the base; empty if it has none, as a byte model, which has no files."""
    path = None if is_builtin_byte(name) else resolve(name) / file
    return {} if path is None or not path.is_file() else read_json(path)


def runs_elsewhere(name: str) -> str | None:
    """Why the base runs through transformers; None for what our decoder computes."""
    return None if is_builtin_byte(name) else why_not_covered(base_json(name))


def write_export(
    out: Path, checkpoint: Path | None, config: PipelineConfig, tokenizer: Tokenizer, plan: Exported
) -> None:
    """Writes everything but the card. checkpoint: of the stage; None: the base itself."""
    if plan.form == "gguf":
        with needs("gguf", "writing a GGUF file"):
            from thumbs.models.gguf_writer import write_gguf
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as whole:
            write_export(Path(whole), checkpoint, config, tokenizer, replace(plan, form="hf", dtype="float32"))
            write_gguf(Path(whole), out / GGUF, plan.dtype, plan.base.name or config.model.name)
        write_text(out / "Modelfile", modelfile(config.system))
        return
    name = config.model.name
    # A classifier reads its score at the last token that does not pad, so no end of a reply may pad.
    pad = scoring_pad(name, tokenizer) if plan.scores else None
    write_tokenizer(out, name, tokenizer, pad)
    if plan.merged:
        tensors, keys = whole_model(checkpoint, config)
        keys |= special_ids(name, tokenizer)
        if pad is not None and checkpoint is not None:
            tensors, keys = classifier(tensors, keys | {"pad_token_id": pad}, read_tensors(checkpoint / HEAD))
        else:
            write_json(out / GENERATION, base_json(name, GENERATION) | special_ids(name, tokenizer))
        write_model(out, tensors, keys, plan.dtype)
    elif checkpoint is not None:
        write_adapter(out, checkpoint, plan)
    if plan.scores:
        write_json(out / SCORED_AT, {"scored_at": "end_token"})


def modelfile(system: str | None) -> str:
    """What `ollama create NAME -f Modelfile` reads; the chat template is in the model's file.

    Raises RunError for a system message that a Modelfile cannot quote.
    """
    if system is not None and '"""' in system:
        raise RunError('the system message has """ in it, which a Modelfile cannot quote; change `system` of the run')
    quoted = "" if system is None else f'SYSTEM """{system}"""\n'
    return f"# ollama create NAME -f Modelfile\nFROM ./{GGUF}\n{quoted}"


def scoring_pad(name: str, tokenizer: Tokenizer) -> int:
    """The token with which a classifier's batches are padded: ours, or the last special one, that ends no reply."""
    ends = ends_of(name, tokenizer)
    added = base_json(name, "tokenizer.json").get("added_tokens") or []
    special = [token["id"] for token in added if token["special"] and token["id"] not in ends]
    return tokenizer.pad_id if tokenizer.pad_id not in ends or not special else max(special)


def whole_model(checkpoint: Path | None, config: PipelineConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config.json of a model: our decoder's, float32, or those that transformers runs, as they are."""
    name, lora = config.model.name, config.model.lora
    if runs_elsewhere(name) and (checkpoint is None or lora is None):
        folder = checkpoint or resolve(name)
        return read_weights(folder), read_json(folder / "config.json")
    trunk, adapter = open_trunk(config.model, seed=config.seed), None
    if checkpoint is not None and lora is not None:
        adapter = trunk.new_adapter(lora, 0)
        adapter.load_peft_state(read_tensors(checkpoint / ADAPTER))
    elif checkpoint is not None:
        trunk.load_tensors(read_tensors(checkpoint / MODEL), str(checkpoint))
    return trunk.tensors(adapter), base_json(name) | trunk.files()["config.json"]


def write_model(out: Path, tensors: Mapping[str, Tensor], config: dict[str, Any], dtype: str) -> None:
    """Writes model.safetensors and config.json; raises RunError if a weight is not finite in that format."""
    write_tensors(out / MODEL, cast(tensors, dtype))
    kept = {key: value for key, value in config.items() if key not in _NOT_OURS}
    write_json(out / "config.json", kept | {"dtype": dtype})


def cast(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The tensors in that format; raises RunError that names one which is not finite there."""
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        if not torch.isfinite(found[name]).all():
            if not torch.isfinite(tensor).all():
                raise RunError(f"{name} holds numbers that are not finite; the model is broken and is not exported")
            most = torch.finfo(getattr(torch, dtype)).max
            raise RunError(
                f"{name} reaches {float(tensor.abs().max()):.4g} and {dtype} ends at {most:.4g}; "
                "use --dtype bfloat16 or float32"
            )
    return found


def classifier(
    tensors: Mapping[str, Tensor], config: dict[str, Any], head: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Any]:
    """Tensors and config.json of a language model and a scalar head as a sequence classifier with one score."""
    body = {name: tensor for name, tensor in tensors.items() if name not in _OUTPUT}
    labels = {
        "architectures": [classifier_name(config["model_type"])],
        "num_labels": 1,
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
        "problem_type": "regression",
    }
    return body | {"score.weight": score_weight(head)}, config | labels


def classifier_name(model_type: str) -> str:
    """The sequence classifier of a family in transformers; raises RunError if there is none."""
    with needs("hf", "exporting a reward model"):
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

    if name := MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(model_type):
        return name
    raise RunError(
        f"transformers has no sequence classifier for models of type {model_type!r}, so the reward model cannot be "
        "exported; use its `reward_model` folder in `reward:`"
    )


def score_weight(head: Mapping[str, Tensor]) -> Tensor:
    """The head as the row [1, D] of a linear layer without a bias; raises RunError for a head that has one."""
    if head["weight"].dim() != 1:
        raise RunError(f"the reward head gives {len(head['weight'])} scores; a sequence classifier has one")
    if float(head["bias"]) != 0:
        raise RunError(
            f"the reward head has a bias ({float(head['bias']):.4g}), which sequence classifiers of its family do not "
            "have, so every score would be shifted; an older version trained it. Train the stage `reward_model` again"
        )
    return head["weight"][None]


def write_adapter(out: Path, checkpoint: Path, plan: Exported) -> None:
    """Writes the adapter of a checkpoint as PEFT reads it; of a reward model with its head, for classification."""
    tensors, config = read_tensors(checkpoint / ADAPTER), read_json(checkpoint / PEFT_CONFIG)
    config |= {"base_model_name_or_path": plan.base.name, "revision": plan.base.revision}
    if plan.scores:
        tensors |= {"base_model.model.score.weight": score_weight(read_tensors(checkpoint / HEAD))}
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    write_tensors(out / ADAPTER, tensors)
    write_json(out / PEFT_CONFIG, config)


def special_ids(name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """eos_token_id with every token that ends a reply, here or in the base, and the base's pad_token_id, or ours."""
    ends, pad = ends_of(name, tokenizer), (base_json(name) | base_json(name, GENERATION)).get("pad_token_id")
    return {
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": tokenizer.pad_id if pad is None else pad,
    }


def ends_of(name: str, tokenizer: Tokenizer) -> list[int]:
    """Every token that ends a reply: by the tokenizer, the base's config.json and its generation_config.json."""
    return list(dict.fromkeys([*tokenizer.stop_ids, *_ids(base_json(name)), *_ids(base_json(name, GENERATION))]))


def write_tokenizer(out: Path, name: str, tokenizer: Tokenizer, pad: int | None = None) -> None:
    """Writes the tokenizer whole, with the chat template that training used; `pad`: another token to pad with."""
    tokenizer.save(out)
    folder = None if is_builtin_byte(name) else resolve(name)
    for file in _TOKENIZER_FILES:
        if folder is not None and (folder / file).is_file() and not (out / file).exists():
            shutil.copyfile(folder / file, out / file)
    settings = out / "tokenizer_config.json"
    config = read_json(settings) if settings.is_file() else {}
    if not config.get("chat_template") and not (out / "chat_template.jinja").is_file():
        write_text(out / "chat_template.jinja", ROLE_COLON)
    if pad is not None:
        padding = {"pad_token": tokenizer.decode([pad], skip_special=False)}
        write_json(settings, config | padding)
        names = out / "special_tokens_map.json"
        if names.is_file():
            write_json(names, read_json(names) | padding)


def _refuse_reward(folder: Path, config: PipelineConfig) -> None:
    """Raises RunError for a reward model that is not a sequence classifier with one score."""
    reward_model = config.reward_model
    if reward_model is not None and reward_model.members > 1:
        what, where = ("adapters", "model, model-2 and so on") if reward_model.adapters > 1 else ("heads", "model")
        raise RunError(
            f"the reward model is an ensemble of {reward_model.members} {what}, which no sequence classifier is; use "
            f"{folder} in `reward:`, where its members are ({where})"
        )
    if reward_model is not None and reward_model.form == "steps":
        raise RunError(
            f"the reward model scores steps (loss {reward_model.loss}), and a sequence classifier whole replies; use "
            f"{folder} in `reward:`"
        )
    if reason := runs_elsewhere(config.model.name):
        raise RunError(
            f"{config.model.name} runs through transformers here ({reason}), and reward models of such bases are not "
            f"exported; use {folder} in `reward:`"
        )
    raw = base_json(config.model.name)
    _ = classifier_name(raw.get("model_type", "llama"))
    if (folder / "model" / HEAD).is_file():
        _ = score_weight(read_tensors(folder / "model" / HEAD))


def _ids(raw: Mapping[str, Any]) -> list[int]:
    found = raw.get("eos_token_id")
    return [] if found is None else [found] if isinstance(found, int) else list(found)
