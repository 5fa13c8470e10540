"""Any other Hugging Face causal language model, run by `transformers` behind the interface of our decoder.

Simple and correct before fast: sequences become a padded batch, the cache grows by concatenation, adapters
are refused. The families that `causal_lm.py` computes itself do not come here.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, DynamicCache, PreTrainedModel

from thumbs.config.model import AdapterConfig
from thumbs.errors import ConfigError, ModelError
from thumbs.models import architectures
from thumbs.models.base import Adapter
from thumbs.models.checkpoint_files import read_json_object
from thumbs.models.prefixes import NEVER
from thumbs.models.prepacked import logits
from thumbs.models.quantised import check_plain
from thumbs.models.weights import check_finite, read_tensors, some, without_harmless

log = logging.getLogger(__name__)


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

    def __init__(self, model: PreTrainedModel, reason: str = "it runs through transformers") -> None:
        """reason: why the model is not one for our decoder, for messages."""
        super().__init__()
        self.model, self.reason = model.eval(), reason
        self.dtype: torch.dtype = model.dtype
        self.vocab_size, self.width = self.head_weight().shape
        # Models whose positions are no table (ALiBi) set no limit.
        self.context: int = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
        self._bound = architectures.even_rotary_length(model.config)
        self.context = min(self.context, self._bound or sys.maxsize)
        self._takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters

    def train(self, mode: bool = True) -> HfCausalLM:
        """Stays in evaluation mode: dropout would make the first ratio of a PPO step differ from 1."""
        return super().train(False)

    def head_weight(self) -> Tensor:
        """Output embedding [V, D]."""
        return cast(nn.Linear, self.model.get_output_embeddings()).weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [N, V] in float32 of final hidden states [N, D]."""
        return logits(hidden, self.head_weight())

    def forward_packed(
        self,
        tokens: Tensor,
        lengths: list[int],
        adapter: None = None,
        parents: list[int] | None = None,
    ) -> Tensor:
        """Final hidden states [N, D] of sequences laid end to end; no sequence sees another (no parent but -1)."""
        if any(parent >= 0 for parent in parents or ()):
            raise ModelError(f"{type(self.model).__name__} runs through transformers, which shares no beginnings")
        padded, mask = _pad(tokens.split(lengths), "right")
        return self._hidden(padded, mask)[mask.bool()]

    def new_cache(self, rows: int, length: int) -> HfCache:
        """An empty cache. It grows by itself: rows and length are there for the sake of the interface."""
        return HfCache()

    def prefill(self, prompts: list[list[int]], cache: HfCache, adapter: None = None) -> Tensor:
        """Final hidden states [B, D] at the last token of each prompt; fills the cache."""
        device = self.head_weight().device
        padded, cache.mask = _pad([torch.tensor(prompt, device=device) for prompt in prompts], "left")
        return self._hidden(padded, cache.mask, cache)[:, -1]

    def decode(self, tokens: Tensor, cache: HfCache, adapters: Sequence[Any] = ()) -> Tensor:
        """Final hidden states [B, D] of one more token a row; appends to the cache."""
        cache.mask = torch.cat([cache.mask, torch.ones_like(tokens)[:, None]], dim=1)
        return self._hidden(tokens[:, None], cache.mask, cache)[:, 0]

    def new_adapter(self, lora: AdapterConfig, seed: int) -> Adapter:
        """Raises ConfigError: adapters of such models are not computed."""
        name = type(self.model).__name__
        raise ConfigError(f"{name} has no adapters here, because {self.reason}; set model.lora=null")

    def freeze(self, adapter: None) -> None:
        """There are no adapters."""

    def frozen(self, adapter: None = None) -> HfCausalLM:
        """A copy."""
        return copy.deepcopy(self).requires_grad_(False)

    def below(self, adapter: None) -> None:
        """Nothing is remembered."""

    def tensors(self, adapter: None = None) -> dict[str, Tensor]:
        """The model's own state."""
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def load_tensors(self, tensors: dict[str, Tensor], source: str) -> None:
        """Raises RuntimeError for tensors that are not the model's."""
        self.model.load_state_dict(tensors)

    def files(self) -> dict[str, Any]:
        """What else a checkpoint holds, so that `transformers` reads it: config.json."""
        raw = json.loads(self.model.config.to_json_string(use_diff=False))
        return {"config.json": raw | {"architectures": [type(self.model).__name__]}}

    def _hidden(self, tokens: Tensor, mask: Tensor, cache: HfCache | None = None) -> Tensor:
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
        trunk = self.model.base_model
        output = trunk(input_ids=tokens, attention_mask=mask, use_cache=cache is not None, **extra)
        return output.last_hidden_state


