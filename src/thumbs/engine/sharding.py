"""A trunk whose weights are spread over the ranks of a cluster, by torch's FSDP2.

Each rank keeps an even part of the rows of each weight. A block's weights are gathered for as long as it computes, and
its gradients are summed over the ranks when it has been passed backward. All ranks must therefore go through the same
blocks, forward and backward, the same number of times. `Sharded` sees to it: one without data computes a token of no
weight, ranks agree on what a backward pass reaches before any of them begins it (an expert may have tokens on one rank
alone), and an error waits until all can stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from thumbs.config.losses import LossSpec
from thumbs.engine.batch import Batch
from thumbs.engine.compute import Computed, Model, check
from thumbs.models.base import Trunk

T = TypeVar("T")


class OutOfStepError(Exception):
    """A rank failed where the others wait for it; nothing that it computes with them can go on."""


@dataclass
class PassOutcome:
    """What one micro-batch came to on this rank. computed: None for a rank without data, and after an error.

    error: this rank's own; failed: whether some rank has one, so that the turn counts on none. unreached: weights of
    the trunk that no rank's loss depends on.
    """

    computed: Computed | None = None
    error: Exception | None = None
    failed: bool = False
    unreached: frozenset[str] = frozenset()


class Sharded(nn.Module):
    """The root of a sharded trunk. Its forward is a whole pass of a model on that trunk, heads and losses included.

    Adapters and scalar heads are outside of it: every rank has them whole.
    """

    def __init__(self, trunk: Trunk, mesh: DeviceMesh, *, offload: bool = False) -> None:
        """mesh: of one dimension, over which weights are spread, or of two (HSDP): copies, and within each of them.
        offload: shards stay in the memory of the host while nothing is computed with them.
        """
        super().__init__()
        self.trunk, self.mesh = cast(nn.Module, trunk), mesh
        self.device = torch.device(mesh.device_type)
        self._entered = False
        self._whole: dict[str, nn.Parameter] = {}
        blocks = blocks_of(self.trunk, trunk.depth)
        precision = MixedPrecisionPolicy(trunk.dtype, torch.float32, cast_forward_inputs=False)
        policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
        for module in (*blocks, self):
            sharded = fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=policy)
            # Losses are sums, so their gradients are too.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
            sharded.set_reduce_scatter_unused_params(True)
        for block in blocks:
            block.register_forward_pre_hook(self._enter)
        self._names = {module: name for name, module in self.named_modules() if module in blocks}

    def take_turn(
        self,
        model: Model,
        batch: Batch | None,
        losses: Sequence[LossSpec] | None,
        *,
        temperature: float = 1.0,
        everywhere: bool = False,
    ) -> PassOutcome:
        """A pass of the model, backward too where gradients are enabled. A collective.

        batch: of this rank; None: it has nothing to compute, but the others need it. losses: None predicts.
        Raises OutOfStepError when it fails where the others wait for it, and what torch raises when another one does.
        """
        turn = PassOutcome()
        without = {name for name, parameter in self.named_parameters() if parameter.grad is None}
        try:
            loss = self(model, batch, losses, turn, temperature=temperature, everywhere=everywhere)
            if loss is not None:
                loss.backward()
        except OutOfStepError:
            raise
        except Exception as error:
            if _of_others(error):
                raise
            raise OutOfStepError(f"{type(error).__name__}: {error}") from error
        finally:
            # Gives the root's weights back, and forgets the order of blocks that were passed forward only.
            cast(FSDPModule, self).reset_iter_state()
        zeros = turn.unreached & without
        for parameter in (p for name, p in self.named_parameters() if name in zeros):
            parameter.grad = None  # of zeros an optimizer would make a step
        if turn.computed is not None:
            turn.computed = turn.computed._replace(loss=turn.computed.loss.detach())
        return turn

    def forward(
        self, model: Model, batch: Batch | None, losses: Sequence[LossSpec] | None, turn: PassOutcome, **options: Any
    ) -> Tensor | None:
        """The loss to go backward from, with a term of weight 0 for what only other ranks reach.

        A plain tensor, in which FSDP2 sees where the backward pass begins. None: no rank goes backward.
        """
        hidden = self._hidden(model, batch, losses, turn)
        if batch is not None and turn.error is None:
            try:
                turn.computed = model.of_hidden(hidden, batch, losses, **options)
            except Exception as error:
                turn.error = error
        loss = hidden.new_zeros((), dtype=torch.float32) if turn.computed is None else turn.computed.loss
        outside = self._leaves()
        weights = self._whole | outside if torch.is_grad_enabled() else {}
        ends = [hidden, *outside.values()] if torch.is_grad_enabled() else []
        own = _reached(loss, [*ends, *weights.values()])
        turn.failed, *anywhere = agree([turn.error is not None, *own])
        turn.unreached = frozenset(name for name, some in zip(weights, anywhere[len(ends) :], strict=True) if not some)
        if turn.failed:
            turn.computed = None
            return None
        if not any(anywhere):
            if loss.requires_grad:
                loss.backward()  # into what every rank has whole
            return None
        for end, here, somewhere in zip(ends, own, anywhere, strict=False):
            if somewhere and not here:
                loss = loss + 0.0 * end.flatten()[0].float()
        return loss

    def _hidden(
        self, model: Model, batch: Batch | None, losses: Sequence[LossSpec] | None, turn: PassOutcome
    ) -> Tensor:
        """Final hidden states of the batch, or of a token in its place."""
        token = _token(self.device)
        if batch is None:
            return model.hidden(token)
        self._entered = False
        try:
            check(batch, losses or ())
            return model.hidden(batch)
        except Exception as error:
            if self._entered:
                raise
            turn.error = error  # no other rank has noticed
        return model.hidden(token)

    def _leaves(self) -> dict[str, nn.Parameter]:
        """The trained weights outside of blocks, whole while this module computes."""
        return {name: p for name, p in self.named_parameters() if _is_trained(p) and not isinstance(p, DTensor)}

    def _enter(self, block: nn.Module, _: object) -> None:
        """Notes a block's trained weights, whole while it computes, of which its graph is made."""
        self._entered = True
        own = {name: p for name, p in block.named_parameters() if _is_trained(p)}
        self._whole |= {f"{self._names[block]}.{name}": parameter for name, parameter in own.items()}


