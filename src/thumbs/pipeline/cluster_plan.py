"""What a run would take on a cluster that need not be there: bytes per GPU by part, seconds per step and their limit.

Arithmetic on the model's shape alone. Rates are those that well-tuned systems reach (docs/performance.md compares with
published runs), so times are what can be had and not a promise. A MiB is 2²⁰ bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thumbs.engine.plan import TOKEN_BUDGET
from thumbs.errors import ConfigError
from thumbs.models.base import Trunk
from thumbs.models.operators import CARD_LOGITS
from thumbs.pipeline.workload import StageWork

GIB = 2**30
LOGIT_ROWS = 256
"""Rows of logits that are in memory at a time on a processor (functional/logprobs.py)."""


@dataclass(frozen=True)
class Device:
    """A GPU: bytes of memory, products of bfloat16 (FLOP/s) and bytes read (per second) as published, bytes per second
    to its neighbours in a node and to other nodes, one way; reached: the part of the products that training gets.
    """

    name: str
    memory: int
    products: float
    reads: float
    link: float
    network: float
    reached: float


READS_REACHED, LINKS_REACHED = 0.75, 0.75
DEVICES: Mapping[str, Device] = {
    d.name: d
    for d in (
        Device("a100", 80 * GIB, 312e12, 2.039e12, 300e9, 25e9, reached=0.65),
        Device("h100", 80 * GIB, 989e12, 3.35e12, 450e9, 50e9, reached=0.5),
        Device("h200", 141 * GIB, 989e12, 4.8e12, 450e9, 50e9, reached=0.5),
    )
}


@dataclass(frozen=True)
class Cluster:
    """Nodes, GPUs in each of them, and what they are."""

    nodes: int
    gpus: int
    device: Device

    def bandwidth(self, ranks: int) -> float:
        """Bytes per second that each of the ranks sends and receives, as all exchange with each other."""
        return LINKS_REACHED * (self.device.link if ranks <= self.gpus else self.device.network)


def find_cluster(nodes: int, gpus: int, gpu: str, memory_gib: float | None) -> Cluster:
    """The cluster with these numbers; raises ConfigError for a GPU that is not in the table."""
    if gpu not in DEVICES:
        raise ConfigError(f"--gpu {gpu} is not known; take one of {', '.join(DEVICES)}, and --memory for its size")
    device = DEVICES[gpu]
    if memory_gib is not None:
        device = Device(**{**vars(device), "memory": round(memory_gib * GIB)})
    return Cluster(nodes, gpus, device)


@dataclass(frozen=True)
class ModelShape:
    """What a decoder's bytes and products depend on; weights counts all of them, embedded those of the input embedding
    that are in no product, trained those of the adapter and its heads (0: every weight).
    """

    weights: int
    embedded: int
    layers: int
    width: int
    intermediate: int
    query_width: int
    kv_width: int
    vocabulary: int
    trained: int = 0

    @property
    def block(self) -> int:
        """Weights of one layer."""
        return (self.weights - self.vocabulary * self.width - self.embedded) // self.layers

    @property
    def product_weights(self) -> int:
        """Weights that each token is multiplied by."""
        return self.weights - self.embedded

    def activation_bytes(self, *, kernels: bool = False) -> int:
        """Of one token, for the backward pass in bfloat16: in each layer what norms and products read, queries, keys,
        values, and gate, up and what becomes of them. kernels: ours, which keep less of norms and of the feed-forward.
        """
        norms, inner = (5, 3) if kernels else (9, 4)
        return (
            2
            * self.layers
            * (norms * self.width + 2 * self.query_width + 2 * self.kv_width + inner * self.intermediate)
        )

    @property
    def kv_bytes(self) -> int:
        """Of one token in a cache, bfloat16."""
        return 2 * 2 * self.layers * self.kv_width


def shape_of(trunk: Trunk, trained: int) -> ModelShape:
    """The shape of a trunk, which may be without weights; trained: weights of the adapter, 0 without one."""
    config = getattr(trunk, "config", None) or getattr(getattr(trunk, "model", None), "config", None)
    heads = getattr(config, "heads", None) or getattr(config, "num_attention_heads", 1)
    head = getattr(config, "head_dim", None) or trunk.width // heads
    kv = getattr(config, "kv_heads", None) or getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate", None) or getattr(config, "intermediate_size", None) or 4 * trunk.width
    weights = sum(p.numel() for p in trunk.parameters())
    table = trunk.vocab_size * trunk.width
    tied = sum(p.numel() == table for p in trunk.parameters()) < 2
    return ModelShape(
        weights, 0 if tied else table, trunk.depth, trunk.width, inner, heads * head, kv * head, trunk.vocab_size,
        trained,
    )  # fmt: skip


def rank_bytes(
    shape: ModelShape,
    ways: int,
    *,
    tokens: int = TOKEN_BUDGET,
    copies: int = 0,
    wide: bool = False,
    recompute: bool = False,
) -> dict[str, int]:
    """Bytes of one training rank by part, with the weights spread over `ways` ranks (1: each has all of them).

    tokens: of a micro-batch. copies: frozen models next to the policy (reference, reward model), which share its base
    if it is an adapter's. wide: what computes is float32 and not bfloat16. recompute: as in the
    section engine.

    The parts are those of the moment at which a rank needs most: at the vocabulary, in the backward pass of a block
    that is computed again, or when the gradients of the embeddings are summed over the ranks. "gathered" is
    whole weights, and gradients that are not summed yet. Constants were
    chosen by what torch's tracker says of fake tensors of three shapes, and hold for a fourth
    (tests/unit/engine/test_rank_memory.py); none was measured on a card.
    """
    full, trained, size = not shape.trained, shape.trained or shape.weights, 4 if wide else 2
    spread = ways if full else 1  # adapters, their gradients and moments are whole on every rank
    table, block = shape.vocabulary * shape.width, shape.block
    outside, rows = table + shape.embedded, min(tokens, LOGIT_ROWS if wide else max(CARD_LOGITS // shape.vocabulary, 1))
    kept = shape.activation_bytes(kernels=wide) * tokens * size // 2
    again = size * (13 * shape.width + 7 * shape.intermediate) * tokens if recompute else 0
    kept = size * shape.layers * shape.width * tokens if recompute else kept
    states = 3 * 4 * shape.width * tokens
    # gradients beyond the rank's share, gathered weights, activations, logits
    moments = [
        (
            0,
            size * (outside + block),
            kept + states,
            8 * table * full + 4 * rows * shape.vocabulary * (1 if full else 2),
        ),
        ((4 * block + size * table) * full, size * (outside + 2 * block), kept + again, 0),
        ((size + 4) * outside * full, 0, 0, 0),
    ]
    if ways == 1:
        moments = [(0, 0, activations, logits) for _, _, activations, logits in moments]
    unsummed, gathered, activations, logits = max(moments, key=sum)
    return {
        "weights": shape.weights * (4 if full else size) // ways + (0 if full else 4 * trained),
        "frozen copies": copies * (size * shape.weights // ways if full else 4 * trained),
        "gradients": 4 * trained // spread,
        "moments": 8 * trained // spread,
        "gathered": gathered + unsummed,
        "activations": activations,
        "logits": logits,
    }


def sampler_bytes(shape: ModelShape, tensor_parallel: int, rows: int, length: int) -> dict[str, int]:
    """Bytes of one sampling GPU by part: bfloat16 weights, and keys and values of `rows` sequences of that length."""
    weights = 2 * (shape.weights + shape.trained) // tensor_parallel
    return {"weights": weights, "keys and values": shape.kv_bytes * rows * length // tensor_parallel}


@dataclass(frozen=True)
class Time:
    """Seconds that each limit would take by itself; they overlap, so the longest is the time."""

    compute: float
    memory: float = 0.0
    network: float = 0.0

    @property
    def seconds(self) -> float:
        return max(vars(self).values())

    @property
    def limit(self) -> str:
        """What it waits for."""
        return max(vars(self), key=lambda name: vars(self)[name])


def flops(shape: ModelShape, trained: float, read: float, length: float, recomputed: float = 0.0) -> float:
    """Of passing tokens of sequences of that mean length: 2 per weight forward, as much for each gradient, and the
    scores of attention. Gradients of a frozen base are of its inputs alone. recomputed: forward passes more.
    """
    backward = 2.0 if not shape.trained else 1.0
    forward = 2.0 * shape.product_weights + 2.0 * shape.layers * shape.query_width * length
    return forward * (trained * (1.0 + backward + recomputed) + read)


def train_time(
    shape: ModelShape,
    cluster: Cluster,
    ranks: int,
    ways: int,
    *,
    trained: float,
    read: float = 0.0,
    length: float = 0.0,
    tokens: int = TOKEN_BUDGET,
    recomputed: float = 0.0,
) -> Time:
    """Of one optimizer step on `ranks` ranks, each of which computes micro-batches of `tokens` tokens."""
    device = cluster.device
    compute = flops(shape, trained, read, length, recomputed) / (ranks * device.products * device.reached)
    passes, reads = trained / ranks / tokens, read / ranks / tokens
    # Every micro-batch reads the weights forward and backward.
    memory = 2 * shape.weights * (2 * passes + reads) / (device.reads * READS_REACHED)
    if ways > 1:  # gathered forward and backward in bfloat16, gradients summed in float32
        gathered = shape.weights * (passes * (2 + 2 + (0 if shape.trained else 4)) + reads * 2) * (ways - 1) / ways
        return Time(compute, memory, gathered / cluster.bandwidth(ways))
    whole = shape.trained or shape.weights
    return Time(compute, memory, 2 * 4 * whole * (ranks - 1) / ranks / cluster.bandwidth(ranks))


def sample_time(
    shape: ModelShape, cluster: Cluster, gpus: int, tensor_parallel: int, *, sampled: float, rows: int, length: float
) -> Time:
    """Of `sampled` tokens on `gpus` GPUs, each group of `tensor_parallel` of which decodes `rows` sequences at a time;
    and of publishing the new weights to them.
    """
    device, groups = cluster.device, max(gpus // tensor_parallel, 1)
    steps = sampled / groups / max(rows, 1)
    step_bytes = sum(sampler_bytes(shape, tensor_parallel, rows, round(length / 2)).values())
    compute = flops(shape, 0.0, sampled, length) / (gpus * device.products * device.reached)
    published = 2 * (shape.trained or shape.weights) / cluster.bandwidth(cluster.nodes * cluster.gpus)
    return Time(compute, steps * step_bytes / (device.reads * READS_REACHED), published)


@dataclass(frozen=True)
class ShardLayout:
    """How a model is laid out: `shard` as in the section engine, ranks that train, ways that weights are spread."""

    shard: str
    ranks: int
    ways: int
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())

    def settings(self) -> list[str]:
        """Of the section engine."""
        group = [f"shard_group: {self.ways}"] if self.shard == "hybrid" else []
        return ["kind: cluster", f"workers: {self.ranks}", f"shard: {self.shard}", *group, "gpus_per_worker: 1"]


@dataclass(frozen=True)
class ClusterPlan:
    """A forecast for a cluster; the layout is the first that fits, or the smallest."""

    cluster: Cluster
    layouts: tuple[ShardLayout, ...]
    layout: ShardLayout
    tensor_parallel: int
    samplers: int
    sampler: Mapping[str, int]
    steps: Mapping[str, tuple[Time, Time | None]]
    staleness: int

    @property
    def fits(self) -> bool:
        """Whether nine tenths of the memory are enough, for the trainer and for the samplers."""
        return max(self.layout.bytes, sum(self.sampler.values())) <= 0.9 * self.cluster.device.memory

    def text(self) -> str:
        """The forecast for a terminal."""
        c, gib = self.cluster, self.cluster.device.memory / GIB
        rows: list[tuple[str, ...]] = [("per rank", *(one.shard for one in self.layouts), "sampler")]
        names = list(dict.fromkeys([*self.layout.parts, *self.sampler]))
        for name in names:
            own = [one.parts.get(name) for one in self.layouts] + [self.sampler.get(name)]
            rows.append((name, *("-" if not size else f"{size / GIB:.1f}" for size in own)))
        totals = [one.bytes for one in self.layouts] + [sum(self.sampler.values())]
        rows.append(("GiB in all", *(f"{size / GIB:.1f}" for size in totals)))
        lines = [
            f"cluster     {c.nodes} x {c.gpus} GPUs ({c.device.name}, {gib:.0f} GiB): {self.layout.ranks} train, "
            f"{self.samplers} sample in groups of {self.tensor_parallel}",
            *table(rows),
            f"advice      engine: {{{', '.join(self.layout.settings())}}}",
            *([] if self.fits else ["            it does not fit: take more GPUs, LoRA, or engine.recompute"]),
        ]
        steps: list[tuple[str, ...]] = [("seconds per step", "train", "limit", "sample", "limit", "together")]
        for stage, (train, sample) in self.steps.items():
            both = train.seconds + (sample.seconds if sample else 0.0)
            both = max(train.seconds, sample.seconds) if sample and self.staleness else both
            drawn = (f"{sample.seconds:.2f}", sample.limit) if sample else ("-", "-")
            steps.append((stage, f"{train.seconds:.2f}", train.limit, *drawn, f"{both:.2f}"))
        return "\n".join([*lines, *table(steps)])


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column on the left and the others on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def plan_cluster(
    shape: ModelShape,
    cluster: Cluster,
    work: Sequence[StageWork],
    *,
    length: int,
    copies: int,
    samplers: int | None = None,
    staleness: int = 0,
    tokens: int = TOKEN_BUDGET,
    recompute: bool = False,
) -> ClusterPlan:
    """A forecast for the stages. samplers: GPUs that sample; None: a quarter of them where a stage samples often."""
    total = cluster.nodes * cluster.gpus
    rolling = [w for w in work if w.sampled and w.steps]
    if samplers is None:
        samplers = max(total // 4, 1) if rolling and total > 1 else 0
    if not 0 <= samplers < max(total, 1):
        raise ConfigError(f"--samplers {samplers} leaves no GPU of {total} to train; give fewer")
    ranks = total - samplers
    room = 0.9 * cluster.device.memory
    spreads = {"none": 1} | ({"full": ranks} if ranks > 1 else {})
    spreads |= {"hybrid": cluster.gpus} if cluster.gpus < ranks and ranks % cluster.gpus == 0 else {}
    layouts = tuple(
        ShardLayout(name, ranks, ways, rank_bytes(shape, ways, tokens=tokens, copies=copies, recompute=recompute))
        for name, ways in spreads.items()
    )
    fitting = [one for name in ("none", "hybrid", "full") for one in layouts if one.shard == name and one.bytes <= room]
    layout = fitting[0] if fitting else min(layouts, key=lambda one: one.bytes)
    rows = max((w.sampling_rows for w in rolling), default=1)
    each = max(rows // max(samplers, 1), 1)
    groups = [n for n in (1, 2, 4, 8) if n <= max(samplers, 1)]
    fit = [n for n in groups if sum(sampler_bytes(shape, n, each, length).values()) <= room]
    parallel = fit[0] if fit else groups[-1]
    steps = {
        w.stage: (
            train_time(
                shape, cluster, ranks, layout.ways, trained=w.step_tokens, read=w.read / w.steps, length=length,
                tokens=tokens, recomputed=float(recompute),
            ),
            sample_time(
                shape, cluster, samplers or ranks, parallel, sampled=w.sampled / w.steps, rows=each, length=length
            )
            if w.sampled
            else None,
        )
        for w in work
        if w.steps
    }  # fmt: skip
    sampler = sampler_bytes(shape, parallel, each, length) if samplers else {}
    return ClusterPlan(cluster, layouts, layout, parallel, samplers, sampler, steps, staleness)
