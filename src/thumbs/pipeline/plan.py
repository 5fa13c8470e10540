"""What a run would take and what would go wrong with it, before it runs."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from thumbs.config.pipeline import METHODS, PipelineConfig
from thumbs.engine import open_engine
from thumbs.engine.base import ModelSize, ModelSpec
from thumbs.engine.shared_states import CAPACITY
from thumbs.models.precision import device
from thumbs.models.trunk import empty_trunk, open_tokenizer
from thumbs.pipeline.checks import misfits
from thumbs.pipeline.cluster_plan import (
    Cluster,
    ClusterPlan,
    Device,
    ModelShape,
    plan_cluster,
    rank_bytes,
    sample_time,
    shape_of,
    table,
    train_time,
)
from thumbs.pipeline.inputs import Inputs, check_splits, mean, read_inputs, told_of
from thumbs.pipeline.names import check_names
from thumbs.pipeline.overlap import with_prompts
from thumbs.pipeline.pitfalls import pitfalls
from thumbs.pipeline.probe import Probe, duration, run_probe
from thumbs.pipeline.savings import Saving, savings
from thumbs.pipeline.stages import say
from thumbs.pipeline.workload import StageWork, work_of

STATE_BYTES = 12
"""What a trained parameter needs in addition to itself: gradient and two moments, float32."""


@dataclass(frozen=True)
class Plan:
    """A forecast. probe is None if none was made; then there is no time. Memory and disk in bytes."""

    config: PipelineConfig
    size: ModelSize
    work: tuple[StageWork, ...]
    probe: Probe | None
    memory: int
    disk: int
    warnings: tuple[str, ...]
    parts: Mapping[str, int]
    """What the memory is for, bytes, if it is as the model's shape says."""
    limits: Mapping[str, str]
    """What each stage waits for, by its name: compute or memory (its bandwidth); empty without a probe."""
    template: tuple[str, ...] = ()
    """What the model's chat template does that training is to be told of."""
    data: tuple[str, ...] = ()
    """What is to be known of the data: rows that are left out, and keys that nothing reads."""
    savings: tuple[Saving, ...] = ()
    """The two settings that save the most time if they are halved; empty without a probe."""

    def seconds(self, stage: str) -> float | None:
        """Time of a stage; None without a probe."""
        return next((self.probe.seconds(w) for w in self.work if w.stage == stage), None) if self.probe else None

    def text(self) -> str:
        """The forecast for a terminal."""
        data = ["", *self.data] if self.data else []
        return "\n".join([*self._model(), "", *self._table(), *data, "", *self._machine(), *self._faster()])

    def _model(self) -> list[str]:
        size, lora = self.size, self.config.model.lora
        way = (
            "every weight"
            if lora is None
            else f"LoRA of rank {lora.rank} on "
            + ("all layers" if lora.layers is None else f"the last {lora.layers} layers")
        )
        return [
            f"model       {self.config.model.name}, {size.dtype}, context {size.context} tokens",
            f"parameters  {size.parameters:,} of which {size.trained:,} are trained ({way})",
            f"base        {amount(size.trunk_bytes)} in memory",
            *(f"template    {note}" for note in self.template),
        ]

    def _table(self) -> list[str]:
        columns = ("stage", "rows", "held out", "steps", "tokens/step", "tokens sampled", "time", "limit")
        rows: list[tuple[str, ...]] = [columns]
        for w in self.work:
            seconds = self.seconds(w.stage)
            numbers = (w.rows, w.held, w.steps, round(w.step_tokens), round(w.sampled))
            shown = "" if seconds is None else duration(seconds)
            rows.append((w.stage, *(f"{n:,}" if n else "-" for n in numbers), shown, self.limits.get(w.stage, "")))
        if self.probe:
            rows.append(("total", *[""] * 5, duration(sum(map(self.probe.seconds, self.work))), ""))
        return table(rows)

    def _faster(self) -> list[str]:
        if not self.savings:
            return []
        return [f"shorter     {' and '.join(s.text for s in self.savings)}: {duration(self.savings[-1].left)} in all"]

    def _machine(self) -> list[str]:
        lines = [
            f"memory      about {amount(self.memory)} at the peak, of {amount(machine_memory())}",
            f"  by part   {', '.join(f'{name} {amount(size)}' for name, size in self.parts.items() if size)}",
            f"disk        about {amount(self.disk)} for checkpoints in {self.config.run}",
        ]
        if self.probe is None:
            return [*lines, "speed       not measured"]
        p = self.probe
        sampled = [f"{1 / s:,.0f} tokens/s ({rows} rows)" for rows, s in p.sample_s.items() if s]
        speeds = f"training {1 / p.train_s:,.0f}, reading {1 / p.read_s:,.0f} tokens/s"
        return [*lines, f"speed       {speeds}" + (f"; sampling {', '.join(sampled)}" if sampled else "")]


