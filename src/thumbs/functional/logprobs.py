"""Log probabilities of given tokens straight from hidden states, without ever holding all logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Vocabulary:
    """Sums over all tokens v of p = softmax(h · Wᵀ / temperature), from `chunk` rows of logits at a time.

    Logits are summed in fp32, because rounding them to bf16 biases the gradient. Here both factors are widened for it:
    torch has no bf16 product with fp32 sums on a processor.
    """

    chunk: int = 256

    def factor(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """The weight [V, D] in the dtype of hidden, as `product` takes it."""
        return _wide(weight.to(hidden.dtype))

    def product(self, x: Tensor, factor: Tensor) -> Tensor:
        """x [M, K] times a factor [K, N], in fp32 or wider."""
        return x.to(factor.dtype) @ factor

    def logits(self, hidden: Tensor, factor: Tensor, temperature: float) -> Tensor:
        """hidden · factorᵀ / temperature, [M, V]."""
        return self.product(hidden.to(factor.dtype) / temperature, factor.T)

    def softmax(
        self, hidden: Tensor, weight: Tensor, temperature: float, *, mean: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """The log of p's denominator [M] and, if wanted, Σ_v p_v w_v [M, D]; fp32 or wider."""
        factor, wide = self.factor(hidden, weight), _wide(hidden)
        normaliser = wide.new_empty(len(hidden))
        expected = torch.empty_like(wide) if mean else None
        for rows in self._slices(len(hidden)):
            logits = self.logits(hidden[rows], factor, temperature)
            normaliser[rows] = logits.logsumexp(1)
            if expected is not None:
                expected[rows] = self.product(logits.softmax(1), factor)
        return normaliser, expected

    def weight_gradient(
        self, hidden: Tensor, weight: Tensor, normaliser: Tensor, slope: Tensor, temperature: float
    ) -> Tensor:
        """Σ_m slope_m p_mv h_m, [V, D]; slope [M]."""
        factor = self.factor(hidden, weight)
        gradient = normaliser.new_zeros(weight.shape)
        for rows in self._slices(len(hidden)):
            probs = self.logits(hidden[rows], factor, temperature).sub_(normaliser[rows, None]).exp_()
            gradient += self.product(probs.mul_(slope[rows, None]).T, hidden[rows])
        return gradient

    def add_entropy_gradients(
        self,
        of_hidden: Tensor,
        of_weight: Tensor | None,
        hidden: Tensor,
        weight: Tensor,
        normaliser: Tensor,
        grad: Tensor,
        temperature: float,
    ) -> None:
        """Adds what the gradients of the entropies, grad [M], make of those of the states [M, D] and, where it is
        trained, of the weight [V, D].
        """
        factor = self.factor(hidden, weight)
        for rows in self._slices(len(hidden)):
            logp = self.logits(hidden[rows], factor, temperature).sub_(normaliser[rows, None])
            probs = logp.exp()
            entropy = -(probs * logp).sum(1, keepdim=True)  # d H / d z = -p (log p + H)
            slope = logp.add_(entropy).mul_(probs).mul_(-grad[rows, None] / temperature)
            of_hidden[rows] += self.product(slope, factor)
            if of_weight is not None:
                of_weight += self.product(slope.T, hidden[rows])

    def _slices(self, n: int) -> list[slice]:
        return [slice(i, i + self.chunk) for i in range(0, n, self.chunk)]


