"""The stages of the preference family: what they read and keep, how they go on, what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byte_world import MAKER, byte_context, pair, prompt, user
from thumbs.config.direct import DirectConfig
from thumbs.config.optim import AdamConfig
from thumbs.data.replies import JudgedReply
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import DataError
from thumbs.functional.preference_losses import FORMULAS
from thumbs.records import Message, Preference, Reply, Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages.answers import (
    AnswerPair,
    TokenisedReply,
    answer_datum,
    read_answer,
    read_answer_pairs,
    with_reference,
)
from thumbs.stages.context import Context, Resume
from thumbs.stages.direct import PairTraining, run_direct
from thumbs.stages.direct_batch import SORTS, loss_on, pair_data, pair_metrics
from thumbs.stages.direct_watch import FALL, Baseline, judge_fall, train_policy
from thumbs.stages.kto import KtoTraining, LabelledReply, judged_of_pairs, judged_of_rows, read_judged, run_kto
from thumbs.stages.online_dpo import best_and_worst, run_online_dpo

OPTIM = AdamConfig(learning_rate=1e-3, schedule="constant")
BYTES = ByteTokenizer()


def some_pairs(letters: str = "abcdefgh") -> list[Preference]:
    """Upper case is better than lower case, whichever stands first."""
    rows = []
    for number, letter in enumerate(letters):
        good, bad = letter.upper() * 2, letter * 3
        rows.append(pair(f"say {letter}", *((good, bad, "first") if number % 2 else (bad, good, "second"))))
    return rows


def some_judged() -> list[LabelledReply]:
    rows = judged_of_pairs(some_pairs())
    return read_judged(BYTES, rows, rows, 0)


def config(method: str = "dpo", **settings: Any) -> DirectConfig:
    return DirectConfig(method=method, **{"batch_size": 4, "epochs": 3, "eval_every": 2, "optim": OPTIM} | settings)


def train(context: Context, c: DirectConfig) -> dict[str, Any]:
    if c.method == "online_dpo":
        shouting = CallableReward(lambda rollout: float(rollout.text.upper() == rollout.text) + len(rollout.text) / 9)
        return run_online_dpo(context, c, shouting, None, [prompt(x) for x in "abcdefgh"], some_pairs("xyz"))
    if c.method == "kto":
        return run_kto(context, c, None, judged_of_pairs(some_pairs()), judged_of_pairs(some_pairs("xyz")))
    return run_direct(context, c, None, some_pairs(), some_pairs("xyz"))


def numbers(context: Context) -> list[dict[str, float]]:
    """All that was logged but the clock."""
    return [{k: v for k, v in record.items() if not k.endswith("_s")} for record in context.folder.metrics.read()]


def created(context: Context, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are made from now on."""
    names, create = [], context.engine.create
    monkeypatch.setattr(context.engine, "create", lambda spec: names.append(spec.name) or create(spec))
    return names


def test_a_reply_is_the_last_turn_alone_with_its_end_unless_it_was_cut():
    asked = (*user("hi"), Message("assistant", "yes"), *user("and?"))
    whole = read_answer(BYTES, asked, Reply("no", MAKER))
    cut = read_answer(BYTES, asked, Reply("no", MAKER, "length"))
    assert (whole.length, cut.length) == (3, 2)
    assert len(whole.tokens) - whole.length == len(BYTES.render_prompt(asked)) == len(cut.tokens) - cut.length


@pytest.mark.parametrize(("ties", "left"), [("drop", [1.0, 0.0]), ("half", [1.0, 0.0, 0.5])])
def test_ties_leave_or_count_half(ties: Any, left: list[float]):
    rows = [pair("q", "a", "b", verdict) for verdict in ("first", "second", "tie", "skip")]
    assert [row.preferred for row in read_answer_pairs(BYTES, rows, ties)] == left


def test_nothing_but_ties_is_refused(tmp_path: Path):
    for ties in ("drop", "half"):
        with pytest.raises(DataError, match="nothing to learn"):
            run_direct(byte_context(tmp_path), config(ties=ties), None, [pair("q", "a", "b", "tie")])
    with pytest.raises(DataError, match="nothing to learn"):
        run_kto(byte_context(tmp_path), config("kto"), None, judged_of_pairs([pair("q", "a", "b", "tie")]))


