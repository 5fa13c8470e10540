"""The language of the lab by hand, best-of-n against every subset, and one seed with its processes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.lab import overopt, world
from thumbs.lab.figures import points, write_page
from thumbs.lab.overopt import ARMS, Both, Found, expected_best
from thumbs.lab.verdicts import requirements, time_on_two
from thumbs.lab.world import TOPICS, gold, judged_pairs, sentences
from thumbs.records import Message, Rollout
from thumbs.rewards.base import CallableReward
from unit.lab.stand_in import ended


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("lake kind tree warm.", 2),
        ("kind kind lake.", 1 - 1),  # said again
        ("kind rude lake.", 1 - 1),
        ("kind warm.", 2 - 1),  # a word is missing
        ("lake tree road ship song door rain hill moon coat.", -1),  # two too many
        ("lake kynd tree.", -2),  # no such word
        ("lake tree road", -2),  # no full stop
        ("", -2 - 3),
    ],
)
def test_gold_by_hand(text: str, score: float):
    assert gold(text) == score


def test_sentences_are_of_the_language_and_nothing_in_them_is_broken():
    rows = sentences(200, 3)
    texts = [row[-1].content for row in rows]
    words = [text.removesuffix(".").split() for text in texts]
    assert all(3 <= len(w) <= 8 and len(set(w)) == len(w) and set(w) <= world.WORDS for w in words)
    assert sentences(200, 3) == rows != sentences(200, 4)
    assert len({topic.id for topic in TOPICS}) == len(TOPICS) == 64


def spoken(text: str) -> Rollout:
    none = np.zeros(1, dtype=np.float32)
    messages = (*TOPICS[0].messages, Message("assistant", text))
    return Rollout(TOPICS[0].id, np.zeros(2, dtype=np.int64), 1, none, none, "stop", 0, text, messages)


def test_judges_go_by_gold_and_err_as_often_as_they_are_told():
    good, bad = spoken("kind warm lake."), spoken("rude vile lake.")
    for noise, low, high in ((0.0, 0, 0), (1.0, 400, 400), (0.15, 40, 80)):
        pairs = judged_pairs([good, bad] * 200, [bad, good] * 200, noise, 1)
        wrong = sum(p.judgements[0].strength != (-1 if p.replies[0].text == good.text else 1) for p in pairs)
        assert low <= wrong <= high
    assert judged_pairs([good], [good], 0.0, 1) == []


def test_best_of_n_is_the_mean_over_all_subsets():
    random = np.random.default_rng(0)
    scores, values = random.normal(size=(2, 3, 7))
    for n in (1, 2, 5, 7):
        subsets = [list(s) for s in itertools.combinations(range(7), n)]
        slow = [np.mean([v[s][x[s].argmax()] for s in subsets]) for x, v in zip(scores, values, strict=True)]
        np.testing.assert_allclose(expected_best(scores, values, n), slow)


def found(seed: int, *gold: float, delivered: float = 0.9, models: float = 50.0, arm: float = 10.0) -> Found:
    arms = {name: ended(*gold, delivered=delivered) for name in ARMS}
    return Found(seed, (0.7, 0.6), arms, [], {"models": models} | dict.fromkeys(ARMS, arm))


def test_what_was_won_lost_and_kept():
    one = found(0, -1.0, 1.0, 0.5, -2.0, delivered=0.6)
    free = one.arms["free"]
    assert (free.gain, free.lost, free.proxy_rose) == (2.0, 1.5, True)
    assert one.kept("rollback") == pytest.approx(0.8)
    assert not ended(-1.0, -2.0, 3.0).proxy_rose  # gold is highest at the end
    assert (ended(-1.0, -2.0).lost, found(0, -1.0, -2.0).kept("free")) == (0.0, 0.0)


def test_each_requirement_at_its_edge():
    good = [found(seed, -1.0, 1.0, 0.0, delivered=0.5) for seed in range(5)]  # loses half, keeps three quarters
    assert [one.met for one in requirements(good, [[]] * 19 + [["kl"]])] == [True, True, True, True]
    assert requirements(good, [])[2].met is None
    assert requirements(good, [[]] * 18 + [["kl"]] * 2)[2].met is False
    assert requirements([*good[1:], found(0, -1.0, 1.0, 0.1)], [])[0].met is False
    assert requirements([*good[1:], found(0, -1.0, 1.0, 0.0, delivered=0.4)], [])[1].met is False
    # Three of the models on one processor, ten of the arms: 3 · 70 + 10 · 39 = 600 s.
    slow = [found(seed, -1.0, 1.0, 0.0, models=70.0, arm=39.0) for seed in range(5)]
    assert (time_on_two(slow), requirements(slow, [])[3].met) == (600.0, True)
    assert requirements([*slow[1:], found(0, -1.0, 1.0, 0.0, models=70.0, arm=40.0)], [])[3].met is False


def test_points_are_the_looks_at_about_the_same_distance():
    looks = [
        {"watch/kl": kl, "watch/gold": g} for kl, g in ((0.0, 1.0), (-0.1, 3.0), (0.05, 5.0), (1.0, 7.0), (4.1, 9.0))
    ]
    near, one, far = points(looks, "watch/gold")
    assert near == pytest.approx((0.05 / 3, 3.0, 1.0, 5.0))
    assert (one, far) == ((1.0, 7.0, 7.0, 7.0), (4.1, 9.0, 9.0, 9.0))


def test_the_page_has_a_figure_for_each_arm_and_says_what_is_not_met(tmp_path: Path):
    seeds = [found(0, -1.0, 1.0, -2.0), found(1, -1.0, 1.0, 0.9, delivered=0.0)]
    best = [{"n": 1.0, "kl": 0.0, "gold": -1.0, "proxy": 0.0, "second_proxy": 0.0}]
    seeds = [replace(seed, best_of_n=best) for seed in seeds]
    page = write_page(tmp_path, seeds, requirements(seeds, [])).read_text(encoding="utf-8")
    assert page.count("<figure") == page.count("<svg") == 1 + len(ARMS)
    assert all(arm.title in page for arm in ARMS.values())
    assert page.count("✗ not met") == 2
    assert "2 value" in page


def test_what_both_proxies_pay_is_their_mean_less_their_deviation():
    texts = [spoken("kind"), spoken("kind warm")]
    first = CallableReward(lambda rollout: float(len(rollout.text)))
    second = CallableReward(lambda rollout: 1.0)
    assert [score.value for score in Both(first, second).score(texts)] == [(4 + 1) / 2 - 1.5, (9 + 1) / 2 - 4.0]


@pytest.mark.timeout(300)
def test_the_command_runs_seeds_and_clean_runs_in_processes_of_their_own(tmp_path: Path, monkeypatch):
    """A stand-in for the worlds, which take minutes each; what it checks is the road to them and back."""
    monkeypatch.setattr(overopt, "WORKER", "unit.lab.stand_in:Seeds")
    result = CliRunner().invoke(app, ["lab", "overopt", "--seeds", "3", "--clean", "4", "--out", str(tmp_path)])
    assert result.exit_code == 1, result.output
    lines = [line for line in result.output.splitlines() if ": " in line]
    assert (
        "NOT MET       gold rises, then loses half of its gain or more while the proxy rises: in 2 of 3 seeds" in lines
    )
    assert any(
        "met           with act: rollback" in line and "in 3 of 3 seeds (95%, 95%, 95%)" in line for line in lines
    )
    assert any(line.startswith("not measured") and "1 of 4 runs; length, kl" in line for line in lines)
    assert sum("no alarm" in line for line in lines) == 3
    kept = json.loads((tmp_path / "overopt.json").read_text(encoding="utf-8"))
    assert [seed["seed"] for seed in kept["seeds"]] == [0, 1, 2]
    assert kept["alarms_of_clean_runs"] == [[], [], [], ["length", "kl"]]
    assert [one["met"] for one in kept["requirements"]] == [False, True, None, True]
