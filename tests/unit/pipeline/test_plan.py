"""The plan: sizes by hand, forecasts of the right order, and one warning for each thing that would go wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaConfig

from thumbs.config.base import apply_overrides, build_config, load_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import DataError
from thumbs.pipeline.inputs import read_inputs
from thumbs.pipeline.plan import Plan, amount, plan
from thumbs.pipeline.probe import Probe, duration
from thumbs.pipeline.savings import savings
from thumbs.pipeline.workload import StageWork, work_of
from tiny_models import SHAPE, save_random

ROOT = Path(__file__).resolve().parents[3]
SOUND = """
model: {name: byte-tiny, lora: null}
sft: {data: {path: "builtin:tiny_demonstrations"}}
labels: {prompts: {path: "builtin:tiny_prompts_train", holdout: 0.5}, pairs_per_prompt: 4, label_noise: 0.0}
reward_model: {}
ppo: {prompts: {path: "builtin:tiny_prompts_train"}}
evaluation: {prompts: {path: "prompts.jsonl"}}
"""
WEIGHTS = 260 * 128 + 4 * (3 * 128 * 128 + 128 * 128 + 3 * 128 * 352 + 2 * 128) + 128
HEAD = 128 + 1


@pytest.fixture
def sound(tmp_path: Path) -> dict[str, Any]:
    """Settings with nothing to warn of."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "Person {i}"}}\n' for i in range(60)), encoding="utf-8")
    settings = yaml.safe_load(SOUND)
    settings["evaluation"]["prompts"]["path"] = str(prompts)
    return {**settings, "run": str(tmp_path / "run")}


def planned(settings: dict[str, Any], *overrides: str, probe: bool = False) -> Plan:
    return plan(build_config(PipelineConfig, apply_overrides(settings, overrides)), probe=probe)


def test_sizes_are_those_of_the_model(sound: dict[str, Any]):
    size = planned(sound).size
    assert (size.trained, size.parameters) == (WEIGHTS + HEAD, WEIGHTS + HEAD)
    assert (size.trunk_bytes, size.dtype, size.context, size.width) == (4 * WEIGHTS, "float32", 256, 128)


def test_with_adapters_only_they_and_the_head_are_trained(sound: dict[str, Any]):
    size = planned(sound, "model.lora={rank: 2, layers: 1}").size
    adapter = 2 * (4 * (128 + 128) + 2 * (128 + 352) + (352 + 128))
    assert (size.trained, size.parameters) == (adapter + HEAD, adapter + HEAD + WEIGHTS)
    assert size.trunk_bytes == 4 * WEIGHTS


def test_nothing_is_wrong_with_a_sound_config(sound: dict[str, Any]):
    assert planned(sound).warnings == ()


@pytest.mark.parametrize(
    ("override", "warning"),
    [
        ("labels.label_noise=0.2", "cannot be expected above 80%"),
        ("ppo.kl.coef=0", "nothing holds the policy"),
        ("ppo.kl.coef=0.6", "is a price of 3.6"),
        ("ppo.score_scale=false", "score_std in reward_model/done.json"),
        ("ppo.minibatch_size=12", "not a multiple of ppo.minibatch_size=12"),
        ("ppo.batch_size=64", "each step has 32 rollouts"),
        ("ppo.sampling.top_k=5", "the KL and the ratio need temperature > 0"),
        ("ppo.sampling.top_p=0.9", "the KL and the ratio need temperature > 0"),
        ("ppo.sampling.max_new_tokens=250", "ppo.sampling.max_new_tokens or ppo.prompts.max_tokens"),
        ("labels.sampling.max_new_tokens=250", "the model's context is 256"),
        ("evaluation.sampling.max_new_tokens=250", "the model's context is 256"),
        ("labels.pairs_per_prompt=1", "held-out pairs: the reward model's accuracy is known to ±"),
        ("labels.prompts.holdout=0", "no held-out pairs"),
        ("evaluation.prompts.path=builtin:tiny_prompts_train", "32 of 32 evaluation prompts are also ppo prompts"),
        ("evaluation.prompts.path=builtin:tiny_prompts_heldout", "16 evaluation prompts: the win rate is known to ±19"),
        ("reward_model=null", "section `ppo` needs section `reward_model`"),
        ("labels=null", "section `reward_model` needs section `labels`"),
        ("labels.prompts=null", "give `data` (a file of pairs) or `prompts`"),
    ],
)
def test_what_would_go_wrong_is_said(override: str, warning: str, sound: dict[str, Any]):
    assert warning in "\n".join(planned(sound, override).warnings)


def test_learning_rates_are_compared_with_the_usual_ones(sound: dict[str, Any], tmp_path: Path):
    """Only for pretrained models: a folder of random weights passes for one here."""
    model = save_random(LlamaConfig(**SHAPE | {"vocab_size": ByteTokenizer.vocab_size}), tmp_path / "model")
    ByteTokenizer().save(model)
    for lora, rate, wrong in (
        ("null", 1e-4, True), ("null", 5e-6, False), ("{rank: 2}", 5e-6, True), ("{rank: 2}", 5e-5, False),
    ):  # fmt: skip
        overrides = (f"model={{name: {model}, lora: {lora}}}", f"ppo.optim.learning_rate={rate}")
        found = [w for w in planned(sound, *overrides).warnings if w.startswith("ppo.optim.learning_rate")]
        assert bool(found) == wrong, (lora, rate, found)


