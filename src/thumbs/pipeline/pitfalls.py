"""What would go wrong with a config, or is wrong with what comes out, said before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thumbs.config.pipeline import METHODS, PipelineConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.load import Loaded
from thumbs.errors import ConfigError
from thumbs.evaluation.intervals import wilson
from thumbs.pipeline.inputs import Inputs, split_pairs
from thumbs.pipeline.names import lacking
from thumbs.pipeline.overlap import flattering
from thumbs.pipeline.standing import problems, standings
from thumbs.rollout.rounds import require_unwarped
from thumbs.tracking.run_folder import listed

FEW = 50
"""Held-out pairs or prompts under which an interval says little."""

REACHABLE = 3.0
"""Deviations by which a mean score can be expected to rise; scores are normalised to deviation 1."""

FLAT_TAU = 0.103
"""discopop's slope at a margin of 0 is beta · (-3/4 + (1 - log 2) / (4 tau)): above 0 for a smaller tau than this."""

SORTED_FEW = 8
"""Pairs per batch under which sorting them says little."""

RATES = {
    ("sft", "LoRA"): (1e-4, 5e-4),
    ("sft", "full training"): (1e-5, 5e-5),
    ("cost_model", "LoRA"): (1e-5, 1e-3),
    ("reward_model", "LoRA"): (1e-5, 1e-3),
    ("cost_model", "full training"): (1e-6, 5e-5),
    ("reward_model", "full training"): (1e-6, 5e-5),
    ("ppo", "LoRA"): (1e-5, 1e-4),
    ("ppo", "full training"): (1e-6, 1e-5),
    ("group", "LoRA"): (1e-6, 1e-4),
    ("group", "full training"): (1e-7, 1e-5),
    ("rejection", "LoRA"): (1e-5, 5e-4),
    ("rejection", "full training"): (1e-6, 5e-5),
    ("direct", "LoRA"): (1e-6, 1e-4),
    ("direct", "full training"): (1e-7, 1e-5),
}
"""Usual peak learning rates of pretrained models, from the papers and libraries that docs/guides cite."""


def pitfalls(config: PipelineConfig, inputs: Inputs, context: int) -> tuple[str, ...]:
    """Warnings, the ones that stop a run first. `context`: tokens that the model can attend to."""
    found = (
        _sections(config),
        _run_folder(config),
        _batches(config, inputs),
        _rollouts(config),
        _lengths(config, inputs, context),
        _labels(config, inputs),
        flattering(config, inputs),
        _kl(config),
        _preference(config, inputs),
        _rates(config),
    )
    return tuple(warning for warnings in found for warning in warnings)


def _sections(config: PipelineConfig) -> Iterator[str]:
    yield from (f"{text}; the run will stop there" for _, text in lacking(config))


def _run_folder(config: PipelineConfig) -> Iterator[str]:
    run = Path(config.run)
    if not run.exists():
        return
    lines, _ = problems(config, run, standings(config, run))
    if lines:
        yield (
            f"run folder {run} holds a run with another config, or of other files, so this one will be refused:"
            f"{listed(lines)}\nname another folder (run=PATH, with --from {run} to keep the stages that fit), or start "
            "over with --fresh"
        )


def _batches(config: PipelineConfig, inputs: Inputs) -> Iterator[str]:
    for c in (config.ppo, config.group):
        if c is not None and (misfit := c.misfit()):
            yield f"{misfit}; the run will stop there"
    rounds = []
    if config.ppo is not None and inputs.prompts is not None:
        rounds.append(("ppo", config.ppo.batch_size, len(inputs.prompts.rows) * config.ppo.replies_per_prompt))
    if config.group is not None and inputs.group_prompts is not None:
        rounds.append(("group", config.group.batch_size, len(inputs.group_prompts.rows) * config.group.group_size))
    for section, size, rows in rounds:
        if rows < size:
            yield f"{section}.batch_size={size}, but there are prompts for {rows}: each step has {rows} rollouts"


def _rollouts(config: PipelineConfig) -> Iterator[str]:
    c = config
    for section, part in (("ppo", c.ppo), ("group", c.group), ("evaluation", c.evaluation)):
        try:
            if part is not None:
                require_unwarped(part.sampling, section)
        except ConfigError as error:
            yield f"{error}; the run will stop there"


def _lengths(config: PipelineConfig, inputs: Inputs, context: int) -> Iterator[str]:
    c = config
    samplings: dict[str, tuple[Loaded[Any] | None, SamplingConfig | None]] = {
        "labels": (inputs.pair_prompts, c.labels.sampling if c.labels else None),
        "ppo": (inputs.prompts, c.ppo.sampling if c.ppo else None),
        "group": (inputs.group_prompts, c.group.sampling if c.group else None),
        "evaluation": (inputs.evaluation_prompts, c.evaluation.sampling if c.evaluation else None),
    }
    for section, (prompts, sampling) in samplings.items():
        if prompts is None or sampling is None:
            continue
        longest = max(prompts.lengths, default=0) + sampling.max_new_tokens
        if longest > context:
            yield (
                f"{section}: the longest prompt ({max(prompts.lengths, default=0)} tokens) and max_new_tokens="
                f"{sampling.max_new_tokens} make {longest}, the model's context is {context}; the run will stop there. "
                f"Lower {section}.sampling.max_new_tokens or {section}.prompts.max_tokens"
            )
    for section, method in (("ppo", c.ppo), ("group", c.group)):
        environment = None if method is None else method.environment
        if environment is not None and environment.max_tokens > context:
            yield (
                f"{section}.environment.max_tokens={environment.max_tokens}, the model's context is {context}; a "
                "conversation that grows beyond it stops the run. Lower max_tokens"
            )
    for section, key, data in (("sft", "sft", inputs.conversations), ("reward_model", "labels", inputs.pairs)):
        if data is not None and max(data.lengths) > context:
            yield (
                f"{section}: the longest row has {max(data.lengths)} tokens, the model's context is {context}; "
                f"what lies beyond it was never trained. Lower {key}.data.max_tokens"
            )


