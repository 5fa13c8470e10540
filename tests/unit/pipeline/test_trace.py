"""What a run's trace says of labels and checkpoints, against what the engine was given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.config.base import build_config
from thumbs.config.labels import PeopleConfig
from thumbs.config.losses import HEAD_WEIGHTS
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import Handle
from thumbs.engine.local import LocalEngine
from thumbs.errors import RunError
from thumbs.pipeline.run import run_pipeline
from thumbs.pipeline.trace import Trace, trace_run
from thumbs.records import Example, Judgement, Preference, TrainOutput
from thumbs.stages.people import Candidate, Labels
from thumbs.stages.sequences import pair_tokens
from thumbs.tracking.files import read_json

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx", "mole", "newt")
MAKER = {"kind": "file", "name": "old"}
VERDICTS = {"ant": ("tie", 0), "bee": ("both_bad", 0)}


def own_format(word: str) -> dict[str, Any]:
    verdict, strength = VERDICTS.get(word, ("prefer", -2))
    judgement = {"annotator": "eve", "at": "2026-01-01", "verdict": verdict, "strength": strength}
    replies = [{"text": text, "generator": MAKER} for text in (word.upper(), word)]
    return {"id": word, "prompt": [{"role": "user", "content": word}], "replies": replies, "judgements": [judgement]}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    pairs, prompts = tmp_path / "pairs.jsonl", tmp_path / "prompts.txt"
    pairs.write_text("".join(json.dumps(own_format(word)) + "\n" for word in WORDS))
    prompts.write_text("\n".join(WORDS))
    return {
        "run": str(tmp_path / "run"),
        "model": {"name": "byte-tiny", "lora": None},
        "labels": {"data": {"path": str(pairs), "holdout": 0.3}},
    }


class Fed:
    """An engine that remembers what it was trained on: (folder of the step, sequences that weigh something)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[list[bytes]] = []
        forward_backward = LocalEngine.forward_backward

        def remember(engine: LocalEngine, handle: Handle, data: Sequence[Example], *a: Any, **k: Any) -> TrainOutput:
            self.steps.append([datum.inputs.tobytes() for datum in data if weighs(datum)])
            return forward_backward(engine, handle, data, *a, **k)

        monkeypatch.setattr(LocalEngine, "forward_backward", remember)

    def trained(self, labels: Sequence[Preference], steps: slice) -> set[str]:
        """Ids of the labels both of whose sides the engine was given in these steps."""
        seen = {sequence for step in self.steps[steps] for sequence in step}
        found = set()
        for label in labels:
            sides = pair_tokens(ByteTokenizer(), label)
            if all(tokens.tobytes() in seen or tokens[:-1].tobytes() in seen for tokens in sides):
                found.add(label.id)
        return found


def weighs(datum: Example) -> bool:
    columns = datum.columns
    own = float(columns["unit_weight"]) if "unit_weight" in columns else float(np.abs(columns["weights"]).sum())
    return own * float(columns.get(HEAD_WEIGHTS, np.ones(1)).sum()) > 0


def ran(settings: dict[str, Any], people: Any = None) -> Trace:
    return trace_run(run_pipeline(build_config(PipelineConfig, settings), people=people))


@pytest.mark.parametrize(
    ("section", "tie"),
    [
        ({"reward_model": {"batch_size": 3, "eval_every": 2, "ties": "half"}}, "trained"),
        ({"reward_model": {"batch_size": 3, "eval_every": 1, "patience": 1, "ties": "drop"}}, "a tie"),
        ({"reward_model": {"batch_size": 3, "heads": 2}}, "trained"),
        ({"direct": {"method": "dpo", "batch_size": 3, "eval_every": 2, "beta": 0.1}}, "a tie"),
        ({"direct": {"method": "dpo", "batch_size": 3, "eval_every": 1, "optim": {"learning_rate": 0.1}}}, "a tie"),
        ({"direct": {"method": "kto", "batch_size": 3, "eval_every": 2}}, "a tie"),
    ],
)
def test_the_labels_of_a_checkpoint_are_those_that_its_training_was_given(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, section: dict[str, Any], tie: str
):
    fed = Fed(monkeypatch)
    trace = ran(settings | section)
    (name,) = section
    labels = [label.pair for label in trace.labels.values()]
    kept = read_json(trace.run / name / "done.json")["best_step"]
    one = trace.checkpoints[name]
    expected = fed.trained(labels, slice(0, kept)) if kept else set()
    assert set(one.trained) == expected
    if tie != "trained":
        assert one.unused["ant"] == tie
    assert one.unused["bee"] == "no verdict"
    assert sorted([*one.trained, *one.heldout, *one.unused]) == sorted(WORDS)
    assert fed.trained(labels, slice(None)).isdisjoint(one.heldout)
    assert len(one.heldout) >= 2


class Fake:
    """Prefers the longer of two replies."""

    def ask(self, settings: PeopleConfig, run: Path, iteration: int, candidates: Iterator[Candidate]) -> Labels:
        pairs = [self.judged(one.pair) for one in islice(candidates, settings.pairs)]
        items = {pair.id: 100 * iteration + place for place, pair in enumerate(pairs)}
        return Labels(pairs, "zoo", "collect.db", items, {pair.id: [items[pair.id] + 5000] for pair in pairs})

    @staticmethod
    def judged(pair: Preference) -> Preference:
        first = len(pair.replies[0].text) >= len(pair.replies[1].text)
        return replace(pair, judgements=(Judgement("ana", "2026-01-02", "prefer", -3 if first else 3),))