def test_a_tie_that_counts_half_leaves_equal_replies_equal(tmp_path: Path):
    """Training on ties alone, beside one clear pair, pulls the log-ratios of both sides to one another."""
    context = byte_context(tmp_path)
    ties = read_answer_pairs(BYTES, [pair("q", "a", "b", "tie")], "half")
    policy = context.engine.create(ModelSpec("p", context.model))
    training = PairTraining(context, config(ties="half", beta=1.0), policy, 20)
    now = training.logprobs(ties)[0]
    far = [
        replace(
            ties[0],
            first=replace(ties[0].first, reference=now[0] - 3),
            second=replace(ties[0].second, reference=now[1]),
        )
    ]
    gaps = []
    for step in range(4):
        training.step(step, far, Baseline())
        a, b = training.logprobs(far)[0] - (now - [3, 0])
        gaps.append(abs(a - b))
    assert gaps[-1] < gaps[0] < 3


@pytest.mark.parametrize("method", ["simpo", "orpo", "cpo"])
def test_methods_without_a_reference_make_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str):
    context = byte_context(tmp_path)
    names = created(context, monkeypatch)
    train(context, config(method))
    assert names == ["policy"]
    assert not (tmp_path / "reference.json").exists()
    assert not [name for record in numbers(context) for name in record if name.endswith("ratio")]


