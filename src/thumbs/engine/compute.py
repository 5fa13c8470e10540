"""Where a named loss meets a model: one pass through the trunk, then each loss of what the pass gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thumbs.config.losses import HEAD_WEIGHTS, REFERENCE_STATES, LossSpec, TokenLoss
from thumbs.engine import losses as named
from thumbs.engine.base import Handle, ModelSpec, OpenEngine
from thumbs.engine.batch import Batch
from thumbs.engine.plan import BatchResult
from thumbs.engine.shared_states import SharedStates
from thumbs.engine.token_losses import Pass
from thumbs.functional.logprobs import measured_logprobs, target_logprobs
from thumbs.functional.reverse_kl import divergence
from thumbs.functional.reward_losses import TWO_SIDED
from thumbs.models.base import Adapter, Trunk, Weights
from thumbs.models.heads import ScalarHead
from thumbs.models.operators import vocabulary
from thumbs.models.rows import Rows
from thumbs.records import ForwardOutput


class Model(nn.Module):
    """What stands behind a handle: a trunk, the adapter that makes it this model, its scalar head, what it has learned.

    A pass is one call of the module, so that hooks of torch see where it begins and ends: sharded weights are gathered
    for it. steps: optimizer steps so far. optimizer: None until the first of them.
    """

    def __init__(
        self,
        spec: ModelSpec,
        trunk: Trunk,
        adapter: Adapter | None,
        scalar: ScalarHead | None,
        below: SharedStates | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.trunk, self.adapter, self.scalar = spec, trunk, adapter, scalar
        self.below, self.has_lm = below, "lm" in spec.heads
        self.optimizer: Optimizer | None = None
        self.steps = 0
        self.parts = [part for part in (trunk, adapter, scalar) if part is not None]
        if not spec.trainable:
            for part in self.parts:
                part.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.trunk.head_weight().device

    def forward(
        self, batch: Batch, losses: Sequence[LossSpec] | None, *, temperature: float = 1.0, everywhere: bool = False
    ) -> Computed:
        """The sum of `losses` and what else comes of the pass; with None logprobs (at `temperature`) and values."""
        check(batch, losses or ())
        return self.of_hidden(self.hidden(batch), batch, losses, temperature=temperature, everywhere=everywhere)

    def of_hidden(
        self,
        hidden: Tensor,
        batch: Batch,
        losses: Sequence[LossSpec] | None,
        *,
        temperature: float = 1.0,
        everywhere: bool = False,
    ) -> Computed:
        """What `forward` gives, of final hidden states [N, D]; the losses have been checked."""
        if losses is None:
            return _predict(self, batch, hidden, temperature)
        return _losses_of(self, batch, hidden, losses, logprobs_everywhere=everywhere)

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states [N, D]; what sequences have in common is computed once."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.spec.freeze_trunk):
            tree = batch.tree(self.trunk.prefix_worth)
            source, device = torch.from_numpy(tree.source), batch.targets.device
            if self.below is None:
                tokens = batch.tokens[source].to(device)
                hidden = self.trunk.forward_packed(tokens, tree.lengths, self.adapter, tree.parents)
            else:
                states = self.below.of(batch.tokens, batch.lengths)[source.to(device)]
                hidden = self.below.layers.forward_above(
                    states, Rows.of(tree.lengths, device, tree.parents), self.adapter
                )
            return hidden.index_select(0, torch.from_numpy(tree.places).to(device))

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that this model trains, by name."""
        parts: dict[str, Weights | None] = {"scalar": self.scalar}
        if not self.spec.freeze_trunk:
            parts["trunk"] = self.trunk if self.adapter is None else self.adapter
        return {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            if module is not None
            for name, parameter in module.named_parameters()
        }

    def weights(self) -> dict[str, Tensor]:
        """The adapter's tensors under PEFT's names; of a model without one the trunk's, under those of transformers."""
        return self.trunk.tensors() if self.adapter is None else self.adapter.peft_state()

    def put(self, tensors: dict[str, Tensor], source: str) -> None:
        """Inverse of `weights`; raises an error that names `source` or a tensor if they are not this model's."""
        if self.adapter is not None:
            self.adapter.load_peft_state(tensors)
        else:
            self.trunk.load_tensors(tensors, source)

    def clear(self) -> None:
        """Forgets the gradients."""
        for parameter in self.trained().values():
            parameter.grad = None

    @contextmanager
    def trial(self) -> Iterator[Callable[[], None]]:
        """Gradients that are computed within it are added to those before if the function that it gives is called."""
        parameters = self.trained().values()
        before, kept = [parameter.grad for parameter in parameters], []
        self.clear()
        try:
            yield lambda: kept.append(True)
        finally:
            for parameter, grad in zip(parameters, before, strict=True):
                if not kept or parameter.grad is None:
                    parameter.grad = grad
                elif grad is not None:
                    parameter.grad += grad


