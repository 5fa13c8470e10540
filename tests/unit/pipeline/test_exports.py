"""What leaves a run loads elsewhere to the same numbers, says what it is, or is refused before anything is written."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers

from fake_hub import fake_hub
from reward_world import CHATS, END, LORA, OUT, PAD, chat_model, made_run, padded_scores
from thumbs.data.tokenizers import conversation_tokens
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import HubError, RunError
from thumbs.models.gguf import convert
from thumbs.pipeline.artifacts import export, open_run
from thumbs.pipeline.exports import modelfile
from thumbs.records import Example
from thumbs.rewards.model import member_scores


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def reward_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("run"), base=base, system="Be kind.")


@pytest.fixture(scope="module")
def policy_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("run"), "sft", base, sft={"data": {"path": "rows.jsonl"}})


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def ours(run: Path) -> tuple[list[list[int]], torch.Tensor]:
    """Tokens of the chats and the engine's own scores of them."""
    opened = open_run(run)
    rows = [conversation_tokens(opened.tokenizer, chat)[0] for chat in CHATS]
    scores = member_scores(opened.engine, [opened.model("reward_model")], rows)[:, 0]
    return [row.tolist() for row in rows], torch.from_numpy(scores).float()


def run_card(folder: Path, base: Path | None = None) -> dict[str, Any]:
    """What the Python of a card leaves behind, run where the card lies."""
    text = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    here = Path.cwd()
    os.chdir(folder)
    try:
        exec(text.replace('"BASE"', repr(str(base))), found)  # noqa: S102
    finally:
        os.chdir(here)
    return found


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_reward_model_is_a_classifier_of_the_same_scores(side: str, reward_run: Path, tmp_path: Path):
    out = export(reward_run, "reward_model", tmp_path / "out", form="hf")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    assert (type(model).__name__, model.config.num_labels, model.config.pad_token_id) == (
        "LlamaForSequenceClassification",
        1,
        PAD,
    )
    rows, scores = ours(reward_run)
    assert scores.std() > 0.1
    torch.testing.assert_close(padded_scores(model, rows, PAD, side), scores, atol=1e-4, rtol=0)
    for row, score in zip(rows, scores, strict=True):
        torch.testing.assert_close(padded_scores(model, [row], PAD)[0], score, atol=1e-4, rtol=0)
    found = run_card(out)
    told = [conversation_tokens(open_run(reward_run).tokenizer, messages_of(chat))[0] for chat in found["chats"]]
    torch.testing.assert_close(found["scores"], padded_scores(model, [t.tolist() for t in told], PAD))
    assert found["tokenizer"].pad_token_id == PAD


def messages_of(chat: list[dict[str, str]]) -> Any:
    from thumbs.records import Message

    return [Message(turn["role"], turn["content"]) for turn in chat]


def test_a_reward_adapter_has_the_same_scores_in_peft(reward_run: Path, base: Path, tmp_path: Path):
    out = export(reward_run, "reward_model", tmp_path / "out")
    told = config_of(out, "adapter_config.json")
    assert (told["task_type"], told["modules_to_save"], told["base_model_name_or_path"]) == (
        "SEQ_CLS",
        ["score"],
        str(base),
    )
    assert not {"thumbs.json", "scalar_head.safetensors"} & {file.name for file in out.iterdir()}
    rows, scores = ours(reward_run)
    found = run_card(out)
    assert isinstance(found["model"], PeftModel)
    torch.testing.assert_close(padded_scores(found["model"], rows, PAD), scores, atol=1e-4, rtol=0)
    model = AutoPeftModelForSequenceClassification.from_pretrained(out, num_labels=1, pad_token_id=PAD)
    torch.testing.assert_close(padded_scores(model, rows, PAD, "left"), scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("merge", [True, False])
def test_a_byte_models_reward_model_leaves_too(merge: bool, tmp_path: Path):
    run = made_run(tmp_path / "run")
    out = export(run, "reward_model", tmp_path / "out", form="hf" if merge else None)
    rows, scores = ours(run)
    if merge:
        model = run_card(out)["model"]
    else:
        assert config_of(out, "adapter_config.json")["base_model_name_or_path"] is None
        model = run_card(out, export(run, "base", tmp_path / "base", form="hf"))["model"]
    torch.testing.assert_close(padded_scores(model, rows, 256), scores, atol=1e-4, rtol=0)


def test_a_whole_reward_model_of_a_later_iteration_is_a_classifier_without_merge(base: Path, tmp_path: Path):
    run = made_run(tmp_path / "run", "iteration-2/reward_model", base, lora=None)
    out = export(run, "iteration-2/reward_model", tmp_path / "out")
    assert config_of(out)["architectures"] == ["LlamaForSequenceClassification"]
    assert "score.weight" in load_file(out / "model.safetensors")


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ({"heads": 3}, "an ensemble of 3 heads"),
        ({"adapters": 2}, "an ensemble of 2 adapters"),
        ({"loss": "process", "data": {"path": "steps.jsonl"}}, "scores steps"),
    ],
)
@pytest.mark.parametrize("merge", [True, False])
def test_what_is_no_classifier_is_refused_by_name(reward: dict[str, Any], says: str, merge: bool, tmp_path: Path):
    run = made_run(tmp_path / "run", reward_model=reward)
    with pytest.raises(RunError, match=says):
        export(run, "reward_model", tmp_path / "out", form="hf" if merge else None)
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_head_with_a_bias_and_a_family_without_a_classifier_are_refused(tmp_path: Path):
    run = made_run(tmp_path / "run")
    head = load_file(run / "reward_model/model/scalar_head.safetensors")
    save_file(head | {"bias": torch.tensor(0.25)}, run / "reward_model/model/scalar_head.safetensors")
    with pytest.raises(RunError, match=r"the reward head has a bias \(0.25\)"):
        export(run, "reward_model", tmp_path / "out", form="hf")
    bloom = transformers.BloomConfig(vocab_size=264, hidden_size=16, n_layer=1, n_head=2)
    folder = chat_model(tmp_path / "bloom")
    transformers.BloomForCausalLM(bloom).save_pretrained(folder)
    config = config_of(run)
    config["model"] |= {"name": str(folder), "lora": None}
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RunError, match="runs through transformers here"):
        export(run, "reward_model", tmp_path / "out", form="hf")
    assert not (tmp_path / "out").exists()