@pytest.mark.parametrize("method", ["dpo", "bco", "aot", "kto", "simpo", "online_dpo"])
def test_a_run_that_was_stopped_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str):
    whole, parts = byte_context(tmp_path / "whole"), byte_context(tmp_path / "parts")
    online = {"prompts": {"path": "unused"}, "steps": 6, "sampling": {"max_new_tokens": 4}}
    more = {"kto": {"epochs": 2}, "online_dpo": {"epochs": 1, "online": online}}
    c, step = config(method, **more.get(method, {})), 0
    results = train(whole, c)
    save = Resume.save

    def stop(resume: Resume, number: int, state: Any) -> None:
        nonlocal step
        step = number
        if step > 2:
            raise KeyboardInterrupt
        save(resume, number, state)

    with monkeypatch.context() as patch:
        patch.setattr(Resume, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(parts, c)
    assert step == 4
    names = created(parts, monkeypatch)
    assert train(parts, c) == results
    # The reference's numbers were kept; online there are new ones at each step.
    assert names == (["policy", "reference"] if method == "online_dpo" else ["policy"])
    assert numbers(parts) == numbers(whole)


def test_the_references_numbers_are_kept_for_the_same_model_and_tokens_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    context = byte_context(tmp_path / "one")
    answers = [read_answer(BYTES, user("q"), Reply(text, MAKER)) for text in ("yes", "no")]
    known = with_reference(context, None, answers)
    policy = context.engine.create(ModelSpec("p", context.model))
    outputs = context.engine.forward(policy, [answer_datum(answer) for answer in answers])
    assert [a.reference for a in known] == pytest.approx([float(output.logprobs.sum()) for output in outputs])
    names = created(context, monkeypatch)
    assert [a.reference for a in with_reference(context, None, answers)] == [a.reference for a in known]
    assert names == []
    with_reference(context, None, [answers[0], replace(answers[1], length=1)])
    assert names == ["reference"]
    context.engine.save(policy, tmp_path / "start")
    with_reference(context, tmp_path / "start", answers)
    with_reference(replace(context, seed=1), None, answers)
    assert names == ["reference"] * 3
    found = with_reference(context, None, answers)
    assert [a.reference for a in found] == [a.reference for a in known]


def test_the_best_or_the_last_weights_stay(tmp_path: Path):
    def kept(keep: Any, losses: list[float | None]) -> tuple[list[int], float | None]:
        context = byte_context(tmp_path / f"{keep}{len(losses)}")
        policy, saved, given = context.engine.create(ModelSpec("p", context.model)), [], iter([None, *losses])

        def measure(_: Any) -> dict[str, float]:
            loss = next(given)
            return {} if loss is None else {"loss": loss}

        def step(number: int, _: Any) -> dict[str, float]:
            saved.append(context.best.exists() and context.best.stat().st_mtime_ns)
            return {"preference/loss": 0.0}

        c = config(keep=keep, eval_every=1)
        results = train_policy(context, c, policy, len(losses), step, measure, {})
        saved.append(context.best.stat().st_mtime_ns)
        steps = [number for number in range(1, len(saved)) if saved[number] != saved[number - 1]]
        assert results["best_step"] == steps[-1]
        return steps, results["heldout_loss"]

    assert kept("best", [3.0, 1.0, 2.0]) == ([1, 2], 1.0)
    assert kept("last", [3.0, 1.0, 2.0, 2.0]) == ([1, 2, 3, 4], 2.0)
    assert kept("best", [None, None]) == ([1, 2], None)


def test_it_says_once_that_both_logprobs_fell(caplog: pytest.LogCaptureFixture):
    state: dict[str, Any] = {"chosen": -10.0, "rejected": -11.0, "warning": ""}
    fell = []
    for step, (chosen, rejected) in enumerate(
        [(-9.0, -40.0), (-10 - FALL + 0.1, -40.0), (-13.0, -20.0), (-15.0, -30.0)]
    ):
        metrics: dict[str, float] = {}
        judge_fall("dpo", step, state, {"chosen_logprob": chosen, "rejected_logprob": rejected}, metrics)
        fell.append(metrics["preference/both_fell"])
    assert fell == [0, 0, 1, 1]
    assert len(caplog.messages) == 1
    assert "by 3.0 and 9.0 nats per reply" in caplog.messages[0]
    assert caplog.messages[0] == f"dpo: {state['warning']}"


def test_without_held_out_pairs_the_batch_shows_the_fall():
    state: dict[str, Any] = {"chosen": None, "rejected": None, "warning": ""}
    judge_fall("dpo", 1, state, {}, {"preference/chosen_ratio": -5.0, "preference/rejected_ratio": -7.0})
    assert "by 5.0 and 7.0" in state["warning"]


def test_metrics_of_a_batch_leave_ties_out():
    def one(logprob: float, reference: float, length: int) -> tuple[TokenisedReply, float]:
        return TokenisedReply(np.arange(9), length, reference), logprob

    sides = [(one(-4, -5, 2), one(-6, -5, 4)), (one(-3, -3, 1), one(-9, -8, 2)), (one(0, -99, 1), one(0, 0, 1))]
    pairs = [AnswerPair((), a[0], b[0], p) for (a, b), p in zip(sides, (1.0, 0.2, 0.5), strict=True)]
    logprobs = np.array([[a[1], b[1]] for a, b in sides])
    found = pair_metrics(pairs, logprobs, 0.5, per_token=False)
    assert found == {
        "chosen_logprob": (-4 - 9) / 2,
        "rejected_logprob": (-6 - 3) / 2,
        "chosen_ratio": (1 - 1) / 2,
        "rejected_ratio": (-1 + 0) / 2,
        "margin": 0.5 * ((1 + 1) + (-1 - 0)) / 2,
        "accuracy": 0.5,
    }
    by_token = pair_metrics(pairs, logprobs, 0.5, per_token=True)
    assert by_token["margin"] == pytest.approx(0.5 * ((1 / 2 + 1 / 4) + (-1 / 2 - 0)) / 2)
    assert pair_metrics(pairs[2:], logprobs[2:], 0.5, per_token=False) == {}


def test_a_pair_of_weight_two_counts_as_if_it_were_there_twice():
    def answered(number: int) -> AnswerPair:
        return AnswerPair((), TokenisedReply(np.arange(9) + number, 2), TokenisedReply(np.arange(9) * number, 3), 1.0)

    pairs, logprobs, dpo = [answered(1), answered(2)], np.array([[-3.0, -4.0], [-6.0, -5.0]]), config().pair_loss()
    heavy = [replace(pairs[0], weight=2.0), replace(pairs[1], weight=0.0)]
    twice = loss_on(dpo, [pairs[0], pairs[0]], logprobs[[0, 0]])
    assert loss_on(dpo, heavy, logprobs) == pytest.approx(twice)
    assert loss_on(dpo, pairs, logprobs) != pytest.approx(twice)
    data = pair_data([heavy[0], pairs[1]])
    assert [float(datum.columns["unit_weight"]) for datum in data] == [1.0, 1.0, 0.5, 0.5]


def sorted_by_hand(how: str, chosen: np.ndarray, rejected: np.ndarray, beta: float) -> float:
    """Optimal transport in one dimension: sort both samples (arXiv:2406.05882). chosen, rejected: (now, reference)."""
    if how == "sorted_margins":
        better, worse = sorted(chosen[:, 0] - rejected[:, 0]), sorted(chosen[:, 1] - rejected[:, 1])
    else:
        better, worse = sorted(chosen[:, 0] - chosen[:, 1]), sorted(rejected[:, 0] - rejected[:, 1])
    return float(np.mean([np.log1p(np.exp(-beta * (a - b))) for a, b in zip(better, worse, strict=True)]))


@pytest.mark.parametrize("how", SORTS)
def test_optimal_transport_is_dpo_on_sorted_pairs(how: str):
    rng, n = np.random.default_rng(0), 7
    chosen, rejected = rng.normal(-8, 3, (n, 2)), rng.normal(-9, 3, (n, 2))
    pairs, logprobs = [], []
    for number, (c, r) in enumerate(zip(chosen, rejected, strict=True)):
        sides = [(TokenisedReply(np.arange(5), 2, side[1]), side[0]) for side in (c, r)]
        if turned := number % 2 == 1:
            sides.reverse()
        pairs.append(AnswerPair((), sides[0][0], sides[1][0], 0.0 if turned else 1.0))
        logprobs.append([side[1] for side in sides])
    now = np.array(logprobs)
    matched, order = SORTS[how](pairs, now)
    loss = loss_on(config(beta=0.3).pair_loss(), matched, now.ravel()[order].reshape(-1, 2))
    assert loss == pytest.approx(sorted_by_hand(how, chosen, rejected, 0.3), rel=1e-12)


def test_the_mean_reward_is_that_of_all_pairs_before():
    baseline = Baseline()
    for reward, n in ((2.0, 4), (-1.0, 2), (5.0, 4)):
        baseline = baseline.after(reward, n)
    assert (baseline.mean, baseline.pairs) == (pytest.approx((8 - 2 + 20) / 10), 10)


@pytest.mark.parametrize("method", [name for name in FORMULAS if name not in ("ipo_norm", "dpo_norm")])
def test_micro_batches_change_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str):
    """Also of the methods whose loss looks at the whole batch; the loss of a step is that of the formula by itself."""
    context, seen = byte_context(tmp_path), []
    pairs = read_answer_pairs(BYTES, some_pairs(), "drop")
    pairs = [
        replace(p, first=replace(p.first, reference=-20.0), second=replace(p.second, reference=-15.0)) for p in pairs
    ]
    for budget in (1, 30, 100_000):
        monkeypatch.setattr(LocalEngine, "token_budget", budget)
        policy = context.engine.create(ModelSpec("p", context.model))
        training = PairTraining(context, config(method), policy, 1)
        by_hand = training.measure(pairs, Baseline(0.2))["loss"]
        metrics, _ = training.step(0, pairs, Baseline(0.2))
        assert metrics["preference/loss"] == pytest.approx(by_hand, rel=1e-4)
        seen.append((metrics["preference/loss"], metrics["preference/grad_norm"]))
    np.testing.assert_allclose(seen, [seen[-1]] * 3, rtol=1e-3)


