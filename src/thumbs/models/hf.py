"""Any other Hugging Face causal language model, run by `transformers` behind the interface of our decoder.

Simple and correct before fast: sequences become a padded batch, the cache grows by concatenation, and rows with other
adapters are computed one adapter after the other. The families that `causal_lm.py` computes itself do not come here.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, DynamicCache, PreTrainedModel

from thumbs.config.model import AdapterConfig
from thumbs.errors import ModelError
from thumbs.models import architectures
from thumbs.models.checkpoint_files import read_json_object
from thumbs.models.hf_lora import HfLora, Placed, Slots, plain_name
from thumbs.models.prefixes import NEVER
from thumbs.models.prepacked import logits
from thumbs.models.quantised import check_plain
from thumbs.models.weights import check_finite, read_tensors, require_fit, without_harmless

log = logging.getLogger(__name__)

SCALES: dict[str, Callable[[float], float]] = {"logits_scaling": lambda x: 1 / x, "logit_scale": lambda x: x}
"""Keys of config.json that scale the logits (Granite, Cohere), and by what."""


class HfCache:
    """Keys and values of B rows, padded on the left so that the newest tokens of all rows share one slot.

    mask [B, L]: 1 where a slot holds a token of that row.
    """

    def __init__(self) -> None:
        self.past = DynamicCache()
        self.mask = torch.zeros(0, 0, dtype=torch.long)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each row, [B]."""
        return self.mask.sum(1)

    @property
    def room(self) -> int:
        """Slots, which grow by one with every token."""
        return self.mask.shape[1]

    def taken(self, rows: Tensor) -> HfCache:
        """A copy of the given rows."""
        part = HfCache()
        part.mask = self.mask[rows]
        for index, layer in enumerate(self.past.layers):
            keys, values = (cast(Tensor, getattr(layer, name)) for name in ("keys", "values"))
            part.past.update(keys[rows], values[rows], index)
        return part

    def select(self, rows: Tensor) -> None:
        """Keeps (or repeats) the given rows, in that order."""
        self.past.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def joined(self, others: Sequence[HfCache], room: int) -> HfCache:
        """A cache with the rows of this one and then the others', without slots in front that no row needs."""
        if not others:
            return self  # it grows by itself
        caches, whole = [self, *others], HfCache()
        slots = max(int(cache.lengths.max()) for cache in caches)
        whole.mask = torch.cat([_slots(cache.mask, slots) for cache in caches])
        for index in range(len(self.past.layers)):
            layers = [cache.past.layers[index] for cache in caches]
            keys, values = ([_slots(getattr(layer, x), slots) for layer in layers] for x in ("keys", "values"))
            whole.past.update(torch.cat(keys), torch.cat(values), index)
        return whole

    def put(self, places: Tensor, caches: Sequence[HfCache]) -> None:
        """Overwrites the rows at `places` by those of `caches`, in order."""
        first, *rest = caches
        new = first.joined(rest, self.room)
        self.mask[places] = _slots(new.mask, self.room)
        for ours, theirs in zip(self.past.layers, new.past.layers, strict=True):
            for name in ("keys", "values"):
                getattr(ours, name)[places] = _slots(getattr(theirs, name), self.room)


