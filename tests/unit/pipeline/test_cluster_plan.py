"""The plan for a cluster: counts by hand, published runs as oracles, and what a person is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from example_files import FOLDER, load_file
from thumbs.config.base import build_config
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError
from thumbs.models.trunk import empty_trunk, open_trunk
from thumbs.pipeline.cluster_plan import (
    DEVICES,
    GIB,
    Cluster,
    ModelShape,
    find_cluster,
    plan_cluster,
    rank_bytes,
    sampler_bytes,
    shape_of,
    train_time,
)
from thumbs.pipeline.plan import plan_for
from thumbs.pipeline.workload import StageWork

published = load_file(FOLDER.parent / "benchmarks" / "published.py")

LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 8192,
    "intermediate_size": 28_672, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "max_position_embeddings": 8192, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "hidden_act": "silu", "torch_dtype": "bfloat16",
}  # fmt: skip
H100 = find_cluster(2, 8, "h100", 80)
WORK = StageWork("ppo", 1000, steps=10, trained=10 * 65_536.0, read=0.0, sampled=10 * 32_768.0, sampling_rows=64)


@pytest.fixture
def shape(tmp_path: Path) -> ModelShape:
    """Of Llama 3.1 70B, from its config.json alone."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B), encoding="utf-8")
    return shape_of(empty_trunk(ModelConfig(name=str(tmp_path))), 0)


def test_a_shape_is_that_of_the_model_whose_config_it_is(shape: ModelShape):
    assert shape.weights == 70_553_706_496  # as the model card says
    block = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28_672 + 2 * 8192
    assert shape.block == pytest.approx(block, rel=1e-6)  # with a part of the last norm
    assert (shape.kv_width, shape.query_width, shape.kv_bytes) == (1024, 8192, 2 * 2 * 80 * 1024)


