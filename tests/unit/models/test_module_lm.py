"""A torch module of a program's own behind our decoder's interface, against the module run on one sequence alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thumbs.config.model import AdapterConfig
from thumbs.errors import ConfigError, ModelError
from thumbs.models.module_lm import ModuleLM
from thumbs.rollout.native import DecodingLoop, NativeSampler
from thumbs.rollout.sampler import DecodingParams

SEQUENCES = [[5, 9, 2, 7, 1, 3], [8, 4], [11, 12, 13, 14, 15, 16, 17], [6]]


class Small(nn.Module):
    """A recurrent model whose output has one of the forms that modules have."""

    def __init__(self, form: str = "tensor", bias: bool = False) -> None:
        super().__init__()
        self.form = form
        self.embed, self.mix = nn.Embedding(40, 12), nn.GRU(12, 12, batch_first=True)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(12, 40, bias=bias)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> object:
        states = self.mix(self.embed(tokens))[0]
        logits = self.head(self.drop(states[:, -1:] if self.form == "last" else states))
        if self.form == "scaled":
            logits = 2 * logits
        return {"tuple": (logits, None), "dict": {"logits": logits}}.get(self.form, logits)


def made(form: str = "tensor", bias: bool = False) -> tuple[ModuleLM, Small]:
    torch.manual_seed(0)
    module = Small(form, bias)
    return ModuleLM(module), module.eval()


def logits_alone(module: Small, sequence: list[int]) -> Tensor:
    found = module(torch.tensor([sequence]))
    found = found["logits"] if isinstance(found, dict) else found
    return (found[0] if isinstance(found, tuple) else found)[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_packed_logits_are_those_of_each_sequence_alone(form: str, bias: bool):
    model, module = made(form, bias)
    packed = torch.tensor([token for sequence in SEQUENCES for token in sequence])
    with torch.no_grad():
        hidden = model.forward_packed(packed, [len(sequence) for sequence in SEQUENCES])
        alone = torch.cat([logits_alone(module, sequence) for sequence in SEQUENCES])
    torch.testing.assert_close(model.logits(hidden), alone, atol=1e-6, rtol=0)


def test_gradients_are_those_of_the_module():
    model, module = made(bias=True)
    sequence = SEQUENCES[0]
    (model.forward_packed(torch.tensor(sequence), [6]) @ model.head_weight().T).logsumexp(-1).sum().backward()
    ours = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    module.zero_grad()
    logits_alone(module, sequence).logsumexp(-1).sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_greedy_samples_are_those_of_a_slow_loop():
    model, module = made()
    params = DecodingParams(max_new_tokens=5, stop_tokens=(0,), temperature=0.0)
    sampler = NativeSampler(DecodingLoop(model), 0)
    found = sampler.sample([SEQUENCES[0], SEQUENCES[1], SEQUENCES[0]], params, [0, 0, 0])
    for prompt, sample in zip([SEQUENCES[0], SEQUENCES[1], SEQUENCES[0]], found, strict=True):
        tokens = list(prompt)
        with torch.no_grad():
            while len(tokens) < len(prompt) + 5 and tokens[len(prompt) :][-1:] != [0]:
                tokens.append(int(logits_alone(module, tokens)[-1].argmax()))
        assert sample.tokens.tolist() == tokens[len(prompt) :]


@pytest.mark.parametrize(
    ("form", "reason"), [("last", r"gives shape \(1, 1, 40\)"), ("scaled", "changes the numbers of its last linear")]
)
def test_logits_that_are_not_states_times_embedding_are_refused(form: str, reason: str):
    with pytest.raises(ModelError, match=reason):
        ModuleLM(Small(form))


def test_a_module_that_fails_on_tokens_is_refused():
    with pytest.raises(ModelError, match=r"Linear fails on tokens \[1, 6\]"):
        ModuleLM(nn.Linear(3, 4))


def test_adapters_are_refused():
    model, _ = made()
    with pytest.raises(ConfigError, match=r"no adapters; set model\.lora=null"):
        model.new_adapter(AdapterConfig(), 0)