class HfCausalLM(nn.Module):
    """Tokens to final hidden states; logits are hidden states times `head_weight()` and nothing else."""

    prefix_worth = NEVER

    def __init__(self, model: PreTrainedModel, scale: float = 1.0) -> None:
        """scale: of the logits, as `_head_scale` gives it."""
        super().__init__()
        self.model, self._scale = model.eval(), scale
        self._bias = getattr(model.get_output_embeddings(), "bias", None) is not None
        self.dtype: torch.dtype = model.dtype
        self.vocab_size, self.width = self.head_weight().shape
        self.depth: int = model.config.get_text_config(decoder=True).num_hidden_layers
        # Models whose positions are not a table (ALiBi) set no limit.
        self.context: int = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
        self._bound = architectures.even_rotary_length(model.config)
        self.context = min(self.context, self._bound or sys.maxsize)
        self._takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters
        self._slots = Slots(model)
        self._always: Placed | None = None

    def train(self, mode: bool = True) -> HfCausalLM:
        """Stays in evaluation mode: dropout would make the first ratio of a PPO step differ from 1."""
        return super().train(False)

    def head_weight(self) -> Tensor:
        """Output embedding [V, D], scaled; with a bias that is its last column, to which the states have a 1."""
        head = cast(nn.Linear, self.model.get_output_embeddings())
        weight = torch.cat([head.weight, head.bias[:, None]], dim=1) if self._bias else head.weight
        return weight if self._scale == 1.0 else weight * self._scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in float32 of final hidden states [N, D]."""
        return logits(hidden, self.head_weight())

    def named_parameters(self, *arguments: Any, **keywords: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the model itself; the places of adapters hold no numbers."""
        return (item for item in super().named_parameters(*arguments, **keywords) if not item[1].is_meta)

    def forward_packed(
        self,
        tokens: Tensor,
        lengths: list[int],
        adapter: HfLora | Placed | None = None,
        parents: list[int] | None = None,
    ) -> Tensor:
        """Final hidden states [N, D] of sequences laid end to end; no sequence sees another (no parent but -1)."""
        if any(parent >= 0 for parent in parents or ()):
            raise ModelError(f"{type(self.model).__name__} runs through transformers, which shares no beginnings")
        padded, mask = _pad(tokens.split(lengths), "right")
        placed = adapter.placed() if isinstance(adapter, HfLora) else adapter
        return self._hidden(padded, mask, placed)[mask.bool()]

    def new_cache(self, rows: int, length: int) -> HfCache:
        """An empty cache. It grows by itself: rows and length are there for the sake of the interface."""
        return HfCache()

    def prefill(self, prompts: list[list[int]], cache: HfCache, adapter: Placed | None = None) -> Tensor:
        """Final hidden states [B, D] at the last token of each prompt; fills the cache."""
        device = self.model.device
        padded, cache.mask = _pad([torch.tensor(prompt, device=device) for prompt in prompts], "left")
        return self._hidden(padded, cache.mask, adapter, cache)[:, -1]

    def decode(self, tokens: Tensor, cache: HfCache, adapters: Sequence[tuple[slice | Tensor, Placed]] = ()) -> Tensor:
        """Final hidden states [B, D] of one more token per row; appends to the cache."""
        groups = _groups(len(tokens), adapters, tokens.device)
        if len(groups) == 1:
            return self._step(tokens, cache, groups[0][1])
        hidden, parts = tokens.new_empty(len(tokens), self.width, dtype=self.dtype), []
        for rows, adapter in groups:
            part = cache.taken(rows)
            hidden[rows] = self._step(tokens[rows], part, adapter)
            parts.append(part)
        whole = parts[0].joined(parts[1:], 0)
        whole.select(torch.cat([rows for rows, _ in groups]).argsort())
        cache.past, cache.mask = whole.past, whole.mask
        return hidden

    def new_adapter(self, lora: AdapterConfig, seed: int) -> HfLora:
        """A fresh adapter of PEFT's form."""
        adapter = HfLora(self._slots.of(lora), seed)
        return adapter if self.model.device.type == "meta" else adapter.to(self.model.device)

    def freeze(self, adapter: HfLora) -> Placed:
        """A copy of the adapter's weights."""
        slot, weights = adapter.placed()
        return Placed(slot, {name: weight.detach().clone() for name, weight in weights.items()})

    def frozen(self, adapter: HfLora | None = None) -> HfCausalLM:
        """A copy, or where the weights are frozen already a view that applies the adapter as it is now."""
        if adapter is None and any(parameter.requires_grad for parameter in self.parameters()):
            return copy.deepcopy(self).requires_grad_(False)
        view = copy.copy(self)
        view._always = None if adapter is None else self.freeze(adapter)
        return view

    def below(self, adapter: HfLora | None) -> None:
        """Nothing is remembered."""

    def tensors(self, adapter: HfLora | None = None) -> dict[str, Tensor]:
        """The weights under their own names, with the adapter merged in."""
        deltas = {} if adapter is None else self._slots.deltas(adapter.placed())
        state = {plain_name(k): v for k, v in self.model.state_dict().items() if not v.is_meta}
        merged = {name: state[name].float() + delta.detach() for name, delta in deltas.items()}
        return {name: tensor.clone() for name, tensor in state.items()} | merged

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Raises RuntimeError for tensors that are not the model's."""
        self.model.load_state_dict(tensors)

    def row_layout(self) -> None:
        """It is read whole."""

    def files(self) -> dict[str, Any]:
        """What else a checkpoint holds, so that `transformers` reads it: config.json."""
        raw = json.loads(self.model.config.to_json_string(use_diff=False))
        return {"config.json": raw | {"architectures": [type(self.model).__name__]}}

    def _step(self, tokens: Tensor, cache: HfCache, adapter: Placed | None) -> Tensor:
        cache.mask = torch.cat([cache.mask, torch.ones_like(tokens)[:, None]], dim=1)
        return self._hidden(tokens[:, None], cache.mask, adapter, cache)[:, 0]

    def _hidden(
        self, tokens: Tensor, mask: Tensor, adapter: Placed | None = None, cache: HfCache | None = None
    ) -> Tensor:
        """Final hidden states [B, L, D] of the last L slots that `mask` [B, slots] describes."""
        extra: dict[str, Any] = {}
        if self._bound is not None and mask.shape[1] > self._bound and int(mask.sum(1).max()) > self._bound:
            raise ModelError(
                f"a sequence of {int(mask.sum(1).max())} tokens; beyond {self._bound} the rotary scaling of this model "
                "depends on the longest sequence of a batch, so that is as long as sequences may be"
            )
        if self._takes_positions:
            extra["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
        if cache is not None:
            extra["past_key_values"] = cache.past
        extra |= {"input_ids": tokens, "attention_mask": mask, "use_cache": cache is not None}
        hidden = self._slots.run(adapter or self._always, **extra).last_hidden_state
        return functional.pad(hidden, (0, 1), value=1.0) if self._bias else hidden


def _slots(x: Tensor, count: int) -> Tensor:
    """The last so many slots of a mask [B, L] or of keys [B, K, L, C], empty ones added in front."""
    axis = 1 if x.ndim == 2 else 2
    x = x.narrow(axis, max(x.shape[axis] - count, 0), min(count, x.shape[axis]))
    return functional.pad(x, (0, 0) * (x.ndim // 4) + (count - x.shape[axis], 0))


def load_hf(folder: Path, dtype: torch.dtype) -> HfCausalLM:
    """The model in a local folder, through `transformers`; safetensors only, no code from the folder is run.

    Raises ModelError when it cannot be loaded; when a tensor is missing, left over, of another shape or not finite;
    when its kind is refused (see `architectures`); or when its logits are more than `_head_scale` knows, which the
    engine would leave out without a sign.
    """
    config, model_class = _kind(folder)
    if ignored := architectures.unknown_keys(config, read_json_object(folder / "config.json")):
        log.warning("%s: transformers does not know %s of config.json and ignores it", folder, ", ".join(ignored))
    model = _filled(model_class, config, folder, dtype)
    trunk = HfCausalLM(model, _head_scale(model, folder))
    architectures.try_out(trunk, type(model).__name__, str(folder))
    log.info("%s runs through transformers (%s)", folder, type(model).__name__)
    return trunk


def empty_hf(folder: Path) -> HfCausalLM:
    """The model in a local folder without weights, on the meta device; raises ModelError for one we cannot use."""
    config, model_class = _kind(folder)
    with torch.device("meta"):
        return HfCausalLM(model_class._from_config(config))


def _kind(folder: Path) -> tuple[Any, type[PreTrainedModel]]:
    """Config and class of the model in a folder."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model_class = architectures.causal_class(config)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"transformers cannot load a causal language model from {folder}: {error}") from error
    if why := architectures.why_refused(config, model_class):
        raise ModelError(f"{folder}: {why}")
    return config, model_class


def _filled(model_class: type[PreTrainedModel], config: Any, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model of that class with the weights of the folder, each of which is used."""
    state = without_harmless(read_tensors(folder), str(folder))
    check_plain(state, str(folder))
    for name, tensor in state.items():
        check_finite(tensor, f"{folder}: {name}")
    # The weights are plain by now, and which files hold them is decided.
    for key in ("quantization_config", "compression_config", "transformers_weights"):
        if hasattr(config, key):
            delattr(config, key)
    try:
        loaded: Any = model_class.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load {folder}: {error}") from error
    model, found = loaded
    if found["mismatched_keys"]:
        name, got, want = min(found["mismatched_keys"])
        raise ModelError(f"{folder}: {name} has shape {tuple(got)}, its config.json asks for {tuple(want)}")
    require_fit(found["missing_keys"], found["unexpected_keys"], model_class.__name__, str(folder))
    return model


@torch.no_grad()
def _head_scale(model: PreTrainedModel, folder: Path) -> float:
    """What hidden states times the output embedding are multiplied by to be the model's logits (plus a bias).

    Compares them on a few tokens, and on states so large that a cap shows whatever its height. Raises ModelError for
    logits that are made in any other way.
    """
    name, head = type(model).__name__, model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{folder}: {name} has no output layer")
    weight, bias = cast(nn.Linear, head).weight, getattr(head, "bias", None)
    tokens = torch.arange(8)[None] % len(weight)
    entering: list[Tensor] = []

    def enlarge(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entering.extend((inputs[0], inputs[0] * (1e3 / (inputs[0] @ weight.T).abs().max().clamp_min(1e-6))))
        return (entering[1], *inputs[1:])

    hidden = model.base_model(input_ids=tokens).last_hidden_state
    hook = head.register_forward_pre_hook(enlarge)
    try:
        theirs = model(input_ids=tokens).logits.float()
    finally:
        hook.remove()
    scales = [1.0, *(read(getattr(model.config, key, None) or 1.0) for key, read in SCALES.items())]
    if entering and _same(hidden, entering[0]):
        ours = entering[1] @ weight.T + (0.0 if bias is None else bias)
        if scale := next((scale for scale in scales if _same(ours * scale, theirs)), None):
            return scale
    raise ModelError(
        f"{folder}: {name} caps or projects before its logits; only models whose logits are hidden states times the "
        "output embedding (by a constant, with a bias or without) can be trained"
    )


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors have one shape and are equal up to the rounding of bfloat16."""
    if ours.shape != theirs.shape:
        return False
    return bool((ours.float() - theirs.float()).abs().max() <= 0.005 * theirs.float().abs().max())


def _groups(
    count: int, adapters: Sequence[tuple[slice | Tensor, Placed]], device: torch.device
) -> list[tuple[Tensor, Placed | None]]:
    """Rows with the adapter that each has, those without one last."""
    everything = torch.arange(count, device=device)
    groups: list[tuple[Tensor, Placed | None]] = [(everything[rows], adapter) for rows, adapter in adapters]
    bare = torch.ones(count, dtype=torch.bool, device=device)
    for rows, _ in groups:
        bare[rows] = False
    return [*groups, (everything[bare], None)] if bare.any() else groups


def _pad(rows: Sequence[Tensor], side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """Tokens [B, L] padded on one side, and their mask [B, L]: 1 for a token, 0 for padding."""
    padded = pad_sequence(list(rows), batch_first=True, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return padded, mask
