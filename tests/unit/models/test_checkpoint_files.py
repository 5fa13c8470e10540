"""Which files of a folder are read, against what transformers reads; nothing in them is left over."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from thumbs.errors import ModelError
from thumbs.models.causal_lm import load_decoder
from thumbs.models.checkpoint_files import INDEX, SINGLE
from thumbs.models.weights import read_tensors
from tiny_models import FAMILIES, load_reference, save_random

State = dict[str, Tensor]
TOKENS = torch.arange(3, 40)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State, State]:
    """A folder with config.json alone, and two sets of weights for it."""
    folder = tmp_path_factory.mktemp("saved")
    config = FAMILIES["llama, own output embedding"]
    states = [load_file(save_random(config, folder / str(seed), seed) / SINGLE) for seed in (1, 2)]
    (folder / "empty").mkdir()
    shutil.copy(folder / "1" / "config.json", folder / "empty")
    return folder / "empty", states[0], states[1]


@pytest.fixture
def folder(saved: tuple[Path, State, State], tmp_path: Path) -> Path:
    return shutil.copytree(saved[0], tmp_path / "model")


def shards(folder: Path, state: State, count: int, *, index: bool = True) -> None:
    """Saves `state` in so many files."""
    names = sorted(state)
    places = {name: f"model-{i % count + 1:05d}-of-{count:05d}.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        content = {name: state[name] for name in names if places[name] == file}
        save_file(content, folder / file, metadata={"format": "pt"})
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def single(folder: Path, state: State, name: str = SINGLE) -> None:
    save_file(state, folder / name, metadata={"format": "pt"})


READ: dict[str, tuple[Callable[[Path, State, State], object], str | None]] = {
    "shards": (lambda f, new, old: shards(f, new, 3), None),
    "older shards": (lambda f, new, old: (shards(f, old, 3, index=False), shards(f, new, 2)), "00001-of-00003"),
    "a single file next to an index": (lambda f, new, old: (shards(f, old, 2), single(f, new)), "00001-of-00002"),
    "a copy": (lambda f, new, old: (single(f, old, "model_old.safetensors"), single(f, new)), "model_old.safetensors"),
    "a variant": (lambda f, new, old: (single(f, old, "model.fp16.safetensors"), single(f, new)), "model.fp16"),
    "consolidated": (lambda f, new, old: (single(f, old, "consolidated.safetensors"), single(f, new)), "consolidated"),
}


@pytest.mark.parametrize("case", READ)
@torch.no_grad()
def test_the_files_are_those_of_transformers_and_the_others_are_named(folder, saved, case, caplog):
    fill, unread = READ[case]
    fill(folder, saved[1], saved[2])
    with caplog.at_level(logging.WARNING):
        model = load_decoder(folder, torch.float32, master=False)
    found = model.logits(model.forward_packed(TOKENS, [len(TOKENS)]))
    torch.testing.assert_close(found, load_reference(folder)(TOKENS[None]).logits[0], atol=1e-4, rtol=1e-4)
    assert ("is not read" in caplog.text and unread in caplog.text) if unread else not caplog.text


def _index(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content)
    (folder / INDEX).write_text(json.dumps(content))


NORM = "model.norm.weight"
REFUSED: dict[str, tuple[Callable[[Path, State, State], object], str]] = {
    "a shard is missing": (
        lambda f, new, old: (shards(f, new, 2), (f / "model-00002-of-00002.safetensors").unlink()),
        "model-00002-of-00002.safetensors' is missing, which model.safetensors.index.json names",
    ),
    "no index": (lambda f, new, old: shards(f, new, 2, index=False), "has no model.safetensors and no"),
    "another name": (lambda f, new, old: single(f, new, "weights.safetensors"), "but weights.safetensors"),
    "outside": (
        lambda f, new, old: (
            shards(f, new, 2),
            _index(f, lambda i: i["weight_map"].update({NORM: "../x.safetensors"})),
        ),
        "only files of the folder itself",
    ),
    "absolute": (
        lambda f, new, old: (shards(f, new, 2), _index(f, lambda i: i["weight_map"].update({NORM: "/x.safetensors"}))),
        "only files of the folder itself",
    ),
    "no map": (lambda f, new, old: (shards(f, new, 2), _index(f, lambda i: i.clear())), "has no weight_map"),
    "a tensor that is elsewhere": (
        lambda f, new, old: (
            shards(f, new, 2),
            _index(f, lambda i: i["weight_map"].update({"stray": "model-00001-of-00002.safetensors"})),
        ),
        "lacks 'stray'",
    ),
    "a tensor that the index does not name": (
        lambda f, new, old: (shards(f, new, 2), _index(f, lambda i: i["weight_map"].pop(NORM))),
        f"holds '{NORM}', which .* does not name",
    ),
    "damaged": (lambda f, new, old: (f / SINGLE).write_bytes(b"no header"), "unreadable"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_not_whole_is_refused(folder, saved, case):
    fill, message = REFUSED[case]
    fill(folder, saved[1], saved[2])
    with pytest.raises(ModelError, match=message):
        read_tensors(folder)


LEFT: dict[str, tuple[Callable[[State], State], str]] = {
    "an unknown tensor": (lambda s: s | {"model.layers.0.self_attn.sinks": torch.ones(4)}, "sinks' would be left out"),
    "biases": (
        lambda s: s | {"model.layers.1.self_attn.q_proj.bias": torch.ones(32)},
        "q_proj.bias' would be left out",
    ),
    "a third layer": (
        lambda s: s | {k.replace("layers.1", "layers.2"): v.clone() for k, v in s.items() if "layers.1" in k},
        r"layers\.2\..* more would be left out",
    ),
    "a score": (lambda s: s | {"score.weight": torch.ones(1, 32)}, "score.weight' would be left out"),
    "compiled": (
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        "model.embed_tokens.weight' and 20 more is missing",
    ),
    "missing": (lambda s: {k: v for k, v in s.items() if k != NORM}, f"{NORM}' is missing"),
    "shape": (lambda s: s | {NORM: torch.ones(1)}, rf"{NORM} has shape \(1,\), its config.json asks for \(32,\)"),
    "NaN": (lambda s: s | {NORM: s[NORM] * float("nan")}, f"{NORM} holds NaN or infinity"),
    "infinity": (lambda s: s | {NORM: s[NORM].index_fill(0, torch.tensor(3), float("inf"))}, "NaN or infinity"),
    "integers": (lambda s: s | {NORM: s[NORM].to(torch.int8)}, f"{NORM} is int8, and no quantization_config"),
    "FP8": (lambda s: s | {NORM: s[NORM].to(torch.float8_e4m3fn)}, f"{NORM} is float8_e4m3fn, and no"),
}


@pytest.mark.parametrize("case", LEFT)
def test_every_tensor_is_used_or_named(folder, saved, case):
    change, message = LEFT[case]
    single(folder, change(saved[1]))
    with pytest.raises(ModelError, match=message):
        load_decoder(folder, torch.float32, master=False)


def test_rotary_frequencies_and_a_value_head_may_be_left_over(folder, saved, caplog):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "v_head.summary.bias": torch.ones(1)}
    single(folder, saved[1] | extra)
    with caplog.at_level(logging.INFO):
        load_decoder(folder, torch.float32, master=False)
    assert "inv_freq' and 1 more is not needed and ignored" in caplog.text


def test_a_tied_head_is_the_embedding_or_an_error(tmp_path):
    folder = save_random(FAMILIES["llama"], tmp_path)
    state = load_file(folder / SINGLE)
    embedding = state["model.embed_tokens.weight"]
    single(folder, state | {"lm_head.weight": embedding.clone()})
    load_decoder(folder, torch.float32, master=False)
    single(folder, {k: v for k, v in state.items() if "embed" not in k} | {"lm_head.weight": embedding})
    assert torch.equal(load_decoder(folder, torch.float32, master=False).embedding, embedding)
    single(folder, state | {"lm_head.weight": embedding + 1})
    with pytest.raises(ModelError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        load_decoder(folder, torch.float32, master=False)
