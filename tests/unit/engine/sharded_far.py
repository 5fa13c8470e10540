"""Ranks that hold shards of a model, for the tests: each in a process of its own, they meet in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from contract.engine_cases import LOSSES
from thumbs.config.losses import LossSpec, ScoreLoss, TokenLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.batch import Batch, micro_batches
from thumbs.engine.compute import Model
from thumbs.engine.local import LocalEngine
from thumbs.engine.sharded_rank import ShardedRank
from thumbs.engine.sharding import PassOutcome, Sharded, gradient_norm, recompute
from thumbs.workers.base import WorkerSpec, results
from thumbs.workers.pipes import PipeCrew

CPU = torch.device("cpu")
BUDGET = 25
PATIENCE = timedelta(seconds=60)
LORA = AdapterConfig(rank=4, alpha=8.0)


class Far:
    """One rank. What it is asked to do is a function of this module."""

    def __init__(self, number: int, world: int, meeting: str) -> None:
        self.number, self.world = number, world
        address = f"file://{meeting}"
        dist.init_process_group("gloo", init_method=address, rank=number, world_size=world, timeout=PATIENCE)
        self.mesh = init_device_mesh("cpu", (world,))

    def do(self, function: str, *args: Any) -> Any:
        return globals()[function](self, *args)


@contextmanager
def ranks(folder: Path, world: int) -> Iterator[Callable[..., list[Any]]]:
    """Starts ranks; gives what calls a function on all of them."""
    crew = PipeCrew(folder / "logs")
    specs = [
        WorkerSpec(f"rank {i}", "unit.engine.sharded_far:Far", (i, world, str(folder / "met"))) for i in range(world)
    ]
    try:
        workers = crew.start(specs)
        yield lambda *call: results([worker.call("do", *call) for worker in workers])
    finally:
        crew.close()


def fresh(folder: str, lora: AdapterConfig | None, **settings: Any) -> Model:
    """A model as the local engine makes it, which computes all of its layers in each pass; B is not zero."""
    engine = LocalEngine(device=CPU)
    model = ModelConfig(name=folder, lora=lora, dtype="float32")
    made = engine.model(engine.create(ModelSpec("policy", model, ("lm", "scalar"), **settings)))
    made.below = None
    generator = torch.Generator().manual_seed(5)
    if made.adapter is not None:
        for parameter in made.adapter.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 20
    return made


def whole(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def summed(model: Model) -> dict[str, torch.Tensor | None]:
    """The gradients over all ranks, in full; None where no rank has one."""
    found: dict[str, torch.Tensor | None] = {}
    for name, parameter in model.trained().items():
        grad = parameter.grad
        if isinstance(parameter, DTensor):
            found[name] = whole(grad)
        else:
            some = torch.tensor(int(grad is not None))
            dist.all_reduce(some)
            total = torch.zeros_like(parameter) if grad is None else grad.clone()
            dist.all_reduce(total)
            found[name] = total if some else None
    return found


def turns(far: Far, batches: list[Batch]) -> list[Batch | None]:
    """This rank's batches, as many turns as the others."""
    count = -(-len(batches) // far.world)
    own = batches[far.number :: far.world]
    return [*own, *[None] * (count - len(own))]


def gradients(far: Far, folder: str, lora: AdapterConfig | None, kind: str, settings: dict[str, Any]) -> Any:
    """The losses of this rank's turns, and the gradients of all."""
    data, losses = LOSSES[kind]
    model = fresh(folder, lora, **settings)
    root = Sharded(model.trunk, far.mesh)
    before = dict(model.trained())
    done = [root.take_turn(model, batch, losses) for batch in turns(far, micro_batches(data, CPU, BUDGET))]
    assert all(parameter is before[name] for name, parameter in model.trained().items())
    norm = gradient_norm(p for p in model.trained().values() if isinstance(p, DTensor))
    losses_found = [None if turn.computed is None else float(turn.computed.loss) for turn in done]
    kinds = {name for name, p in model.trained().items() if isinstance(p, DTensor)}
    return losses_found, summed(model), kinds, norm


EXPERTS = 12


def with_experts(model: Model) -> Model:
    """Each block ends in experts that are modules of their own, of which each token takes one.

    Nobody takes the last.
    """
    generator = torch.Generator().manual_seed(6)
    for layer in cast(Any, model.trunk).layers:
        layer.experts = nn.ModuleList(nn.Linear(model.trunk.width, model.trunk.width) for _ in range(EXPERTS))
        for parameter in layer.experts.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / 20
        layer.forward = partial(_to_experts, layer, layer.forward)
    return model


def _to_experts(layer: Any, forward: Callable[..., Tensor], *args: Any) -> Tensor:
    hidden = forward(*args)
    chosen, out = hidden[:, : EXPERTS - 1].argmax(1), hidden
    for number in chosen.unique().tolist():
        own = (chosen == number).nonzero().squeeze(1)
        out = out.index_add(0, own, layer.experts[number](hidden[own]))
    return out


class ExpertModule(nn.Module):
    """A module of a program's own, whose experts are modules too. Nobody takes the last."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(97, 16), nn.Linear(16, 97)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(EXPERTS))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        flat, chosen = hidden.flatten(0, 1), tokens.flatten() % (EXPERTS - 1)
        out = flat
        for number in chosen.unique().tolist():
            own = (chosen == number).nonzero().squeeze(1)
            out = out.index_add(0, own, self.experts[number](flat[own]).tanh())
        return self.head(out.view_as(hidden))


def expert_module() -> nn.Module:
    torch.manual_seed(3)
    return ExpertModule()


def expert_gradients(far: Far, folder: str, recomputed: bool) -> Any:
    """Which weights this rank's first turn reaches; the losses of all its turns; the gradients of all ranks."""
    data, losses = LOSSES["ppo"]
    batches = micro_batches(data, CPU, BUDGET)
    alone = with_experts(fresh(folder, None))
    alone(batches[far.number], losses).loss.backward()
    own = {name for name, p in alone.trained().items() if p.grad is not None}
    model = with_experts(fresh(folder, None))
    if recomputed:
        recompute(model.trunk)
    root = Sharded(model.trunk, far.mesh)
    done = [root.take_turn(model, batch, losses) for batch in turns(far, batches)]
    return own, [None if turn.computed is None else float(turn.computed.loss) for turn in done], summed(model)


def predictions(far: Far, folder: str, kind: str) -> Any:
    """The logprobs of this rank's turns, without gradients."""
    data, _ = LOSSES[kind]
    model = fresh(folder, None)
    root = Sharded(model.trunk, far.mesh)
    found = []
    with torch.no_grad():
        for batch in turns(far, micro_batches(data, CPU, BUDGET)):
            computed = root.take_turn(model, batch, None, temperature=0.7).computed
            found.append(None if batch is None or computed is None else computed.logprobs)
    assert all(isinstance(p, DTensor) for p in model.trunk.parameters())
    return found


def read_outside(far: Far, folder: str, what: str) -> Any:
    """What comes of reading weights of which the rank has a part, outside of a pass."""
    model = fresh(folder, LORA.model_copy(update={"layers": 1}))
    Sharded(model.trunk, far.mesh)
    cast(Any, model.trunk)._lowest.clear()  # packed by the engine that made it, when it was whole
    read = {
        "a frozen copy": lambda: model.trunk.frozen(),
        "a merged copy": lambda: model.trunk.frozen(model.adapter),
        "merged weights": lambda: model.trunk.tensors(model.adapter),
        "layers below": lambda: model.trunk.below(model.adapter),
    }
    try:
        read[what]()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def weightless(far: Far, folder: str, lora: AdapterConfig | None, which: list[int]) -> Any:
    """A turn in which the ranks named have no target that counts; then whose gradients are None."""
    data, losses = LOSSES["cross entropy"]
    model = fresh(folder, lora)
    root = Sharded(model.trunk, far.mesh)
    batch = micro_batches(data[far.number : far.number + 1], CPU)[0]
    if far.number in which:
        batch.columns["weights"].zero_()
    root.take_turn(model, batch, losses)
    return {name: grad is None for name, grad in summed(model).items()}


def headless(far: Far, folder: str) -> Any:
    """A turn of a loss that reads logprobs, which the model does not give; then whose gradients are None."""
    data, losses = LOSSES["cross entropy"]
    model = fresh(folder, None)
    model.has_lm = False
    Sharded(model.trunk, far.mesh).take_turn(model, micro_batches(data[:1], CPU)[0], losses)
    return {name: grad is None for name, grad in summed(model).items()}


def value_alone(far: Far, folder: str, freeze: bool) -> Any:
    """Rank 0 trains the scalar head, the other has nothing to do."""
    data, _ = LOSSES["ppo"]
    model = fresh(folder, None, freeze_trunk=freeze)
    root = Sharded(model.trunk, far.mesh)
    losses: list[LossSpec] = [TokenLoss.of("value_clip", coef=0.3)]
    root.take_turn(model, micro_batches(data[:2], CPU)[0] if far.number == 0 else None, losses)
    return {name: grad is None for name, grad in summed(model).items()}


def failing(far: Far, folder: str, where: str) -> Any:
    """Rank 1 fails in a turn; all take another one afterwards. Returns who failed, and the gradients after it."""
    data, losses = LOSSES["cross entropy"]
    model = fresh(folder, None)
    root = Sharded(model.trunk, far.mesh)
    batches = micro_batches(data[2 * far.number : 2 * far.number + 2], CPU)
    turn = failing_turn(far, root, model, batches[0], where)
    untouched = all(parameter.grad is None for parameter in model.trained().values())
    root.take_turn(model, batches[0], losses)
    return str(turn.error), turn.failed, turn.computed is None, untouched, summed(model)


def failing_turn(far: Far, root: Sharded, model: Model, batch: Batch, where: str) -> PassOutcome:
    """where: in the embedding, before anything is gathered for a block; or in the loss."""
    losses: list[LossSpec] = LOSSES["cross entropy"][1]
    if far.number == 1 and where == "embedding":
        batch = micro_batches(LOSSES["cross entropy"][0][2:4], CPU)[0]
        batch.tokens[0] = 10_000
    if far.number == 1 and where == "loss":
        losses = [ScoreLoss.of("bradley_terry")]  # of columns that the batch has not
    return root.take_turn(model, batch, losses)


def broken(far: Far, folder: str) -> None:
    """Rank 1 fails between two blocks."""
    data, losses = LOSSES["cross entropy"]
    model = fresh(folder, None)
    root = Sharded(model.trunk, far.mesh)
    if far.number == 1:
        model.trunk.layers[1].forward = lambda *_: 1 / 0  # type: ignore[attr-defined]
    root.take_turn(model, micro_batches(data[:1], CPU)[0], losses)


class FailingRank(ShardedRank):
    """Of two, the second fails between blocks."""

    def create(self, number: int, spec: ModelSpec, module: str | None) -> int:
        found = super().create(number, spec, module)
        if self.number == 1:
            self._model(number).trunk.layers[1].forward = lambda *_: 1 / 0  # type: ignore[attr-defined]
        return found