def _slots(x: Tensor, count: int) -> Tensor:
    """The last so many slots of a mask [B, L] or of keys [B, K, L, C], empty ones added in front."""
    axis = 1 if x.ndim == 2 else 2
    x = x.narrow(axis, max(x.shape[axis] - count, 0), min(count, x.shape[axis]))
    return functional.pad(x, (0, 0) * (x.ndim // 4) + (count - x.shape[axis], 0))


def load_hf(folder: Path, dtype: torch.dtype, reason: str = "it runs through transformers") -> HfCausalLM:
    """The model in a local folder, through `transformers`; safetensors only, no code from the folder is run.

    Raises ModelError when it cannot be loaded; when a tensor is missing, left over, of another shape or not finite;
    when its kind is refused (see `architectures`); or when its logits are more than hidden states times the output
    embedding (a bias, a scale, a cap), which the engine would leave out without a sign.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model_class = architectures.causal_class(config)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"transformers cannot load a causal language model from {folder}: {error}") from error
    if why := architectures.why_refused(config, model_class):
        raise ModelError(f"{folder}: {why}")
    if ignored := architectures.unknown_keys(config, read_json_object(folder / "config.json")):
        log.warning("%s: transformers does not know %s of config.json and ignores it", folder, ", ".join(ignored))
    model = _filled(model_class, config, folder, dtype)
    _refuse_other_heads(model, folder)
    trunk = HfCausalLM(model, reason)
    architectures.try_out(trunk, str(folder))
    log.info("%s runs through transformers (%s), without adapters", folder, type(model).__name__)
    return trunk


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
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{folder}: {some(missing)} is missing; the folder does not hold a complete model")
    if left := sorted(found["unexpected_keys"]):
        raise ModelError(
            f"{folder}: {some(left)} would be left out, because {model_class.__name__} with this config.json has no "
            "such tensor; the weights and the config.json belong to different models"
        )
    return model


@torch.no_grad()
def _refuse_other_heads(model: PreTrainedModel, folder: Path) -> None:
    """Compares the model's own logits with hidden states times output embedding, on a few tokens."""
    name = type(model).__name__
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise ModelError(f"{folder}: the output layer of {name} is missing or has a bias; that is not supported")
    weight = cast(nn.Linear, head).weight
    tokens = torch.arange(8)[None] % len(weight)
    entering: list[Tensor] = []

    def enlarge(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What enters the head, made so large that a cap shows whatever its height."""
        entering.extend((inputs[0], inputs[0] * (1e3 / (inputs[0] @ weight.T).abs().max().clamp_min(1e-6))))
        return (entering[1], *inputs[1:])

    hidden = model.base_model(input_ids=tokens).last_hidden_state
    hook = head.register_forward_pre_hook(enlarge)
    try:
        theirs = model(input_ids=tokens).logits.float()
    finally:
        hook.remove()
    if entering and _same(hidden, entering[0]) and _same(entering[1] @ weight.T, theirs):
        return
    raise ModelError(
        f"{folder}: {name} scales, caps or projects before its logits; only models whose logits are hidden "
        "states times the output embedding can be trained"
    )


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Of one shape, and equal up to the rounding of bfloat16."""
    if ours.shape != theirs.shape:
        return False
    return bool((ours.float() - theirs.float()).abs().max() <= 0.005 * theirs.float().abs().max())


def _pad(rows: Sequence[Tensor], side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """Tokens [B, L] padded on one side, and their mask [B, L]: 1 for a token, 0 for padding."""
    padded = pad_sequence(list(rows), batch_first=True, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return padded, mask