@runtime_checkable
class ModuleEngine(OpenEngine, Protocol):
    """An engine in this process, for programs that work with the torch modules themselves."""

    def model(self, handle: Handle) -> Model:
        """The module behind a handle."""
        ...


class Computed(NamedTuple):
    """The results of one micro-batch: the summed loss, logprobs as the targets, values [N] or [N, H] (0 where absent),
    metrics and their weight, and as the targets the losses that they add (0 unless asked for).
    """

    loss: Tensor
    logprobs: Tensor
    values: Tensor
    by_target: Tensor
    metrics: dict[str, Tensor]
    weight: Tensor

    def result(self, batch: Batch) -> BatchResult:
        """The same without tensors."""
        of = (batch.split(x.float().cpu()) for x in (self.logprobs, self.values, self.by_target))
        pieces = zip(batch.order, *of, strict=True)
        outputs = {index: ForwardOutput(*(piece.numpy() for piece in own)) for index, *own in pieces}
        metrics = {name: float(metric) for name, metric in self.metrics.items()}
        return BatchResult(outputs, float(self.loss), metrics, float(self.weight))


def check(batch: Batch, losses: Sequence[LossSpec]) -> None:
    """Raises ConfigError or DataError for losses that there are not, or that cannot be had of this batch together."""
    for loss in losses:
        named.check(loss)
        named.check_columns(loss, batch)
    named.temperature(losses)


def _predict(model: Model, batch: Batch, hidden: Tensor, temperature: float) -> Computed:
    """Logprobs [N] where `weights` is not 0 (nats, at `temperature`) and values [N]; 0 for a head that is absent."""
    weights = batch.columns.get("weights", torch.ones_like(batch.targets, dtype=torch.float32))
    logprobs = torch.zeros_like(weights)
    if model.has_lm:
        places = _weighted(weights).nonzero().squeeze(1)
        logprobs[places] = measured_logprobs(
            *_asked(model, batch, hidden, places), temperature, vocabulary(hidden, model.trunk.vocab_size)
        )
    nothing = torch.zeros((), device=hidden.device)
    return Computed(nothing, logprobs, _values(model, hidden), torch.zeros_like(weights), {}, nothing)


def _losses_of(
    model: Model, batch: Batch, hidden: Tensor, losses: Sequence[LossSpec], *, logprobs_everywhere: bool
) -> Computed:
    """The sum of `losses` on one pass through the trunk; logprobs only where a weight is not 0, unless asked for.

    With the logprobs everywhere comes what each target adds to losses that are sums over targets.
    """
    weights = batch.columns["weights"]
    temperature, wanted = named.temperature(losses), set[str]().union(*map(named.reads, losses))
    logprobs = entropy = divergences = torch.zeros_like(weights)
    if "logprobs" in wanted:
        everywhere = logprobs_everywhere
        logprobs, entropy = _logprobs(model, batch, hidden, weights, temperature, everywhere=everywhere)
    if "divergences" in wanted:
        divergences = _divergence(model, batch, hidden, temperature)
    seen = Pass(batch, logprobs, _values(model, hidden), entropy, divergences)
    total = torch.zeros((), device=weights.device)
    metrics: dict[str, Tensor] = {}
    for loss in losses:
        value, found = named.evaluate(loss, seen)
        total = total + value
        metrics |= {f"{loss.formula}/{name}": metric for name, metric in found.items()} | {
            f"{loss.formula}/loss_sum": value.detach()
        }
    by_target = torch.zeros_like(weights)
    if logprobs_everywhere and all(isinstance(loss, TokenLoss) for loss in losses):
        by_target = _by_target(losses, seen)
    weight = _weight_of_metrics(losses, batch)
    return Computed(total, logprobs.detach(), seen.values.detach(), by_target, metrics, weight)


