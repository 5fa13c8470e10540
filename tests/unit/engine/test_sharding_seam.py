"""A pass is one module call, so that torch's sharding (FSDP2) can gather weights for it and scatter their gradients."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from contract.engine_cases import LOSSES, SEQUENCES, ppo_data
from thumbs.config.model import ModelConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.batch import micro_batches
from thumbs.engine.compute import Model
from thumbs.engine.local import LocalEngine

CPU = torch.device("cpu")


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def fresh(folder: Path) -> Model:
    engine = LocalEngine(device=CPU)
    model = ModelConfig(name=str(folder), lora=None, dtype="float32")
    return engine.model(engine.create(ModelSpec("policy", model, heads=("lm", "scalar"))))


def head_of(model: Model) -> set[torch.nn.Parameter]:
    """What every rank holds whole: a number cannot be split."""
    assert model.scalar is not None
    return set(model.scalar.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@pytest.mark.parametrize("kind", ["ppo", "cross entropy", "pairs"])
def test_a_sharded_model_has_the_loss_and_the_gradients_of_a_whole_one(kind, tiny_llama, one_rank):
    data, losses = LOSSES[kind]
    plain, sharded = fresh(tiny_llama), fresh(tiny_llama)
    mesh, calls = init_device_mesh("cpu", (1,)), []
    for layer in sharded.trunk.layers:  # type: ignore[attr-defined]
        fully_shard(layer, mesh=mesh)
        layer.register_forward_hook(lambda *_: calls.append("layer"))
    fully_shard(sharded, mesh=mesh, ignored_params=head_of(sharded))
    for batch in micro_batches(data, CPU, 40):
        found = []
        for model in (plain, sharded):
            computed = model(batch, losses)
            computed.loss.backward()
            found.append(float(computed.loss.detach()))
        assert found[0] == found[1] != 0
    split = {name for name, parameter in sharded.trained().items() if isinstance(parameter, DTensor)}
    assert split == sharded.trained().keys() - {"scalar.weight", "scalar.bias"}
    assert len(calls) == 2 * len(micro_batches(data, CPU, 40))
    gradients = [{name: p.grad for name, p in model.trained().items()} for model in (plain, sharded)]
    assert max(float(g.abs().max()) for g in gradients[0].values() if g is not None) > 1e-3
    for name, gradient in gradients[0].items():
        other = gradients[1][name]
        if gradient is None or other is None:
            assert gradient is other, name
        else:
            torch.testing.assert_close(whole(other), gradient, atol=1e-6, rtol=0, msg=name)


def test_a_pass_without_gradients_is_a_call_too(tiny_llama, one_rank):
    plain, sharded = fresh(tiny_llama), fresh(tiny_llama)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)), ignored_params=head_of(sharded))
    (batch,) = micro_batches(ppo_data(SEQUENCES), CPU)
    with torch.no_grad():
        wanted, found = plain(batch, None, temperature=0.7), sharded(batch, None, temperature=0.7)
    assert torch.equal(found.logprobs, wanted.logprobs)
    assert torch.equal(found.values, wanted.values)
