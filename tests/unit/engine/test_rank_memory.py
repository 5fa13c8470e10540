"""A rank of many with a decoder of billions of weights, on tensors without numbers: it works, in the memory planned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from thumbs.config.losses import CROSS_ENTROPY, LossSpec, TokenLoss
from thumbs.config.model import ModelConfig
from thumbs.engine import compute, sharding
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.batch import Batch
from thumbs.engine.compute import Model
from thumbs.engine.optimizers import make_optimizer, set_rates
from thumbs.engine.sharded_files import pieces_of
from thumbs.functional.logprobs import NarrowVocabulary
from thumbs.models import kernels
from thumbs.models.causal_lm import CausalLM
from thumbs.models.decoder_config import DecoderConfig
from thumbs.models.heads import ScalarHead
from thumbs.models.operators import CARD_LOGITS
from thumbs.models.prefixes import PrefixTree
from thumbs.models.rows import Rows
from thumbs.pipeline.cluster_plan import rank_bytes, shape_of

SHAPES = {  # vocabulary, width, intermediate, layers, heads, key heads
    "8B": (128_256, 4096, 14_336, 32, 32, 8),
    "32B": (151_936, 5120, 25_600, 64, 64, 8),
    "70B": (128_256, 8192, 28_672, 80, 64, 8),
    "405B": (128_256, 16_384, 53_248, 126, 128, 8),
}
LOSSES: dict[str, list[LossSpec]] = {
    "cross entropy": [CROSS_ENTROPY],
    "PPO": [TokenLoss.of("ppo_clip"), TokenLoss.of("value_clip")],
}
CPU = torch.device("cpu")


def decoder(name: str, layers: int | None) -> DecoderConfig:
    """A decoder of that shape, with all of its layers or so many."""
    vocabulary, width, inner, depth, heads, kv_heads = SHAPES[name]
    return DecoderConfig(
        architecture="LlamaForCausalLM",
        vocab_size=vocabulary,
        width=width,
        intermediate=inner,
        layers=layers or depth,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        context=131_072,
        tied=False,
    )


class CardVocabulary(NarrowVocabulary):
    """What a card does: torch has its product, of bfloat16 with sums in float32, only there."""

    def product(self, x: Tensor, factor: Tensor) -> Tensor:
        return torch.empty(len(x), factor.shape[1], dtype=torch.float32)


@pytest.fixture
def a_card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Makes this process the first of so many ranks that answer nothing, and answers what numbers would be asked for:
    every target of the one sequence counts, and every rank reaches every weight.
    """

    def begin(ranks: int, tokens: int) -> None:
        rows = Rows.of([tokens], CPU)
        assert len(rows.positions) == rows.queries.numel() == rows.keys.numel() == tokens  # made before they are fake
        whole, nonzero = np.arange(tokens), Tensor.nonzero
        tree = PrefixTree([tokens], [-1], [0], whole, whole)

        def places(x: Tensor, *, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...]:
            found = torch.arange(tokens)[:, None] if len(x) == tokens else nonzero(x)
            return found.unbind(1) if as_tuple else found

        def norm(parameters: Iterable[nn.Parameter]) -> float:
            squares = [sharding._squares(sharding.local(p.grad)) for p in parameters if p.grad is not None]
            assert squares
            return 1.0

        for owner, name, value in (
            (kernels, "usable", lambda *_: False),
            (sharding, "agree", list),
            (sharding, "_reached", lambda _, ends: [True] * len(ends)),
            (sharding, "gradient_norm", norm),
            (compute, "vocabulary", lambda _, tokens: CardVocabulary(CARD_LOGITS // tokens)),
            (Rows, "of", staticmethod(lambda *_: rows)),
            (Batch, "tree", lambda *_: tree),
            (Batch, "sequence", property(lambda _: torch.zeros(tokens, dtype=torch.long))),
            (Tensor, "nonzero", places),
            (FakeTensor, "__bool__", lambda _: True),
            (FakeTensor, "item", lambda _: 1.0),
            (FakeTensor, "__float__", lambda _: 1.0),
        ):
            monkeypatch.setattr(owner, name, value, raising=False)
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)

    return begin


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def total(found: dict[torch.device, dict[Any, int]]) -> int:
    """Bytes of all kinds."""
    return sum(value for kinds in found.values() for kind, value in kinds.items() if str(kind).endswith("Total"))


@pytest.mark.parametrize(
    ("name", "layers", "ranks", "tokens", "losses", "recompute"),
    [
        ("70B", 8, 64, 4096, "PPO", True),
        ("8B", None, 8, 8192, "PPO", True),
        ("8B", None, 128, 4096, "cross entropy", True),
        ("8B", None, 8, 2048, "PPO", False),
        ("32B", 16, 16, 4096, "PPO", True),
        ("405B", 8, 128, 4096, "cross entropy", True),  # no constant was chosen looking at it
    ],
)
def test_a_rank_needs_what_the_plan_says(a_card, name, layers, ranks, tokens, losses, recompute):
    """Two micro-batches and a step, with the moments of a step before, of the real losses."""
    a_card(ranks, tokens)
    shape, mesh = decoder(name, layers), init_device_mesh("cpu", (ranks,))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        trunk, head = CausalLM(shape, torch.bfloat16), ScalarHead(shape.width, 1, 0) if losses == "PPO" else None
    if recompute:
        sharding.recompute(trunk)
    root = sharding.Sharded(trunk, mesh)
    model = Model(ModelSpec("policy", ModelConfig(name=name), ("lm", "scalar") if head else ("lm",)), trunk, None, head)
    named = model.trained()
    with mode:
        columns = {name: torch.ones(tokens) for name in ("weights", "logprobs", "advantages", "values", "returns")}
        places = torch.zeros(tokens, dtype=torch.long)
        batch = Batch([0], [tokens], places, places, columns, {})
        # On spread tensors torch plans an optimizer's step with whole fake ones, which would be tracked.
        own = {name: nn.Parameter(sharding.local(parameter).detach()) for name, parameter in named.items()}
        optimizer = make_optimizer("adamw", own)
        set_rates("adamw", optimizer, AdamStep(1e-3, 1e-3))
        tracker = FSDPMemTracker(root)
        with tracker:
            for parameter in own.values():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            for _ in range(2):
                tracker.reset_mod_stats()
                turn = root.take_turn(model, batch, LOSSES[losses])
                assert turn.error is None
                assert turn.computed is not None
            sharding.clip_gradients(named.values(), 1.0)
            for key, parameter in named.items():
                own[key].grad = sharding.local(cast(Tensor, parameter.grad))
            optimizer.step()
            model.clear()
            optimizer.zero_grad()
    weights = sum(parameter.numel() for parameter in named.values())
    assert total(tracker.get_tracker_snapshot("current")) == pytest.approx(12 * weights / ranks, rel=0.01)
    with torch.device("meta"):
        planned = rank_bytes(shape_of(CausalLM(shape, torch.bfloat16), 0), ranks, tokens=tokens, recompute=recompute)
    tracked = total(tracker.get_tracker_snapshot("peak"))
    assert sum(planned.values()) == pytest.approx(tracked, rel=0.1), planned
    saved = sum(piece.rows.nbytes for piece in pieces_of(trunk).values())
    assert saved == pytest.approx(4 * sum(p.numel() for p in trunk.parameters()) / ranks, rel=0.001)
