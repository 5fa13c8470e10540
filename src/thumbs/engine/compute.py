"""Where a named loss meets a model: one pass through the trunk, then each loss of what the pass gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thumbs.config.losses import HEAD_WEIGHTS, REFERENCE_STATES, LossSpec, TokenLoss
from thumbs.engine import losses as named
from thumbs.engine.batch import Batch
from thumbs.engine.shared_states import SharedStates
from thumbs.engine.token_losses import Pass
from thumbs.functional.logprobs import measured_logprobs, target_logprobs
from thumbs.functional.reverse_kl import divergence
from thumbs.models.base import Adapter, Trunk
from thumbs.models.heads import ScalarHead
from thumbs.models.operators import vocabulary
from thumbs.models.rows import Rows


@dataclass(frozen=True)
class Network:
    """A trunk, the adapter that makes it this model, and its scalar head."""

    trunk: Trunk
    adapter: Adapter | None
    scalar: ScalarHead | None
    has_lm: bool
    freeze_trunk: bool = False
    below: SharedStates | None = None

    def hidden(self, batch: Batch) -> Tensor:
        """Final hidden states [N, D]; what sequences have in common is computed once."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_trunk):
            tree = batch.tree(self.trunk.prefix_worth)
            source, places = (torch.from_numpy(x).to(batch.tokens.device) for x in (tree.source, tree.places))
            if self.below is None:
                hidden = self.trunk.forward_packed(batch.tokens[source], tree.lengths, self.adapter, tree.parents)
            else:
                states = self.below.of(batch.tokens, batch.lengths)[source]
                rows = Rows.of(tree.lengths, source.device, tree.parents)
                hidden = self.below.layers.forward_above(states, rows, self.adapter)
            return hidden.index_select(0, places)


@dataclass(frozen=True)
class Computed:
    """Of one micro-batch: the summed loss, logprobs as the targets, values [N] or [N, H] (0 where absent), metrics and
    their weight, and as the targets the losses that they add (0 unless asked for).
    """

    loss: Tensor
    logprobs: Tensor
    values: Tensor
    metrics: dict[str, Tensor]
    weight: float
    by_target: Tensor


def predict(network: Network, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Logprobs [N] where `weights` is not 0 (nats, at `temperature`) and values [N]; 0 for a head that is absent."""
    hidden = network.hidden(batch)
    weights = batch.columns.get("weights", torch.ones_like(batch.targets, dtype=torch.float32))
    logprobs = torch.zeros_like(weights)
    if network.has_lm:
        places = _weighted(weights).nonzero().squeeze(1)
        logprobs[places] = measured_logprobs(*_asked(network, batch, hidden, places), temperature, vocabulary(hidden))
    return logprobs, _values(network, hidden)


def losses_of(
    network: Network, batch: Batch, losses: Sequence[LossSpec], *, logprobs_everywhere: bool = False
) -> Computed:
    """The sum of `losses` on one pass through the trunk; logprobs only where a weight is not 0, unless asked for.

    With the logprobs everywhere comes what each target adds to losses that are sums over targets.
    """
    for loss in losses:
        named.check(loss)
        named.check_columns(loss, batch)
    hidden = network.hidden(batch)
    weights = batch.columns["weights"]
    temperature, wanted = named.temperature(losses), set[str]().union(*map(named.reads, losses))
    logprobs = entropy = divergences = torch.zeros_like(weights)
    if "logprobs" in wanted:
        everywhere = logprobs_everywhere
        logprobs, entropy = _logprobs(network, batch, hidden, weights, temperature, everywhere=everywhere)
    if "divergences" in wanted:
        divergences = _divergence(network, batch, hidden, temperature)
    seen = Pass(batch, logprobs, _values(network, hidden), entropy, divergences)
    total = torch.zeros((), device=weights.device)
    metrics: dict[str, Tensor] = {}
    for loss in losses:
        value, found = named.evaluate(loss, seen)
        total = total + value
        metrics |= {f"{loss.formula}/{name}": metric for name, metric in found.items()} | {
            f"{loss.formula}/loss_sum": value.detach()
        }
    of, share = batch.sequence_columns, weights
    if "unit_weight" in of:  # the metrics of pairs leave ties out
        share = of["unit_weight"] * (of["preferred"] != 0.5 if "preferred" in of else 1.0)
    if HEAD_WEIGHTS in of:
        heads = of[HEAD_WEIGHTS].mean(1)
        share = share * (heads if "unit_weight" in of else heads[batch.sequence])
    by_target = torch.zeros_like(weights)
    if logprobs_everywhere and all(isinstance(loss, TokenLoss) for loss in losses):
        by_target = _by_target(losses, seen)
    return Computed(total, logprobs.detach(), seen.values.detach(), metrics, float(share.sum()), by_target)


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
    network: Network, batch: Batch, hidden: Tensor, weights: Tensor, temperature: float, *, everywhere: bool
) -> tuple[Tensor, Tensor]:
    """Logprobs as the targets, and entropy [N]; where a weight is 0 an entropy is 0, and a logprob is so too or, if
    they are asked for everywhere, a number without a gradient.
    """
    out, entropies = torch.zeros_like(weights), weights.new_zeros(len(weights))
    if not network.has_lm:
        return out, entropies
    weighted = _weighted(weights)
    places = weighted.nonzero().squeeze(1)
    logprobs, entropy = target_logprobs(*_asked(network, batch, hidden, places), temperature, vocabulary(hidden))
    out, entropies = out.index_put((places,), logprobs), entropies.index_put((places,), entropy)
    if everywhere:
        rest = (~weighted).nonzero().squeeze(1)
        measured = measured_logprobs(*_asked(network, batch, hidden, rest), temperature, vocabulary(hidden))
        out = out.index_put((rest,), measured)
    return out, entropies


def _divergence(network: Network, batch: Batch, hidden: Tensor, temperature: float) -> Tensor:
    """KL(policy ‖ reference) [N] at the temperature, nats; 0 where a weight is 0."""
    weights = batch.columns["weights"]
    places = _weighted(weights).nonzero().squeeze(1)
    states = batch.columns[REFERENCE_STATES][places].to(hidden.dtype)
    kl = divergence(hidden[places], states, network.trunk.head_weight(), temperature)
    return torch.zeros_like(weights).index_put((places,), kl)


def _weighted(weights: Tensor) -> Tensor:
    """Where the vocabulary is met: the places [N] with a weight that is not 0."""
    return weights.reshape(len(weights), -1).any(1)


def _asked(network: Network, batch: Batch, hidden: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The states [M, D] at the places [M], the output embedding [V, D] and the targets there."""
    return hidden[places], network.trunk.head_weight(), batch.targets[places]


def _values(network: Network, hidden: Tensor) -> Tensor:
    if network.scalar is None:
        return torch.zeros(len(hidden), device=hidden.device)
    return network.scalar(hidden)
