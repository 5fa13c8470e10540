"""Safetensors files of which single rows are read, so that nobody holds a model whole who needs a part of it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from thumbs.errors import ModelError
from thumbs.models.checkpoint_files import some, weight_files
from thumbs.models.decoder_config import DecoderConfig
from thumbs.models.quantised import check_plain
from thumbs.models.weights import check_finite, check_shapes, parts_on_disk, untied, without_harmless

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class Chunk(NamedTuple):
    """Rows of a tensor that one file holds. first: the number of the first of them in the whole tensor."""

    file: Path
    first: int
    rows: int


class SlicedTensors:
    """The tensors of some files, by name. A tensor may be spread over files, as torch's distributed checkpoints
    (DCP) in this format are: the header says where its part begins.
    """

    def __init__(self, files: Mapping[Path, Sequence[str] | None]) -> None:
        """files: with the tensors to read from each; None: all. Raises ModelError for one that is damaged."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._chunks: dict[str, list[Chunk]] = defaultdict(list)
        for file, names in files.items():
            try:
                self._note(file, names)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                raise ModelError(f"{file}: unreadable ({error}); fetch or save it again") from None

    def rows(self, name: str, wanted: range | None = None) -> Tensor:
        """Those rows of a tensor, at least one; None: all of it."""
        shape = self.shapes[name]
        if not shape:
            return self._open(self._chunks[name][0].file, name, None)
        wanted = range(shape[0]) if wanted is None else wanted
        pieces = []
        for chunk in sorted(self._chunks[name], key=lambda chunk: chunk.first):
            first, stop = max(wanted.start, chunk.first), min(wanted.stop, chunk.first + chunk.rows)
            if first < stop:
                pieces.append(self._open(chunk.file, name, slice(first - chunk.first, stop - chunk.first)))
        found = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if len(found) != len(wanted):
            raise ModelError(f"{self._chunks[name][0].file.parent}: rows of {name} are missing; save it again")
        return found

    def _note(self, file: Path, names: Sequence[str] | None) -> None:
        with safe_open(file, framework="pt") as handle:
            there = list(handle.keys())
            if missing := sorted(set(names or ()) - set(there)):
                raise ModelError(f"{file} lacks {some(missing)}, which its index says it holds; save it again")
            begins = json.loads((handle.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
            for name in there:
                shape = tuple(handle.get_slice(name).get_shape())
                first = begins[name]["saved_offsets"][0] if shape and name in begins else 0
                if shape:
                    self._chunks[name].append(Chunk(file, first, shape[0]))
                    before = self.shapes.get(name, (0,))[0]
                    shape = (max(before, first + shape[0]), *shape[1:])
                else:
                    self._chunks[name].append(Chunk(file, 0, 1))
                self.shapes[name] = shape

    def _open(self, file: Path, name: str, rows: slice | None) -> Tensor:
        with safe_open(file, framework="pt") as handle:
            return handle.get_tensor(name) if rows is None else handle.get_slice(name)[rows]


class SlicedDecoder:
    """Rows of the parameters of our decoder, of tensors under Hugging Face names; each is used, as `weights.checked`
    says.
    """

    def __init__(self, config: DecoderConfig, files: Mapping[Path, Sequence[str] | None], source: str) -> None:
        """Raises ModelError for tensors that are missing, left over or of another shape."""
        self._source, self._tensors, self._parts = source, SlicedTensors(files), parts_on_disk(config)
        shapes = without_harmless(self._tensors.shapes, source)
        self._tied_head = config.tied and HEAD in shapes
        if self._tied_head:
            shapes.setdefault(EMBEDDING, shapes[HEAD])
            del shapes[HEAD]
        check_shapes(config, shapes, source)

    @staticmethod
    def of_folder(config: DecoderConfig, folder: Path) -> SlicedDecoder:
        """The decoder in a folder of plain weights."""
        return SlicedDecoder(config, weight_files(folder), str(folder))

    def rows(self, parameter: str, wanted: range) -> Tensor:
        """Those rows of a parameter, at least one; raises ModelError for numbers that are not finite."""
        pieces, begin = [], 0
        for name, count in self._parts[parameter].items():
            first, stop = max(wanted.start - begin, 0), min(wanted.stop - begin, count)
            if first < stop:
                pieces.append(self._checked(name, range(first, stop)))
            begin += count
        return torch.cat(pieces)

    def _checked(self, name: str, wanted: range) -> Tensor:
        if name == EMBEDDING and self._tied_head:
            head = self._tensors.rows(HEAD, wanted)
            if name not in self._tensors.shapes:
                name = HEAD
            elif not torch.equal(self._tensors.rows(name, wanted), head):
                raise untied(self._source)
        found = self._tensors.rows(name, wanted)
        check_plain({name: found}, self._source)
        check_finite(found, f"{self._source}: {name}")
        return found
