"""The loss of a batch through the engine's own path, against loops over the numbers of transformers."""

import math

import numpy as np
import pytest
import torch

from thumbs.config.losses import CROSS_ENTROPY, PairLoss, ReplyLoss, ScoreLoss, TokenLoss
from thumbs.config.model import ModelConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.batch import micro_batches
from thumbs.engine.compute import Model
from thumbs.models.causal_lm import load_decoder
from thumbs.models.heads import ScalarHead
from thumbs.records import Example
from tiny_models import load_reference, random_sequences

SEQUENCES = random_sequences(10, [6, 9, 4, 7])
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def head():
    head = ScalarHead(32)
    head.weight.data = 0.2 * torch.randn(32, generator=torch.Generator().manual_seed(1))
    head.bias.data = torch.tensor(0.3)
    return head


@pytest.fixture(scope="module")
def network(tiny_llama, head):
    trunk = load_decoder(tiny_llama, torch.float32, master=False)
    return Model(ModelSpec("model", ModelConfig(name=str(tiny_llama))), trunk, None, head)


@pytest.fixture(scope="module")
@torch.no_grad()
def slow(tiny_llama, head):
    """Of each sequence: logprobs of the next tokens [T][V] at both temperatures, and values [T + 1]."""
    model, found = load_reference(tiny_llama), []
    for sequence in SEQUENCES:
        hidden = model.base_model(input_ids=torch.tensor([sequence])).last_hidden_state[0]
        logits = hidden @ model.get_output_embeddings().weight.T
        found.append(
            {
                "cold": (logits / TEMPERATURE).log_softmax(-1).double().tolist(),
                "plain": logits.log_softmax(-1).double().tolist(),
                "values": [float(h @ head.weight) + 0.3 for h in hidden],
            }
        )
    return found


def run(network, data, losses):
    (batch,) = micro_batches(data, torch.device("cpu"))
    return network(batch, losses)


def test_cross_entropy(network, slow):
    rng = np.random.default_rng(0)
    data = [Example.next_token(s, weights=rng.uniform(0, 1, len(s) - 1)) for s in SEQUENCES]
    wanted = -sum(
        float(w) * numbers["plain"][t][sequence[t + 1]]
        for sequence, datum, numbers in zip(SEQUENCES, data, slow, strict=True)
        for t, w in enumerate(datum.columns["weights"])
    )
    assert float(run(network, data, [CROSS_ENTROPY]).loss.detach()) == pytest.approx(wanted, rel=1e-5)


def test_ppo(network, slow):
    rng, data = np.random.default_rng(1), []
    policy = value = 0.0
    for sequence, numbers in zip(SEQUENCES, slow, strict=True):
        rows = []
        for t, token in enumerate(sequence[1:]):
            now, v = numbers["cold"][t][token], numbers["values"][t]
            advantage, weight = rng.normal(), rng.uniform(0.1, 1) * (t > 1)
            old, old_value, target = now + rng.normal(0, 0.3), v + rng.normal(0, 0.5), rng.normal()
            rows.append((weight, old, advantage, old_value, target))
            entropy = -sum(math.exp(x) * x for x in numbers["cold"][t])
            ratio = math.exp(now - old)
            gain = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
            policy += weight * (-gain - 0.05 * entropy)
            near = min(max(v, old_value - 0.3), old_value + 0.3)
            value += weight * 0.5 * max((v - target) ** 2, (near - target) ** 2)
        names = ("weights", "logprobs", "advantages", "values", "returns")
        data.append(Example.next_token(sequence, **dict(zip(names, np.array(rows).T, strict=True))))
    losses = [
        TokenLoss.of("ppo_clip", clip_range=0.2, entropy_coef=0.05, temperature=TEMPERATURE),
        TokenLoss.of("value_clip", clip_range=0.3, coef=0.4),
    ]
    computed = run(network, data, losses)
    assert float(computed.metrics["ppo_clip/loss_sum"]) == pytest.approx(policy, rel=1e-4)
    assert float(computed.metrics["value_clip/loss_sum"]) == pytest.approx(0.4 * value, rel=1e-4)
    assert float(computed.loss.detach()) == pytest.approx(policy + 0.4 * value, rel=1e-4)


