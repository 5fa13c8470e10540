"""From what `from_pretrained` was given to a model in an engine, and back to a folder; safetensors only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from thumbs.compat.settings import CheckedSettings
from thumbs.compat.trl_ppo.engine import open_here
from thumbs.config.model import ADAPTED, AdapterConfig, ModelConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import Handle, ModelSpec
from thumbs.engine.checkpoints import ADAPTER, HEAD, MANIFEST, read_tensors
from thumbs.engine.compute import ModuleEngine
from thumbs.errors import ConfigError, ModelError
from thumbs.models.base import Trunk
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.models.checkpoint_files import INDEX, SINGLE, read_json_object
from thumbs.models.peft_folder import CONFIG as PEFT_CONFIG
from thumbs.models.peft_settings import why_refused
from thumbs.models.trunk import empty_trunk
from thumbs.models.weights import read_tensors as read_weights
from thumbs.tracking.files import write_json

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")

_NOT_TRAINED = (
    "bias", "use_dora", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "exclude_modules",
    "modules_to_save", "trainable_token_indices",
)  # fmt: skip
"""Settings of PEFT's that its adapters may have and those that are trained here have not."""

PEFT_DEFAULT = ("q_proj", "v_proj")
"""What PEFT adapts in Llama-shaped models when target_modules is not given."""

_WITHOUT_EFFECT = {
    "summary_dropout_prob": "the value head has no dropout, which would make the first ratio differ from 1",
    "load_in_8bit": "weights are kept as they are",
    "load_in_4bit": "weights are kept as they are",
    "quantization_config": "weights are kept as they are",
    "trust_remote_code": "no code from a model's folder is run",
    "device_map": None,
    "low_cpu_mem_usage": None,
    "attn_implementation": None,
    "use_auth_token": None,
    "token": None,
    "revision": "the newest revision is taken",
    "cache_dir": "set THUMBS_CACHE",
    "is_trainable": None,
    "use_safetensors": None,
    "layer_norm_names": None,
}


@dataclass(init=False)
class Opening(CheckedSettings):
    """Keywords of `from_pretrained`."""

    renamed = dict.fromkeys(
        ("reward_adapter", "reward_adapter_name"), "a reward model that you train (`thumbs reward-model`) and call"
    )
    without_effect = _WITHOUT_EFFECT

    peft_config: Any = None
    torch_dtype: Any = None
    dtype: Any = None
    seed: int = 0
    v_head_init_strategy: Literal["normal"] | None = None
    v_head_initializer_range: float = 0.2

    def precision(self) -> Any:
        """In which to compute; what is trained without adapters holds float32 weights all the same."""
        wanted = self.dtype if self.torch_dtype is None else self.torch_dtype
        text = "auto" if wanted is None else str(wanted).removeprefix("torch.")
        if text == "float16":
            warnings.warn("torch_dtype=float16 overflows in training; bfloat16 is taken", stacklevel=5)
            text = "bfloat16"
        if text not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"torch_dtype={wanted!r}; allowed are float32, bfloat16 and 'auto'")
        return text


@dataclass(frozen=True)
class LoadedModel:
    """A model in an engine; `files` holds the weights of a model that came as an object."""

    engine: ModuleEngine
    handle: Handle
    files: TemporaryDirectory | None


