"""Any torch module that maps tokens to next-token logits, behind the interface of our decoder.

For models that a program brings along itself: correct before fast. Sequences become a padded batch, and sampling
computes the whole sequence anew for each token. What the engine needs besides logits, the final hidden states, is what
goes into the module's output layer.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from thumbs.config.model import AdapterConfig
from thumbs.errors import ConfigError, ModelError
from thumbs.models.base import Adapter
from thumbs.models.prefixes import NEVER
from thumbs.models.prepacked import logits

PROBE = 6
"""Tokens on which a module is tried out."""

NO_LORA = "set model.lora=null, which trains every weight"

WANTED = (
    "it must map tokens [B, T] to logits [B, T, V] (or to an object or tuple with them), end in an nn.Linear, and let "
    "no token see later ones"
)


class ModuleCache:
    """The tokens of each row so far."""

    room = sys.maxsize

    def __init__(self, rows: Sequence[Tensor] = ()) -> None:
        self.rows = list(rows)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, [B]."""
        return torch.tensor([len(row) for row in self.rows])

    def select(self, rows: Tensor) -> None:
        """Keeps (or repeats) the given rows, in that order."""
        self.rows = [self.rows[i] for i in rows.tolist()]

    def joined(self, others: Sequence[ModuleCache], room: int) -> ModuleCache:
        """A cache with the rows of this one and then the others'; there is room for any length."""
        return ModuleCache([row for cache in (self, *others) for row in cache.rows])

    def put(self, places: Tensor, caches: Sequence[ModuleCache]) -> None:
        """Overwrites the rows at `places` by those of `caches`, in order."""
        new = [row for cache in caches for row in cache.rows]
        for place, row in zip(places.tolist(), new, strict=True):
            self.rows[place] = row


class ModuleLM(nn.Module):
    """Tokens to final hidden states; logits are hidden states times `head_weight()` and nothing else."""

    prefix_worth = NEVER

    def __init__(self, model: nn.Module) -> None:
        """Tries the module out; raises ModelError if it is not a causal language model of the form above."""
        super().__init__()
        self.model = model.eval()
        self._takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
        self._head = _output_layer(model)
        self.dtype = self._head.weight.dtype
        self.vocab_size, self.width = self.head_weight().shape
        # A module does not say how long a sequence it takes, nor how many layers it has.
        self.context, self.depth = sys.maxsize, 0
        self._refuse_what_looks_ahead()

    def train(self, mode: bool = True) -> ModuleLM:
        """Stays in evaluation mode: dropout would make the first ratio of a PPO step differ from 1."""
        return super().train(False)

    def head_weight(self) -> Tensor:
        """Output embedding [V, D]; with a bias that is its last column, to which the states have a 1."""
        weight, bias = self._head.weight, self._head.bias
        return weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in float32 of final hidden states [N, D]."""
        return logits(hidden, self.head_weight())

    def forward_packed(
        self, tokens: Tensor, lengths: list[int], adapter: None = None, parents: list[int] | None = None
    ) -> Tensor:
        """Final hidden states [N, D] of sequences laid end to end; no sequence sees another (no parent but -1)."""
        if any(parent >= 0 for parent in parents or ()):
            raise ModelError(f"{type(self.model).__name__} is a module of its own, which shares no beginnings")
        rows = tokens.split(lengths)
        return torch.cat([hidden[: len(row)] for hidden, row in zip(self._hidden(rows), rows, strict=True)])

    def new_cache(self, rows: int, length: int) -> ModuleCache:
        """An empty cache; rows and length are there for the sake of the interface."""
        return ModuleCache()

    def prefill(self, prompts: list[list[int]], cache: ModuleCache, adapter: None = None) -> Tensor:
        """Final hidden states [B, D] at the last token of each prompt; fills the cache."""
        cache.rows = [torch.tensor(prompt, device=self.head_weight().device) for prompt in prompts]
        return self._last(cache.rows)

    def decode(self, tokens: Tensor, cache: ModuleCache, adapters: Sequence[Any] = ()) -> Tensor:
        """Final hidden states [B, D] of one more token per row; appends to the cache."""
        cache.rows = [torch.cat([row, token[None]]) for row, token in zip(cache.rows, tokens, strict=True)]
        return self._last(cache.rows)

    def new_adapter(self, lora: AdapterConfig, seed: int) -> Adapter:
        """Raises ConfigError: nothing says which layers of the module an adapter may change."""
        raise ConfigError(f"{type(self.model).__name__}, a module of the program's own, has no adapters; {NO_LORA}")

    def freeze(self, adapter: None) -> None:
        """There are no adapters."""

    def frozen(self, adapter: None = None) -> ModuleLM:
        """A copy."""
        return copy.deepcopy(self).requires_grad_(False)

    def below(self, adapter: None) -> None:
        """There are no adapters."""

    def tensors(self, adapter: None = None) -> dict[str, Tensor]:
        """The module's own state."""
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def row_layout(self) -> None:
        """It is read whole."""

    def files(self) -> dict[str, Any]:
        """Nothing, since the module's shape is in the program."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Raises RuntimeError for tensors that are not the module's."""
        self.model.load_state_dict(tensors)

    def _last(self, rows: Sequence[Tensor]) -> Tensor:
        return torch.stack([hidden[len(row) - 1] for hidden, row in zip(self._hidden(rows), rows, strict=True)])

    def _hidden(self, rows: Sequence[Tensor]) -> Tensor:
        """Final hidden states [B, L, D], those of the padding on the right without meaning."""
        tokens = pad_sequence(list(rows), batch_first=True)
        seen: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            self.model(tokens, **({"attention_mask": mask} if self._takes_mask else {}))
        finally:
            hook.remove()
        hidden = seen[-1]
        return hidden if self._head.bias is None else functional.pad(hidden, (0, 1), value=1.0)

    @torch.no_grad()
    def _refuse_what_looks_ahead(self) -> None:
        tokens = _probe(self.model, self.vocab_size)
        changed = tokens.clone()
        changed[-1] = (changed[-1] + 1) % self.vocab_size
        before, after = self._hidden([tokens])[0, :-1], self._hidden([changed])[0, :-1]
        if not torch.allclose(before, after, atol=1e-4, rtol=1e-3):
            raise ModelError(f"{type(self.model).__name__} lets a token see later ones; {WANTED}")