def blocks_of(trunk: nn.Module, depth: int) -> list[nn.Module]:
    """The blocks of a trunk, which are gathered one at a time; none for a module that does not say how deep it is."""
    stacks = [m for m in trunk.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    return list(stacks[0]) if depth and stacks else []


def agree(flags: Sequence[bool]) -> list[bool]:
    """Of each flag whether some rank has raised it. A collective."""
    some = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(some, dist.ReduceOp.MAX)
    return [bool(flag) for flag in some]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """L2 norm of the gradients of sharded weights and whole ones together. A collective."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    spread = [grad for grad in grads if isinstance(grad, DTensor)]
    squares = sum((_squares(grad.to_local()) for grad in spread), torch.zeros((), dtype=torch.float64))
    if spread:
        mesh = spread[0].device_mesh
        dist.all_reduce(squares, group=mesh.get_group(mesh.ndim - 1))
    squares = squares + sum(_squares(grad) for grad in grads if not isinstance(grad, DTensor))
    return float(squares.sqrt())


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Scales the gradients so that their norm is at most `most`; returns what it was. A collective."""
    parameters = list(parameters)
    norm = gradient_norm(parameters)
    scale = min(most / (norm + 1e-6), 1.0)  # as torch.nn.utils.clip_grad_norm_
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(scale)
    return norm


def together(work: Callable[[], T]) -> T:
    """What `work`, in which no rank waits for another, returns; all ranks fail if it fails on one. A collective."""
    value, own = None, None
    try:
        value = work()
    except Exception as error:
        own = error
    if agree([own is not None])[0]:
        raise own or OutOfStepError("another rank failed")
    return cast(T, value)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_rows(tensor: Tensor) -> range:
    """Which rows of the whole tensor that part is."""
    if not isinstance(tensor, DTensor):
        return range(len(tensor) if tensor.ndim else 1)
    mesh = tensor.device_mesh
    rank, ranks = mesh.get_local_rank(mesh.ndim - 1), mesh.size(mesh.ndim - 1)
    first = min(rank * -(-len(tensor) // ranks), len(tensor))  # as torch.chunk
    return range(first, first + len(tensor.to_local()))


def like(part: Tensor, parameter: DTensor) -> DTensor:
    """The tensor, spread as the parameter is, of which this rank has that part."""
    return DTensor.from_local(
        part.to(parameter.to_local().device),
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def recompute(trunk: Trunk) -> None:
    """Makes the blocks keep only what enters them; what a backward pass needs beyond that, it computes again."""
    for block in blocks_of(cast(nn.Module, trunk), trunk.depth):
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run


def _of_others(error: BaseException) -> bool:
    """Whether the error is of a collective, which another rank has left."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("torch.distributed.")


def _squares(tensor: Tensor) -> Tensor:
    return tensor.detach().double().pow(2).sum().cpu()


def _is_trained(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and not parameter.is_meta


def _reached(loss: Tensor, ends: Sequence[Tensor]) -> list[bool]:
    """Which of the tensors the gradient of the loss flows into."""
    found, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [following for following, _ in node.next_functions]
    return [end.requires_grad and get_gradient_edge(end).node in found for end in ends]


def _token(device: torch.device) -> Batch:
    """The smallest batch."""
    nothing = torch.zeros(1, dtype=torch.long, device=device)
    return Batch([0], [1], nothing, nothing, {}, {})
