"""What a backend samples from: adapters in folders, on bases that they share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thumbs.clients.bases import Base
from thumbs.engine.checkpoints import ADAPTER, OPTIMIZER, lora_of, read_manifest, read_tensors
from thumbs.models.base import Trunk
from thumbs.models.tensor_files import checksum
from thumbs.models.trunk import open_trunk
from thumbs.rollout.publish import Published
from thumbs.rollout.sampler import Sampler


@dataclass(eq=False)
class ServedWeights:
    """Weights to sample from. client: with whom others take turns; folder: of its adapter, None for the bare base.

    sampler: while they are in memory.
    """

    base: Base
    client: str
    folder: Path | None = None
    sampler: Sampler | None = None

    def opened(self, open_sampler: Callable[[ServedAdapter], Sampler]) -> Sampler:
        """The sampler, made if need be."""
        if self.sampler is None:
            self.sampler = open_sampler(ServedAdapter(self.base, self.client, self.folder))
        return self.sampler


class ServedAdapter(Published):
    """The adapter of a folder, or the bare base, as what it is published as."""

    seed, shared = 0, True

    def __init__(self, base: Base, client: str, folder: Path | None) -> None:
        """Raises CheckpointError for a folder without a checkpoint."""
        self.base, self.client, self.folder = base, client, folder
        self.version, lora = 0, None
        if folder is not None:
            self.version, lora = int(read_manifest(folder)["steps"]), lora_of(folder)
        self.model = base.config.model_copy(update={"lora": lora})
        self.context = base.shape.context

    def decode_text(self, tokens: list[int]) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Text of tokens, special ones left out."""
        return self.base.tokenizer.decode(tokens, False)

    def trunk(self) -> Trunk:
        trunk = open_trunk(self.model, seed=self.seed, trained=False)
        if self.folder is None or self.model.lora is None:
            return trunk.frozen()
        adapter = trunk.new_adapter(self.model.lora, 0)
        adapter.load_peft_state(read_tensors(self.folder / ADAPTER))
        return trunk.frozen(adapter)

    def write(self, folder: Path) -> dict[str, str]:
        if self.folder is None:
            folder.mkdir()
            return {}
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(OPTIMIZER))
        return {name: checksum(tensor) for name, tensor in read_tensors(folder / ADAPTER).items()}
