"""An error on one rank is an error of the call, which says where it was, and nobody waits for the rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from contract.engine_cases import ADAM, SEQUENCES, text_data
from thumbs.config.engine import EngineConfig
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import ModelConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.cluster import ClusterEngine, start_ranks
from thumbs.errors import WorkerError, WorkerStuck
from thumbs.workers import CREWS

FAR = "unit.engine.failing_ranks"
DATA = text_data(SEQUENCES)
Shard = Literal["none", "full"]


@pytest.fixture(params=["pipes", "ray"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., ClusterEngine]]:
    """Starts two ranks of a class of `failing_ranks`, with many micro-batches for both."""
    if request.param == "ray":
        pytest.importorskip("ray", reason="Ray is not installed; pip install 'thumbs[cluster]'")
    make: Any = CREWS[request.param]
    crew = make(tmp_path / "logs")

    def start(kind: str, shard: Shard, patience_s: float = 60.0) -> ClusterEngine:
        config = EngineConfig(kind="cluster", workers=2, shard=shard, patience_s=60)
        engine = ClusterEngine(
            start_ranks(crew, config, f"{FAR}:{kind}"), patience_s=patience_s, in_step=shard != "none"
        )
        engine.token_budget = 24
        return engine

    yield start
    crew.close()


def spec(model: Path, start: Path | None = None) -> ModelSpec:
    return ModelSpec("policy", ModelConfig(name=str(model), lora=None, dtype="float32"), start=start)


WHERE = r"(?s)rank 1 on \S+ made no progress for .*, during compute at micro-batch 2 of 2, datum \d+.*about to wait"


@pytest.mark.parametrize(("kind", "shard"), [("FailingRank", "none"), ("FailingShardedRank", "full")])
def test_an_error_names_rank_host_verb_micro_batch_and_log_and_the_others_go_on(cluster, tiny_llama, kind, shard):
    engine = cluster(kind, shard)
    handle = engine.create(spec(tiny_llama))
    failed = r"(?s)rank 1 on \S+ failed in compute at micro-batch 2 of 2, datum \d+: ZeroDivisionError"
    with pytest.raises(WorkerError, match=failed + r".*\nIts log .*rank-1.log ends:\nabout to divide"):
        engine.forward_backward(handle, DATA, [CROSS_ENTROPY])
    engine.forward_backward(handle, DATA, [CROSS_ENTROPY])
    assert engine.optim_step(handle, ADAM).grad_norm > 0


@pytest.mark.parametrize(("kind", "shard"), [("StuckRank", "none"), ("StuckShardedRank", "full")])
def test_a_rank_that_stands_still_is_ended_after_its_time(cluster, tiny_llama, kind, shard):
    engine = cluster(kind, shard, patience_s=6.0)
    handle = engine.create(spec(tiny_llama))
    with pytest.raises(WorkerStuck, match=WHERE):
        engine.forward_backward(handle, DATA, [CROSS_ENTROPY])


def test_an_error_does_not_wait_for_those_that_are_still_at_work(cluster, tiny_llama, tmp_path):
    engine = cluster("BusyRank", "none")
    first = engine.create(spec(tiny_llama))
    engine.save(first, tmp_path / "saved")
    handle = engine.create(spec(tiny_llama, tmp_path / "saved"))
    with pytest.raises(WorkerError, match=r"rank 1 .* ZeroDivisionError"):
        engine.forward_backward(handle, DATA, [CROSS_ENTROPY])
    (tmp_path / "saved" / "enough").touch()  # only now can the first end its work
    engine.forward_backward(handle, DATA, [CROSS_ENTROPY])
    assert engine.optim_step(handle, ADAM).grad_norm > 0
