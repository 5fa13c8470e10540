"""Settings, data files and tokenizers as the pipeline API takes them."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from rlhf_world import short_config, short_pipeline, write_lines
from tokenizers import Tokenizer as Encoder
from tokenizers import decoders, models, pre_tokenizers, trainers

from thumbs.compat.rlhf_pipeline import RLHFConfig, create_rlhf_pipeline, get_default_config
from thumbs.compat.rlhf_pipeline.rows import load_conversations, load_pairs, load_prompts
from thumbs.compat.rlhf_pipeline.stages import (
    milestones,
    nearest_divisor,
    ppo_settings,
    prompt_limit,
    reply_budget,
    reward_settings,
    sft_settings,
    whole_batches,
)
from thumbs.compat.rlhf_pipeline.tokenizer import open_tokenizer_at, tokenizer_files, tokenizer_of
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, DataError, ModelError
from thumbs.records import Message

FIELDS = """
    model_name tokenizer_path device sft_data_path sft_epochs sft_lr sft_batch_size reward_data_path reward_epochs
    reward_lr reward_batch_size freeze_reward_backbone ppo_data_path ppo_iterations ppo_lr_policy ppo_lr_value
    ppo_batch_size ppo_mini_batch_size ppo_epochs max_length save_dir save_interval log_level
