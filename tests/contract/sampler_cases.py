"""Samplers, the models that they draw from, and a slow loop as their oracle. A further sampler joins by SAMPLERS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.models import kernels
from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.models.causal_lm import load_decoder
from thumbs.models.hf import load_hf
from thumbs.models.module_lm import ModuleLM
from thumbs.models.trunk import open_trunk
from thumbs.rollout.draw import uniforms
from thumbs.rollout.native import DecodingLoop, NativeSampler
from thumbs.rollout.sampler import DecodingParams, Sampler, SampleRequest
from tiny_models import load_reference

VERSION = 7


def letters(tokens: Sequence[int]) -> str:
    """A text with a letter for each token."""
    return "".join(chr(ord("a") + token % 26) for token in tokens)


def alone(model: Trunk, adapter: FrozenAdapter | None) -> Sampler:
    """A sampler that has the model to itself."""
    return NativeSampler(DecodingLoop(model, letters), VERSION, adapter)


def among_clients(model: Trunk, adapter: FrozenAdapter | None) -> Sampler:
    """A sampler in whose loop another client's rows come and go, without the adapter."""
    loop = DecodingLoop(model, letters)
    other = NativeSampler(loop, 1, client="other")
    other.submit([SampleRequest([9, 8, 7, seed], DecodingParams(20 + seed, ()), [seed]) for seed in range(30)])
    loop.step()
    return NativeSampler(loop, VERSION, adapter, "ours")


SAMPLERS = {"native": alone, "native among clients": among_clients}


@dataclass
class ModelCase:
    """A frozen model, with an adapter or without; exact: a reply has the same bits in any company."""

    model: Trunk
    adapter: FrozenAdapter | None = None
    exact: bool = False


def packed_bytes(folder: Path) -> ModelCase:
    """Our decoder on packed weights."""
    model = open_trunk(ModelConfig(name="byte-tiny", dtype="float32"), seed=0).frozen()
    return ModelCase(model, exact=kernels.library() is not None)


def adapted(folder: Path) -> ModelCase:
    """Our decoder with an adapter that changes its replies."""
    trunk = load_decoder(folder, torch.float32, master=False)
    adapter = trunk.new_adapter(AdapterConfig(rank=4), 1)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return ModelCase(trunk.frozen(), trunk.freeze(adapter))


MODELS: dict[str, Callable[[Path], ModelCase]] = {
    "ours": lambda folder: ModelCase(load_decoder(folder, torch.float32, master=False)),
    "ours with kernels": packed_bytes,
    "ours with an adapter": adapted,
    "transformers": lambda folder: ModelCase(load_hf(folder, torch.float32)),
    "a module": lambda folder: ModelCase(ModuleLM(load_reference(folder))),
}


@torch.no_grad()
def distribution(case: ModelCase, tokens: Sequence[int], temperature: float = 1.0) -> np.ndarray:
    """Logprobs [V] of the token after these, by a pass over all of them."""
    hidden = case.model.forward_packed(torch.tensor(tokens), [len(tokens)], case.adapter)[-1:]
    scaled = case.model.logits(hidden)[0].double().numpy() / temperature
    return scaled - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())


def naive(case: ModelCase, prompt: Sequence[int], params: DecodingParams, seed: int) -> tuple[list[int], list[float]]:
    """Tokens and logprobs of a reply: a whole pass for each token, and a loop over the vocabulary."""
    reply, logprobs = list[int](), list[float]()
    for number in uniforms(seed, params.max_new_tokens):
        logprob = distribution(case, [*prompt, *reply], params.temperature or 1.0)
        reply.append(_pick(logprob, float(number), params))
        logprobs.append(float(logprob[reply[-1]]))
        if reply[-1] in params.stop_tokens or any(stop in letters(reply) for stop in params.stop_strings):
            break
    return reply, logprobs


def _pick(logprob: np.ndarray, u: float, params: DecodingParams) -> int:
    order = [int(token) for token in np.argsort(-logprob)]
    if params.temperature == 0:
        return order[0]
    kept = order[: params.top_k or None]
    whole, mass, nucleus = float(np.exp(logprob[kept]).sum()), 0.0, list[int]()
    for token in kept:
        if nucleus and mass >= params.top_p:
            break
        nucleus.append(token)
        mass += float(np.exp(logprob[token])) / whole
    nucleus.sort()
    reached = np.exp(logprob[nucleus]).cumsum()
    return nucleus[int((reached <= u * reached[-1]).sum())]
