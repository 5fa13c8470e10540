"""The local engine of one rank whose trunks are spread over all ranks. Every verb is a collective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from thumbs.config.model import ModelConfig
from thumbs.engine.base import Handle, Head
from thumbs.engine.checkpoints import MODEL, OPTIMIZER, fill, sliced_moments, write_checkpoint
from thumbs.engine.compute import Model
from thumbs.engine.local import LocalEngine, beside_weights, checkpoint_of
from thumbs.engine.optimizers import optimizer_tensors
from thumbs.engine.sharded_files import (
    pieces_of,
    put_rows,
    put_tensors,
    renewing_together,
    spread_moments,
    write_moments,
    write_pieces,
)
from thumbs.engine.sharding import Sharded, clip_gradients, local, recompute, together
from thumbs.models.base import Adapter, Trunk
from thumbs.models.causal_lm import CausalLM
from thumbs.models.precision import compute_dtype
from thumbs.models.slices import SlicedDecoder, SlicedTensors
from thumbs.models.trunk import open_trunk, plain_decoder
from thumbs.models.weights import separate


@dataclass(frozen=True)
class Layout:
    """How weights lie on the ranks. together: ranks that share one copy of them; their number divides that of all.

    offload: shards wait in the memory of the host. recompute: blocks keep only their inputs for the backward pass.
    """

    together: int
    offload: bool = False
    recompute: bool = False

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All ranks: in a row, or each row a copy of the weights. A collective."""
        world = dist.get_world_size()
        if self.together == world:
            return init_device_mesh(device.type, (world,))
        shape = (world // self.together, self.together)
        return init_device_mesh(device.type, shape, mesh_dim_names=("copies", "shards"))


class ShardedEngine(LocalEngine):
    """Its trunks are roots in `sharding.Sharded`; adapters and scalar heads are whole on every rank."""

    def __init__(self, layout: Layout, *, device: torch.device, optimizer: str) -> None:
        super().__init__(device=device, optimizer=optimizer)
        self._layout, self._mesh = layout, layout.mesh(device)
        self._roots: dict[int, Sharded] = {}

    def root(self, model: Model) -> Sharded:
        """What runs passes of the model."""
        return self._roots[id(model.trunk)]

    def _part(self, parameter: Tensor) -> Tensor:
        return local(parameter)

    def close(self, handle: Handle) -> None:
        model = self.model(handle)
        super().close(handle)
        if model.adapter is None:
            del self._roots[id(model.trunk)]

    def save(self, handle: Handle, path: Path, *, optimizer: bool = False) -> None:
        model = self.model(handle)
        moments = {}
        if optimizer and model.optimizer is not None:
            moments = optimizer_tensors(model.optimizer, model.trained())
        if model.adapter is not None:
            # Every rank has the same.
            tensors, files = checkpoint_of(model, model.spec.heads)
            if optimizer and model.optimizer is not None:
                tensors[OPTIMIZER] = moments
            together(lambda: write_checkpoint(path, tensors, files) if dist.get_rank() == 0 else None)
            return
        self.write(model, path, model.spec.heads, moments)

    def write(self, model: Model, path: Path, heads: Sequence[Head], moments: Mapping[str, Tensor]) -> None:
        """A checkpoint of a model without adapters."""
        tensors, files = beside_weights(model, heads)
        with renewing_together(path) as folder:
            together(lambda: fill(folder, tensors, files) if dist.get_rank() == 0 else None)
            write_pieces(folder / MODEL, pieces_of(model.trunk))
            if moments:
                write_moments(folder, moments)

    def gathered(self, model: Model) -> dict[str, Tensor]:
        """The whole weights of a model without adapters, on rank 0; elsewhere nothing."""
        trunk, layout, found = model.trunk, model.trunk.row_layout(), dict[str, Tensor]()
        for name, tensor in trunk.tensors().items() if layout is None else trunk.named_parameters():
            whole = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
            if dist.get_rank() == 0:
                found[name] = whole.cpu()
        return separate(layout, found) if layout is not None and found else found

    def _open(self, model: ModelConfig, seed: int, *, trained: bool) -> Trunk:
        return together(lambda: self._spread(model, seed, trained=trained))

    def _spread(self, model: ModelConfig, seed: int, *, trained: bool) -> Trunk:
        """Opens a trunk of which this rank reads only its rows, if it is a decoder of ours."""
        cpu, plain = torch.device("cpu"), plain_decoder(model)
        if plain is None:  # a random model of bytes, or one that runs through other code, which has read it whole
            trunk = open_trunk(model, seed=seed, trained=trained, on=cpu)
            self._roots[id(trunk)] = self._root_of(trunk)
            return trunk
        folder, shape = plain
        dtype, master = compute_dtype(model, self.device), trained and model.lora is None
        with torch.device("meta"):
            trunk = CausalLM(shape, dtype).to(torch.float32 if master else dtype).requires_grad_(master)
        root = self._root_of(trunk)
        root.to_empty(device=cpu if self._layout.offload else root.device)
        put_rows(trunk, SlicedDecoder.of_folder(shape, folder).rows)
        self._roots[id(trunk)] = root
        return trunk

    def _root_of(self, trunk: Trunk) -> Sharded:
        if self._layout.recompute:
            recompute(trunk)
        return Sharded(trunk, self._mesh, offload=self._layout.offload)

    def _shared_states(self, trunk: Trunk, adapter: Adapter | None) -> None:
        """Layers are gathered only while they compute, in step with the other ranks."""

    def _clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        return clip_gradients(parameters, most)

    def _moments(self, path: Path, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, Tensor] | None:
        def read() -> Mapping[str, Tensor] | None:
            moments = sliced_moments(path)
            return None if moments is None else spread_moments(moments, parameters)

        return together(read)

    def _put(self, model: Model, path: Path) -> None:
        if model.adapter is not None:
            together(lambda: super(ShardedEngine, self)._put(model, path))
        elif (layout := model.trunk.row_layout()) is not None:
            decoder = together(lambda: SlicedDecoder(layout, {path / MODEL: None}, str(path)))
            together(lambda: put_rows(model.trunk, decoder.rows, check=True))
            put_rows(model.trunk, decoder.rows)
        else:
            together(lambda: put_tensors(model.trunk, SlicedTensors({path / MODEL: None}), str(path)))
