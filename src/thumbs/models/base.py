"""What engine and samplers need of a model: `Trunk`, its adapters and caches. A kind of model is one file behind it.

`causal_lm.py` is our own decoder, `hf.py` any model of transformers, `module_lm.py` a torch module that a program
brings; `trunk.py` chooses between them, and nobody else asks which one it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from thumbs.config.model import AdapterConfig
from thumbs.models.rows import Rows


class Weights(Protocol):
    """The part of torch.nn.Module that an engine uses."""

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def to(self, device: torch.device) -> Self: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class Adapter(Weights, Protocol):
    """Trained low-rank weights that make a shared trunk one model of many; what is on disk is PEFT's."""

    def peft_state(self) -> dict[str, Tensor]:
        """Tensors under PEFT's names."""
        ...

    def load_peft_state(self, state: Mapping[str, Tensor]) -> None:
        """Reads tensors under PEFT's names; raises ModelError and changes nothing unless they are exactly its own."""
        ...

    def peft_config(self, base: str | None) -> dict[str, Any]:
        """adapter_config.json for PEFT; base: a hub id or a path (`base_identity.public_name`)."""
        ...


FrozenAdapter: TypeAlias = object
"""What `Trunk.freeze` gives: an adapter's weights at some time, in a form that only their trunk knows."""


class Cache(Protocol):
    """Keys and values of the rows that decode together."""

    lengths: Tensor
    """Tokens that each row holds, [B]."""

    @property
    def room(self) -> int:
        """Tokens that a row can hold."""
        ...

    def select(self, rows: Tensor) -> None:
        """Keeps (or repeats) the given rows, in that order."""
        ...

    def joined(self, others: Sequence[Self], room: int) -> Self:
        """A new cache with the rows of this one and then the others', each with room for so many tokens."""
        ...

    def put(self, places: Tensor, caches: Sequence[Self]) -> None:
        """Overwrites the rows at `places` by those of `caches`, in order."""
        ...


class LowerLayers(Protocol):
    """What lies below the lowest adapted layer of a trunk and so is the same for all adapters."""

    def states(self, sequences: Sequence[Any]) -> list[Tensor]:
        """States [L, D] of each sequence above these layers, the same bits in any company."""
        ...

    def forward_above(self, states: Tensor, rows: Rows, adapter: Any) -> Tensor:
        """Final hidden states [N, D] from the states above these layers."""
        ...


@runtime_checkable
class Trunk(Weights, Protocol):
    """Tokens to final hidden states; logits are hidden states times `head_weight()` and nothing else.

    depth: number of layers. prefix_worth: tokens that a shared beginning must save to be computed once (`prefixes`).
    context: the longest sequence, tokens. An adapter argument is one that this trunk made, frozen for sampling.
    """

    width: int
    depth: int
    vocab_size: int
    context: int
    dtype: torch.dtype
    prefix_worth: int

    def head_weight(self) -> Tensor:
        """Output embedding [V, D]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in float32 of final hidden states [N, D]."""
        ...

    def forward_packed(
        self, tokens: Tensor, lengths: list[int], adapter: Any = None, parents: list[int] | None = None
    ) -> Tensor:
        """Final hidden states [N, D] of segments laid end to end; one that continues another sees that one too."""
        ...

    def new_cache(self, rows: int, length: int) -> Any:
        """An empty cache for that many sequences of at most that many tokens."""
        ...

    def prefill(self, prompts: list[list[int]], cache: Any, adapter: Any = None) -> Tensor:
        """Final hidden states [B, D] at the last token of each prompt; fills the cache."""
        ...

    def decode(self, tokens: Tensor, cache: Any, adapters: Sequence[tuple[slice | Tensor, Any]] = ()) -> Tensor:
        """Final hidden states [B, D] of one more token per row; appends to the cache.

        adapters: frozen ones, each with the rows that it is for.
        """
        ...

    def new_adapter(self, lora: AdapterConfig, seed: int) -> Adapter:
        """An adapter that changes nothing yet, on the trunk's device (on the CPU for a trunk without weights).

        Raises ConfigError, which names what is allowed, for one that cannot be.
        """
        ...

    def freeze(self, adapter: Any) -> Any:
        """The adapter's weights as they are now, in the form in which sampling uses them."""
        ...

    def frozen(self, adapter: Any = None) -> Trunk:
        """The model as it is now, adapter included, to sample from while training goes on."""
        ...

    def below(self, adapter: Any) -> LowerLayers | None:
        """The layers that the adapter leaves alone, the same object at every call; None if there are none."""
        ...

    def tensors(self, adapter: Any = None) -> dict[str, Tensor]:
        """The weights under the names that transformers reads, with `adapter` merged into them in float32."""
        ...

    def row_layout(self) -> Any:
        """The shape of one of our decoders (`weights.parts_on_disk`), whose weights can be read and written by rows, so
        that nobody holds them whole; None for a model that is read whole.
        """
        ...

    def files(self) -> dict[str, Any]:
        """What else a whole model consists of: file name → JSON."""
        ...

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Reads what `tensors` gave; raises an error that names a tensor which is missing, left over or misfit."""
        ...