def test_pairs(network, slow):
    """The sides of a pair are in the order of the data, whatever their lengths; a score is the value at the end."""
    pairs = {0: (0, 2, 1.0, 0.4, 0.7), 1: (1, 3, 0.0, 0.2, 0.3)}  # pair: first, second, preferred, margin, weight
    scores, wanted, gap = [numbers["values"][-1] for numbers in slow], 0.0, 0.0
    data = {}
    for pair, (a, b, preferred, margin, weight) in pairs.items():
        better, worse = (scores[a], scores[b]) if preferred else (scores[b], scores[a])
        wanted += weight * (math.log1p(math.exp(margin - (better - worse))) + 0.05 * (scores[a] + scores[b]) ** 2)
        gap += weight * (better - worse)
        for i in (a, b):
            weights = np.zeros(len(SEQUENCES[i]))
            weights[-1] = 1
            of = {"unit": pair, "preferred": preferred, "margin": margin, "unit_weight": weight}
            data[i] = Example.whole_sequence(SEQUENCES[i], weights=weights, **of)
    computed = run(network, [data[i] for i in range(4)], [ScoreLoss.of("bradley_terry", center_coef=0.05)])
    assert float(computed.loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert float(computed.metrics["bradley_terry/score_gap"]) == pytest.approx(gap, rel=1e-4)


def replies(slow):
    """Of each sequence from its third token on: the mask, the logprobs' sum, and a reference near it."""
    rng, found = np.random.default_rng(3), []
    for sequence, numbers in zip(SEQUENCES, slow, strict=True):
        weights = (np.arange(len(sequence) - 1) > 1).astype(float)
        now = sum(w * numbers["plain"][t][sequence[t + 1]] for t, w in enumerate(weights))
        found.append((weights, now, now + rng.normal()))
    return found


@pytest.mark.parametrize("preferred", [1.0, 0.0, 0.5])
def test_dpo(network, slow, preferred):
    """DPO of whole replies plus the likelihood of the better one; the sides are in the order of the data."""
    beta, found, data = 0.3, replies(slow), []
    for sequence, (weights, _, reference) in zip(SEQUENCES[:2], found, strict=False):
        of = {"unit": 0, "preferred": preferred, "reference": reference, "baseline": 0.0, "unit_weight": 0.5}
        data.append(Example.next_token(sequence, weights=weights, **of))
    (a, ra), (b, rb) = ((now, reference) for _, now, reference in found[:2])
    gap, mean = beta * ((a - ra) - (b - rb)), [now / weights.sum() for weights, now, _ in found[:2]]
    wanted = preferred * (math.log1p(math.exp(-gap)) - 0.4 * mean[0])
    wanted += (1 - preferred) * (math.log1p(math.exp(gap)) - 0.4 * mean[1])
    assert abs(gap) > 0.1
    loss = PairLoss(formula="dpo", settings={"beta": beta}, sft_coef=0.4)
    assert float(run(network, data, [loss]).loss.detach()) == pytest.approx(0.5 * wanted, rel=1e-5)


def test_kto(network, slow):
    wanted, data = 0.0, []
    for number, (sequence, (weights, now, reference)) in enumerate(zip(SEQUENCES, replies(slow), strict=True)):
        desirable, weight = number % 2, 0.1 * (number + 1)
        of = {"reference": reference, "desirable": desirable, "baseline": 0.2, "unit_weight": weight}
        data.append(Example.next_token(sequence, weights=weights, **of))
        gain = 0.5 * (now - reference - 0.2) * (1 if desirable else -1)
        wanted += weight * (1.5 if desirable else 0.8) / (1 + math.exp(gain))
    loss = ReplyLoss.of("kto", beta=0.5, desirable_weight=1.5, undesirable_weight=0.8)
    assert float(run(network, data, [loss]).loss.detach()) == pytest.approx(wanted, rel=1e-5)


def test_replies_in_several_pairs_are_computed_once(network, slow, monkeypatch):
    """Three replies in all their pairs: three sequences pass the trunk, and the loss is that of the pairs alone."""
    scores, pairs, data = [numbers["values"][-1] for numbers in slow], [(0, 1), (0, 2), (2, 1)], []
    for number, pair in enumerate(pairs):
        for i in pair:
            weights = np.eye(len(SEQUENCES[i]))[-1]
            of = {"unit": number, "preferred": 1.0, "margin": 0.0, "unit_weight": 1 / 3}
            data.append(Example.whole_sequence(SEQUENCES[i], weights=weights, **of))
    forward, passed = network.trunk.forward_packed, []
    monkeypatch.setattr(network.trunk, "forward_packed", lambda t, *of: passed.append(len(t)) or forward(t, *of))
    computed = run(network, data, [ScoreLoss.of("bradley_terry")])
    wanted = sum(math.log1p(math.exp(scores[b] - scores[a])) / 3 for a, b in pairs)
    assert float(computed.loss.detach()) == pytest.approx(wanted, rel=1e-5)
    assert passed == [len(SEQUENCES[0]) + len(SEQUENCES[1]) + len(SEQUENCES[2])]
