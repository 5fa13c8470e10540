"""Batches, schedules and checkpoints: what makes a stage repeatable."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from byte_world import byte_context
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.optim import AdamConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.errors import NonFiniteError
from thumbs.records import Example
from thumbs.stages.context import Context, Resume, adam_at, batch_at, grouped_batch_at, saving_batch


@pytest.mark.parametrize(("rows", "size"), [(10, 5), (10, 3), (3, 8), (1, 1)])
def test_batches_cover_each_epoch_exactly_once(rows: int, size: int):
    per_epoch = -(-rows // size)
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = [row for step in steps for row in batch_at(range(rows), step, size, 0, "x")]
        assert sorted(seen) == list(range(rows))


def test_rows_of_a_group_stay_side_by_side():
    groups = [[(g, i) for i in range(n)] for g, n in enumerate([3, 1, 4, 2, 6])]
    orders = []
    for epoch in range(3):
        rows = [row for step in range(4) for row in grouped_batch_at(groups, epoch * 4 + step, 4, 0, "x")]
        assert sorted(rows) == sorted(row for group in groups for row in group)
        assert [len(list(run)) for _, run in itertools.groupby(rows, key=lambda row: row[0])] == [
            len(groups[g]) for g in dict.fromkeys(row[0] for row in rows)
        ]
        orders.append(rows)
    assert orders[0] != orders[1] != orders[2]
    assert any([r for r in rows if r[0] == 4] != groups[4] for rows in orders)  # shuffled inside too


def test_a_batch_depends_on_its_arguments_alone():
    rows = list(range(50))
    later = batch_at(rows, 17, 4, 3, "sft")
    np.random.seed(1)
    torch.manual_seed(1)
    for step in range(5):
        batch_at(rows, step, 4, 3, "sft")
    assert batch_at(rows, 17, 4, 3, "sft") == later


def test_epochs_seeds_and_stages_have_orders_of_their_own():
    rows = list(range(50))
    orders = [
        batch_at(rows, 0, 50, 0, "sft"),
        batch_at(rows, 1, 50, 0, "sft"),
        batch_at(rows, 0, 50, 1, "sft"),
        batch_at(rows, 0, 50, 0, "reward"),
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert rows not in orders


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        # 10 steps, 2 of them warm-up: thirds of the peak, then 8 steps of the schedule.
        ("constant", [1 / 3, 2 / 3] + [1.0] * 8),
        ("linear", [1 / 3, 2 / 3, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine", [1 / 3, 2 / 3, 1.0, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]),
    ],
)
def test_the_rate_follows_the_schedule(schedule: str, rates: list[float]):
    config = AdamConfig.model_validate(
        {"learning_rate": 2.0, "head_learning_rate": 10.0, "schedule": schedule, "warmup_fraction": 0.2}
    )
    steps = [adam_at(config, step, 10) for step in range(10)]
    assert [step.learning_rate for step in steps] == pytest.approx([2 * rate for rate in rates], abs=1e-5)
    assert [step.head_learning_rate for step in steps] == pytest.approx([10 * rate for rate in rates], abs=1e-5)


def test_without_a_rate_of_its_own_the_head_takes_the_trunks():
    adam = adam_at(AdamConfig(learning_rate=3.0, schedule="constant", warmup_fraction=0), 0, 1)
    assert (adam.learning_rate, adam.head_learning_rate) == (3.0, 3.0)


def test_the_other_settings_reach_the_optimizer():
    config = AdamConfig(beta1=0.5, beta2=0.6, eps=0.7, weight_decay=0.8, max_grad_norm=0.9)
    adam = adam_at(config, 0, 1)
    assert (adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.max_grad_norm) == (0.5, 0.6, 0.7, 0.8, 0.9)


def sentence() -> list[Example]:
    tokens = np.frombuffer(b"a small sentence", dtype=np.uint8)
    return [Example.next_token(tokens, weights=np.full(len(tokens) - 1, 1 / (len(tokens) - 1)))]


def train(context: Context, resume: Resume, first: int, last: int) -> list[float]:
    losses = []
    for _ in range(first, last):
        losses.append(context.engine.forward_backward(resume.models["m"], sentence(), [CROSS_ENTROPY]).loss)
        context.engine.optim_step(resume.models["m"], AdamStep(1e-2, 1e-2))
    return losses


def resume_in(folder: Path, seed: int = 0) -> tuple[Context, Resume]:
    context = byte_context(folder, seed=seed)
    model = context.engine.create(ModelSpec("m", context.model, seed=seed))
    return context, Resume(context, {"m": model})


def test_a_checkpoint_restores_weights_optimizer_and_state(tmp_path: Path):
    context, resume = resume_in(tmp_path / "a")
    assert resume.load() == (0, {})
    train(context, resume, 0, 3)
    resume.save(3, {"kl_coef": 0.25})
    going_on = train(context, resume, 3, 6)

    context, resume = resume_in(tmp_path / "a", seed=1)  # other weights, until they are loaded
    assert resume.load() == (3, {"kl_coef": 0.25})
    assert train(context, resume, 3, 6) == going_on
    assert context.engine.snapshot(resume.models["m"]).policy_version == 6


def test_only_the_newest_checkpoint_stays(tmp_path: Path):
    _, resume = resume_in(tmp_path)
    for step in (1, 2, 3):
        resume.save(step, {})
    assert [path.name for path in resume.path.glob("step-*")] == ["step-000003"]
    resume.close(keep=False)
    assert not resume.path.exists()


def test_resuming_drops_what_will_be_logged_again(tmp_path: Path):
    context, resume = resume_in(tmp_path)
    for step in (1, 2, 3):
        context.folder.metrics.log(step, {"sft/loss": float(step)})
        context.folder.samples.append(step, {"text": "x"})
    resume.save(2, {})
    for step in (4, 5):
        context.folder.samples.append(step, {"text": "y"})
    resume.load()
    assert [record["step"] for record in context.folder.metrics.read()] == [1, 2]
    assert [record["step"] for record in context.folder.samples.read()] == [1, 2]


def test_a_fresh_start_drops_the_samples_of_step_0(tmp_path: Path):
    context, resume = resume_in(tmp_path)
    context.folder.samples.append(0, {"text": "x"})
    assert resume.load() == (0, {})
    assert context.folder.samples.read() == []


def test_a_crash_between_checkpoint_and_its_name_leaves_the_old_one(tmp_path: Path):
    context, resume = resume_in(tmp_path)
    resume.save(1, {"n": 1})
    train(context, resume, 0, 1)
    context.engine.save(resume.models["m"], resume.path / "step-000002" / "m", optimizer=True)
    assert resume.load() == (1, {"n": 1})


def test_a_batch_that_is_not_finite_is_kept(tmp_path: Path):
    context, resume = resume_in(tmp_path)
    bad = Example.next_token([1, 2, 3], weights=[0.5, math.nan])
    said = r"step 7: m: the loss became nan.*nonfinite-step-7\.npz"
    with pytest.raises(NonFiniteError, match=said), saving_batch(context, 7, [bad]):
        context.engine.forward_backward(resume.models["m"], [bad], [CROSS_ENTROPY])
    with np.load(tmp_path / "nonfinite-step-7.npz") as kept:
        np.testing.assert_array_equal(kept["0/inputs"], [1, 2])
        np.testing.assert_array_equal(kept["0/weights"], np.array([0.5, math.nan], np.float32))