def test_micro_batches_change_no_gradient_of_kto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    context, seen = byte_context(tmp_path), []
    rows = some_judged()
    far = [(replace(row.own, reference=-20.0), replace(row.foreign, reference=-40.0)) for row in rows]
    rows = [replace(row, own=own, foreign=foreign) for row, (own, foreign) in zip(rows, far, strict=True)]
    for budget in (1, 30, 100_000):
        monkeypatch.setattr(LocalEngine, "token_budget", budget)
        policy = context.engine.create(ModelSpec("p", context.model))
        metrics = KtoTraining(context, config("kto"), policy, 1).step(0, rows)
        seen.append([metrics[f"preference/{name}"] for name in ("loss", "grad_norm", "baseline")])
    assert seen[0][2] > 1
    np.testing.assert_allclose(seen, [seen[-1]] * 3, rtol=1e-3)


def test_kto_takes_both_sides_of_clear_pairs_and_labelled_replies():
    rows = judged_of_pairs([pair("q", "a", "b", "second"), pair("q", "a", "b", "tie"), pair("q", "a", "b", "skip")])
    assert [(reply.text, good) for _, reply, good in rows] == [("a", False), ("b", True)]
    ((asked, reply, good),) = judged_of_rows([JudgedReply((*user("q"), Message("assistant", "a")), desirable=True)])
    assert (asked, reply.text, good) == (user("q"), "a", True)


