"""Which models that run through `transformers` can be trained and sampled, by rules and not by a list of names.

A model must give each token's probabilities from the tokens before it, and what it keeps of them must be keys and
values of attention, because that is the cache that our sampler fills, selects and repeats. Marks in the class and in
the config say so before any weights are read; then the loaded model is tried out on a few tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from thumbs.errors import ModelError
from thumbs.models.base import Trunk
from thumbs.models.decoder_config import FIXED, HARMLESS, USED

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "sparse", "dense"}
"""Kinds of layers (`layer_types`) that keep keys and values and nothing else."""

log = logging.getLogger(__name__)

_CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel", "LMHead", "ForConditionalGeneration")
_BY_LENGTH = ("dynamic", "longrope", "su")
_PROMPT, _STEPS = 5, 3


def causal_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that `transformers` has for a causal language model of such a config; raises ValueError for none."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{config.model_type} has no causal language model")
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def why_refused(config: PretrainedConfig, model_class: type[PreTrainedModel]) -> str | None:
    """What in the config or the class of a model shows that it cannot be sampled or trained here; None: nothing."""
    name = (config.architectures or [model_class.__name__])[0]
    if getattr(config, "is_encoder_decoder", False):
        return f"{name} is an encoder-decoder; only models of one sequence (decoders) are trained and sampled"
    if not name.endswith(_CAUSAL_ENDINGS):
        return (
            f"{name} is not a language model that writes; name a folder whose config.json has a class that ends in "
            "ForCausalLM under architectures"
        )
    if getattr(model_class, "_is_stateful", False):
        return (
            f"{name} carries a recurrent state from token to token; only attention's keys and values are kept while "
            "sampling, so its samples would come from another distribution than the one that is trained"
        )
    for part in _parts(config):
        other = sorted(set(map(str, getattr(part, "layer_types", None) or ())) - ATTENTION)
        if other:
            return f"{name} has layers of the kind {', '.join(other)}; only layers of attention are sampled here"
    return None


def unknown_keys(config: PretrainedConfig, raw: Mapping[str, Any]) -> list[str]:
    """Keys of config.json that have a value and that the config's class does not know, so that nothing reads them."""
    known = {name for kind in type(config).__mro__ for name in getattr(kind, "__annotations__", {})}
    known |= config.attribute_map.keys() | set(dir(type(config))) | USED | FIXED.keys() | HARMLESS
    try:
        known |= type(config)().to_dict().keys()  # what a config sets when it is made, and writes
    except Exception:  # a few cannot be made without settings
        log.debug("%s has no defaults", type(config).__name__)
    return sorted(key for key, value in raw.items() if value is not None and key not in known)


def even_rotary_length(config: PretrainedConfig) -> int | None:
    """Tokens up to which rotary angles are the same in any company; None: at any length.

    With the scalings `dynamic` and `longrope` the angles of all sequences of a batch change when the longest of them
    grows beyond the length of the first training.
    """
    lengths = []
    for part in _parts(config):
        for settings in _rope_settings(part):
            if settings.get("rope_type", settings.get("type")) in _BY_LENGTH:
                original = settings.get("original_max_position_embeddings")
                lengths.append(original or getattr(part, "max_position_embeddings", 0))
    return min(lengths, default=None)


@torch.no_grad()
def try_out(trunk: Trunk, name: str, source: str) -> None:
    """Raises ModelError unless the model gives the same hidden states alone and in company, at once and token by token,
    and the same to a token whatever follows it.
    """
    count = _PROMPT + _STEPS
    if trunk.context < count:
        return
    whole = [
        [(7 * i + 3 * row) % trunk.vocab_size for i in range(length)] for row, length in ((0, count), (1, count - 3))
    ]
    try:
        alone = [_hidden(trunk, [tokens]) for tokens in whole]
        together = _hidden(trunk, whole)
        stepped = _token_by_token(trunk, whole)
        other_end = _hidden(trunk, [[*whole[0][:-1], (whole[0][-1] + 1) % trunk.vocab_size]])
    except Exception as error:  # whatever it raises on a few tokens, it cannot be used
        raise ModelError(
            f"{source}: {name} cannot be sampled token by token with a cache of keys and values "
            f"({type(error).__name__}: {error})"
        ) from error
    if _differs(alone[0][:-1], other_end[:-1]):
        raise ModelError(f"{source}: {name} lets a token see later ones; only causal language models write")
    if any(_differs(*pair) for pair in zip(alone, together.split([len(tokens) for tokens in whole]), strict=True)):
        raise ModelError(f"{source}: {name} gives a sequence other numbers in company than alone")
    if any(_differs(states[-_STEPS:], own) for states, own in zip(alone, stepped.split(_STEPS), strict=True)):
        raise ModelError(
            f"{source}: {name} gives other numbers token by token than at once, so it keeps more than attention's keys "
            "and values; its samples would come from another distribution than the one that is trained"
        )


def _hidden(trunk: Trunk, sequences: list[list[int]]) -> Tensor:
    tokens = torch.tensor([token for sequence in sequences for token in sequence], device=trunk.head_weight().device)
    return trunk.forward_packed(tokens, [len(sequence) for sequence in sequences])


def _token_by_token(trunk: Trunk, sequences: list[list[int]]) -> Tensor:
    """Final hidden states at the last `_STEPS` tokens of each sequence, one sequence after the other."""
    cache = trunk.new_cache(len(sequences), len(sequences[0]))
    found = [trunk.prefill([sequence[: 1 - _STEPS] for sequence in sequences], cache)]
    for step in range(1 - _STEPS, 0):
        tokens = torch.tensor([sequence[step] for sequence in sequences], device=trunk.head_weight().device)
        found.append(trunk.decode(tokens, cache))
    return torch.stack(found, dim=1).flatten(0, 1)


def _differs(ours: Tensor, theirs: Tensor) -> bool:
    """Whether more than rounding lies between the rows, by the median row: one token may be routed to other experts."""
    distances = (ours - theirs).float().norm(dim=1) / ours.float().norm(dim=1).clamp_min(1e-9)
    bound = 1e-3 if ours.dtype == torch.float32 else 0.1
    return not float(distances.median()) < bound


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    text = config.get_text_config(decoder=True)
    if text is not config:
        yield text


def _rope_settings(config: PretrainedConfig) -> Iterator[Mapping[str, Any]]:
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if isinstance(settings, Mapping):
        yield settings
        yield from (value for value in settings.values() if isinstance(value, Mapping))
