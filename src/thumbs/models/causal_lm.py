"""Our decoder for the Llama-shaped families of `families.py`.

Sequences are concatenated without padding, so the products run on real tokens (and a few rows at the end, see
`Rows.filled`); what lies between the products is in `operators.py`.
Proven equal to `transformers`, logit by logit, in tests/unit/models/test_causal_lm.py. Adapters come in as an
argument: one set of base weights serves many models. Names on disk: `weights.py`; adapters: `lora.py`; cache:
`kv_cache.py`; what engine and samplers call: `base.Trunk`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thumbs.config.model import AdapterConfig
from thumbs.models.checkpoint_files import read_json_object
from thumbs.models.decoder_config import DecoderConfig, read_config, write_config
from thumbs.models.decoding import DecodingPlan
from thumbs.models.invariant import Lowest
from thumbs.models.kv_cache import KVCache
from thumbs.models.lora import FrozenLora, Lora, Parts, RowParts, adapted_linear
from thumbs.models.operators import Angles, Heads, attend, attend_cached, keys_and_values, rms_norm, swiglu
from thumbs.models.prefixes import WORTH, prefix_tree
from thumbs.models.prepacked import logits, prepack
from thumbs.models.rope import frequencies
from thumbs.models.rows import Rows
from thumbs.models.weights import checked, fuse, read_tensors, separate


class Layer(nn.Module):
    """One block. Query, key and value are one product, gate and up are one product."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        c = config
        width_q, width_kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
        self.config = config
        self.attention_norm = nn.Parameter(torch.ones(c.width))
        self.qkv = nn.Parameter(torch.empty(width_q + 2 * width_kv, c.width))
        self.qkv_bias = nn.Parameter(torch.zeros(width_q + 2 * width_kv)) if c.qkv_bias else None
        query, key = (width_q, width_kv) if c.qk_norm == "all" else (c.head_dim, c.head_dim)
        self.query_norm = nn.Parameter(torch.ones(query)) if c.qk_norm else None
        self.key_norm = nn.Parameter(torch.ones(key)) if c.qk_norm else None
        self.output = nn.Parameter(torch.empty(c.width, width_q))
        self.mlp_norm = nn.Parameter(torch.ones(c.width))
        self.gate_up = nn.Parameter(torch.empty(2 * c.intermediate, c.width))
        self.down = nn.Parameter(torch.empty(c.width, c.intermediate))
        self.heads = Heads(c.heads, c.kv_heads, c.head_dim)

    def forward(
        self,
        x: Tensor,
        angles: Angles,
        rows: Rows,
        adapter: Parts | RowParts | None = None,
        keep: Callable[[Tensor], None] | None = None,
        window: int | None = None,
    ) -> Tensor:
        """Hidden states [N, D] after the block, of those before; `keep` is handed what `mix` gives."""
        mixed = self.mix(x, adapter)
        if keep is not None:
            keep(mixed)
        return self.finish(x, attend(mixed, angles, rows, self.heads, window), adapter)

    def mix(self, x: Tensor, adapter: Parts | RowParts | None) -> Tensor:
        """Queries, keys and values side by side, before their rotation, of hidden states [N, D]."""
        c = self.config
        mixed = adapted_linear(self._read(x, self.attention_norm), self.qkv, adapter, "qkv", self.qkv_bias)
        if c.query_scale != 1.0:
            query, rest = mixed.tensor_split([c.heads * c.head_dim], dim=1)
            mixed = torch.cat([query * c.query_scale, rest], dim=1)
        if self.query_norm is None or self.key_norm is None:
            return mixed
        parts = mixed.view(len(x), -1, c.head_dim).split([c.heads, c.kv_heads, c.kv_heads], dim=1)
        if c.qk_norm == "all":
            parts = [part.flatten(1) for part in parts]
        query, key = rms_norm(parts[0], self.query_norm, c.rms_eps), rms_norm(parts[1], self.key_norm, c.rms_eps)
        return torch.cat([query, key, parts[2]], dim=1).flatten(1)

    def finish(self, x: Tensor, attended: Tensor, adapter: Parts | RowParts | None) -> Tensor:
        """Hidden states after the output projection and the feed-forward part."""
        x = self._add(x, attended, "output", self.attention_norm, adapter)
        gated = swiglu(adapted_linear(self._read(x, self.mlp_norm), self.gate_up, adapter, "gate_up"))
        return self._add(x, gated, "down", self.mlp_norm, adapter)

    def _read(self, x: Tensor, norm: Tensor) -> Tensor:
        return x if self.config.norms_after else rms_norm(x, norm, self.config.rms_eps)

    def _add(self, x: Tensor, y: Tensor, name: str, norm: Tensor, adapter: Parts | RowParts | None) -> Tensor:
        """x and the projection `name` of y."""
        c, weight = self.config, getattr(self, name)
        if not c.norms_after and c.residual_scale == 1.0:
            return adapted_linear(y, weight, adapter, name, plus=x)
        added = adapted_linear(y, weight, adapter, name)
        return x + c.residual_scale * (rms_norm(added, norm, c.rms_eps) if c.norms_after else added)


