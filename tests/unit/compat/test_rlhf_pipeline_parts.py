"""The pipeline's value model, DPO and KTO, its pictures, and the names by which programs take it apart."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from rlhf_world import NAMES, equal, short_pipeline, state_of, write_lines
from torch.nn.functional import cross_entropy

from thumbs.compat.rlhf_pipeline import (
    ConversationDataset,
    RLHFPipeline,
    create_preference_dataloader,
    create_preference_loss,
    create_reward_model,
    create_trainer,
    create_value_model,
)
from thumbs.compat.rlhf_pipeline.pt_files import checkpoint_state
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, ModelError
from thumbs.stages import ppo_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RLHFPipeline:
    """A pipeline that has trained everything, by its trainers."""
    pipeline = short_pipeline(tmp_path_factory.mktemp("run"), ppo_iterations=2, preference_lr=1e-3)
    pipeline.load_base_model("byte-tiny")
    sft = create_trainer("sft", pipeline).train()
    reward = create_trainer("reward", pipeline, sft).train()
    create_trainer("ppo", pipeline, sft, reward).train()
    create_trainer("dpo", pipeline, sft_model_path=sft).train()
    create_trainer("kto", pipeline, sft).train()
    return pipeline


def test_every_stage_leaves_its_model_and_a_picture_of_its_numbers(run: RLHFPipeline):
    for folder, file in (("sft", "best"), ("reward_model", "best"), ("ppo", "final"), ("dpo", "best"), ("kto", "best")):
        assert (run.save_dir / folder / f"{file}_model.pt").is_file()
        assert (run.save_dir / folder / "curves.png").read_bytes().startswith(b"\x89PNG")
        assert not (run.save_dir / folder / "critic").exists()
    settings = [(run.save_dir / name / "config.json").read_bytes() for name in ("", "logs")]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_methods_without_a_reward_model_teach_what_was_chosen(run: RLHFPipeline, tmp_path: Path, method: str):
    loss = {"hello": 0.0, "go": 0.0}
    for word in loss:
        rows = [{"prompt": f"hi {name}", "completion": f"{word} {name}"} for name in NAMES]
        test = write_lines(tmp_path / f"{word}.jsonl", rows)
        before, after = (
            run.evaluate_model(run.save_dir / folder / "best_model.pt", test)["loss"] for folder in ("sft", method)
        )
        loss[word] = after - before
    assert loss["hello"] < loss["go"]


def test_ppo_goes_on_from_its_policy_and_its_value_model(
    run: RLHFPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    final = run.save_dir / "ppo" / "final_model.pt"
    held = torch.load(final, weights_only=True)["value_model_state_dict"]
    assert held["scalar_head.weight"].abs().max() > 0  # it has learned
    assert not equal(held, torch.load(run.save_dir / "ppo/iteration_000002.pt", weights_only=True)["model_state_dict"])
    started = []
    create = ppo_run.create_models

    def watching(*args, **kwargs):
        models = create(*args, **kwargs)
        engine = args[0].engine
        engine.save(models.critic, tmp_path / "critic")
        engine.save(models.policy, tmp_path / "policy")
        started.append(models)
        return models

    monkeypatch.setattr(ppo_run, "create_models", watching)
    again = short_pipeline(tmp_path, ppo_iterations=1)
    again.run_ppo_training(final, run.save_dir / "reward_model" / "best_model.pt")
    assert started
    assert equal(checkpoint_state(tmp_path / "critic"), held)
    policy = {n: t for n, t in checkpoint_state(tmp_path / "policy").items() if not n.startswith("scalar_head")}
    assert equal(policy, state_of(final))


@pytest.mark.parametrize(
    "content",
    [
        {"weight": torch.zeros(2)},
        {"model_state_dict": {}, "config": {}, "step": 1},
        {"model_state_dict": {}, "config": {"architecture": None, "tokenizer": {}}, "step": 1, "optimizer": {}},
    ],
)
def test_a_file_of_another_program_is_refused_where_it_is_given(tmp_path: Path, content: dict[str, object]):
    path = tmp_path / "foreign.pt"
    torch.save(content, path)
    pipeline = short_pipeline(tmp_path)
    for give in (pipeline.load_base_model, pipeline.run_reward_training, pipeline.run_dpo_training):
        with pytest.raises(ModelError, match=r"allowed is a \.pt that this pipeline wrote"):
            give(path)


def test_conversations_are_tokens_and_labels_that_torch_takes(run: RLHFPipeline):
    dataset = ConversationDataset(run.config.sft_data_path, ByteTokenizer(), 24)
    assert len(dataset) == len(NAMES)
    row = dataset[0]
    answer = [*f"hello {NAMES[0]}".encode(), 259]
    assert row["labels"].tolist() == [-100] * (len(row["input_ids"]) - len(answer)) + answer
    assert row["input_ids"][-len(answer) :].tolist() == answer
    logits = torch.zeros(len(row["labels"]) - 1, 260)
    assert cross_entropy(logits, row["labels"][1:]).item() == pytest.approx(torch.tensor(260.0).log().item())


def test_pairs_are_padded_batches_and_incomplete_rows_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [
        {"prompt": "hi", "chosen": "hello you", "rejected": "no"},
        {"prompt": "hi", "chosen": "yes", "rejected": "go away"},
        {"prompt": "hi", "chosen": "yes"},
    ]
    with caplog.at_level(logging.WARNING):
        path = write_lines(tmp_path / "p.jsonl", rows)
        loader = create_preference_dataloader(path, ByteTokenizer(), 2, 32, shuffle=False)
    (batch,) = loader
    assert f"{path}:3: missing_field: " in caplog.text
    head = [257, *b"hi", 258]
    for side, texts in (("chosen", ("hello you", "yes")), ("rejected", ("no", "go away"))):
        wanted = [[*head, *text.encode(), 259] for text in texts]
        mask = batch[f"{side}_attention_mask"]
        assert [row[m > 0].tolist() for row, m in zip(batch[f"{side}_input_ids"], mask, strict=True)] == wanted
        assert mask.sum(1).tolist() == [len(row) for row in wanted]


def test_the_loss_of_preferences_by_hand():
    chosen, rejected = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.5])
    plain = (torch.tensor([1 + torch.e**-1, 1 + torch.e**0.5]).log()).mean()
    assert create_preference_loss()(chosen, rejected).item() == pytest.approx(plain.item())
    centred = plain + 0.1 * (1.0**2 + 0.5**2) / 2
    assert create_preference_loss(center_coef=0.1)(chosen, rejected).item() == pytest.approx(centred.item())
    with pytest.raises(ConfigError, match="allowed are bradley_terry"):
        create_preference_loss("nothing")
    with pytest.raises(ConfigError, match="allowed are sft, reward, ppo, dpo, kto"):
        create_trainer("grpo", None)  # type: ignore[arg-type]


def test_models_with_a_head_have_the_trunk_of_the_sft_model(run: RLHFPipeline):
    sft = run.save_dir / "sft" / "best_model.pt"
    tokens = torch.tensor([[257, *b"hi", 258]])
    reward, value = create_reward_model(sft, freeze_backbone=True), create_value_model(sft)
    assert reward(tokens).logits.tolist() == [[0.0]]
    assert value(tokens).logits.shape == (1, 4, 1)
    assert {name for name, weight in reward.named_parameters() if weight.requires_grad} == {"score.weight"}
    assert all(weight.requires_grad for weight in value.parameters())
    trunk = {name.removeprefix("model."): weight for name, weight in state_of(sft).items()}
    for name, weight in reward.base_model.state_dict().items():
        torch.testing.assert_close(weight, trunk[name], atol=0, rtol=0)
