"""Stages of a run that write and score replies for people to judge."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run_settings import NAMES, write_rows

from thumbs.config.base import build_config
from thumbs.config.labels import PeopleConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.preferences import PreferenceStore
from thumbs.data.splits import is_heldout
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, RunError
from thumbs.pipeline.labels import split
from thumbs.pipeline.reply_source import PolicySource, open_model, open_stage
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Judgement, Message, Reply
from thumbs.rewards.build import open_reward_model
from thumbs.rewards.trained import scorer_of
from thumbs.stages.people import Candidate, Labels
from thumbs.stages.reward_heldout import apart
from thumbs.tracking.files import read_json

ASK = (Message("user", "Ana"),)
SHORT = SamplingConfig(max_new_tokens=5)


@pytest.fixture(scope="module")
def sft(tiny_run: Path) -> PolicySource:
    return open_stage(tiny_run, "sft", SHORT)


def test_replies_name_their_maker_and_come_again_with_their_seed(sft: PolicySource, tiny_run: Path):
    replies = sft.write(ASK, 3, seed=4)
    checkpoint = f"{tiny_run}/sft/model"
    assert sft.name == f"byte-tiny {checkpoint}"
    makers = [reply.generator for reply in replies]
    assert {(maker.kind, maker.name, maker.checkpoint) for maker in makers} == {("model", "byte-tiny", checkpoint)}
    assert all(maker.sampling["max_new_tokens"] == 5 for maker in makers)
    assert len({maker.seed for maker in makers}) == 3
    assert sft.write(ASK, 3, seed=4) == replies
    assert [reply.text for reply in sft.write(ASK, 3, seed=5)] != [reply.text for reply in replies]


def test_the_system_message_of_the_run_comes_first(sft: PolicySource):
    assert sft.asked(ASK) == (Message("system", "Greet."), *ASK)
    own = (Message("system", "Be kind."), *ASK)
    assert sft.asked(own) == own


def test_scores_are_those_of_the_runs_reward_model(sft: PolicySource, tiny_run: Path):
    config = build_config(PipelineConfig, read_json(tiny_run / "config.json"))
    assert config.labels is not None
    assert config.labels.data is not None
    pairs = PreferenceStore(tiny_run / "labels" / "preferences.jsonl").load()
    heldout = split(pairs, lambda pair: pair.prompt, config.labels.data.holdout)[1]
    known = read_json(tiny_run / "reward_model" / "done.json")["audit"]
    reporting = apart(heldout)[1]
    assert 0 < len(reporting) < len(heldout)
    gaps = [float(np.diff(sft.score(pair.prompt, pair.replies)[::-1, 0])[0]) for pair in reporting]
    loss = np.mean([np.logaddexp(0, -gap) for gap in gaps])  # every first reply is the better one
    assert loss == pytest.approx(known["loss"], rel=1e-5)


def test_several_threads_get_what_one_would(sft: PolicySource):
    alone = {seed: sft.write(ASK, 2, seed) for seed in range(4)}
    together: dict[int, list[Reply]] = {}
    threads = [threading.Thread(target=lambda s=s: together.update({s: sft.write(ASK, 2, s)})) for s in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_model_without_a_run_writes_and_does_not_score():
    source = open_model("byte-tiny", SHORT)
    (reply,) = source.write(ASK, 1, seed=0)
    assert (source.name, reply.generator.checkpoint) == ("byte-tiny", "")
    with pytest.raises(ConfigError, match="byte-tiny has no reward model"):
        source.score(ASK, [reply])


@pytest.mark.parametrize("stage", ["reward_model", "dpo"])
def test_what_does_not_write_is_refused(tiny_run: Path, stage: str):
    with pytest.raises(RunError, match="cannot generate text" if stage == "reward_model" else "no stage 'dpo'"):
        open_stage(tiny_run, stage)


class Longer:
    """Prefers the longer reply; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[int, list[Candidate]] = {}

    def ask(self, settings: PeopleConfig, run: Path, iteration: int, candidates: Iterator[Candidate]) -> Labels:
        self.asked[iteration] = list(islice(candidates, settings.pairs))
        return Labels([self.judged(one) for one in self.asked[iteration]], "p", "collect.db")

    @staticmethod
    def judged(one: Candidate) -> Any:
        first, second = (len(reply.text) for reply in one.pair.replies)
        judgement = Judgement("ana", "2026-01-02", "prefer", -1 if first >= second else 1)
        return replace(one.pair, judgements=(judgement,))


@pytest.mark.parametrize(("active", "reward"), [("uncertain", {}), ("disagreement", {"heads": 3})])
def test_the_second_iteration_asks_what_tells_the_reward_model_most(
    tmp_path: Path, active: str, reward: dict[str, Any]
):
    prompts = {"path": write_rows(tmp_path / "p.jsonl", [{"prompt": name} for name in NAMES]), "holdout": 0.3}
    short = {"max_new_tokens": 4}
    asked = {"pairs": len(NAMES), "active": active, "random_share": 0.01}
    settings = {
        "run": str(tmp_path / "run"),
        "iterations": 2,
        "model": {"name": "byte-tiny", "lora": None},
        "labels": {"prompts": prompts, "sampling": short, "replies_per_prompt": 5, "people": asked},
        "reward_model": {"batch_size": 4, **reward},
        "ppo": {"prompts": prompts, "steps": 1, "batch_size": 4, "minibatch_size": 4, "sampling": short},
    }
    people = Longer()
    run = run_pipeline(build_config(PipelineConfig, settings), people=people)
    assert {one.chosen_by["policy"] for one in people.asked[1]} == {"random"}
    policies = {one.chosen_by["policy"]: is_heldout(one.pair.prompt, 0.3) for one in people.asked[2]}
    assert policies == {active: False, "random": True}

    engine = LocalEngine(ByteTokenizer().decode)
    score = scorer_of(open_reward_model(engine, run / "reward_model"), ByteTokenizer())
    chosen = next(one for one in people.asked[2] if one.chosen_by["drawn"] == "active")
    scores = score([(chosen.pair.prompt, reply) for reply in chosen.pair.replies])
    np.testing.assert_allclose(scores, chosen.chosen_by["scores"], rtol=1e-4, atol=1e-5)
