"""Gradients of the losses that meet a model in engine/compute.py, against central differences in float64.

A random direction through every weight tensor: the loss's slope along it must be the gradient's component. That the
engine's micro-batches, accumulation and optimizer keep these gradients is in tests/contract/test_engine.py.
"""

import numpy as np
import pytest
import torch

from thumbs.config.losses import CROSS_ENTROPY, PairLoss, ReplyLoss, ScoreLoss, TokenLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.batch import Batch
from thumbs.engine.compute import Model
from thumbs.engine.losses import reads
from thumbs.models.causal_lm import load_decoder
from thumbs.models.heads import ScalarHead
from thumbs.models.lora import Lora
from tiny_models import LlamaConfig, random_sequences, save_random

LENGTHS = [7, 4, 9, 6]
SHAPE = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2}
H = 1e-5
LOSSES = {
    "cross entropy": [CROSS_ENTROPY],
    "ppo": [
        TokenLoss.of("ppo_clip", clip_range=0.2, temperature=0.7),
        TokenLoss.of("value_clip", clip_range=0.3, coef=0.4),
    ],
    "ppo, wider above": [TokenLoss.of("ppo_clip", clip_range=0.1, clip_range_high=0.3)],
    "ppo with a price of kl": [
        TokenLoss.of("ppo_clip", temperature=0.7),
        TokenLoss.of("kl_penalty", coef=0.5, temperature=0.7),
    ],
    "importance sampling": [TokenLoss.of("importance_sampling", temperature=0.7)],
    "dro": [TokenLoss.of("dro", beta=0.3)],
    "ppo with entropy": [TokenLoss.of("ppo_clip", clip_range=0.2, entropy_coef=0.5)],
    "values without clip": [TokenLoss.of("value_clip", clip_range=None, coef=2.0)],
    "pairs": [ScoreLoss.of("bradley_terry", center_coef=0.1)],
    "pairs by token": [ScoreLoss.of("bradley_terry", by_token=True, center_coef=0.1)],
    "ranking": [ScoreLoss.of("plackett_luce")],
    "best of k": [ScoreLoss.of("best_of_k")],
    "regression": [ScoreLoss.of("regression")],
    "huber": [ScoreLoss.of("regression", huber_delta=0.5)],
    "ordinal": [ScoreLoss.of("ordinal", thresholds=(0.4,))],
    "binary": [ScoreLoss.of("binary")],
    "dpo": [PairLoss(formula="dpo", settings={"beta": 0.5}, sft_coef=0.2)],
    "kto": [ReplyLoss.of("kto", beta=0.5, desirable_weight=2.0)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random(LlamaConfig(**SHAPE, tie_word_embeddings=True), tmp_path_factory.mktemp("one-layer"))


@pytest.fixture
def wide(monkeypatch):
    """Where the code asks for float32 (norms, logits, heads) it gets float64, or differences would be noise."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.fixture(params=["full", "adapters"])
def network(request, folder, wide):
    trunk = load_decoder(folder, torch.float64, master=False)
    generator, adapter = torch.Generator().manual_seed(4), None
    if request.param == "adapters":
        trunk.requires_grad_(False)
        adapter = Lora(trunk.config, AdapterConfig(rank=2, alpha=3.0), seed=0).double()
        for up in adapter.up_maps.values():
            up.data = 0.3 * torch.randn(up.shape, generator=generator, dtype=torch.float64)
    scalar = ScalarHead(trunk.width).double()
    scalar.weight.data = 0.3 * torch.randn(trunk.width, generator=generator, dtype=torch.float64)
    return Model(ModelSpec("model", ModelConfig(name=str(folder))), trunk, adapter, scalar)


def make_batch(network, losses) -> Batch:
    """Old logprobs and values near the present ones, on both sides of every clip."""
    rng = np.random.default_rng(2)
    tokens = torch.tensor([t for s in random_sequences(9, LENGTHS) for t in s])
    n, pairs = sum(LENGTHS), len(LENGTHS) // 2

    def column(values):
        return torch.tensor(np.asarray(values), dtype=torch.float64)

    columns = {name: column(rng.normal(size=n)) for name in ("advantages", "values", "returns", "reference_logprobs")}
    columns["weights"] = column(np.where(rng.random(n) < 0.25, 0, rng.uniform(0.1, 1, size=n)))
    columns["logprobs"] = column(np.zeros(n))
    of = {"unit": [0, 1, 1, 0], "preferred": [1, 0.5, 0.5, 1], "margin": [0.3, 0, 0, 0.3], "unit_weight": [0.5] * 4}
    of |= {"reference": [-9, -12, -8, -10], "baseline": [0.1] * 4, "desirable": [1, 0, 1, 0]}
    of |= {"rank": [2, 1, 1, 1]}
    columns["labels"] = column(np.arange(n) % 2)
    assert pairs == 2
    batch = Batch(
        list(range(4)), LENGTHS, tokens, tokens.roll(-1), columns, {name: column(v) for name, v in of.items()}
    )
    with torch.no_grad():
        now = network(batch, losses)
    columns["logprobs"] = now.logprobs + column(rng.normal(0, 0.3, size=n))
    columns["values"] = now.values + column(rng.normal(0, 0.5, size=n))
    return batch


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_the_slopes_of_the_loss(network, kind):
    losses = LOSSES[kind]
    batch = make_batch(network, losses)
    computed = network(batch, losses)
    assert computed.loss.dtype == torch.float64
    if kind == "ppo":  # both branches of both clips are in use
        assert 0.2 < computed.metrics["ppo_clip/clip_fraction"] < 0.8
        assert 0.1 < computed.metrics["value_clip/value_clip_fraction"] < 0.9
    computed.loss.backward()
    parts = {"trunk": network.trunk, "adapter": network.adapter, "head": network.scalar}
    trained = {
        f"{part}.{name}": p for part, m in parts.items() if m for name, p in m.named_parameters() if p.requires_grad
    }
    generator, flat = torch.Generator().manual_seed(5), []
    for name, parameter in trained.items():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        along = 0.0 if parameter.grad is None else float((parameter.grad * direction).sum())
        slope = (
            shifted(network, batch, losses, parameter, H * direction)
            - shifted(network, batch, losses, parameter, -H * direction)
        ) / (2 * H)
        assert along == pytest.approx(slope, rel=1e-5, abs=1e-7), name
        if abs(slope) < 1e-4:
            flat.append(name)
    heads = {"head.weight", "head.bias"}
    with_values = any("values" in reads(loss) for loss in losses)
    assert set(flat) == (set() if with_values else heads)


@torch.no_grad()
def shifted(network, batch, losses, parameter, by):
    """The loss with one weight tensor moved."""
    parameter += by
    loss = float(network(batch, losses).loss)
    parameter -= by
    return loss
