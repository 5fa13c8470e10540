"""The pipeline API: what a run leaves, stages from paths alone, going on after an interruption, other models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rlhf_world import NAMES, Recurrent, equal, short_config, short_pipeline, state_of, write_lines
from transformers import LlamaConfig, LlamaForCausalLM

from thumbs.compat.rlhf_pipeline import (
    RLHFPipeline,
    create_rlhf_pipeline,
    register_optimizer,
    register_reward_objective,
)
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, DataError, ModelError, RunError
from thumbs.stages.ppo import Ppo
from thumbs.stages.ppo_run import run_ppo


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RLHFPipeline:
    """A run that has been through all stages."""
    pipeline = short_pipeline(tmp_path_factory.mktemp("run"))
    path = pipeline.run_full_pipeline("byte-tiny")
    assert path == str(pipeline.save_dir / "ppo" / "final_model.pt")
    return pipeline


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_leaves_the_files_that_people_look_for(run: RLHFPipeline):
    left = sorted(str(path.relative_to(run.save_dir)) for path in run.save_dir.rglob("*.pt"))
    assert left == [
        "ppo/final_model.pt",
        "ppo/iteration_000002.pt",
        "ppo/iteration_000004.pt",
        "reward_model/best_model.pt",
        "sft/best_model.pt",
    ]
    assert json.loads((run.save_dir / "config.json").read_text(encoding="utf-8")) == run.config.to_dict()
    assert "device: cpu (cpu)" in (run.save_dir / "logs" / "pipeline.log").read_text(encoding="utf-8")
    assert not list(run.save_dir.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("sft/best_model.pt", 12),
        ("reward_model/best_model.pt", 12),
        ("ppo/iteration_000002.pt", 2),
        ("ppo/final_model.pt", 5),
    ],
)
def test_a_pt_holds_weights_settings_and_step_and_no_code(run: RLHFPipeline, name: str, step: int):
    held = torch.load(run.save_dir / name, weights_only=True)
    value_model = ["value_model_state_dict"] if name.startswith("ppo") else []
    assert list(held) == ["model_state_dict", "config", "step", *value_model]
    assert held["step"] == step
    assert {key: held["config"][key] for key in run.config.to_dict()} == run.config.to_dict()
    assert all(isinstance(tensor, torch.Tensor) for tensor in held["model_state_dict"].values())


def test_each_stage_trains(run: RLHFPipeline):
    sft, early, late = (
        state_of(run.save_dir / name) for name in ("sft/best_model.pt", "ppo/iteration_000002.pt", "ppo/final_model.pt")
    )
    assert not equal(sft, early)
    assert not equal(early, late)
    losses = [row["sft/loss"] for row in metrics(run.save_dir / "sft")]
    assert losses[-1] < 0.6 * losses[0]
    assert metrics(run.save_dir / "reward_model")[-1]["reward/accuracy"] == 1.0
    assert [row["step"] for row in metrics(run.save_dir / "ppo")] == [1, 2, 3, 4, 5]
    assert metrics(run.save_dir / "ppo")[0]["ppo/kl"] == pytest.approx(0.0, abs=1e-5)


def test_each_stage_runs_in_another_process_from_the_paths_alone(run: RLHFPipeline, tmp_path: Path):
    config = short_config(tmp_path, ppo_iterations=2, model_name="nothing-here", tokenizer_path=None)
    (tmp_path / "settings.yaml").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    program = (
        "import sys; from thumbs.compat.rlhf_pipeline import create_rlhf_pipeline as make\n"
        "settings, sft = sys.argv[1:]\n"
        "reward = make(settings).run_reward_training(sft)\n"
        "print(make(settings).run_ppo_training(sft, reward))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "settings.yaml"), str(run.save_dir / "sft/best_model.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert done.stdout.splitlines()[-1] == str(out / "ppo" / "final_model.pt")
    assert equal(state_of(out / "reward_model/best_model.pt"), state_of(run.save_dir / "reward_model/best_model.pt"))
    assert equal(state_of(out / "ppo/final_model.pt"), state_of(run.save_dir / "ppo/iteration_000002.pt"))


def interrupt_after(monkeypatch: pytest.MonkeyPatch, cls: type, name: str, calls: int) -> None:
    """Makes the method fail as Ctrl-C does at its call number `calls` + 1."""
    real, seen = getattr(cls, name), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        if len(seen) == calls:
            raise KeyboardInterrupt
        seen.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(cls, name, failing)


def test_interrupted_ppo_goes_on_to_the_same_weights(run: RLHFPipeline, tmp_path: Path, monkeypatch):
    paths = [str(run.save_dir / name / "best_model.pt") for name in ("sft", "reward_model")]
    with monkeypatch.context() as patch:
        interrupt_after(patch, Ppo, "step", 4)
        with pytest.raises(KeyboardInterrupt):
            short_pipeline(tmp_path).run_ppo_training(*paths)
    left = sorted(path.name for path in (tmp_path / "out/ppo").glob("*.pt"))
    assert left == ["iteration_000002.pt", "iteration_000004.pt"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, Ppo, "step", 1)  # one round is left, so one call is enough
        final = short_pipeline(tmp_path).run_ppo_training(*paths)
    for name in ("iteration_000002.pt", "iteration_000004.pt", "final_model.pt"):
        assert equal(state_of(Path(final).with_name(name)), state_of(run.save_dir / "ppo" / name))
    assert [row["step"] for row in metrics(tmp_path / "out/ppo")] == [1, 2, 3, 4, 5]


def test_a_file_that_an_interruption_kept_from_being_written_is_written_later(run: RLHFPipeline, tmp_path, monkeypatch):
    paths = [str(run.save_dir / name / "best_model.pt") for name in ("sft", "reward_model")]
    with monkeypatch.context() as patch:
        interrupt_after(patch, RLHFPipeline, "_write", 0)
        with pytest.raises(KeyboardInterrupt):
            short_pipeline(tmp_path, ppo_iterations=2).run_ppo_training(*paths)
    assert not list((tmp_path / "out/ppo").glob("*.pt"))
    with monkeypatch.context() as patch:
        interrupt_after(patch, Ppo, "step", 0)
        short_pipeline(tmp_path, ppo_iterations=2).run_ppo_training(*paths)
    written = state_of(tmp_path / "out/ppo/iteration_000002.pt")
    assert equal(written, state_of(run.save_dir / "ppo/iteration_000002.pt"))


def test_interrupted_sft_goes_on_to_the_same_weights(run: RLHFPipeline, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, LocalEngine, "optim_step", 11)
        with pytest.raises(KeyboardInterrupt):
            short_pipeline(tmp_path).run_sft()
    with monkeypatch.context() as patch:
        interrupt_after(patch, LocalEngine, "optim_step", 2)  # ten of twelve steps were kept
        path = short_pipeline(tmp_path).run_sft()
    assert equal(state_of(path), state_of(run.save_dir / "sft/best_model.pt"))


def test_a_stage_is_skipped_until_something_changes(tmp_path: Path, monkeypatch, caplog):
    path = Path(short_pipeline(tmp_path).run_sft())
    before = path.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        interrupt_after(patch, LocalEngine, "optim_step", 0)
        assert short_pipeline(tmp_path, ppo_epochs=9).run_sft() == str(path)
    assert path.stat().st_mtime_ns == before
    short_pipeline(tmp_path, sft_epochs=1).run_sft()
    assert "begins anew: sft_epochs: " in caplog.text
    assert torch.load(path, weights_only=True)["step"] == 3
    config = short_config(tmp_path, sft_epochs=1)
    write_lines(tmp_path / "sft.jsonl", [{"prompt": "hi", "response": "hello"}])
    RLHFPipeline(config).run_sft()
    assert "begins anew: data: " in caplog.text


def test_two_processes_do_not_write_one_folder(run: RLHFPipeline):
    with run._stage(), pytest.raises(RunError, match="in use by process"):
        create_rlhf_pipeline(run.config).run_sft()


def test_a_frozen_backbone_stays_and_the_head_learns(run: RLHFPipeline, tmp_path: Path):
    sft = run.save_dir / "sft/best_model.pt"
    reward = state_of(short_pipeline(tmp_path, freeze_reward_backbone=True).run_reward_training(sft))
    head = {name for name in reward if name.startswith("scalar_head.")}
    assert head == {"scalar_head.weight", "scalar_head.bias"}
    assert equal({name: tensor for name, tensor in reward.items() if name not in head}, state_of(sft))
    assert reward["scalar_head.weight"].abs().max() > 0


def test_the_reward_model_of_ppo_must_be_one(run: RLHFPipeline):
    sft = run.save_dir / "sft/best_model.pt"
    with pytest.raises(ConfigError, match="is not a reward model"):
        run.run_ppo_training(sft, sft)
    reward = run.save_dir / "reward_model/best_model.pt"
    with pytest.raises(ConfigError, match="scores and does not write"):
        run.generate_sample("hi", reward)
    with pytest.raises(ConfigError, match="scores and does not write"):
        run.run_ppo_training(reward, reward)


def test_ppo_sees_normalised_scores(run: RLHFPipeline, tmp_path: Path, monkeypatch):
    paths = [run.save_dir / name / "best_model.pt" for name in ("sft", "reward_model")]
    seen = []

    def looking(context: Any, settings: Any, reward: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((reward.mean, reward.std))
        return run_ppo(context, settings, reward, *args, **kwargs)

    monkeypatch.setattr("thumbs.compat.rlhf_pipeline.pipeline.run_ppo", looking)
    short_pipeline(tmp_path, ppo_iterations=1).run_ppo_training(*paths)
    score = torch.load(paths[1], weights_only=True)["config"]["score"]
    assert seen == [(score["mean"], score["std"])]
    assert score["std"] not in (0.0, 1.0)


def test_sizes_that_do_not_fit_become_the_nearest_that_do(run: RLHFPipeline, tmp_path: Path, caplog):
    pipeline = short_pipeline(tmp_path, ppo_batch_size=10, ppo_mini_batch_size=4, ppo_iterations=1, ppo_epochs=1)
    pipeline.run_ppo_training(*[run.save_dir / name / "best_model.pt" for name in ("sft", "reward_model")])
    assert "ppo_mini_batch_size=4 does not divide ppo_batch_size=10; 5" in caplog.text
    assert "6 prompts do not fill batches of 10 rollouts; 4 are drawn again" in caplog.text


def test_what_starts_from_a_pt_or_a_folder_of_ours(run: RLHFPipeline, tmp_path: Path):
    pipeline = short_pipeline(tmp_path, sft_epochs=1, tokenizer_path=None)
    for place in (run.save_dir / "ppo/final_model.pt", run.save_dir / "sft"):
        pipeline.load_base_model(place)
        assert pipeline.load_tokenizer().name == "byte"
        first = metrics(Path(pipeline.run_sft()).parent)[0]["sft/loss"]
        assert first < 0.6 * metrics(run.save_dir / "sft")[0]["sft/loss"]


@pytest.mark.parametrize("wrong", ["no-such-model", "missing.pt", 3])
def test_what_names_no_model_is_refused(tmp_path: Path, wrong: Any):
    with pytest.raises(ModelError, match=r"no-such-model|no file at missing\.pt|got int"):
        short_pipeline(tmp_path).load_base_model(wrong)


def test_a_pt_of_others_is_refused_and_runs_nothing(tmp_path: Path):
    class Evil:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "ran",)

    torch.save({"model_state_dict": {}, "config": Evil(), "step": 1}, tmp_path / "evil.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 half a file")
    pipeline = short_pipeline(tmp_path)
    for name, reason in (("evil.pt", "weights alone"), ("other.pt", "not model_state_dict"), ("torn.pt", "read")):
        with pytest.raises(ModelError, match=reason):
            pipeline.generate_sample("hi", tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bias", [False, True])
def test_a_module_of_the_programs_own_goes_through_all_stages(bias: bool, tmp_path: Path):
    settings = {"sft_epochs": 12, "sft_lr": 1e-2, "ppo_iterations": 2}
    pipeline = short_pipeline(tmp_path, **settings)
    final = pipeline.run_full_pipeline(lambda: Recurrent(bias))
    losses = [row["sft/loss"] for row in metrics(pipeline.save_dir / "sft")]
    assert losses[-1] < 0.5 * losses[0]
    assert state_of(final).keys() == Recurrent(bias).state_dict().keys()
    again = short_pipeline(tmp_path, **settings)
    with pytest.raises(ModelError, match="call load_base_model with the function"):
        again.generate_sample("hi Ana", final)
    again.load_base_model(Recurrent(bias))
    assert again.generate_sample("hi Ana", final) == pipeline.generate_sample("hi Ana")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Recurrent(bidirectional=True), "lets a token see later ones"),
        (lambda: torch.nn.Embedding(260, 8), "its last linear layer is None"),
        (lambda: "a model", "allowed is a torch module"),
    ],
)
def test_what_is_no_causal_language_model_is_refused(tmp_path: Path, make: Any, reason: str):
    with pytest.raises(ModelError, match=reason):
        short_pipeline(tmp_path).load_base_model(make)


def test_a_transformers_model_may_be_given(tmp_path: Path):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    pipeline = short_pipeline(tmp_path)
    pipeline.load_base_model(lambda: LlamaForCausalLM(LlamaConfig(vocab_size=260, **shape)))
    held = torch.load(pipeline.run_sft(), weights_only=True)
    assert held["config"]["architecture"]["architectures"] == ["LlamaForCausalLM"]
    assert held["model_state_dict"]["model.embed_tokens.weight"].shape == (260, 32)
    without = short_pipeline(tmp_path, tokenizer_path=None)
    without.load_base_model(LlamaForCausalLM(LlamaConfig(vocab_size=260, **shape)))
    with pytest.raises(ConfigError, match="brings no tokenizer"):
        without.run_sft()


def hinge(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    return torch.relu(1.0 - (chosen - rejected)).mean()


def test_a_reward_objective_of_the_programs_own_is_learned(run: RLHFPipeline, tmp_path: Path):
    register_reward_objective("hinge", hinge)
    pipeline = short_pipeline(tmp_path, reward_objective="hinge", reward_epochs=8)
    pipeline.run_reward_training(run.save_dir / "sft/best_model.pt")
    seen = metrics(pipeline.save_dir / "reward_model")
    assert seen[0]["reward/loss"] == pytest.approx(1.0)  # a head that starts at zero: 1 - 0
    assert seen[-1]["reward/loss"] == pytest.approx(0.0, abs=1e-6)
    assert seen[-1]["reward/score_gap"] > 1.0


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (lambda c, r: ((c - r) / (c - r).std(correction=0).clamp_min(1e-6)).mean(), "another loss in other company"),
        (lambda c, r: (r - c).sum(), "another loss in other company"),
        (lambda c, r: (r - c).detach(), "no gradient"),
        (lambda c, r: torch.zeros(2) + (r - c)[:2], "allowed are losses"),
        (lambda c, r: 1.0, "allowed are losses"),
    ],
)
def test_an_objective_that_cannot_be_trained_is_refused(objective: Any, reason: str):
    with pytest.raises(ConfigError, match=reason):
        register_reward_objective("wrong", objective)


def test_unknown_objectives_and_optimizers_are_refused_before_anything_runs(run: RLHFPipeline, tmp_path: Path):
    sft = run.save_dir / "sft/best_model.pt"
    with pytest.raises(ConfigError, match="reward_objective: got 'best'; allowed are bradley_terry"):
        short_pipeline(tmp_path, reward_objective="best").run_reward_training(sft)
    with pytest.raises(ConfigError, match="optimizer: got 'lion'; allowed are adamw"):
        short_pipeline(tmp_path, optimizer="lion").run_sft()
    with pytest.raises(ConfigError, match="there already"):
        register_optimizer("adamw", lambda groups: torch.optim.SGD(groups, lr=0.0))


def test_an_optimizer_of_the_programs_own_trains_and_resumes(tmp_path: Path, monkeypatch):
    def sgd(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9)

    register_optimizer("sgd", sgd)
    whole = Path(short_pipeline(tmp_path, optimizer="sgd", sft_lr=0.3, save_dir=tmp_path / "whole").run_sft())
    losses = [row["sft/loss"] for row in metrics(whole.parent)]
    assert losses[-1] < 0.8 * losses[0]
    with monkeypatch.context() as patch:
        interrupt_after(patch, LocalEngine, "optim_step", 11)
        with pytest.raises(KeyboardInterrupt):
            short_pipeline(tmp_path, optimizer="sgd", sft_lr=0.3).run_sft()
    assert equal(state_of(short_pipeline(tmp_path, optimizer="sgd", sft_lr=0.3).run_sft()), state_of(whole))


def test_a_sample_is_drawn_from_the_newest_model(run: RLHFPipeline, tmp_path: Path):
    first = run.generate_sample("hi Ana")
    assert first == run.generate_sample("hi Ana", run.save_dir / "ppo/final_model.pt")
    assert first != run.generate_sample("hi Ana", seed=1)
    assert first != short_pipeline(tmp_path).generate_sample("hi Ana")  # the base model
    with pytest.raises(DataError, match="empty user turn"):
        run.generate_sample("  ")
    with pytest.raises(DataError, match="at most 24 are allowed"):
        run.generate_sample("x" * 40)


def test_what_was_learned_is_said(tmp_path: Path):
    pipeline = short_pipeline(tmp_path, sft_epochs=25)
    pipeline.run_sft()
    assert pipeline.generate_sample(f"hi {NAMES[0]}", temperature=0.0).startswith("hello")
