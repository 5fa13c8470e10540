"""Settings of the engine that would do nothing are refused."""

from __future__ import annotations

from typing import Any

import pytest

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"workers": 8}, "workers is for ranks; set kind to cluster"),
        ({"kind": "local", "launcher": "pipes"}, "launcher is for ranks"),
        ({"gpus_per_worker": 1, "threads_per_worker": 2}, "threads_per_worker, gpus_per_worker is for ranks"),
        ({"shard": "full"}, "set kind to cluster"),
        ({"kind": "cluster", "workers": 2, "launcher": "pipes", "gpus_per_worker": 1}, "hands out no GPUs"),
        ({"kind": "cluster", "workers": 3, "shard": "hybrid", "shard_group": 2}, "does not divide"),
        ({"kind": "cluster", "offload": True}, "set shard to full or hybrid"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(engine: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        build_config(PipelineConfig, {"engine": engine})


def test_what_ranks_take_is_taken():
    engine = {"kind": "cluster", "workers": 4, "shard": "hybrid", "shard_group": 2, "gpus_per_worker": 1}
    assert build_config(PipelineConfig, {"engine": engine}).engine.ranks_per_copy == 2


@pytest.mark.parametrize("section", ["ppo", "group"])
def test_a_correction_is_refused_where_nothing_is_off(section: str):
    part = {"prompts": {"path": "prompts.jsonl"}, "importance": "mask_tokens"}
    with pytest.raises(ConfigError, match=f"{section}.importance mask_tokens is for replies of older weights"):
        build_config(PipelineConfig, {section: part})
    for rollout in ({"staleness": 1}, {"kind": "vllm"}):
        config = PipelineConfig.model_validate({section: part, "rollout": rollout})
        assert getattr(config, section).misfit() is None
        config = PipelineConfig.model_validate({section: {**part, "importance_cap": 1.0}, "rollout": rollout})
        assert "would mask everything" in str(getattr(config, section).misfit())