@torch.no_grad()
def _output_layer(model: nn.Module) -> nn.Linear:
    """The last linear layer that the module applies, if what it gives are the module's logits."""
    name = type(model).__name__
    applied: list[tuple[nn.Linear, Tensor]] = []

    def note(layer: nn.Module, _: Any, output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            applied.append((layer, output))

    hooks = [layer.register_forward_hook(note) for layer in model.modules()]
    try:
        given = _logits_of(model(_probe(model, 2)[None]))
    except Exception as error:  # whatever the module raises on tokens [1, T], it is not such a model
        raise ModelError(f"{name} fails on tokens [1, {PROBE}] ({type(error).__name__}: {error}); {WANTED}") from error
    finally:
        for hook in hooks:
            hook.remove()
    head, output = applied[-1] if applied else (None, None)
    if head is None or given is None or given.shape[:2] != (1, PROBE):
        shape = "no tensor" if given is None else f"shape {tuple(given.shape)}"
        raise ModelError(f"{name} gives {shape} for tokens [1, {PROBE}], its last linear layer is {head}; {WANTED}")
    if output is None or output.shape != given.shape or not torch.allclose(output, given, atol=1e-5, rtol=1e-4):
        raise ModelError(f"{name} changes the numbers of its last linear layer, or has others after it; {WANTED}")
    return head


def _probe(model: nn.Module, vocabulary: int) -> Tensor:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return torch.arange(PROBE, device=device) % vocabulary


def _logits_of(output: Any) -> Tensor | None:
    """The logits in what a module returned: a tensor, `.logits`, the key `logits`, or the first of a tuple."""
    found = getattr(output, "logits", output)
    if isinstance(found, dict):
        found = found.get("logits")
    if isinstance(found, tuple | list) and found:
        found = found[0]
    return found if isinstance(found, Tensor) else None