def test_kto_measures_distance_on_replies_to_other_prompts():
    rows, foreign = judged_of_pairs(some_pairs()), []
    for row in read_judged(BYTES, rows, rows, 0):
        head = len(BYTES.render_prompt(row.prompt))
        assert row.own.tokens[:head].tolist() == row.foreign.tokens[:head].tolist()
        foreign.append(BYTES.decode(row.foreign.tokens[head:].tolist()))
        assert foreign[-1] not in {reply.text for asked, reply, _ in rows if asked == row.prompt}
    assert len(set(foreign)) > len(rows) / 2
    assert [row.prompt for row in read_judged(BYTES, rows, rows, 0)] == [asked for asked, _, _ in rows]


def test_held_out_replies_take_foreign_ones_of_the_training_data():
    """They may all answer one prompt; the training data may not."""
    one, rows = judged_of_pairs([pair("q", "a", "b")]), judged_of_pairs(some_pairs())
    assert len(read_judged(BYTES, one, rows, 0)) == 2
    with pytest.raises(DataError, match="two different prompts"):
        read_judged(BYTES, one, one, 0)


def test_kto_takes_the_distance_as_it_is_but_not_below_zero(tmp_path: Path):
    context = byte_context(tmp_path)
    training = KtoTraining(context, config("kto"), context.engine.create(ModelSpec("p", context.model)), 1)
    rows = some_judged()
    (output,) = context.engine.forward(training.policy, [answer_datum(rows[0].foreign)])
    now = float(output.logprobs.sum())
    for reference, distance in ((now - 3.0, 3.0), (now + 3.0, 0.0)):
        row = replace(rows[0], foreign=replace(rows[0].foreign, reference=reference))
        assert training.distance([row]) == pytest.approx(distance, abs=1e-4)


def rollout(text: str) -> Rollout:
    tokens = np.array([1, 2, *text.encode()])
    mask = np.array([0.0] + [1.0] * len(text), dtype=np.float32)
    return Rollout("q", tokens, 2, mask, mask * 0, "stop", 0, text)


def test_online_pairs_are_the_best_and_the_worst_and_equal_scores_a_tie():
    rollouts = [rollout(text) for text in ("a", "bb", "ccc")]
    found = best_and_worst(rollouts, np.array([0.5, 2.0, -1.0]))
    assert ([a.length for a in found.sides], found.preferred) == ([2, 3], 1.0)
    assert best_and_worst(rollouts, np.array([1.0, 1.0, 1.0])).preferred == 0.5


@pytest.mark.parametrize("method", ["bco", "mpo"])
def test_the_baseline_is_the_mean_reward_of_all_pairs_before(tmp_path: Path, method: str):
    """What a step subtracts is the mean of beta · log-ratio over both sides of the pairs of earlier steps, no more."""
    context, c = byte_context(tmp_path), config(method)
    train(context, c)
    beta, before = float(c.settings()["beta"]), []
    steps = [row for row in numbers(context) if "preference/baseline" in row]  # not the look before the first
    for row in steps:
        expected = sum(before) / len(before) if before else 0.0  # all batches have four pairs
        assert row["preference/baseline"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        before.append(beta * (row["preference/chosen_ratio"] + row["preference/rejected_ratio"]) / 2)
    assert len(before) == 6
    assert abs(sum(before)) > 1e-4
