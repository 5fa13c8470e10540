"""What a run is measured by: any gold, or none; with or without a section; never at the cost of what was there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run_settings import NAMES, tiny_settings, write_rows

from thumbs.config.base import build_config
from thumbs.config.evaluation import GoldConfig
from thumbs.config.labels import PeopleConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError
from thumbs.evaluation.replies import read
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.evaluate import evaluate_run
from thumbs.pipeline.overlap import asked_prompts
from thumbs.pipeline.plan import plan
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Judgement, Rollout
from thumbs.stages.people import Candidate, Labels
from thumbs.tracking.files import read_json, replaced_folder, restore_folder


def length(rollout: Rollout) -> float:
    """A gold of one's own: long replies are good."""
    return float(len(rollout.text))


HERE = f"{__name__}:length"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run whose config has no section `evaluation`, and its settings."""
    settings = tiny_settings(tmp_path_factory.mktemp("bare"))
    del settings["evaluation"]
    return run_pipeline(build_config(PipelineConfig, settings)), settings


def heldout(folder: Path, *names: str) -> str:
    return write_rows(folder / "asked.jsonl", [{"prompt": name} for name in names or ("Ida", "Jon", "Kai")])


def test_a_run_without_a_section_is_evaluated_by_a_function(bare: tuple[Path, dict[str, Any]], tmp_path: Path):
    run, settings = bare
    summary = evaluate_run(run, prompts=heldout(tmp_path), gold=GoldConfig.model_validate(HERE))
    results, rows = read_json(run / "evaluation" / "results.json"), read(run / "evaluation" / "replies.jsonl")
    assert (results["judge"], results["measure"], results["note"]) == (HERE, "gold", "")
    assert {row.prompt[-1].content for row in rows} == {"Ida", "Jon", "Kai"}
    assert all(row.gold == len(row.text) for row in rows)
    ppo = [len(row.text) for row in rows if row.system == "ppo"]
    assert summary["ppo.gold"] == pytest.approx(sum(ppo) / len(ppo))
    assert [(c["left"], c["right"]) for c in results["comparisons"]] == [("ppo", "best_of_n"), ("ppo", "sft")]
    ends = [(c["low"], c["difference"], c["high"]) for c in results["comparisons"]]  # null: an open end
    assert all((low is None or low <= d) and (high is None or d <= high) for low, d, high in ends)
    run_pipeline(build_config(PipelineConfig, settings))  # the same command finds a run that is done
    assert read_json(run / "evaluation" / "results.json") == results


def test_without_a_gold_there_is_a_second_opinion_and_the_words(bare: tuple[Path, dict[str, Any]]):
    run, _ = bare
    summary = evaluate_run(run)
    results, rows = read_json(run / "evaluation" / "results.json"), read(run / "evaluation" / "replies.jsonl")
    assert "no gold was given" in results["note"]
    assert (results["judge"], results["measure"]) == (None, "second_proxy")
    assert all(row.gold is None and row.proxies["second_proxy"] is not None for row in rows)
    assert "ppo.gold" not in summary
    assert {"ppo.kl", "ppo.kl_per_token", "ppo.second_proxy", "ppo.win_rate", "sft.heldout_loss"} <= set(summary)
    # PPO trains on all of this run's prompts, so those that at least the pairs hold out are taken, and it is said.
    assert {row.prompt[-1].content for row in rows} < set(NAMES)
    assert "evaluation prompts are also ppo prompts" in results["warnings"][0]


def test_a_reward_model_a_verifier_and_a_judge_model_are_golds(bare: tuple[Path, dict[str, Any]], tmp_path: Path):
    run, _ = bare
    rows = [{"prompt": "Ida", "answer": "x"}, {"prompt": "Jon", "answer": ""}]
    prompts = write_rows(tmp_path / "answers.jsonl", rows)
    evaluate_run(run, prompts=prompts, gold=GoldConfig(verifier="contains"))
    found = read(run / "evaluation" / "replies.jsonl")
    answers = {"Ida": "x", "Jon": ""}
    assert all(row.gold == float(answers[row.prompt[-1].content] in row.text) for row in found)

    evaluate_run(run, prompts=prompts, gold=GoldConfig(model=str(run / "reward_model")))
    results = read_json(run / "evaluation" / "results.json")
    assert "ppo is paid by the evaluation's gold" in results["warnings"][0]  # it is the run's own reward model

    evaluate_run(run, prompts=prompts, gold=GoldConfig(judge="byte-tiny"))
    results, found = read_json(run / "evaluation" / "results.json"), read(run / "evaluation" / "replies.jsonl")
    assert results["measure"] == "judge"
    judged = [row.judged for row in found if row.system == "ppo"]
    assert all(set(told) == {"sft", "best_of_n"} for told in judged)
    orders = [told["sft"] for told in judged]
    assert results["win_rates"]["ppo"]["rate"] == pytest.approx(sum(a + b for a, b in orders) / 2 / len(orders))
    assert 0 <= results["win_rates"]["ppo"]["consistency"]["value"] <= 1
    assert (run / "judge-answers.jsonl").exists()


class Desk:
    """People who find the longer reply better, after having judged so many pairs."""

    def __init__(self, most: int) -> None:
        self.most, self.seen = most, list[Candidate]()

    def ask(self, settings: PeopleConfig, run: Path, iteration: int, candidates: Iterator[Candidate]) -> Labels:
        assert settings.project == f"{run.name}-evaluation"
        pairs = []
        for _, candidate in zip(range(self.most), candidates, strict=False):
            self.seen.append(candidate)
            a, b = (len(reply.text) for reply in candidate.pair.replies)
            verdict, strength = ("tie", 0) if a == b else ("prefer", -1 if a > b else 1)
            said = Judgement("ana", "2026-12-01", verdict, strength)  # type: ignore[arg-type]
            pairs.append(type(candidate.pair)(**{**vars(candidate.pair), "judgements": (said,)}))
        return Labels(pairs, "p", "db")


def test_people_judge_blind_pairs_in_a_random_order(bare: tuple[Path, dict[str, Any]], tmp_path: Path):
    run, _ = bare
    prompts = heldout(tmp_path, *[f"{a}{b}" for a in "KLMN" for b in ("im", "ea", "ou", "ia", "or")])
    gold, desk = GoldConfig.model_validate("people"), Desk(most=1000)
    with pytest.raises(ConfigError, match="needs somebody who asks them"):
        evaluate_run(run, prompts=prompts, gold=gold)
    evaluate_run(run, prompts=prompts, gold=gold, people=desk)
    rows = {(r.system, r.prompt[-1].content, r.draw): r for r in read(run / "evaluation" / "replies.jsonl")}
    judged = [row for row in rows.values() if row.judged]
    assert {row.system for row in judged} == {"ppo"}
    shown_first = 0
    for row in judged:
        other, (first, second) = rows["sft", row.prompt[-1].content, row.draw], row.judged["sft"]
        if row.text == other.text:
            continue
        shown_first += first is not None
        better = first if second is None else second
        ours, theirs = len(row.text), len(other.text)
        assert better == (0.5 if ours == theirs else float(ours > theirs))
    assert 0 < shown_first < len(judged)
    assert {reply.generator.name for candidate in desk.seen for reply in candidate.pair.replies} == {"evaluation"}
    assert read_json(run / "evaluation" / "results.json")["win_rates"]["ppo"]["n"] <= 20


def test_an_evaluation_that_fails_leaves_the_earlier_one(bare: tuple[Path, dict[str, Any]], tmp_path: Path):
    run, _ = bare
    evaluate_run(run, prompts=heldout(tmp_path), gold=GoldConfig.model_validate(HERE))
    before = read_json(run / "evaluation" / "results.json")

    def broken(*_: Any) -> float:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thumbs.evaluation.heldout.Evaluation.side_by_side", broken)
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(run, prompts=heldout(tmp_path), gold=GoldConfig.model_validate("tiny-mood"))
    assert read_json(run / "evaluation" / "results.json") == before
    assert not list(run.glob(".evaluation*"))


def test_what_was_set_aside_when_it_was_stopped_comes_back(tmp_path: Path):
    old = tmp_path / ".evaluation.abc.old"
    old.mkdir()
    (old / "results.json").write_text("{}")
    (tmp_path / ".evaluation.abc.part").mkdir()
    restore_folder(tmp_path / "evaluation")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]
    with replaced_folder(tmp_path / "evaluation") as scratch:
        assert (tmp_path / "evaluation" / "results.json").exists()
        (scratch / "new.json").write_text("{}")
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["new.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation"]


def leaky(folder: Path, **changes: Any) -> PipelineConfig:
    settings = tiny_settings(folder)
    settings["ppo"] |= {"reward": [{"function": HERE}]}
    settings["evaluation"] |= changes
    return build_config(PipelineConfig, settings)


def test_a_gold_that_is_a_reward_is_found_by_plan_run_and_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = leaky(tmp_path, gold=HERE)
    words = "ppo.reward[0] is paid by the evaluation's gold"
    assert any(words in warning for warning in plan(config, probe=False).warnings)
    run = run_pipeline(config)
    assert words in capsys.readouterr().err
    evaluate_run(run)
    assert words in capsys.readouterr().err
    assert any(words in warning for warning in read_json(run / "evaluation" / "results.json")["warnings"])


def test_a_gold_in_other_words_is_found_by_what_it_says(tmp_path: Path):
    """A function that calls the gold, as `hacks:truth_leak` does: by name it is another one."""
    settings = tiny_settings(tmp_path)
    del settings["reward_model"], settings["labels"]
    settings["ppo"] |= {"reward": [{"function": f"{__name__}:twice_the_length"}]}
    settings["ppo"]["critic"] = {"init": "policy"}
    settings["evaluation"] |= {"gold": HERE, "prompts": {"path": heldout(tmp_path)}}
    run = run_pipeline(build_config(PipelineConfig, settings))
    (warning,) = read_json(run / "evaluation" / "results.json")["warnings"]
    assert "the gold and the reward (proxy) say the same of all" in warning


def twice_the_length(rollout: Rollout) -> float:
    """The gold, in other units."""
    return 3 + 2 * length(rollout)


def test_prompts_of_every_section_are_compared(tmp_path: Path):
    settings = tiny_settings(tmp_path)
    settings["evaluation"]["prompts"] = {
        "path": write_rows(tmp_path / "e.jsonl", [{"prompt": " ANA "}, {"prompt": "Q"}])
    }
    settings["ppo"]["prompts"] = {"path": write_rows(tmp_path / "p.jsonl", [{"prompt": "Q"}])}
    settings["sft"]["data"]["holdout"] = settings["labels"]["data"]["holdout"] = 0.0
    warnings = plan(build_config(PipelineConfig, settings), probe=False).warnings
    found = {w.partition(" evaluation prompts are also ")[2].partition(" ")[0]: w[0] for w in warnings if "also" in w}
    assert found == {"sft": "1", "labels": "1", "ppo": "1"}


def test_held_out_prompts_of_the_run_are_those_that_nothing_trains_on(tmp_path: Path):
    settings = tiny_settings(tmp_path)
    del settings["evaluation"]["prompts"]
    settings["ppo"]["prompts"] = {"path": write_rows(tmp_path / "p.jsonl", [{"prompt": "Zoe"}])}
    run = run_pipeline(build_config(PipelineConfig, settings))
    evaluated = {row.prompt[-1].content for row in read(run / "evaluation" / "replies.jsonl")}
    assert evaluated
    assert evaluated < set(NAMES)
    settings["sft"]["data"]["holdout"] = settings["labels"]["data"]["holdout"] = 0.0
    with pytest.raises(ConfigError, match=r"no prompts to evaluate on.*--prompts FILE"):
        run_pipeline(build_config(PipelineConfig, settings | {"run": str(tmp_path / "none")}))


def test_a_held_out_prompt_that_no_method_would_take_is_left_out(tmp_path: Path):
    settings = tiny_settings(tmp_path)
    del settings["evaluation"]["prompts"], settings["sft"]
    settings["ppo"]["prompts"] = {"path": write_rows(tmp_path / "p.jsonl", [{"prompt": "Zoe"}]), "max_tokens": 60}
    talks = [{"prompt": name + end, "chosen": "a", "rejected": "b"} for name in NAMES for end in ("", "x" * 80)]
    settings["labels"] = {"data": {"path": write_rows(tmp_path / "long.jsonl", talks), "holdout": 0.5}}
    config = build_config(PipelineConfig, settings)
    prompts, _ = asked_prompts(config, open_tokenizer(config.model))
    assert prompts
    assert all("x" not in prompt.messages[-1].content for prompt in prompts)