def test_a_run_folder_of_another_config_is_noticed(sound: dict[str, Any]):
    stored = Path(sound["run"]) / "config.json"
    stored.parent.mkdir()
    config = build_config(PipelineConfig, sound)
    stored.write_text(json.dumps(config.model_dump(mode="json") | {"run": "moved"}), encoding="utf-8")
    assert planned(sound, "seed=1").warnings == ()  # nothing is trained yet
    (stored.parent / "sft").mkdir()
    (stored.parent / "sft" / "done.json").write_text("{}", encoding="utf-8")
    assert planned(sound).warnings == ()
    (warning,) = planned(sound, "seed=1").warnings
    assert "seed: 0 there, 1 now" in warning
    assert "holds a run with another config" in warning


def test_data_that_a_run_would_refuse_is_refused(sound: dict[str, Any]):
    with pytest.raises(DataError, match="min_rows asks for 1000"):
        planned(sound, "sft.data.min_rows=1000")


def test_time_is_the_sum_of_what_each_token_takes():
    probe = Probe(
        train_s=2.0, read_s=0.5, new_s=0.25, optim_s=10.0, snapshot_s=3.0, sample_s={4: 1.0, 8: 0.1}, peak_bytes=0
    )
    work = StageWork("ppo", 1, steps=2, trained=7, read=4, new=8, sampled=5, sampling_rows=4, snapshots=3)
    assert probe.seconds(work) == 7 * 2.0 + 4 * 0.5 + 8 * 0.25 + 2 * 10.0 + 3 * 3.0 + 5 * 1.0


def test_a_probe_measures_this_machine(sound: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    found = planned(sound, "ppo.steps=3", probe=True)
    assert found.probe is not None
    assert "plan: timing 60 replies that are sampled together\n" in capsys.readouterr().err
    assert found.probe.train_s > found.probe.read_s > 0
    assert set(found.probe.sample_s) == {32, 60, 128}
    assert all(seconds > 0 for seconds in found.probe.sample_s.values())
    assert found.memory >= found.probe.peak_bytes > 100 * 2**20
    assert all(0 < (found.seconds(work.stage) or 0) < 600 for work in found.work)
    assert re.search(r"^total .* (s|min)$", found.text(), re.MULTILINE)


def test_the_two_settings_that_save_the_most_are_named(sound: dict[str, Any]):
    """By hand: only training takes time, and the 6 epochs of SFT and the 8 steps of PPO are most of it."""
    config = build_config(PipelineConfig, apply_overrides(sound, ["sft.epochs=6", "ppo.epochs=1", "ppo.steps=8"]))
    tokenizer = ByteTokenizer()
    inputs = read_inputs(config, tokenizer)
    probe = Probe(train_s=1.0, read_s=0.0, new_s=0.0, optim_s=0.0, snapshot_s=0.0, sample_s={}, peak_bytes=0)
    seconds = {work.stage: work.trained for work in work_of(config, inputs)}
    first, second = savings(config, inputs, probe)
    assert (first.text, second.text) == ("sft.epochs=3", "ppo.steps=4")
    assert first.left == pytest.approx(sum(seconds.values()) - seconds["sft"] / 2)
    assert second.left == pytest.approx(first.left - seconds["ppo"] / 2)
    text = replace(planned(sound), savings=(first, second)).text()
    assert f"shorter     sft.epochs=3 and ppo.steps=4: {duration(second.left)} in all" in text


def test_a_saving_of_less_than_a_tenth_is_not_named(sound: dict[str, Any]):
    config = build_config(PipelineConfig, apply_overrides(sound, ["ppo.steps=1"]))
    probe = Probe(train_s=0.0, read_s=0.0, new_s=0.0, optim_s=0.0, snapshot_s=1.0, sample_s={}, peak_bytes=0)
    assert savings(config, read_inputs(config, ByteTokenizer()), probe) == ()


def test_without_a_probe_there_is_no_time(sound: dict[str, Any]):
    found = planned(sound)
    assert found.probe is None
    assert found.seconds("sft") is None
    assert "speed       not measured" in found.text()
    # the trunk, gradient and moments, a sampler, reference and reward model
    assert found.memory == WEIGHTS * 4 + (WEIGHTS + HEAD) * 4 * (3 + 1 + 2)
    # three models; weights and two moments, twice, and once more at the end of PPO
    assert found.disk == (WEIGHTS + HEAD) * 4 * (3 + 6 + 3)


def test_the_text_shows_every_stage(sound: dict[str, Any]):
    text = planned(sound).text()
    assert f"parameters  {WEIGHTS + HEAD:,} of which {WEIGHTS + HEAD:,} are trained" in text
    table = text.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table] == [
        "stage",
        "sft",
        "labels",
        "reward_model",
        "second_opinion",
        "ppo",
        "evaluation",
    ]


def test_the_text_tells_what_the_chat_template_does(sound: dict[str, Any]):
    plan = planned(sound)
    assert "template  " not in plan.text()
    told = replace(plan, template=("the chat template drops the reasoning of earlier turns",))
    assert "template    the chat template drops the reasoning of earlier turns" in told.text()


def test_the_committed_demonstration_can_be_planned(tmp_path: Path):
    config = load_config(PipelineConfig, ROOT / "configs" / "demo-tiny.yaml", [f"run={tmp_path / 'run'}"])
    assert not [w for w in plan(config, probe=False).warnings if "will stop there" in w]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (99, "99 s"), (100, "2 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_duration(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0.1 MiB"), (5 * 2**20, "5 MiB"), (3 * 2**29, "1.5 GiB")])
def test_amount(size: int, text: str):
    assert amount(size) == text