def logprobs(model: Any, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None]).squeeze(1)


@pytest.mark.parametrize("merge", [True, False])
def test_a_policy_is_the_same_elsewhere_and_keeps_every_end_and_default(merge: bool, policy_run: Path, tmp_path: Path):
    out = export(policy_run, "sft", tmp_path / "out", form="hf" if merge else None)
    opened = open_run(policy_run)
    tokens = conversation_tokens(opened.tokenizer, CHATS[0])[0].tolist()
    datum = Example.next_token(tokens, weights=np.ones(len(tokens) - 1))
    expected = torch.from_numpy(opened.engine.forward(opened.model("sft"), [datum])[0].logprobs)
    found = run_card(out)
    torch.testing.assert_close(logprobs(found["model"], tokens), expected, atol=1e-4, rtol=0)
    if merge:
        told = config_of(out, "generation_config.json")
        assert (told["eos_token_id"], told["temperature"], told["top_p"]) == ([END, OUT], 0.6, 0.9)
        assert config_of(out)["eos_token_id"] == [END, OUT]
    else:
        assert isinstance(AutoPeftModelForCausalLM.from_pretrained(out), PeftModel)


@pytest.mark.parametrize(
    ("published", "asked", "expected"),
    [
        ("float32", None, torch.float32),
        ("bfloat16", None, torch.bfloat16),
        ("bfloat16", "float32", torch.float32),
        ("float32", "float16", torch.float16),
    ],
)
def test_weights_have_the_format_asked_for_or_that_of_the_base(
    published: str, asked: str | None, expected: torch.dtype, tmp_path: Path
):
    run = made_run(tmp_path / "run", "sft", chat_model(tmp_path / "base", dtype=published))
    out = export(run, "sft", tmp_path / "out", form="hf", dtype=asked)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {expected}
    assert config_of(out)["dtype"] == str(expected).removeprefix("torch.")


def test_a_weight_that_a_format_cannot_hold_is_named(tmp_path: Path):
    folder = chat_model(tmp_path / "base")
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.down_proj.weight"][0, 0] = 1e5
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    run = made_run(tmp_path / "run", "sft", folder)
    with pytest.raises(RunError, match=r"model.layers.1.mlp.down_proj.weight reaches 1e\+05 and float16 ends at"):
        export(run, "sft", tmp_path / "out", form="hf", dtype="float16")
    for dtype, says in (("float8", "allowed are float32, bfloat16, float16"), ("float32", "belongs to --format hf")):
        with pytest.raises(RunError, match=says):
            export(run, "sft", tmp_path / "out", dtype=dtype)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["base", "run"]


@pytest.mark.parametrize("merge", [True, False])
def test_a_model_that_runs_through_transformers_leaves_whole(merge: bool, tmp_path: Path):
    folder = chat_model(tmp_path / "base")
    config = transformers.GPT2Config(vocab_size=264, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=OUT)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    run = made_run(tmp_path / "run", "sft", folder, lora=None)
    out = export(run, "sft", tmp_path / "out", form="hf" if merge else None, dtype="bfloat16")
    model, found = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert (type(model).__name__, model.dtype) == ("GPT2LMHeadModel", torch.bfloat16)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]