@pytest.fixture
def loop(settings: dict[str, Any]) -> dict[str, Any]:
    prompts = {"path": settings["run"].replace("run", "prompts.txt"), "holdout": 0.3}
    people = {"prompts": prompts, "sampling": {"max_new_tokens": 6}, "people": {"pairs": 10, "project": "zoo"}}
    return settings | {"iterations": 2, "labels": people}


def test_a_policy_of_two_iterations_comes_from_the_labels_of_both(
    loop: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    fed = Fed(monkeypatch)
    trace = ran(loop | {"direct": {"method": "dpo", "batch_size": 3, "keep": "last"}}, Fake())
    labels = [label.pair for label in trace.labels.values()]
    assert [label.iteration for label in trace.labels.values()] == [1] * 10 + [2] * 10
    first, second = (trace.checkpoints[name] for name in ("direct", "iteration-2/direct"))
    steps = read_json(trace.run / "direct" / "done.json")["steps"]
    assert set(first.trained) == fed.trained(labels, slice(0, steps))
    assert set(second.trained) == fed.trained(labels, slice(steps, None))
    assert set(first.trained) < set(second.trained)
    assert trace.labels_behind("iteration-2/direct") == [i for i in trace.labels if i in set(second.trained)]
    assert (first.start, second.start) == ("base", "direct")
    makers = {label.pair.replies[0].generator.checkpoint for label in trace.labels.values() if label.iteration == 2}
    assert makers == {"direct/model"}
    assert trace.shaped_by(first.trained[0]) == {"direct": "trained", "iteration-2/direct": "trained"}
    assert trace.shaped_by(second.heldout[-1]) == {"iteration-2/direct": "held out"}


def test_a_reward_model_passes_its_labels_on(loop: dict[str, Any]):
    ppo = {"prompts": loop["labels"]["prompts"], "steps": 1, "batch_size": 4, "minibatch_size": 4}
    trace = ran(loop | {"reward_model": {"batch_size": 4}, "ppo": ppo | {"sampling": {"max_new_tokens": 4}}}, Fake())
    assert list(trace.checkpoints) == ["reward_model", "ppo", "iteration-2/reward_model", "iteration-2/ppo"]
    newest = next(label for label in trace.checkpoints["iteration-2/reward_model"].trained if label.endswith("@2"))
    assert trace.shaped_by(newest) == {
        "iteration-2/reward_model": "trained",
        "iteration-2/ppo": "through iteration-2/reward_model",
    }
    oldest = trace.checkpoints["reward_model"].trained[0]
    assert trace.shaped_by(oldest) == {
        "reward_model": "trained",
        "ppo": "through reward_model",
        "iteration-2/reward_model": "trained",
        "iteration-2/ppo": "through iteration-2/reward_model and ppo",
    }
    assert [one.name for one in trace.made_of("iteration-2/ppo")] == list(trace.checkpoints)
    assert len(trace.labels_behind("ppo")) < len(trace.labels_behind("iteration-2/ppo"))
    label = trace.label("item:203")
    assert (label.iteration, label.judgements) == (2, (5203,))


def test_a_policy_with_a_reward_of_its_own_has_no_labels_behind_it(settings: dict[str, Any]):
    rule = {"reward": [{"verifier": "regex", "pattern": "a"}]}
    prompts = {"path": settings["run"].replace("run", "prompts.txt")}
    sizes = {"steps": 1, "batch_size": 4, "minibatch_size": 4, "group_size": 2, "sampling": {"max_new_tokens": 4}}
    group = {"prompts": prompts, **sizes}
    trace = ran(settings | {"reward_model": {"batch_size": 4}, "group": group | rule})
    assert trace.labels_behind("group") == []
    assert trace.checkpoints["group"].other == ("regex",)
    assert trace.labels_behind("reward_model")


def test_the_command_prints_the_tree_a_label_and_a_checkpoint(tiny_run: Path):
    def said(*words: str) -> str:
        result = CliRunner().invoke(app, ["trace", str(tiny_run), *words])
        assert result.exit_code == 0, result.output
        return result.output

    trace = trace_run(tiny_run)
    behind = trace.labels_behind("ppo")
    tree = said()
    assert f"reward_model/model (bradley_terry): from sft; trained on {len(behind)} labels, chosen on" in tree
    assert f"ppo/model: from sft; scored by reward_model/model; {len(behind)} labels behind it" in tree
    listed = said("--checkpoint", "ppo/model")
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and " better" in line] == behind
    shown = said(behind[0])
    reply = trace.labels[behind[0]].pair.replies[1].text
    assert all(text in shown for text in (behind[0], reply, "reward_model/model: trained", "ppo/model: through reward"))
    value = json.loads(said("--json"))
    assert value["checkpoints"]["ppo"]["labels"] == behind
    assert value["labels"][behind[0]] == {"reward_model": "trained", "ppo": "through reward_model"}
    assert json.loads(said(behind[0], "--json"))["replies"][1]["text"] == reply
    assert json.loads(said("--checkpoint", "reward_model", "--json"))["labels"] == behind


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("no-such-label",), "is none of its"),
        (("--checkpoint", "dpo"), "has no checkpoint 'dpo'; it has sft, reward_model, ppo"),
        (("x", "--checkpoint", "ppo"), "not both"),
    ],
)
def test_the_command_says_what_there_is(tiny_run: Path, words: tuple[str, ...], reason: str):
    result = CliRunner().invoke(app, ["trace", str(tiny_run), *words])
    assert result.exit_code
    assert reason in result.output.replace("\n", " ")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="is not a run folder"):
        trace_run(tmp_path)