class NarrowVocabulary(Vocabulary):
    """The same on a graphics card, whose products of 16-bit numbers are summed in fp32: the weight is not widened.

    Probabilities are rounded to the dtype of hidden before they meet the weight.
    """

    def factor(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """The weight [V, D] in the dtype of hidden."""
        return weight.to(hidden.dtype)

    def product(self, x: Tensor, factor: Tensor) -> Tensor:
        """x [M, K] times a factor [K, N], in fp32."""
        return torch.mm(x.to(factor.dtype), factor, out_dtype=torch.float32)

    def logits(self, hidden: Tensor, factor: Tensor, temperature: float) -> Tensor:
        """hidden · factorᵀ / temperature, [M, V]."""
        return self.product(hidden, factor.T).div_(temperature)


def target_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    vocabulary: Vocabulary = Vocabulary(),
) -> tuple[Tensor, Tensor]:
    """Log softmax(hidden · weightᵀ / temperature) at the targets, and the entropy of that softmax, in nats.

    hidden [M, D], weight [V, D] (taken in the dtype of hidden), targets int64 [M] → logprobs [M] and entropy [M], in
    fp32 or wider; targets [M, K] → logprobs [M, K], of K tokens at each place for one softmax. Differentiable once in
    hidden and weight. `vocabulary` does the sums over V.
    An entropy that enters no loss costs nothing; one that does costs another pass over the logits.
    """
    return TargetLogprobs.apply(hidden, weight, targets, temperature, vocabulary)


def measured_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    vocabulary: Vocabulary = Vocabulary(),
) -> Tensor:
    """The logprobs of `target_logprobs` without a gradient, for half of the work."""
    hidden, weight = hidden.detach(), weight.detach()
    normaliser, _ = vocabulary.softmax(hidden, weight, temperature, mean=False)
    logits = (_wide(hidden)[:, None] * _at(targets, weight, hidden)).sum(2) / temperature
    return (logits - normaliser[:, None]).view(targets.shape)


class TargetLogprobs(torch.autograd.Function):
    """The Function behind `target_logprobs`.

    The gradient of log p(y) with respect to a row h is (w_y - Σ_v p_v w_v) / temperature: one vector of width D, which
    the forward pass has at hand. Only a trained weight or an entropy in the loss makes the backward pass build the
    logits again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, vocabulary: Vocabulary
    ) -> tuple[Tensor, Tensor]:
        normaliser, expected = vocabulary.softmax(hidden, weight, temperature)
        assert expected is not None  # noqa: S101
        wide, at_target = _wide(hidden), _at(targets, weight, hidden)
        logprobs = (wide[:, None] * at_target).sum(2) / temperature - normaliser[:, None]
        entropy = normaliser - (wide * expected).sum(1) / temperature  # Σ_v p_v z_v = h · Σ_v p_v w_v / temperature
        ctx.save_for_backward(hidden, weight, targets, normaliser, (at_target - expected[:, None]).div_(temperature))
        ctx.temperature, ctx.vocabulary = temperature, vocabulary
        ctx.set_materialize_grads(False)
        return logprobs.view(targets.shape), entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the name ctx)
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Any, ...]:
        grad_logprobs, grad_entropy = grad_outputs
        hidden, weight, targets, normaliser, direction = ctx.saved_tensors
        g = (
            direction.new_zeros(direction.shape[:2])
            if grad_logprobs is None
            else grad_logprobs.view(direction.shape[:2])
        )
        grad_hidden, grad_weight = (g[:, :, None] * direction).sum(1), None
        if ctx.needs_input_grad[1]:  # d log p_y / d z = onehot(y) - p
            slope = -g / ctx.temperature
            grad_weight = ctx.vocabulary.weight_gradient(hidden, weight, normaliser, slope.sum(1), ctx.temperature)
            of_targets = -slope[:, :, None] * _wide(hidden)[:, None]
            grad_weight.index_add_(0, targets.flatten(), of_targets.flatten(0, 1))
        if grad_entropy is not None:
            of = (hidden, weight, normaliser, grad_entropy, ctx.temperature)
            ctx.vocabulary.add_entropy_gradients(grad_hidden, grad_weight, *of)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None


def _at(targets: Tensor, weight: Tensor, hidden: Tensor) -> Tensor:
    """[M, K, D]; K is 1 for targets [M]."""
    several = targets if targets.ndim > 1 else targets[:, None]
    return _wide(weight[several].to(hidden.dtype))


def _wide(x: Tensor) -> Tensor:
    """x in fp32 or wider, which is exact for bf16."""
    return x if x.dtype == torch.float64 else x.float()
