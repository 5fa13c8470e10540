"""What computes and what samples: the sections `engine:` and `rollout:`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from thumbs.config.base import Frozen


class EngineConfig(Frozen):
    """The engine that holds the models, computes their losses and takes their steps."""

    kind: str = "local"
    """local: this process, on one device; cluster: many ranks (docs/guides/cluster.md); `module:name`: what opens an
    engine of your own (docs/concepts.md)."""
    device: str | None = None
    """A torch device, such as cpu or cuda:1; null: the fastest of this machine."""
    optimizer: str = "adamw"
    """adamw, a name given to register_optimizer, or `module:name` of a function that makes one of parameter groups."""
    workers: PositiveInt = 1
    """Ranks of a cluster. No number that a run logs depends on it where every rank has the whole base."""
    launcher: str = "ray"
    """What starts the ranks. ray: a Ray cluster, of this machine if none is running; pipes: subprocesses; or a
    `module:name` of your own."""
    shard: Literal["none", "full", "hybrid"] = "none"
    """none: every rank has the whole base, and computes by itself. full: each has a part of every weight (FSDP2), for
    models that do not fit one device, and for full weights. hybrid: so do groups of `shard_group` ranks, each group
    with all of the weights (HSDP)."""
    shard_group: int | None = Field(default=None, ge=1)
    """hybrid: ranks that share one copy of the weights, as many as a machine has devices. It divides `workers`."""
    offload: bool = False
    """Sharded weights, and what the optimizer keeps of them, wait in the memory of the host."""
    recompute: bool = False
    """Blocks of sharded models keep only their inputs for the backward pass, and compute the rest again: less memory, a
    third more time."""
    threads_per_worker: PositiveInt = 1
    """Threads that a rank computes with."""
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    """Devices that a rank has for itself, 0 or 1."""
    patience_s: float = Field(default=600.0, gt=0)
    """Seconds that a rank may take for one micro-batch, or to read or write a model, before it counts as stuck."""
    logs: str | None = None
    """Folder for what ranks and samplers print; null: `logs` in the run folder."""

    @model_validator(mode="after")
    def _shards_fit(self) -> Self:
        of_ranks = ("workers", "launcher", "threads_per_worker", "gpus_per_worker", "patience_s", "logs")
        if self.kind == "local" and (unused := changed(self, *of_ranks)):
            raise ValueError(f"{', '.join(unused)} is for ranks; set kind to cluster, or leave it out")
        if self.gpus_per_worker and self.launcher == "pipes":
            raise ValueError("launcher pipes hands out no GPUs; take launcher ray, or gpus_per_worker 0")
        if self.shard != "none" and self.kind == "local":
            raise ValueError(f"shard {self.shard!r} spreads weights over ranks; set kind to cluster")
        if self.shard == "none" and (self.offload or self.recompute):
            raise ValueError("offload and recompute are for sharded models; set shard to full or hybrid")
        if (self.shard == "hybrid") != (self.shard_group is not None):
            raise ValueError("shard_group says how many ranks share a copy of the weights with hybrid, and only there")
        if self.workers % (self.shard_group or 1):
            raise ValueError(f"shard_group {self.shard_group} does not divide the {self.workers} workers")
        return self

    @property
    def ranks_per_copy(self) -> int:
        """Ranks that share one copy of sharded weights."""
        return self.shard_group or self.workers


def changed(config: Frozen, *names: str) -> list[str]:
    """Those of its settings that do not have their default value."""
    fields = type(config).model_fields
    return [name for name in names if getattr(config, name) != fields[name].default]


class RolloutConfig(Frozen):
    """What draws replies from the models of a run."""

    kind: str = "native"
    """native: our own decoder; vllm: vLLM engines in workers; `module:name`: what makes samplers of your own
    (docs/concepts.md)."""
    staleness: int = Field(default=0, ge=0)
    """ppo, group, online_dpo: a step trains on rollouts of weights this many steps older, drawn while steps train."""
    cut_after_s: float | None = Field(default=None, gt=0)
    """Seconds that a step waits for stragglers; then prompts whose replies are not all there are cut, at most half of
    them, and stragglers.jsonl names them. null: it waits for all.
    """
    workers: int = Field(default=0, ge=0)
    """Processes that sample, on this machine or over the cluster of the engine; 0: the process that trains, or one
    process of vLLM."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """GPUs that a worker has for itself; null: as many as tensor_parallel where there are any."""
    python: str | None = None
    """Interpreter of an environment that workers run in, for example one with vLLM; null: this one. It needs what
    thumbs needs, while thumbs itself is lent to it."""
    tensor_parallel: int = Field(default=1, ge=1)
    """vllm: GPUs over which an engine splits each product."""
    context: int | None = Field(default=None, ge=2)
    """vllm: the longest prompt and reply together, tokens; null: as long as the model takes."""
    cache_gib: float | None = Field(default=None, gt=0)
    """vllm: GiB of keys and values that an engine keeps; null: 1 on a CPU, on a GPU what vLLM finds free."""
    adapters: int | None = Field(default=None, ge=1)
    """vllm: adapters that an engine draws from at a time; null: staleness + 1, and 8 for `thumbs serve`."""

    @property
    def is_off_policy(self) -> bool:
        """Whether replies may come from other numbers than the policy's: from older weights, or another program."""
        return self.staleness > 0 or self.kind != "native"

    @property
    def here(self) -> bool:
        """Whether the process that trains draws."""
        return self.kind == "native" and not self.workers

    @model_validator(mode="after")
    def _has_what_it_uses(self) -> RolloutConfig:
        if self.kind == "native":
            unused = changed(self, "tensor_parallel", "context", "cache_gib", "adapters")
            if unused:
                raise ValueError(f"{', '.join(unused)} is for kind: vllm; leave it out")
        if self.python is not None and self.kind == "native" and not self.workers:
            raise ValueError("python is for workers; set workers to 1 or more")
        return self