def plan(config: PipelineConfig, *, probe: bool = True) -> Plan:
    """Forecast of a run: sizes from the model, work from the data, time and memory from a probe of some seconds.

    Opens the model (and fetches it where need be), looks up every name and reads all data. Raises what the run would
    raise: ConfigError for a name that is none, ModelError for a model that cannot be had, DataError for data under its
    thresholds. Times assume replies as long as the
    demonstrations and a machine as busy as now; expect them to be right within a third.
    """
    check_names(config)
    say(f"plan: reading the data, opening {config.model.name}")
    tokenizer = open_tokenizer(config.model)
    inputs = with_prompts(config, read_inputs(config, tokenizer), tokenizer)
    check_splits(config, inputs)
    work = tuple(work_of(config, inputs))
    engine = open_engine(config.engine, tokenizer.decode, config.rollout)
    heads = ("lm", "scalar") if config.ppo is not None else ("lm",)
    try:
        handle = engine.create(ModelSpec("plan", config.model, heads, seed=config.seed))
        size = engine.size(handle)
        found = run_probe(engine, handle, work, size.context, *_typical(inputs, size.context), say) if probe else None
    finally:
        engine.stop()
    memory, disk = _memory(config, size, work, found), _disk(config, size.trained)
    warnings = (*misfits(config), *pitfalls(config, inputs, size.context), *_scarce(config, memory, disk))
    shape = _shape(config)
    parts = rank_bytes(shape, 1, copies=_copies(config), wide=size.dtype == "float32")
    limits = _limits(shape, work, found, _typical(inputs, size.context)[1]) if found else {}
    notes, told = tuple(tokenizer.notes()), told_of(inputs)
    shorter = savings(config, inputs, found) if found else ()
    return Plan(config, size, work, found, memory, disk, warnings, parts, limits, notes, told, shorter)


def plan_for(config: PipelineConfig, cluster: Cluster, samplers: int | None = None) -> ClusterPlan:
    """Forecast of a run on a cluster that need not be there; reads the data and the shape of the model, no weights.

    samplers: GPUs that sample; None: as `rollout.workers` says, or a quarter of them. Raises what `plan` raises.
    """
    check_names(config)
    inputs = read_inputs(config, open_tokenizer(config.model))
    check_splits(config, inputs)
    if samplers is None and config.rollout.workers:
        samplers = config.rollout.workers * config.rollout.tensor_parallel
    length = _typical(inputs, empty_trunk(config.model).context)[1]
    work = tuple(work_of(config, inputs))
    staleness, copies = config.rollout.staleness, _copies(config)
    return plan_cluster(
        _shape(config),
        cluster,
        work,
        length=length,
        copies=copies,
        samplers=samplers,
        staleness=staleness,
        recompute=config.engine.recompute,
    )


def _shape(config: PipelineConfig) -> ModelShape:
    trunk, lora = empty_trunk(config.model), config.model.lora
    adapter = None if lora is None else trunk.new_adapter(lora, config.seed)
    return shape_of(trunk, 0 if adapter is None else sum(p.numel() for p in adapter.parameters()))