def test_what_leaves_can_be_read_by_others_and_is_whole_or_not_there(
    policy_run: Path, reward_run: Path, tmp_path: Path
):
    before = os.umask(0o027)
    try:
        for number, (run, stage) in enumerate([(policy_run, "sft"), (reward_run, "reward_model")]):
            for merge in (True, False):
                out = export(run, stage, tmp_path / f"{number}-{merge}", form="hf" if merge else None)
                assert stat.S_IMODE(out.stat().st_mode) == 0o750
                assert {stat.S_IMODE(file.stat().st_mode) for file in out.iterdir()} == {0o640}
    finally:
        os.umask(before)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    (tmp_path / "empty").mkdir()
    assert (export(policy_run, "sft", tmp_path / "empty") / "adapter_config.json").is_file()
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for taken in ("file", "empty"):
        with pytest.raises(RunError, match="not empty"):
            export(policy_run, "sft", tmp_path / taken, form="hf")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_checkpoints_and_text_files_have_the_rights_of_the_umask(tmp_path: Path):
    from thumbs.tracking.files import write_text

    run = made_run(tmp_path / "run")
    write_text(tmp_path / "run" / "text.txt", "a")
    engine = LocalEngine()
    handle = engine.create(ModelSpec("m", open_run(run).config.model, ("lm", "scalar")))
    engine.save(handle, tmp_path / "run" / "saved")
    mask = os.umask(0)
    os.umask(mask)
    files = [file for file in run.rglob("*") if file.is_file()]
    assert len(files) > 8
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~mask}


@pytest.fixture(scope="module")
def named_cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose tokenizer cuts text in a way that llama.cpp has a name for."""
    folder = chat_model(tmp_path_factory.mktemp("base"))
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"]["th"] = content["model"]["vocab"].pop("!")
    content["model"]["merges"] = [["t", "h"]]
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("stage", "adapter"), [("base", False), ("sft", True), ("sft", False)])
def test_a_gguf_file_holds_the_policy_and_comes_with_what_ollama_needs(
    stage: str, adapter: bool, named_cut: Path, tmp_path: Path
):
    run = made_run(tmp_path / "run", "sft", named_cut, LORA if adapter else None)
    whole = export(run, stage, tmp_path / "hf", form="hf", dtype="float32")
    out = export(run, stage, tmp_path / "gguf", form="gguf", dtype="float32")
    assert {file.name for file in out.iterdir()} == {"model.gguf", "Modelfile", "README.md"}
    (tmp_path / "back").mkdir()
    convert(out / "model.gguf", tmp_path / "back")
    there, back = (load_file(folder / "model.safetensors") for folder in (whole, tmp_path / "back"))
    assert there.keys() == back.keys()
    assert all(torch.equal(there[name].bfloat16(), back[name]) for name in there)  # the reader keeps 16 bits
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "library_name: llama.cpp" in card
    assert "ollama create NAME -f Modelfile" in card
    assert "```python" not in card
    assert (out / "Modelfile").read_text(encoding="utf-8").splitlines()[1] == "FROM ./model.gguf"


def test_what_a_format_has_no_place_for_is_refused(reward_run: Path, policy_run: Path, named_cut: Path, tmp_path: Path):
    whole = made_run(tmp_path / "run", "sft", named_cut, None)
    quoted = made_run(tmp_path / "quoted", "sft", named_cut, system='Say """hi""".')
    for run, stage, form, dtype, says in (
        (reward_run, "reward_model", "gguf", None, "has no place for"),
        (whole, "sft", "peft", None, "has no adapter"),
        (policy_run, "sft", "onnx", None, "allowed are peft, hf, gguf"),
        (policy_run, "sft", "gguf", "q6_k", "allowed are float32, float16, bfloat16, q8_0"),
        (policy_run, "sft", "hf", "q8_0", "allowed are float32, bfloat16, float16$"),
        (quoted, "sft", "gguf", None, "cannot quote"),
    ):
        with pytest.raises(RunError, match=says):
            export(run, stage, tmp_path / "out", form=form, dtype=dtype)
        assert not (tmp_path / "out").exists()


def test_the_system_message_is_in_the_modelfile():
    assert modelfile("Be kind.").splitlines()[2] == 'SYSTEM """Be kind."""'


def test_a_pushed_export_is_what_was_written_and_what_the_hub_refuses_is_not_written(
    policy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with fake_hub(tmp_path, monkeypatch) as hub:
        out = export(policy_run, "sft", tmp_path / "out", "hf", push="me/kind")
        assert hub.repositories["models/me/kind"]["private"]
        assert hub.files("models/me/kind") == {path.name: path.read_bytes() for path in out.iterdir()}
        assert {"README.md", "model.safetensors", "config.json"} <= hub.files("models/me/kind").keys()
        with pytest.raises(HubError, match="not as you"):
            export(policy_run, "sft", tmp_path / "other", push="you/kind")
        assert not (tmp_path / "other").exists()