class CausalLM(nn.Module):
    """Tokens to final hidden states; logits are made elsewhere and only where they are wanted."""

    prefix_worth = WORTH

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = c = config
        self.dtype = dtype
        self.width, self.depth, self.vocab_size, self.context = c.width, c.layers, c.vocab_size, c.context
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.width))
        self.head = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.prepacked_head: Tensor | None = None
        self.heads = Heads(config.heads, config.kv_heads, config.head_dim)
        self._lowest: dict[int, Lowest] = {}
        self.merged: FrozenLora | None = None  # see `sharing`

    @property
    def blocks(self) -> list[Layer]:
        """The layers, typed."""
        return [cast(Layer, layer) for layer in self.layers]

    def head_weight(self) -> Tensor:
        """Output embedding [V, D]."""
        weight, scale = self.embedding if self.head is None else self.head, self.config.logit_scale
        return weight if scale == 1.0 else weight * scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in float32 of final hidden states [N, D]."""
        return logits(hidden, self.head_weight() if self.prepacked_head is None else self.prepacked_head)

    def forward_packed(
        self,
        tokens: Tensor,
        lengths: list[int],
        adapter: Lora | FrozenLora | None = None,
        parents: list[int] | None = None,
    ) -> Tensor:
        """Final hidden states [N, D] of segments laid end to end; one that continues another sees that one too."""
        return self.forward_above(self.embed(tokens), Rows.of(lengths, tokens.device, parents), 0, adapter)

    def forward_above(self, x: Tensor, rows: Rows, first: int, adapter: Lora | FrozenLora | None = None) -> Tensor:
        """Final hidden states [N, D] from the states `x` that enter layer `first`."""
        x = self.run_layers(x, rows, first, len(self.layers), adapter)
        return rms_norm(x, self.norm, self.config.rms_eps)

    def embed(self, tokens: Tensor) -> Tensor:
        """States that enter layer 0, [N, D]."""
        x, scale = F.embedding(tokens, self.embedding).to(self.dtype), self.config.embedding_scale
        return x if scale == 1.0 else x * scale

    def run_layers(
        self,
        x: Tensor,
        rows: Rows,
        first: int,
        stop: int,
        adapter: Lora | FrozenLora | None = None,
        keep: Callable[[int, Tensor, Angles], None] | None = None,
    ) -> Tensor:
        """States after the layers first … stop - 1; `keep` is handed what each layer's attention is."""
        count, rows = len(x), rows.filled()
        adapter = self.merged if adapter is None else adapter
        x = F.pad(x, (0, 0, 0, rows.count - count))
        rotated = self.rotary(rows.positions)
        for index in range(first, stop):
            parts = adapter.layer(index, self.dtype) if adapter is not None else None
            angles, window = self._attention(index, rotated)
            real = Angles(*(angle[:count] for angle in angles))
            own = None if keep is None else lambda mixed, layer=index, real=real: keep(layer, mixed[:count], real)
            x = self.blocks[index](x, angles, rows, parts, own, window)
        return x[:count]

    def _attention(self, layer: int, rotated: Angles) -> tuple[Angles, int | None]:
        """The angles by which a layer turns queries and keys, and the window in which it sees tokens."""
        c = self.config
        still = Angles(torch.ones_like(rotated.cos), torch.zeros_like(rotated.sin)) if layer in c.unrotated else rotated
        return still, c.windows[layer] if c.windows else None

    def new_cache(self, rows: int, length: int) -> KVCache:
        """An empty cache for that many sequences of at most that many tokens."""
        c = self.config
        return KVCache(c.layers, rows, c.kv_heads, length, c.head_dim, self.dtype, self.embedding.device)

    def prefill(self, prompts: list[list[int]], cache: KVCache, adapter: FrozenLora | None = None) -> Tensor:
        """Final hidden states [B, D] at the last token of each prompt; fills the cache. Beginnings are shared."""
        device = self.embedding.device
        sequences = [np.array(prompt) for prompt in prompts]
        tree = prefix_tree(sequences)
        tokens = torch.from_numpy(np.concatenate(sequences)[tree.source]).to(device)
        rows, ends = Rows.of(tree.lengths, device, tree.parents), torch.tensor(tree.ends, device=device)

        def keep(layer: int, mixed: Tensor, angles: Angles) -> None:
            key, value = keys_and_values(mixed, angles, self.heads)
            cache.fill(layer, rows.pad_keys(key)[ends], rows.pad_keys(value)[ends])

        x = self.run_layers(self.embed(tokens), rows, 0, len(self.layers), adapter, keep)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        cache.start(lengths)
        last = torch.from_numpy(tree.places).to(device)[lengths.cumsum(0) - 1]
        return rms_norm(x[last], self.norm, self.config.rms_eps)

    def decode(
        self, tokens: Tensor, cache: KVCache, adapters: Sequence[tuple[slice | Tensor, FrozenLora]] = ()
    ) -> Tensor:
        """Final hidden states [B, D] of one more token per row; appends to the cache.

        adapters: of the rows that have one, each for the rows that it comes with.
        """
        if self.merged is not None:
            adapters = [(slice(None), self.merged)]
        rotated = self.rotary(cache.lengths)
        x = self.embed(tokens)
        cache.step()
        if not adapters and cache.plan is None and DecodingPlan.fits(self.config, self.blocks, self.norm):
            cache.plan = DecodingPlan(self.config, self.blocks, self.norm, cache)
        if not adapters and isinstance(cache.plan, DecodingPlan):
            return cache.plan.step(x, rotated, cache.lengths)
        for index, layer in enumerate(self.blocks):
            parts = [(rows, adapter.parts[index]) for rows, adapter in adapters] or None
            angles, window = self._attention(index, rotated)
            x = layer.finish(x, attend_cached(layer.mix(x, parts), angles, cache, index, self.heads, window), parts)
        return rms_norm(x, self.norm, self.config.rms_eps)

    def rotary(self, positions: Tensor) -> Angles:
        """The rotary angles of positions [N]."""
        speeds, factor = frequencies(self.config.rope, self.config.head_dim, positions.device)
        angles = positions[:, None].float() * speeds[None]
        angles = torch.cat([angles, angles], dim=-1)
        return Angles(angles.cos() * factor, angles.sin() * factor)

    def new_adapter(self, lora: AdapterConfig, seed: int) -> Lora:
        """A fresh adapter."""
        adapter = Lora(self.config, lora, seed)
        return adapter if self.embedding.is_meta else adapter.to(self.embedding.device)

    def freeze(self, adapter: Lora) -> FrozenLora:
        """The adapter's weights as they are now, prepacked."""
        return FrozenLora(adapter, self.dtype)

    def frozen(self, adapter: Lora | None = None) -> CausalLM:
        """A prepacked copy with the adapter merged in; the layers below it are those of `below`.

        On a card the copy would take as much memory as the model, so there the weights are shared.
        """
        if adapter is not None and self.embedding.is_cuda:
            return self.sharing(adapter)
        lowest = self.below(adapter)
        return prepack_decoder(merged_copy(self, adapter, self.dtype), lowest.layers if lowest is not None else ())

    def sharing(self, adapter: Lora) -> CausalLM:
        """The same weights with the adapter as it is now, which is added to every product, to sample from."""
        twin = copy.copy(self)
        twin.merged = self.freeze(adapter)
        return twin

    def below(self, adapter: Lora | None) -> Lowest | None:
        """The layers below the adapter, prepacked."""
        if adapter is None or adapter.first == 0 or not self.config.plain:
            return None
        if adapter.first not in self._lowest:
            layers = [prepacked_layer(layer) for layer in self.blocks[: adapter.first]]
            self._lowest[adapter.first] = Lowest(self, layers)
        return self._lowest[adapter.first]

    def tensors(self, adapter: Lora | None = None) -> dict[str, Tensor]:
        """The weights under Hugging Face names; with `adapter` merged in, in float32."""
        model = self if adapter is None else merged_copy(self, adapter, torch.float32)
        return separate(self.config, dict(model.named_parameters()))

    def row_layout(self) -> DecoderConfig:
        """Its shape."""
        return self.config

    def files(self) -> dict[str, Any]:
        """config.json."""
        return {"config.json": write_config(self.config)}

    def load_tensors(self, tensors: dict[str, Tensor], source: str, dtype: torch.dtype | None = None) -> None:
        """Puts tensors under Hugging Face names in (of a decoder on the meta device, in `dtype`)."""
        fused = fuse(self.config, checked(self.config, tensors, source))
        dtype = dtype or self.embedding.dtype
        # A live model keeps its parameters, since an optimizer may hold them, and with them its device.
        fill = self.embedding.is_meta
        self.load_state_dict({name: tensor.to(dtype) for name, tensor in fused.items()}, assign=fill)


