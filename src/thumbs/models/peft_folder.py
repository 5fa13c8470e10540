"""A PEFT adapter folder as a model: its base with the adapter folded in, as trainers elsewhere leave it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thumbs.errors import ModelError
from thumbs.models.checkpoint_files import INDEX, read_json_object, some
from thumbs.models.content import settings_files
from thumbs.models.peft_settings import WAY_OUT, is_target, rank_of, scale_of, why_refused
from thumbs.models.quantised import check_plain
from thumbs.models.tensor_files import write_tensors
from thumbs.models.weights import check_finite, read_tensors, without_harmless
from thumbs.tracking.files import write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def base_name(folder: Path) -> str:
    """Name of the model that the adapter was trained on."""
    name = read_peft_config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError(f"{folder / CONFIG} does not say what its base is (base_model_name_or_path)")
    return name


def merge(folder: Path, base: Path, out: Path) -> None:
    """Writes to `out` the model in the folder `base` with W + s · B A for each adapted weight W, float32.

    An output embedding that was tied to the embedding gets weights of its own where the adapter changes only one of
    them; a vocabulary that the adapter's embedding enlarges is written to config.json. Raises ModelError for what
    `fold` does not read.
    """
    raw = read_json_object(base / "config.json")
    state = read_tensors(base)
    check_plain(state, str(base))
    state = {name: tensor.float() for name, tensor in without_harmless(state, str(base)).items()}
    tied = raw.get("tie_word_embeddings") and EMBEDDING in state
    if tied:
        state[OUTPUT] = state[EMBEDDING].clone()
    fold(folder, state, str(base))
    if tied and read_peft_config(folder).get("trainable_token_indices"):
        state[OUTPUT] = state[EMBEDDING]  # PEFT ties the tokens too
    _copy_rest(base, folder, out)
    if EMBEDDING in state:
        rows = {len(state[name]) for name in (EMBEDDING, OUTPUT) if name in state}
        if len(rows) > 1:
            raise ModelError(f"{folder}: embedding and output embedding have {sorted(rows)} rows; {WAY_OUT}")
        raw["vocab_size"] = rows.pop()
    if tied and torch.equal(state[OUTPUT], state[EMBEDDING]):
        del state[OUTPUT]
    elif tied:
        raw["tie_word_embeddings"] = False
    raw = {k: v for k, v in raw.items() if k not in ("quantization_config", "compression_config")}
    write_json(out / "config.json", raw)
    write_tensors(out / "model.safetensors", state)


def fold(folder: Path, state: dict[str, Tensor], base: str) -> None:
    """Adds an adapter to the weights `state` of the model `base` in their place, and puts in what it replaces.

    W + s · B A (Hu et al. 2021, arXiv:2106.09685, eq. 3), with DoRA scaled to the magnitude of each row
    (arXiv:2402.09353, eq. 5). Raises ModelError, which says why, for an adapter that is no such change; and for a
    tensor that is missing, left over, of another shape or not finite.
    """
    config = read_peft_config(folder)
    if why := why_refused(config):
        raise ModelError(f"{folder} cannot be read: {why}; {WAY_OUT}")
    parts = _parts(folder)
    check_complete = {module for module, kinds in parts.items() if {"A", "B"} <= kinds.keys()}
    for module, kinds in parts.items():
        place = _place(module, state, folder, base)
        for kind in kinds.keys() & {"weight", "bias"}:
            _replace(state, f"{place}.{kind}", kinds[kind], f"{folder}: {module}.{kind}", base)
        if {"A", "B"} & kinds.keys():
            weight = _adapted(state[f"{place}.weight"], kinds, config, module, f"{folder}: {module}")
            state[f"{place}.weight"] = weight
        if "tokens" in kinds:
            _replace_rows(state, f"{place}.weight", kinds["tokens"], config, f"{folder}: {module}")
    missing = [
        name.removesuffix(".weight")
        for name, weight in state.items()
        if name.endswith(".weight")
        and weight.ndim == 2
        and ".experts." not in name
        and is_target(config, name.removesuffix(".weight"))
    ]
    if lacking := set(missing) - {_place(module, state, folder, base) for module in check_complete}:
        raise ModelError(f"{folder}: {WEIGHTS} has no adapter of {some(lacking)}, which target_modules names")


_KINDS = (
    (re.compile(r"(.+)\.lora_(?:embedding_)?(A|B)(?:\.default)?(?:\.weight)?"), None),
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"), "magnitude"),
    (re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?"), "tokens"),
    (re.compile(r"(.+?)(?:\.base_layer|\.modules_to_save(?:\.default)?)?\.(weight|bias)"), None),
)
"""Names of PEFT's tensors: the module, and what of it the tensor is."""


