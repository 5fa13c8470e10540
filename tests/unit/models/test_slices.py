"""Weights that are read by rows are those that are read whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from thumbs.errors import ModelError
from thumbs.models.causal_lm import load_decoder
from thumbs.models.decoder_config import DecoderConfig
from thumbs.models.slices import SlicedDecoder, SlicedTensors
from tiny_models import FAMILIES, save_random

FILE = "model.safetensors"


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_decoder_are_those_of_the_whole(tmp_path, family):
    folder = save_random(FAMILIES[family], tmp_path)
    whole = load_decoder(folder, torch.float32, master=True)
    slices = SlicedDecoder.of_folder(whole.config, folder)
    for name, parameter in whole.named_parameters():
        third = -(-len(parameter) // 3)
        for first in range(0, len(parameter), third):
            rows = range(first, min(first + third, len(parameter)))
            assert torch.equal(slices.rows(name, rows), parameter.detach()[first : rows.stop]), name


def begin_of(config: DecoderConfig, folder: Path) -> None:
    """Reads the first rows of some weights."""
    slices = SlicedDecoder.of_folder(config, folder)
    for name in ("norm", "embedding"):
        slices.rows(name, range(32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "'model.norm.weight' is missing"),
        (lambda t: t.update({"model.extra": torch.ones(2)}), "'model.extra' would be left out"),
        (lambda t: t.update({"model.norm.weight": torch.ones(31)}), r"shape \(31,\).*asks for \(32,\)"),
        (lambda t: t["model.norm.weight"].fill_(torch.inf), "model.norm.weight holds NaN or infinity"),
        (lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}), "no quantization_config"),
        (lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}), "differs from"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, change, message):
    folder = save_random(FAMILIES["llama"], tmp_path)
    config = load_decoder(folder, torch.float32, master=True).config
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)
    with pytest.raises(ModelError, match=message):
        begin_of(config, folder)


def test_a_tied_head_may_stand_for_the_embedding(tmp_path):
    folder = save_random(FAMILIES["llama"], tmp_path)
    config, tensors = load_decoder(folder, torch.float32, master=True).config, load_file(folder / FILE)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / FILE)
    rows = SlicedDecoder.of_folder(config, folder).rows("embedding", range(3, 7))
    assert torch.equal(rows, tensors["lm_head.weight"][3:7])


def test_parts_in_several_files_are_one_tensor(tmp_path):
    whole = torch.arange(20.0).view(10, 2)
    for first, stop in ((0, 4), (4, 8), (8, 10)):
        begins = f'{{"x": {{"saved_offsets": [{first}, 0]}}}}'
        save_file({"x": whole[first:stop].clone()}, tmp_path / f"{first}", {"DCP_SHARDING_INFO": begins})
    tensors = SlicedTensors({tmp_path / f"{first}": None for first in (8, 0, 4)})
    assert tensors.shapes == {"x": (10, 2)}
    assert torch.equal(tensors.rows("x"), whole)
    assert torch.equal(tensors.rows("x", range(3, 9)), whole[3:9])
    with pytest.raises(ModelError, match="rows of x are missing"):
        SlicedTensors({tmp_path / "0": None, tmp_path / "8": None}).rows("x")