def load_decoder(folder: Path, dtype: torch.dtype, *, master: bool) -> CausalLM:
    """Our decoder with the weights of a Hugging Face folder.

    master: hold the weights in float32 (they will be trained) and compute in `dtype`; else hold them in `dtype`.
    Raises ModelError that names the tensors missing, left over, of another shape or not finite.
    """
    with torch.device("meta"):
        model = CausalLM(read_config(read_json_object(folder / "config.json")), dtype)
    model.load_tensors(read_tensors(folder), str(folder), torch.float32 if master else dtype)
    return model


@torch.no_grad()
def merged_copy(model: CausalLM, adapter: Lora | None, dtype: torch.dtype) -> CausalLM:
    """A frozen decoder with `adapter` merged in, held in `dtype`; shares what the adapter does not touch."""
    with torch.device("meta"):
        merged = CausalLM(model.config, dtype)
    state = {name: parameter.detach().to(dtype) for name, parameter in model.named_parameters()}
    for index in range(model.config.layers):
        for fused, delta in (adapter.deltas(index) if adapter is not None else {}).items():
            name = f"layers.{index}.{fused}"
            state[name] = (model.get_parameter(name).float() + delta).to(dtype)
    if adapter is None and dtype == model.embedding.dtype:
        state = {name: tensor.clone() for name, tensor in state.items()}  # training goes on under the sampler
    merged.load_state_dict(state, assign=True)
    return merged.requires_grad_(False)


def prepacked_layer(layer: Layer) -> Layer:
    """The layer, frozen, with prepacked weights; norms and biases are the layer's own."""
    with torch.device("meta"):
        twin = Layer(layer.config)
    for name, parameter in layer.named_parameters():
        weight = prepack(parameter) if parameter.ndim == 2 else parameter.detach()
        setattr(twin, name, nn.Parameter(weight, requires_grad=False))
    return twin


def prepack_decoder(model: CausalLM, lowest: Sequence[Layer] = ()) -> CausalLM:
    """A frozen decoder that will only be sampled from, its weights prepacked; `lowest`: layers that are so already."""
    for index, layer in enumerate(model.blocks):
        model.layers[index] = lowest[index] if index < len(lowest) else prepacked_layer(layer)
    model.prepacked_head = prepack(model.head_weight())
    return model