def _weight_of_metrics(losses: Sequence[LossSpec], batch: Batch) -> Tensor:
    """What the metrics of this micro-batch weigh next to those of others: without what they leave out, which is tied
    pairs and labels that are on neither side.
    """
    of, share = batch.sequence_columns, batch.columns["weights"]
    if any(loss.formula in TWO_SIDED for loss in losses):
        share = share * (batch.columns["labels"] != 0.5)
    if "unit_weight" in of and "labels" in batch.columns:  # of a cost: each reply has a label of its own
        share = of["unit_weight"] * torch.stack([x.sum() for x in batch.split(share)])
    elif "unit_weight" in of:
        share = of["unit_weight"] * (of["preferred"] != 0.5 if "preferred" in of else 1.0)
    if HEAD_WEIGHTS in of:
        heads = of[HEAD_WEIGHTS].mean(1)
        share = share * (heads if "unit_weight" in of else heads[batch.sequence])
    return share.sum()


def _by_target(losses: Sequence[LossSpec], seen: Pass) -> Tensor:
    """What each target adds to the sum of losses that are linear in the weights: w · ∂loss/∂w, as the targets."""
    weights = seen.batch.columns["weights"].clone().requires_grad_()
    batch = replace(seen.batch, columns=seen.batch.columns | {"weights": weights})
    of = (seen.logprobs, seen.values, seen.entropy, seen.divergences)
    with torch.enable_grad():
        fixed = Pass(batch, *(x.detach() for x in of))
        total = torch.stack([named.evaluate(loss, fixed)[0] for loss in losses]).sum()
    return (weights * torch.autograd.grad(total, weights)[0]).detach()


def _logprobs(
    model: Model, batch: Batch, hidden: Tensor, weights: Tensor, temperature: float, *, everywhere: bool
) -> tuple[Tensor, Tensor]:
    """Logprobs as the targets, and entropy [N]; where a weight is 0 an entropy is 0, and a logprob is so too or, if
    they are asked for everywhere, a number without a gradient.
    """
    out, entropies = torch.zeros_like(weights), weights.new_zeros(len(weights))
    if not model.has_lm:
        return out, entropies
    weighted = _weighted(weights)
    places = weighted.nonzero().squeeze(1)
    logprobs, entropy = target_logprobs(
        *_asked(model, batch, hidden, places), temperature, vocabulary(hidden, model.trunk.vocab_size)
    )
    out, entropies = out.index_put((places,), logprobs), entropies.index_put((places,), entropy)
    if everywhere:
        rest = (~weighted).nonzero().squeeze(1)
        measured = measured_logprobs(
            *_asked(model, batch, hidden, rest), temperature, vocabulary(hidden, model.trunk.vocab_size)
        )
        out = out.index_put((rest,), measured)
    return out, entropies


def _divergence(model: Model, batch: Batch, hidden: Tensor, temperature: float) -> Tensor:
    """KL(policy ‖ reference) [N] at the temperature, nats; 0 where a weight is 0."""
    weights = batch.columns["weights"]
    places = _weighted(weights).nonzero().squeeze(1)
    states = batch.columns[REFERENCE_STATES][places].to(hidden.dtype)
    kl = divergence(hidden[places], states, model.trunk.head_weight(), temperature)
    return torch.zeros_like(weights).index_put((places,), kl)


def _weighted(weights: Tensor) -> Tensor:
    """Where the vocabulary is met: the places [N] with a weight that is not 0."""
    return weights.reshape(len(weights), -1).any(1)


def _asked(model: Model, batch: Batch, hidden: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The states [M, D] at the places [M], the output embedding [V, D] and the targets there."""
    return hidden[places], model.trunk.head_weight(), batch.targets[places]


def _values(model: Model, hidden: Tensor) -> Tensor:
    if model.scalar is None:
        return torch.zeros(len(hidden), device=hidden.device)
    return model.scalar(hidden)