def _labels(config: PipelineConfig, inputs: Inputs) -> Iterator[str]:
    c = config.labels
    if c is not None and c.simulated and c.label_noise:
        yield (
            f"labels.label_noise={c.label_noise}: accuracy on held-out pairs, whose labels are as noisy, "
            f"cannot be expected above {1 - c.label_noise:.0%}, however good the reward model is"
        )
    if config.reward_model is not None and c is not None:
        yield from _few(split_pairs(config, inputs)[1], "held-out pairs", "the reward model's accuracy")
    if inputs.evaluation_prompts is not None:
        yield from _few(len(inputs.evaluation_prompts.rows), "evaluation prompts", "the win rate")


def _few(n: int, what: str, number: str) -> Iterator[str]:
    if n == 0:
        yield f"no {what}: {number} cannot be measured, and the last checkpoint stays instead of the best"
    elif n < FEW:
        low, high = wilson(0.8 * n, n)
        yield f"{n} {what}: {number} is known to ±{100 * (high - low) / 2:.0f} points only (95 % interval at 80 %)"


def _kl(config: PipelineConfig) -> Iterator[str]:
    if config.ppo is None:
        return
    kl = config.ppo.kl
    if kl.coef == 0:
        yield "ppo.kl.coef=0: nothing holds the policy to the SFT model; expect high scores and broken text"
    elif not config.ppo.score_scale:
        yield (
            f"ppo.score_scale=false: scores have whatever scale the reward model gives them, so ppo.kl.coef={kl.coef} "
            "means something else for each; compare it with score_std in reward_model/done.json"
        )
    elif kl.target is not None and kl.coef * kl.target > REACHABLE:
        yield (
            f"ppo.kl.coef={kl.coef} times ppo.kl.target={kl.target} is a price of {kl.coef * kl.target:.1f}, more than "
            f"scores of deviation 1 can be expected to gain ({REACHABLE:.0f}): the policy will hardly move; "
            "lower ppo.kl.coef"
        )


def _preference(config: PipelineConfig, inputs: Inputs) -> Iterator[str]:
    c = config.direct
    if c is None:
        return
    beta, usual = float(c.settings()["beta"]), float(c.preset.reads["beta"])
    if not usual / 20 <= beta <= usual * 20:
        yield (
            f"direct.beta={beta:g} is far from the {usual:g} that is usual for {c.method}; "
            "betas of different methods have different units (docs/guides/direct.md)"
        )
    if c.method == "discopop" and float(c.settings()["tau"]) < FLAT_TAU:
        yield (
            f"direct.tau={c.settings()['tau']:g}: below {FLAT_TAU} the loss slopes the wrong way at a margin of 0, "
            "where training starts, so margins may turn negative and stay there; raise it"
        )
    if c.preset.ready.startswith("sorted") and c.batch_size < SORTED_FEW:
        yield f"{c.method} compares quantiles of a batch, and direct.batch_size={c.batch_size} has too few of them"
    if inputs.judged is not None:
        good = sum(row.desirable for row in inputs.judged.rows)
        bad, weights = len(inputs.judged.rows) - good, c.settings()
        ratio = float(weights["desirable_weight"]) / float(weights["undesirable_weight"])
        if not bad / 2 <= (weighed := ratio * good) <= 2 * bad:
            yield (
                f"kto: {good} good and {bad} bad replies weigh {weighed:.0f} to {bad}; choose "
                "direct.desirable_weight or undesirable_weight so that the good ones weigh 1 to 4/3 of the bad ones"
            )
    if c.online is None and c.keep == "best" and inputs.pairs is not None and split_pairs(config, inputs)[1] == 0:
        yield "direct: there are no held-out pairs, so the last weights stay; raise labels.data.holdout"


def _rates(config: PipelineConfig) -> Iterator[str]:
    if config.model.name.startswith("byte-"):
        return  # from scratch: the usual rates of pretrained models do not apply
    way = "full training" if config.model.lora is None else "LoRA"
    for section in ("sft", "cost_model", "reward_model", *METHODS):
        settings = getattr(config, section)
        low, high = RATES[section, way]
        if settings is None or low <= settings.optim.learning_rate <= high:
            continue
        yield (
            f"{section}.optim.learning_rate={settings.optim.learning_rate:g} is outside the usual "
            f"{low:g} to {high:g} for {way}"
        )
