"""`thumbs eval reward`: the reward model of a run on the pairs that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.reward import RewardConfig
from thumbs.data.preferences import preferred
from thumbs.errors import ConfigError, DataError
from thumbs.evaluation.reward_probes import Answer, agreement, audit_scorer
from thumbs.pipeline.artifacts import open_run
from thumbs.pipeline.stages import Pipeline
from thumbs.records import Preference
from thumbs.rewards.ensemble import RewardEnsemble, member_scores
from thumbs.stages.context import Resume
from thumbs.stages.reward import run_reward
from thumbs.stages.reward_items import Row, judged_pairs
from thumbs.stages.sequences import reply_tokens
from thumbs.tracking.files import write_json
from thumbs.tracking.run_folder import RunFolder

AUDIT = "audit.json"


def audit_reward(run: Path, *, halves: bool = False) -> dict[str, Any]:
    """Audits the reward model of a run, that of its last iteration, on its held-out pairs; returns what it writes to
    `reward/audit.json`.

    Scores are raw, of an ensemble the mean of its members. halves: train two more models, each on one half of the
    prompts, and say how far they agree. Raises DataError where no held-out pair has a verdict.
    """
    opened = open_run(run)
    config = opened.config.reward
    if config is None:
        raise ConfigError(f"{run} has no reward model; give it the sections `preferences` and `reward`")
    with RunFolder(run).open(opened.config.model_dump(mode="json")) as folder:
        pipeline = Pipeline(opened.config, folder, opened.tokenizer, opened.engine, opened.config.iterations)
        source = pipeline.reward_source()
        handles = source.handles if isinstance(source, RewardEnsemble) else [source.handle]
        train, held = pipeline.reward_rows()
        pairs = clear_pairs(run, held)

        def scores(answers: Sequence[Answer]) -> np.ndarray:
            sequences = [reply_tokens(opened.tokenizer, prompt, reply) for prompt, reply in answers]
            return member_scores(opened.engine, handles, sequences).mean(axis=1)

        def length(answer: Answer) -> int:
            prompt, reply = answer
            whole = reply_tokens(opened.tokenizer, prompt, reply)
            return len(whole) - len(opened.tokenizer.render_prompt(prompt))

        found = audit_scorer(scores, pairs, length, opened.config.seed)
        if halves:
            found["halves"] = agreement(*(half_gaps(pipeline, config, i, rows, held) for i, rows in split(train)))
        write_json(folder.stage("reward").path / AUDIT, found)
    return found


def clear_pairs(run: Path, held: Sequence[Row]) -> list[Preference]:
    """The held-out pairs with a verdict; raises DataError where none is untied."""
    pairs = [pair for pair in judged_pairs(held) if preferred(pair) is not None]
    if all(preferred(pair) == 0.5 for pair in pairs):
        raise DataError(
            f"{run} has {len(pairs)} held-out pairs and none says which reply is better; there is nothing to audit. "
            "Give its data a larger `holdout`"
        )
    return pairs


def split(rows: Sequence[Row]) -> list[tuple[int, list[Row]]]:
    """The rows in two halves, (1, …) and (2, …), all rows of a prompt in the same one."""
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
    return [(half + 1, [row for row in rows if place[row.prompt] % 2 == half]) for half in (0, 1)]


def half_gaps(
    pipeline: Pipeline, config: RewardConfig, half: int, rows: Sequence[Row], held: Sequence[Row]
) -> list[float]:
    """Score gaps of the held-out pairs by a model trained on one half; it is kept in `reward/half-N`."""
    context = pipeline.context("reward")
    folder = pipeline.folder.stage(f"reward/half-{half}")
    context = replace(context, folder=folder)
    if not folder.is_done():
        results = run_reward(context, config, pipeline.sft_model(), rows, held)
        folder.mark_done(results)
        Resume(context, {}).clear()
    found = folder.results()["heldout"]
    return np.subtract(found["scores_a"], found["scores_b"]).tolist()