def _copies(config: PipelineConfig) -> int:
    """Frozen models next to the policy: reference, reward model, a cost model and a second opinion."""
    online = config.direct is not None and config.direct.online is not None
    if not (config.ppo or config.group or config.rejection or online):
        return 0
    watch = config.watch
    other = watch is not None and (watch.gold is None or watch.second_proxy is not None)
    return 2 + (config.cost_model is not None) + other


def _limits(shape: ModelShape, work: tuple[StageWork, ...], probe: Probe, length: int) -> dict[str, str]:
    """What each stage waits for here: the longer of its training and its sampling says it."""
    here = Device("this machine", machine_memory(), probe.products, probe.reads, math.inf, math.inf, reached=1.0)
    one, limits = Cluster(1, 1, here), {}
    for w in work:
        train = train_time(shape, one, 1, 1, trained=w.trained, read=w.read, length=length)
        sample = sample_time(shape, one, 1, 1, sampled=w.sampled, rows=max(w.sampling_rows, 1), length=length)
        limits[w.stage] = max(train, sample, key=lambda time: time.seconds).limit
    return limits


def amount(size: float) -> str:
    """Bytes as a person says it."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(size / 2**20, 0.1):.3g} MiB"


def machine_memory() -> int:
    """Bytes of the device that computes."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _typical(inputs: Inputs, context: int) -> tuple[int, int]:
    """Tokens of a prompt, and of prompt and reply, in this run's data."""
    prompts = inputs.prompts or inputs.group_prompts or inputs.pair_prompts or inputs.evaluation_prompts
    whole = inputs.conversations or inputs.pairs
    reply = inputs.reply_tokens or 64.0
    prompt = mean(prompts.lengths) if prompts else max(mean(whole.lengths) - reply, 8.0) if whole else 32.0
    prompt_tokens = min(max(round(prompt), 2), context // 2)
    return prompt_tokens, min(prompt_tokens + max(round(reply), 2), context)


def _memory(config: PipelineConfig, size: ModelSize, work: tuple[StageWork, ...], probe: Probe | None) -> int:
    """Peak in bytes: what the probe used (one model in training, one sampler) and what a whole run holds besides it."""
    weights, own_critic = size.trained * 4, config.ppo is not None and config.ppo.critic.init != "shared"
    itemsize = torch.empty(0, dtype=getattr(torch, size.dtype)).itemsize
    more = _copies(config) * weights
    if config.rollout.here:  # a version of the weights per step that rollouts are ahead
        more += config.rollout.staleness * size.parameters * itemsize
    more += weights + size.trained * STATE_BYTES if own_critic else 0
    if config.model.lora is not None and config.model.lora.layers is not None:
        more += round(min(sum(w.new for w in work), CAPACITY)) * size.width * 4
    if probe is not None:
        return probe.peak_bytes + more
    adapter = 0 if config.model.lora is None else weights
    return size.trunk_bytes + adapter + size.trained * STATE_BYTES + size.parameters * itemsize + more


def _disk(config: PipelineConfig, trained: int) -> int:
    """Bytes: one model per training stage; in one of them weights and two moments, twice while they are replaced; and
    the last checkpoint of each stage that may take more steps later, and a critic of its own.
    """
    methods = (getattr(config, name) for name in METHODS)
    stages = sum(section is not None for section in (config.sft, config.reward_model, *methods))
    models = 2 if config.ppo is not None and config.ppo.critic.init != "shared" else 1
    online = config.direct is not None and config.direct.online is not None
    growing = models * (config.ppo is not None) + (config.group is not None) + online
    return 4 * trained * (stages + 3 * growing + 2 * 3 * models + (models - 1))


def _scarce(config: PipelineConfig, memory: int, disk: int) -> list[str]:
    found = []
    if memory > 0.9 * machine_memory():
        found.append(
            f"the run needs about {amount(memory)} of memory, {device()} has {amount(machine_memory())}; "
            "use LoRA, adapt fewer layers (model.lora.layers), or take a smaller model"
        )
    folder = next(p for p in (Path(config.run).absolute(), *Path(config.run).absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if disk > free:
        found.append(f"checkpoints need about {amount(disk)}, {folder} has {amount(free)} free")
    return found