def load(source: Any, keywords: Mapping[str, Any]) -> LoadedModel:
    """A trainable model with a language-model head and a value head; see `from_pretrained`."""
    given, files = Opening(**keywords), None
    if hasattr(source, "save_pretrained") and not isinstance(source, str | Path):
        source, files = _written(source, given)
    name, folder = str(source), Path(str(source)).expanduser()
    peft, seed = given.peft_config, given.seed
    is_adapter = (folder / PEFT_CONFIG).is_file()
    if is_adapter:
        if peft is not None:
            warnings.warn(
                f"{folder} holds a trained adapter, which goes on as it is; peft_config is ignored", stacklevel=3
            )
        peft = read_json_object(folder / PEFT_CONFIG)
        # A folder of ours notes the base's name in our catalog, and of a byte model's random base the seed.
        ours = read_json_object(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
        name = str(peft["base_model_name_or_path"] if ours is None else ours["model"]["name"])
        seed = seed if ours is None else int(ours["seed"])
    lora = None if peft is None else read_lora(peft, empty_trunk(ModelConfig(name=name)).depth)
    model = ModelConfig(name=name, lora=lora, dtype=given.precision())
    engine = open_here()
    handle = engine.create(ModelSpec("policy", model, heads=("lm", "scalar"), seed=seed))
    adapter = engine.model(handle).adapter
    if is_adapter and adapter is not None:
        adapter.load_peft_state(read_tensors(folder / ADAPTER))
    _fill_head(engine, handle, folder if folder.is_dir() else None, given)
    return LoadedModel(engine, handle, files)


def save(engine: ModuleEngine, handle: Handle, folder: Path, config: Any) -> None:
    """Writes weights, config.json or adapter_config.json, and the value head, file by file; other files stay.

    transformers and PEFT read the folder; `from_pretrained` reads the value head as well.
    Raises ConfigError for a whole model where an adapter is, since the folder would then be read as that adapter.
    """
    if engine.model(handle).spec.model.lora is None and (folder / PEFT_CONFIG).exists():
        raise ConfigError(f"{folder} holds an adapter; save the whole model to another folder")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".saving"
    engine.save(handle, scratch)
    if (scratch / "config.json").is_file():
        raw = read_json_object(scratch / "config.json")
        write_json(scratch / "config.json", raw | {key: getattr(config, key, None) for key in SPECIAL_TOKENS})
    for file in sorted(scratch.iterdir()):
        file.replace(folder / file.name)
    scratch.rmdir()


def describe(name: str, trunk: Trunk) -> Any:
    """What tutorials read of `model.config`: sizes and special tokens."""
    values: dict[str, Any] = {"name_or_path": name, "is_encoder_decoder": False, "use_cache": True}
    values |= {"hidden_size": trunk.width, **trunk.files().get("config.json", {})}
    if is_builtin_byte(name):
        ids = (ByteTokenizer.BOS, ByteTokenizer.EOS, ByteTokenizer.PAD)
        return SimpleNamespace(**values, **dict(zip(SPECIAL_TOKENS, ids, strict=True)))
    raw = read_json_object(resolve(name) / "config.json")
    return SimpleNamespace(**dict.fromkeys(SPECIAL_TOKENS) | values | raw)


def read_lora(config: Any, depth: int) -> AdapterConfig:
    """Our settings, for a model of `depth` layers, from PEFT's LoraConfig, its dictionary or adapter_config.json.

    Raises ConfigError for what is not supported.
    """
    if isinstance(config, AdapterConfig):
        return config
    given = dict(config) if isinstance(config, Mapping) else dict(vars(config))
    given = {"peft_type": "LORA", "r": 8, "lora_alpha": 8} | {k: v for k, v in given.items() if v is not None}
    given["peft_type"] = getattr(given["peft_type"], "value", given["peft_type"])
    if reason := why_refused(given):
        raise ConfigError(f"peft_config: {reason}")
    for name in _NOT_TRAINED:
        if given.get(name, "none") != "none" and given[name]:
            raise ConfigError(f"peft_config: {name}={given[name]!r} is not supported; leave it out")
    if given.get("lora_dropout"):
        warnings.warn(
            f"peft_config: lora_dropout={given['lora_dropout']} is left out; with dropout ratio and KL start off wrong",
            stacklevel=4,
        )
    targets, layers = given.get("target_modules"), given.get("layers_to_transform")
    if targets is None:
        targets = PEFT_DEFAULT
    elif isinstance(targets, str):
        targets = ADAPTED if targets == "all-linear" else (targets,)
    if layers is not None:
        layers = [layers] if isinstance(layers, int) else sorted(layers)
        if layers != list(range(depth - len(layers), depth)):
            raise ConfigError(f"peft_config: layers_to_transform={layers}; only the last of the {depth} can be chosen")
    ordered = tuple(name for name in ADAPTED if name in targets) + tuple(t for t in targets if t not in ADAPTED)
    return AdapterConfig(
        rank=given["r"],
        alpha=given["lora_alpha"],
        targets=ordered,
        layers=len(layers) if layers else None,
    )


def _written(model: Any, given: Opening) -> tuple[str, TemporaryDirectory]:
    """A transformers model as a folder, which lives as long as ours."""
    if hasattr(model, "peft_config") or given.peft_config is not None:
        raise ConfigError("adapters need a base that is found again: give its name or folder, and peft_config=…")
    files = TemporaryDirectory(prefix="thumbs-trl-ppo-")
    model.save_pretrained(files.name)
    return files.name, files


def _fill_head(engine: ModuleEngine, handle: Handle, folder: Path | None, given: Opening) -> None:
    head = engine.model(handle).scalar
    assert head is not None  # noqa: S101 (created with one)
    if folder is not None and (found := _value_head(folder)) is not None:
        head.load_state_dict(found)
    elif given.v_head_init_strategy == "normal":
        with torch.no_grad():
            head.weight.normal_(0.0, given.v_head_initializer_range)


def _value_head(folder: Path) -> dict[str, Tensor] | None:
    """The head that we saved, or one that TRL saved in model.safetensors; None if there is none."""
    if (folder / HEAD).is_file():
        return read_tensors(folder / HEAD)
    stored = read_weights(folder) if any((folder / name).is_file() for name in (SINGLE, INDEX)) else {}
    if (weight := stored.get("v_head.summary.weight")) is not None:
        if weight.numel() != weight.shape[-1]:
            raise ModelError(f"{folder}: v_head.summary.weight has shape {tuple(weight.shape)}; one row is wanted")
        return {"weight": weight.flatten().float(), "bias": stored["v_head.summary.bias"].float().reshape(())}
    if (folder / "pytorch_model.bin").is_file():
        warnings.warn(
            f"{folder / 'pytorch_model.bin'} is a pickle and is not read, so the value head starts at zero",
            stacklevel=6,
        )
    return None