def _parts(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Module → {A, B, magnitude, tokens, weight, bias}: the adapter's tensors in float32, checked one by one."""
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}; pickled adapters are not read, save it as safetensors")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS}: unreadable ({error}); save it again") from None
    check_plain(tensors, str(folder))
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        check_finite(tensor, f"{folder}: {name}")
        bare = name.removeprefix("base_model.model.")
        if ".original_module." in bare:  # what the base has there, saved next to what takes its place
            continue
        match = next(((m, kind) for p, kind in _KINDS if (m := p.fullmatch(bare))), None)
        if match is None or bare.endswith("lora_B.bias"):
            raise ModelError(f"{folder}: {name} is not a tensor of a LoRA adapter that is read here; {WAY_OUT}")
        kind = match[1] or match[0][2]
        kinds = parts.setdefault(match[0][1], {})
        kinds[kind] = tensor.float()
        if "lora_embedding_" in bare:
            kinds["embedding"] = kinds[kind]
    return parts


def _place(module: str, state: Mapping[str, Tensor], folder: Path, base: str) -> str:
    """The module under the name that the base's files have; some are saved without the prefix of the whole model."""
    for name in (module, module.partition(".")[2]):
        if f"{name}.weight" in state or f"{name}.bias" in state:
            return name
    raise ModelError(
        f"{folder} changes {module}, which {base} does not have; adapter_config.json names that as its base"
    )


def _adapted(weight: Tensor, kinds: Mapping[str, Tensor], config: Mapping[str, Any], module: str, what: str) -> Tensor:
    """The weight [out, in] with its change; embeddings [V, D] and GPT-2's layers (fan_in_fan_out) are stored turned."""
    if missing := {"A", "B"} - kinds.keys():
        raise ModelError(f"{what} has no lora_{missing.pop()}; the adapter is not complete")
    down, up, rank = kinds["A"], kinds["B"], rank_of(config, module)
    turned = "embedding" in kinds or (config.get("fan_in_fan_out") and weight.shape == (down.shape[1], up.shape[0]))
    out, wide = weight.shape[::-1] if turned else weight.shape
    if down.shape != (rank, wide) or up.shape != (out, rank):
        got = f"lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)}"
        raise ModelError(
            f"{what} has {got}; rank {rank} and its weight {tuple(weight.shape)} ask for {(rank, wide)}, {(out, rank)}"
        )
    change = scale_of(config, module) * (up @ down)
    changed = weight + (change.T if turned else change)
    if not config.get("use_dora"):
        return changed
    magnitude = kinds.get("magnitude")
    if turned or magnitude is None or magnitude.shape != (out,):
        raise ModelError(f"{what}: use_dora is set, and its lora_magnitude_vector is missing or not of {out} rows")
    return changed * (magnitude / changed.norm(dim=1))[:, None]


def _replace(state: dict[str, Tensor], name: str, tensor: Tensor, what: str, base: str) -> None:
    """Puts a whole weight in; an embedding may have other rows, because vocabularies are enlarged."""
    if name not in state:
        raise ModelError(f"{what} is a whole weight that {base} does not have")
    rows_may_differ = name in (EMBEDDING, OUTPUT)
    if tensor.shape[rows_may_differ:] != state[name].shape[rows_may_differ:] or tensor.ndim != state[name].ndim:
        raise ModelError(f"{what} has shape {tuple(tensor.shape)}, in {base} it is {tuple(state[name].shape)}")
    state[name] = tensor


def _replace_rows(state: dict[str, Tensor], name: str, rows: Tensor, config: Mapping[str, Any], what: str) -> None:
    given = config.get("trainable_token_indices")
    if isinstance(given, Mapping):
        given = next((v for k, v in given.items() if name.removesuffix(".weight").endswith(k)), None)
    whole = isinstance(given, list) and all(isinstance(i, int) and 0 <= i < len(state[name]) for i in given)
    if not whole or rows.shape != (len(given or ()), state[name].shape[1]):
        raise ModelError(f"{what}: rows {tuple(rows.shape)} of its tokens do not fit trainable_token_indices {given}")
    state[name] = state[name].index_copy(0, torch.tensor(given), rows)


def _copy_rest(base: Path, folder: Path, out: Path) -> None:
    """Config and tokenizer: the adapter folder's own where it has them, else the base's."""
    for source in (base, folder):
        for file in settings_files(source):
            if file.name not in (CONFIG, INDEX):
                shutil.copyfile(file, out / file.name)


def read_peft_config(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says; raises ModelError if it cannot be read."""
    return read_json_object(folder / CONFIG)
