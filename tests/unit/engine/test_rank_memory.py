"""A rank of 64 with a decoder of 70 billion weights, on tensors without numbers: it works, in the memory planned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from thumbs.engine import sharding
from thumbs.engine.base import AdamStep
from thumbs.engine.batch import Batch
from thumbs.engine.compute import Computed, Model
from thumbs.engine.memory import sharded_bytes
from thumbs.engine.optimizers import make_optimizer, set_rates
from thumbs.engine.sharded_files import pieces_of
from thumbs.functional.logprobs import Vocabulary, target_logprobs
from thumbs.models import kernels
from thumbs.models.causal_lm import CausalLM
from thumbs.models.decoder_config import DecoderConfig
from thumbs.models.rows import Rows

RANKS = 64
CPU = torch.device("cpu")


def llama(layers: int) -> DecoderConfig:
    """The shape of Llama-3-70B, with so many of its 80 layers."""
    return DecoderConfig(
        architecture="LlamaForCausalLM",
        vocab_size=128_256,
        width=8192,
        intermediate=28_672,
        layers=layers,
        heads=64,
        kv_heads=8,
        head_dim=128,
        context=32_768,
        tied=False,
    )


class Scored:
    """A pass as `Model` makes it, of one sequence whose targets all count; nothing in it asks for a number."""

    def __init__(self, trunk: CausalLM, tokens: int) -> None:
        self.trunk, self.rows = trunk, Rows.of([tokens], CPU)
        self.known = (self.rows.positions, self.rows.queries, self.rows.keys)  # made of numbers, which fake ones lack

    def hidden(self, batch: Batch) -> Tensor:
        return self.trunk.forward_above(self.trunk.embed(batch.tokens), self.rows, 0)

    def of_hidden(self, hidden: Tensor, batch: Batch, *_: object, **__: object) -> Computed:
        logprobs, _ = target_logprobs(hidden, self.trunk.head_weight(), batch.targets, 1.0, Vocabulary())
        nothing = torch.zeros(())
        return Computed(-logprobs.sum(), nothing, nothing, nothing, {}, nothing)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as the first of 64 that answer nothing."""
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    monkeypatch.setattr(sharding, "agree", list)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield
    dist.destroy_process_group()


def total(found: dict[torch.device, dict[Any, int]]) -> int:
    """Bytes of all kinds."""
    return sum(value for kinds in found.values() for kind, value in kinds.items() if str(kind).endswith("Total"))


@pytest.mark.parametrize(("layers", "tokens"), [(4, 8192), (8, 16_384), (80, 4096)])
def test_a_rank_of_64_needs_what_the_plan_says(ranks, layers, tokens):
    shape, mesh = llama(layers), init_device_mesh("cpu", (RANKS,))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        trunk = CausalLM(shape, torch.bfloat16)
    sharding.recompute(trunk)
    root = sharding.Sharded(trunk, mesh)
    model = cast(Model, Scored(trunk, tokens))
    named = {f"trunk.{name}": parameter for name, parameter in cast(nn.Module, trunk).named_parameters()}
    with mode:
        places = torch.zeros(tokens, dtype=torch.long)
        batch = Batch([0], [tokens], places, places, {}, {})
        for parameter in named.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer = make_optimizer("adamw", named)
        set_rates("adamw", optimizer, AdamStep(1e-3, 1e-3))
        optimizer.step()
        optimizer.zero_grad()
        tracker = MemTracker()
        tracker.track_external(*named.values(), *(x for state in optimizer.state.values() for x in state.values()))
        with tracker:
            root.take_turn(model, batch, ())
    assert all(parameter.grad is not None for parameter in named.values())
    weights = sum(parameter.numel() for parameter in named.values())
    assert total(tracker.get_tracker_snapshot("current")) == pytest.approx(16 * weights / RANKS, rel=0.001)
    planned = sum(sharded_bytes(shape, RANKS, tokens, wide=True).values())
    assert planned == pytest.approx(total(tracker.get_tracker_snapshot("peak")), rel=0.1)
    assert sum(piece.rows.nbytes for piece in pieces_of(trunk).values()) == pytest.approx(
        4 * weights / RANKS, rel=0.001
    )
