"""Optimizers and objectives that a program registers, at work in the engine; its checkpoints of other architectures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from thumbs.config.losses import CROSS_ENTROPY, ScoreLoss
from thumbs.config.model import ModelConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.engine.objectives import register_reward_objective
from thumbs.engine.optimizers import make_optimizer, register_optimizer, restore_optimizer
from thumbs.errors import CheckpointError, ConfigError
from thumbs.records import Example

BYTE = ModelConfig(name="byte-tiny", lora=None, dtype="float32")
DATA = [Example.next_token([257, 72, 105, 258, 72, 111, 259], weights=[0, 0, 0, 1, 1, 1])]
STEP = AdamStep(learning_rate=0.5, head_learning_rate=0.5, max_grad_norm=1e9)


def momentum(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9)


def weights(engine: LocalEngine, handle: Any, folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    engine.save(handle, folder)
    return load_file(folder / "model.safetensors")


def test_a_registered_optimizer_steps_as_it_does_alone(tmp_path: Path):
    """Momentum moves by -r g₁, then by -r (0.9 g₁ + g₂), where plain descent moves by -r g₁ and -r g₂."""
    register_optimizer("test-momentum", momentum)
    register_optimizer("test-plain", lambda groups: torch.optim.SGD(groups, lr=0.0))
    moves: dict[str, list[torch.Tensor]] = {}
    for name in ("test-momentum", "test-plain"):
        engine = LocalEngine(optimizer=name)
        policy = engine.create(ModelSpec("policy", BYTE))
        seen = [weights(engine, policy, tmp_path / name)["model.norm.weight"]]
        for _ in range(2):
            engine.forward_backward(policy, DATA, [CROSS_ENTROPY])
            engine.optim_step(policy, AdamStep(learning_rate=1e-3, head_learning_rate=0.0, max_grad_norm=1e9))
            seen.append(weights(engine, policy, tmp_path / name)["model.norm.weight"])
        moves[name] = [b - a for a, b in pairwise(seen)]
    plain_first, plain_second = moves["test-plain"]
    torch.testing.assert_close(moves["test-momentum"][0], plain_first, atol=0, rtol=0)
    # The first steps are the same, so the second gradients are too.
    torch.testing.assert_close(moves["test-momentum"][1], 0.9 * plain_first + plain_second, atol=2e-7, rtol=0)


def test_what_an_optimizer_remembers_comes_back_from_a_checkpoint(tmp_path: Path):
    register_optimizer("test-momentum", momentum)
    states = []
    for resumes in (False, True):
        engine = LocalEngine(optimizer="test-momentum")
        policy = engine.create(ModelSpec("policy", BYTE))
        for _ in range(2):
            engine.forward_backward(policy, DATA, [CROSS_ENTROPY])
            engine.optim_step(policy, STEP)
            if resumes:
                engine.save(policy, tmp_path / "kept", optimizer=True)
                engine = LocalEngine(optimizer="test-momentum")
                policy = engine.create(ModelSpec("policy", BYTE))
                engine.load(policy, tmp_path / "kept")
        states.append(weights(engine, policy, tmp_path / f"end-{resumes}"))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k, v: {k: v[:-1]}, "shape"),
        (lambda k, v: {k: torch.zeros(1)}, "shape"),
        (lambda k, v: {k: torch.zeros(*v.shape, 1)}, "shape"),
        (lambda k, v: {k: torch.full_like(v, float("nan"))}, "NaN"),
        (lambda k, v: {k: v.to(torch.int64)}, "int64"),
        (lambda k, v: {k.rpartition(":")[0] + ":other": v}, "lacks"),
        (lambda k, v: {k: v, k.rpartition(":")[0] + ":extra": v.clone()}, "extra"),
        (lambda k, v: {k: v, "trunk.nothing:exp_avg": v.clone()}, "trunk.nothing"),
    ],
)
@pytest.mark.parametrize("name", ["adamw", "test-momentum"])
def test_state_that_does_not_fit_is_refused_before_anything_changes(
    tmp_path: Path, name: str, change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]], words: str
):
    register_optimizer("test-momentum", momentum)
    engine = LocalEngine(optimizer=name)
    policy = engine.create(ModelSpec("policy", BYTE))
    engine.forward_backward(policy, DATA, [CROSS_ENTROPY])
    engine.optim_step(policy, STEP)
    engine.save(policy, tmp_path / "kept", optimizer=True)
    file = tmp_path / "kept" / "optimizer.safetensors"
    state = load_file(file)
    victim = next(key for key in state if key.endswith((":exp_avg", ":momentum_buffer")))
    save_file(
        {
            k: v
            for key, value in state.items()
            for k, v in (change(key, value) if key == victim else {key: value}).items()
        },
        file,
    )
    fresh = engine.create(ModelSpec("fresh", BYTE))
    before = weights(engine, fresh, tmp_path / "before")
    with pytest.raises(CheckpointError, match=words):
        engine.load(fresh, tmp_path / "kept")
    after = weights(engine, fresh, tmp_path / "after")
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("part", ["step", "exp_avg_sq"])
def test_a_negative_count_or_square_is_refused(part: str):
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameters = {"trunk.w": parameter}
    optimizer = make_optimizer("adamw", parameters)
    state = {"step": torch.tensor(1.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}
    restore_optimizer("adamw", optimizer, parameters, {f"trunk.w:{k}": v for k, v in state.items()})
    assert torch.equal(optimizer.state[parameter]["exp_avg"], torch.ones(3))
    state[part] = -state[part]
    with pytest.raises(ValueError, match=f"trunk.w:{part} holds negative"):
        restore_optimizer("adamw", optimizer, parameters, {f"trunk.w:{k}": v for k, v in state.items()})


def test_an_unknown_optimizer_is_named():
    with pytest.raises(ConfigError, match="got 'lion'; allowed are adamw"):
        LocalEngine(optimizer="lion")


def test_a_module_and_a_name_need_no_registration():
    register_optimizer("test-sgd", lambda groups: torch.optim.SGD(groups, lr=0.0))
    register_reward_objective("test-difference", lambda chosen, rejected: rejected - chosen)
    random = np.random.default_rng(1)
    data = batch([[257, *random.integers(65, 90, 9), 259] for _ in range(4)], np.array([0.0, 1.0]))
    found = []
    for optimizer, objective in (("test-sgd", "test-difference"), ("torch.optim:SGD", "torch:rsub")):
        engine = LocalEngine(optimizer=optimizer)
        model = engine.create(ModelSpec("reward", BYTE, ("scalar",)))
        for _ in range(2):
            loss = engine.forward_backward(model, data, [ScoreLoss.of(objective)]).loss
            engine.optim_step(model, STEP)
        found.append((loss, [output.values.tolist() for output in engine.forward(model, data)]))
    assert found[0] == found[1]
    assert found[0][0] != 0


def hinge(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    return torch.relu(1.0 - (chosen - rejected))


@pytest.mark.parametrize("objective", [hinge, lambda c, r: hinge(c, r).mean()], ids=["losses", "mean"])
def test_an_objective_sees_the_same_pairs_however_they_are_cut(objective: Callable[..., torch.Tensor], request):
    """180 pairs are several micro-batches; a tie has no chosen reply, and a label may prefer the second reply."""
    name = f"test-{request.node.callspec.id}"
    register_reward_objective(name, objective)
    random = np.random.default_rng(0)
    engine = LocalEngine()
    model = engine.create(ModelSpec("reward", BYTE, ("scalar",)))
    preferred = random.choice([0.0, 0.5, 1.0], 180)
    sequences = [[257, *random.integers(65, 90, 9), 259] for _ in range(360)]
    engine.forward_backward(model, batch(sequences, preferred), [ScoreLoss.of(name)])
    engine.optim_step(model, STEP)  # a head of zeros would score nothing
    scores = [float(output.values[-1]) for output in engine.forward(model, batch(sequences, preferred))]
    expected = 0.0
    for pair, better in enumerate(preferred):
        a, b = scores[2 * pair : 2 * pair + 2]
        gap = {1.0: a - b, 0.0: b - a}.get(better)
        expected += 0.0 if gap is None else max(0.0, 1.0 - gap) / 180
    found = engine.forward_backward(model, batch(sequences, preferred), [ScoreLoss.of(name)])
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def batch(sequences: list[list[int]], preferred: np.ndarray) -> list[Example]:
    last = [0.0] * 10 + [1.0]
    return [
        Example.whole_sequence(
            tokens, weights=last, unit=i // 2, preferred=preferred[i // 2], margin=0.0, unit_weight=1 / len(preferred)
        )
        for i, tokens in enumerate(sequences)
    ]


def test_a_checkpoint_of_another_architecture_is_a_folder_that_transformers_reads(tmp_path: Path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=1
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    model = ModelConfig(name=str(tmp_path / "base"), lora=None, dtype="float32")
    engine = LocalEngine()
    policy = engine.create(ModelSpec("policy", model))
    datum = Example.next_token([5, 9, 2, 7], weights=[1, 1, 1])
    engine.forward_backward(policy, [datum], [CROSS_ENTROPY])
    engine.optim_step(policy, AdamStep(learning_rate=1e-2, head_learning_rate=0.0))
    engine.save(policy, tmp_path / "saved")
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        logprobs = read(torch.tensor([[5, 9, 2]])).logits[0].log_softmax(-1)
    theirs = logprobs.gather(1, torch.tensor([[9], [2], [7]]))[:, 0]
    ours = engine.forward(policy, [datum])[0].logprobs
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
