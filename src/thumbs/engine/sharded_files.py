"""Files of a sharded model: each rank writes and reads its own rows, so that none ever holds all of them.

The folder must be one that all ranks see. Every function here is a collective.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from thumbs.engine.checkpoints import SHARDS, explaining, new_name, renewing
from thumbs.engine.sharding import like, local, local_rows, together
from thumbs.errors import CheckpointError
from thumbs.models.base import Trunk
from thumbs.models.slices import SlicedTensors
from thumbs.models.weights import parts_on_disk

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int64: "I64"}


class Piece(NamedTuple):
    """The rows of a tensor that this rank writes, from number `first` on, and the shape of the whole."""

    shape: tuple[int, ...]
    first: int
    rows: Tensor


@contextmanager
def renewing_together(path: Path) -> Iterator[Path]:
    """`renewing` by rank 0, of a folder that all ranks fill."""
    first = dist.get_rank() == 0
    with ExitStack() as stack, nullcontext() if first else explaining(path):
        yield together(lambda: stack.enter_context(renewing(path)) if first else new_name(path))
        together(stack.pop_all().close)


def pieces_of(trunk: Trunk) -> dict[str, Piece]:
    """What this rank writes of a trunk, under the names that transformers reads."""
    if (layout := trunk.row_layout()) is not None:
        parts = parts_on_disk(layout)
        return {
            name: piece
            for parameter, tensor in trunk.named_parameters()
            for name, piece in _cut(tensor, parts[parameter]).items()
        }
    return {name: _cut(tensor, {name: len(tensor)})[name] for name, tensor in trunk.tensors().items()}


def _cut(tensor: Tensor, parts: Mapping[str, int]) -> dict[str, Piece]:
    """Of a tensor that others lie below each other in, what this rank has of each of them."""
    rows, begin, found = local_rows(tensor), 0, dict[str, Piece]()
    for name, count in parts.items():
        first = min(max(rows.start, begin), begin + count)
        stop = max(min(rows.stop, begin + count), first)
        part = local(tensor).detach()[first - rows.start : stop - rows.start]
        found[name] = Piece((count, *tensor.shape[1:]), first - begin, part if _writes(tensor) else part[:0])
        begin += count
    return found


def _writes(tensor: Tensor) -> bool:
    """Whether this rank is the one that writes its rows; others may have the same."""
    if not isinstance(tensor, DTensor):
        return dist.get_rank() == 0
    mesh = tensor.device_mesh
    return mesh.ndim == 1 or mesh.get_local_rank(0) == 0


def write_pieces(file: Path, pieces: Mapping[str, Piece]) -> None:
    """One safetensors file of all ranks' rows; each reads back what it wrote, and compares it."""
    places, header, end = dict[str, int](), dict[str, object]({"__metadata__": {"format": "pt"}}), 0
    for name, piece in pieces.items():
        begin, end = end, end + torch.Size(piece.shape).numel() * piece.rows.element_size()
        header[name] = {"dtype": DTYPES[piece.rows.dtype], "shape": list(piece.shape), "data_offsets": [begin, end]}
        places[name] = begin
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    together(lambda: _begin(file, len(text).to_bytes(8, "little") + text, start + end))
    together(lambda: _write(file, pieces, {name: start + place for name, place in places.items()}))


def _begin(file: Path, header: bytes, size: int) -> None:
    if dist.get_rank() == 0:
        with file.open("wb") as out:
            out.write(header)
            out.truncate(size)


def _write(file: Path, pieces: Mapping[str, Piece], places: Mapping[str, int]) -> None:
    with file.open("r+b") as out:
        for name, piece in pieces.items():
            if piece.rows.numel():
                row_bytes = torch.Size(piece.shape[1:]).numel() * piece.rows.element_size()
                out.seek(places[name] + piece.first * row_bytes)
                out.write(piece.rows.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    with safe_open(file, framework="pt") as written:
        for name, piece in pieces.items():
            stop = piece.first + len(piece.rows)
            if piece.rows.numel() and not torch.equal(written.get_slice(name)[piece.first : stop], piece.rows.cpu()):
                raise CheckpointError(f"{file}: {name} read back differently from what was written; is the disk sound?")


def write_moments(folder: Path, moments: Mapping[str, Tensor]) -> None:
    """Each rank's part, as a distributed checkpoint of torch (DCP) whose files are safetensors, not pickles."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True)
    save(dict(moments), storage_writer=writer)


def spread_moments(moments: SlicedTensors, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Moments by `name:key`, of sharded parameters this rank's part."""
    found: dict[str, Tensor] = {}
    for key, shape in moments.shapes.items():
        parameter = parameters.get(key.rpartition(":")[0])
        if isinstance(parameter, DTensor) and shape == tuple(parameter.shape):
            rows = local_rows(parameter)
            part = moments.rows(key, rows) if rows else torch.empty(local(parameter).shape)
            found[key] = like(part, parameter)
        else:
            found[key] = moments.rows(key)
    return found


@torch.no_grad()
def put_rows(trunk: Trunk, read: Callable[[str, range], Tensor], *, check: bool = False) -> None:
    """Fills this rank's rows of each weight with those that `read` gives; check: only reads them, which may fail."""
    for name, parameter in trunk.named_parameters():
        if rows := local_rows(parameter):
            found = read(name, rows)
            if not check:
                local(parameter).copy_(found)


def put_tensors(trunk: Trunk, tensors: SlicedTensors, source: str) -> None:
    """The same from tensors under the names of `trunk.tensors()`. Raises CheckpointError for others than its own."""
    own = trunk.tensors()
    if own.keys() != tensors.shapes.keys() or any(tuple(t.shape) != tensors.shapes[n] for n, t in own.items()):
        wrong = sorted({*own} ^ {*tensors.shapes}) or [n for n, t in own.items() if tuple(t.shape) != tensors.shapes[n]]
        raise CheckpointError(f"{source}: not the tensors of this model: {wrong[:3]} are missing, left over or misfit")
    with torch.no_grad():
        for name, tensor in cast(nn.Module, trunk).model.state_dict().items():  # type: ignore[union-attr]
            if rows := local_rows(tensor):
                local(tensor).copy_(tensors.rows(name, rows) if tensor.ndim else tensors.rows(name))