"""
BYTES = ByteTokenizer()


def test_the_known_fields_are_there_and_have_defaults():
    assert [field.name for field in dataclasses.fields(RLHFConfig)][:23] == FIELDS.split()
    assert get_default_config() == RLHFConfig()
    assert get_default_config() is not get_default_config()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("sft_epochs", 0, "greater than or equal to 1"),
        ("ppo_iterations", 2.5, "valid integer"),
        ("sft_lr", -1e-5, "greater than 0"),
        ("ppo_lr_value", float("nan"), "finite"),
        ("reward_batch_size", True, "truth values are not allowed"),
        ("freeze_reward_backbone", "maybe", "boolean"),
        ("device", "gpu", "auto, cpu, mps, cuda and cuda:N"),
        ("log_level", "LOUD", "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'"),
        ("max_length", 4, "greater than or equal to 10"),
        ("save_dir", None, "valid string"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: Any, allowed: str):
    config = get_default_config()
    for attempt in (
        lambda: RLHFConfig(**{name: value}),
        lambda: setattr(config, name, value),
        lambda: create_rlhf_pipeline({name: value}),
    ):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert name in str(caught.value)
        assert f"got {value!r}" in str(caught.value)
        assert allowed in str(caught.value)
    assert config == get_default_config()


def test_a_misspelt_setting_is_an_error_that_names_the_right_one():
    config = get_default_config()
    for attempt in (lambda: setattr(config, "sft_epoch", 3), lambda: create_rlhf_pipeline({"sft_epoch": 3})):
        with pytest.raises(ConfigError, match="has no field 'sft_epoch'; did you mean 'sft_epochs'"):
            attempt()


@pytest.mark.parametrize("name", ["settings.json", "settings.yaml"])
def test_settings_come_from_a_file_a_mapping_or_an_object(tmp_path: Path, name: str):
    out = str(tmp_path / "out")
    text = f"sft_lr: 1e-4\nlog_level: debug\nsave_dir: {out}\n"
    if name.endswith("json"):
        text = json.dumps({"sft_lr": "1e-4", "log_level": "DEBUG", "save_dir": out}, indent="\t")
    (tmp_path / name).write_text(text, encoding="utf-8")
    wanted = RLHFConfig(sft_lr=1e-4, log_level="DEBUG", save_dir=out)
    for given in (tmp_path / name, str(tmp_path / name), wanted.to_dict(), wanted):
        assert create_rlhf_pipeline(given).config == wanted
    assert create_rlhf_pipeline(tmp_path / "out" / "config.json").config == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "expected settings"),
        ("{", "not valid JSON"),
        ('{"seed": 1, "seed": 2}', "stands twice"),
        (None, "no config file at"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str | None, reason: str):
    file = tmp_path / "settings.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        create_rlhf_pipeline(file)


def test_the_device_is_chosen_and_logged(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert short_pipeline(tmp_path, device="auto", log_level="INFO").device == "cpu"
    assert "device: cpu (auto)" in caplog.text
    with pytest.raises(ConfigError, match="device: got 'cuda:7'; this machine has cpu"):
        short_pipeline(tmp_path, device="cuda:7")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert short_pipeline(tmp_path, device="auto").device == "mps"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert short_pipeline(tmp_path, device="auto").device == "cuda"


def test_conversations_in_all_their_shapes(tmp_path: Path):
    asked, said = "hi there", "hello"
    shapes: list[object] = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]},
        {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]},
        {"conversations": [{"content": asked}, {"content": said}]},
        {"messages": [asked, said]},
        [{"role": "user", "content": asked}, {"content": said}],
        {"input": asked, "output": said},
        {"question": asked, "answer": said},
        {"prompt": asked, "response": said},
        {"instruction": asked, "input": "", "output": said},
    ]
    rows = load_conversations(write_lines(tmp_path / "a.jsonl", shapes), BYTES, 64)
    assert rows == [(Message("user", asked), Message("assistant", said))] * len(shapes)


def test_rows_without_a_user_and_an_assistant_turn_are_skipped_with_their_lines(tmp_path: Path, caplog):
    good = {"prompt": "hi", "response": "hello"}
    rows = [
        good,
        {"messages": [{"role": "user", "content": "hi"}]},
        good,
        {"messages": [{"role": "assistant", "content": "hello"}]},
        '{"prompt": "torn',
        "",
        {"prompt": "hi", "response": "x" * 99},
        good,
        {"messages": [{"role": "user", "content": "hi"}]},
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    assert len(load_conversations(path, BYTES, 64)) == 3
    assert "3 of 8 rows usable" in caplog.text
    for line in (
        f"{path}:2, 9: 2 no_assistant_turn: ",
        f"{path}:4: no_user_turn: ",
        f"{path}:5: bad_json: ",
        f"{path}:6: blank_line: ",
        f"{path}:7: too_long: ",
        f"{path}:3, 8: 2 duplicate: ",
    ):
        assert line in caplog.text


def test_incomplete_pairs_are_skipped_with_their_lines(tmp_path: Path, caplog):
    good = {"prompt": "hi", "chosen": "hello", "rejected": "go"}
    rows = [good, *({k: v for k, v in good.items() if k != gone} for gone in good), {**good, "rejected": ""}]
    rows += [{**good, "rejected": None}, {**good, "rejected": "hello"}, 7, {**good, "chosen": "good morning"}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    pairs = load_pairs(path, BYTES, 64)
    assert [pair.replies[0].text for pair in pairs] == ["hello", "good morning"]
    assert "2 of 9 rows usable" in caplog.text
    assert f"{path}:2-4, 6: 4 missing_field: " in caplog.text
    assert f"{path}:5: empty_reply: " in caplog.text
    assert f"{path}:7: identical_replies: " in caplog.text
    assert f"{path}:8: not_an_object: " in caplog.text


@pytest.mark.parametrize("suffix", ["jsonl", "txt", "json", "prompts"])
def test_prompts_are_objects_json_strings_or_plain_lines(tmp_path: Path, caplog, suffix: str):
    rows = [
        '{"prompt": "one"}',
        '"two"',
        "three, plainly",
        "",
        "42",
        "   ",
        '{"prompt": " "}',
        '{"prompt": ',
        '"six" she said',
    ]
    path = write_lines(tmp_path / f"a.{suffix}", rows)
    prompts, longest = load_prompts(path, BYTES, 64)
    assert [prompt.messages[0].content for prompt in prompts] == [
        "one",
        "two",
        "three, plainly",
        "42",
        '"six" she said',
    ]
    assert longest == len("three, plainly") + 2
    assert f"{path}:4, 6: 2 blank_line: " in caplog.text
    assert f"{path}:7: empty_prompt: " in caplog.text
    assert f"{path}:8: bad_json: " in caplog.text


def test_a_json_list_of_prompts_is_read_too(tmp_path: Path):
    (tmp_path / "a.json").write_text('["one", {"prompt": "two"}]', encoding="utf-8")
    assert len(load_prompts(str(tmp_path / "a.json"), BYTES, 64)[0]) == 2


def test_no_usable_row_is_an_error_that_shows_them(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "hi", "response": "x" * 99}, {"text": 3}])
    with pytest.raises(DataError, match=r"0 usable rows.*\n.*0 of 2 rows(.|\n)*a\.jsonl:1: too_long"):
        load_conversations(path, BYTES, 64)
    with pytest.raises(DataError, match="no such file"):
        load_pairs(str(tmp_path / "none.jsonl"), BYTES, 64)


def test_sizes():
    assert [nearest_divisor(10, n) for n in (1, 2, 3, 4, 7, 8, 99)] == [1, 2, 2, 5, 5, 10, 10]
    assert milestones(5, 2) == [2, 4, 5]
    assert milestones(4, 2) == [2, 4]
    assert milestones(3, 100) == [3]
    assert whole_batches([1, 2, 3], 4) == [1, 2, 3, 1]
    assert whole_batches([1, 2], 5) == [1, 2, 1, 2, 1]
    assert whole_batches([1, 2], 2) == [1, 2]
    assert prompt_limit(64) == 48
    assert [reply_budget(longest, 64) for longest in (3, 32, 48)] == [32, 32, 16]


def test_each_setting_reaches_its_stage():
    c = RLHFConfig(
        sft_epochs=2,
        sft_lr=0.01,
        sft_batch_size=3,
        reward_epochs=4,
        reward_lr=0.02,
        reward_batch_size=5,
        freeze_reward_backbone=True,
        reward_objective="token_bradley_terry",
        ppo_lr_policy=0.03,
        ppo_lr_value=0.04,
        ppo_batch_size=12,
        ppo_mini_batch_size=6,
        ppo_epochs=7,
        save_interval=2,
    )
    sft, (reward, own), ppo = sft_settings(c), reward_settings(c), ppo_settings(c, 8, 9)
    assert (sft.epochs, sft.optim.learning_rate, sft.batch_size) == (2, 0.01, 3)
    assert (reward.epochs, reward.optim.learning_rate, reward.batch_size, reward.freeze_backbone) == (4, 0.02, 5, True)
    assert (reward.loss, own, reward.optim.head_learning_rate) == ("token_bradley_terry", None, 0.02)
    assert reward_settings(RLHFConfig(reward_lr=1e-6))[0].optim.head_learning_rate == 1e-3
    assert (ppo.steps, ppo.sampling.max_new_tokens, ppo.epochs) == (8, 9, 7)
    assert (ppo.batch_size, ppo.minibatch_size, ppo.save_every) == (12, 6, 2)
    assert (ppo.optim.learning_rate, ppo.optim.schedule, ppo.optim.warmup_fraction) == (0.03, "constant", 0.0)
    assert (ppo.critic.init, ppo.critic.learning_rate) == ("policy", 0.04)


class Ran:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["tokenizer.pkl", "tokenizer.pickle", "tokenizer.json", "old/tokenizer.pkl"])
def test_a_pickled_tokenizer_is_refused_with_the_way_to_convert_it(tmp_path: Path, name: str):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(Ran(tmp_path / "ran")))
    named = file.parent if name.startswith("old/") else file
    with pytest.raises(
        ModelError, match=r"is a pickled tokenizer.*runs whatever code.*save_pretrained(.|\n)*tokenizer_path"
    ):
        short_pipeline(tmp_path, tokenizer_path=str(named)).load_tokenizer()
    assert not (tmp_path / "ran").exists()


def encoder(*special: str) -> Encoder:
    found = Encoder(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    found.decoder = decoders.ByteLevel()
    found.train_from_iterator(["hi Ana", "hello Ana"], trainer)
    return found


def test_a_tokenizer_json_alone_is_enough(tmp_path: Path, caplog):
    encoder("<unk>", "<pad>", "</s>").save(str(tmp_path / "mine.json"))
    tokenizer = short_pipeline(tmp_path, tokenizer_path=str(tmp_path / "mine.json")).load_tokenizer()
    assert tokenizer.decode([tokenizer.eos_id], skip_special=False) == "</s>"
    assert tokenizer.decode(tokenizer.encode("hi Ana")) == "hi Ana"
    assert "a reply ends with </s>" in caplog.text
    again = tokenizer_of(tokenizer_files(tokenizer))
    assert again.encode("hello Ana") == tokenizer.encode("hello Ana")


def test_a_tokenizer_json_in_its_folder_keeps_what_stands_beside_it(tmp_path: Path):
    encoder("<unk>", "<stop>").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<stop>"}', encoding="utf-8")
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = open_tokenizer_at(str(place))
        assert tokenizer.decode([tokenizer.eos_id], skip_special=False) == "<stop>"


def test_what_is_no_tokenizer_is_refused(tmp_path: Path):
    encoder("<unk>", "<odd>").save(str(tmp_path / "odd.json"))
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    for name, reason in (
        ("odd.json", "known to end a reply"),
        ("other.json", "has no `model`"),
        ("none", "no tokenizer"),
    ):
        with pytest.raises(ModelError, match=reason):
            open_tokenizer_at(str(tmp_path / name))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path):
    encoder("<unk>", "</s>").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"tokenizer_path: the tokenizer has .* beyond the 260 rows of the embedding"):
        short_pipeline(tmp_path, tokenizer_path=str(tmp_path / "tokenizer.json")).run_sft()


def test_settings_are_copied_like_any_dataclass(tmp_path: Path):
    config = short_config(tmp_path)
    assert copy.deepcopy(config) == config
    assert dataclasses.replace(config, sft_epochs=9).sft_epochs == 9
    assert dataclasses.asdict(config) == config.to_dict() == vars(config)