def test_bytes_of_a_rank_are_those_of_its_tensors(shape: ModelShape):
    found = rank_bytes(shape, 64)
    n = 70_553_706_496
    assert (found["weights"], found["gradients"], found["moments"]) == (4 * n // 64, 4 * n // 64, 8 * n // 64)
    assert sum(found[name] for name in ("weights", "gradients", "moments")) / 1e9 == pytest.approx(1129 / 64, rel=1e-3)
    whole = rank_bytes(shape, 1, copies=2)
    assert (whole["gathered"], whole["frozen copies"]) == (0, 2 * 2 * n)


def test_adapters_leave_the_base_in_two_bytes_and_their_moments_whole(shape: ModelShape):
    lora = ModelShape(**{**vars(shape), "trained": 207_000_000})
    found = rank_bytes(lora, 16, copies=1)
    assert found["weights"] == 2 * shape.weights // 16 + 4 * 207_000_000
    assert found["gradients"] + found["moments"] == 12 * 207_000_000
    assert found["frozen copies"] == 4 * 207_000_000


def test_activations_of_the_byte_model_are_near_those_that_autograd_keeps():
    """What autograd saves in a forward pass in float32, against the count; norms and rotations are not counted."""
    trunk = open_trunk(ModelConfig(name="byte-tiny", lora=None, dtype="float32"), seed=0)
    kept: dict[int, int] = {}
    tokens = torch.arange(200) % 256

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        weights = {p.untyped_storage().data_ptr() for p in trunk.parameters()}
        if (at := tensor.untyped_storage().data_ptr()) not in weights:
            kept[at] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = trunk.forward_packed(tokens, [200])
    assert hidden.requires_grad
    planned = rank_bytes(shape_of(trunk, 0), 1, tokens=200, wide=True)["activations"]
    assert planned == pytest.approx(sum(kept.values()), rel=0.35)


@pytest.mark.parametrize("run", published.RUNS, ids=lambda run: f"{run.run} on {run.gpus} {run.gpu}")
def test_published_runs_are_as_fast_as_planned(run: object):
    """Within 15 %; torchtitan's GPUs had less power than the table's (docs/performance.md)."""
    assert run.planned() == pytest.approx(run.rate, rel=0.35 if run.source == published.TITAN else 0.15)  # type: ignore[attr-defined]


def test_published_memory_and_decoding_are_as_planned():
    assert published.moved_gib() == pytest.approx(published.MOVED_GIB, rel=0.1)
    for gpu, milliseconds in published.DECODED_MS.items():
        assert published.decoded_ms(gpu) == pytest.approx(milliseconds, rel=0.05)


def test_the_limit_is_the_longest_of_three():
    shape = ModelShape(8_000_000_000, 0, 32, 4096, 14336, 4096, 1024, 128_256)
    long = train_time(shape, H100, 16, 16, trained=16 * 65_536, length=1024, tokens=65_536)
    short = train_time(shape, H100, 16, 16, trained=16 * 512, length=512, tokens=512)
    assert (long.limit, short.limit) == ("compute", "network")
    assert short.network == pytest.approx(8e9 * 8 * 15 / 16 / (0.75 * 50e9))
    one = Cluster(1, 1, DEVICES["h100"])
    assert train_time(shape, one, 1, 1, trained=8, length=8, tokens=8).limit == "memory"


def test_a_layout_is_found_that_fits(shape: ModelShape):
    small = ModelShape(1_000_000_000, 0, 16, 2048, 8192, 2048, 512, 128_256)
    plan = plan_cluster(small, H100, [WORK], length=1024, copies=2)
    assert (plan.layout.shard, plan.samplers, plan.layout.ranks, plan.fits) == ("none", 4, 12, True)
    large = plan_cluster(shape, find_cluster(16, 8, "h100", None), [WORK], length=1024, copies=2)
    assert (large.layout.shard, large.fits, large.tensor_parallel) == ("full", False, 2)  # without recompute
    assert sum(sampler_bytes(shape, 1, 2, 1024).values()) > 0.9 * 80 * GIB
    lost = plan_cluster(shape, find_cluster(1, 8, "h100", 80), [WORK], length=1024, copies=2)
    assert not lost.fits
    assert "it does not fit" in lost.text()
    assert "advice      engine: {kind: cluster, workers: 96, shard: full, gpus_per_worker: 1}" in large.text()
    again = plan_cluster(shape, find_cluster(16, 8, "h100", None), [WORK], length=1024, copies=2, recompute=True)
    assert again.fits
    assert again.layout.parts["activations"] < large.layout.parts["activations"] / 5
    assert again.steps["ppo"][0].compute == pytest.approx(large.steps["ppo"][0].compute * 4 / 3)
    with pytest.raises(ConfigError, match="leaves no GPU of 16 to train"):
        plan_cluster(small, H100, [WORK], length=1024, copies=0, samplers=16)
    with pytest.raises(ConfigError, match="take one of a100, h100, h200"):
        find_cluster(1, 8, "b300", None)


def test_sampling_ahead_hides_the_shorter_of_the_two():
    small = ModelShape(1_000_000_000, 0, 16, 2048, 8192, 2048, 512, 128_256)
    turns, ahead = (plan_cluster(small, H100, [WORK], length=1024, copies=0, staleness=k) for k in (0, 1))
    train, sample = ahead.steps["ppo"]
    assert sample is not None
    last = [float(plan.text().splitlines()[-1].split()[-1]) for plan in (turns, ahead)]
    assert last[0] == pytest.approx(train.seconds + sample.seconds, abs=0.01)
    assert last[1] == pytest.approx(max(train.seconds, sample.seconds), abs=0.01)


def test_a_config_is_planned_without_weights(tmp_path: Path):
    rows = "".join(json.dumps({"prompt": f"Person {i}", "answer": "4"}) + "\n" for i in range(64))
    (tmp_path / "prompts.jsonl").write_text(rows, encoding="utf-8")
    config = {
        "model": {"name": "byte-tiny", "lora": AdapterConfig(rank=2).model_dump()},
        "rollout": {"workers": 2, "staleness": 1},
        "group": {
            "prompts": {"path": str(tmp_path / "prompts.jsonl")}, "reward": [{"verifier": "numeric"}],
            "sampling": {"max_new_tokens": 16},
        },
    }  # fmt: skip
    plan = plan_for(build_config(PipelineConfig, config), find_cluster(1, 8, "a100", 40))
    assert (plan.samplers, plan.layout.ranks) == (2, 6)
    text = plan.text()
    assert "1 x 8 GPUs (a100, 40 GiB): 6 train, 2 sample in groups of 1" in text
    for name in ("weights", "gradients", "moments", "activations", "logits", "keys and values"):
        assert f"\n{name} " in text
