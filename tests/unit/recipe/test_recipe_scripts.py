"""What scripts around the recipes use: log folders, loggers, learning rates, and what a model's name says."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from thumbs.errors import ConfigError, DataError
from thumbs.recipe import command_line, hyperparameters, loggers, model_info, notes, tokenizers
from thumbs.recipe.preference import Comparison
from thumbs.recipe.preference.comparison_policy_evaluator import ComparisonEvaluator


def test_where_runs_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_COOKBOOK_RUNS_DIR", "/somewhere")
    assert command_line.runs_path("math", "one") == "/somewhere/math/one"
    monkeypatch.delenv("TINKER_COOKBOOK_RUNS_DIR")
    assert command_line.runs_path("a") == str(Path.home() / "tinker-runs" / "a")
    assert command_line.model_name_from_argv(["x=1", "model_name=a", "model_name=b"], "c") == "b"
    assert command_line.model_name_from_argv([], "c") == "c"


@pytest.mark.parametrize(
    ("behavior", "answers", "stays"),
    [("delete", [], False), ("resume", [], True), ("ask", ["what", "delete"], False), ("ask", ["resume"], True)],
)
def test_a_log_folder_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behavior, answers: list, stays: bool
) -> None:
    folder = tmp_path / "run"
    command_line.check_log_dir(str(folder), behavior)  # nothing is there yet
    folder.mkdir()
    (folder / "metrics.jsonl").touch()
    monkeypatch.setattr("builtins.input", lambda _: answers.pop(0))
    command_line.check_log_dir(str(folder), behavior)
    assert (folder.exists(), answers) == (stays, [])


def test_a_folder_that_holds_no_run_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="holds no run"):
        command_line.check_log_dir(str(tmp_path), "delete")
    with pytest.raises(ConfigError, match="exists already"):
        command_line.check_log_dir(str(tmp_path), "raise")
    with pytest.raises(ConfigError, match="it can be 'delete'"):
        command_line.check_log_dir(str(tmp_path), "remove")  # type: ignore[arg-type]
    monkeypatch.setattr("builtins.input", lambda _: "exit")
    with pytest.raises(SystemExit):
        command_line.check_log_dir(str(tmp_path), "ask")
    assert (tmp_path / "thesis.txt").exists()


def test_loggers_write_files_and_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = loggers.setup_logging(str(tmp_path), config={"rate": 0.5}, do_configure_logging_module=False)
    logger.log_metrics({"loss": 0.25, "note": object}, step=3)
    logger.log_metrics({"loss": 0.125})
    logger.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(3, 0.25), (4, 0.125)]
    assert json.loads((tmp_path / "config.json").read_text()) == {"rate": 0.5}
    assert "loss  0.25" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="wandb_project='w' is not supported"):
        loggers.setup_logging(str(tmp_path), wandb_project="w")
    assert loggers.recipe_user_metadata("sft")["recipe_name"] == "sft"


def test_the_log_goes_to_a_file(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        loggers.configure_logging_module(str(tmp_path / "a" / "logs.log")).info("seen")
        with notes.scope_header("Turn 1"):
            notes.log_text("not at this level")
        assert (tmp_path / "a" / "logs.log").read_text().count("\n") == 1
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.level = before, level


def test_notes_are_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="thumbs"), notes.scope_header("Turn 1", style="x"):
        notes.log_text("hello")
        notes.table_from_dict({"a": 1}, caption="numbers")
        notes.table([1, 2])
        notes.details("long", summary="short")
        notes.log_formatter("formatted")
    assert [record.getMessage() for record in caplog.records] == [
        "== Turn 1",
        "hello",
        "numbers: {'a': 1}",
        ": [1, 2]",
        "short: long",
        "formatted",
    ]


# The shapes of models that are published, and the parameters a rank that were counted on a hosted service.
QWEN3_8B = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
LLAMA_1B = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def saved(folder: Path, config: dict) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_parameters_of_an_adapter(tmp_path: Path) -> None:
    qwen, llama = saved(tmp_path / "qwen3-8b", QWEN3_8B), saved(tmp_path / "llama-1b", LLAMA_1B)
    count = hyperparameters.get_lora_param_count
    assert count(qwen, 1) == 2_883_968
    assert count(qwen, 1, train_attn=False, train_unembed=False) == 1_769_472
    assert count(qwen, 16, train_mlp=False, train_unembed=False) == 16 * 958_464
    assert count(llama, 1) == 491_520 + 212_992 + 130_304
    with pytest.raises(ConfigError, match="all off"):
        count(llama, train_mlp=False, train_attn=False, train_unembed=False)
    moe = saved(tmp_path / "moe", {**QWEN3_8B, "model_type": "qwen3_moe", "num_experts": 8})
    with pytest.raises(ConfigError, match="mixture of experts"):
        count(moe)
    assert count("byte-tiny", 2, train_mlp=False, train_attn=False) % 2 == 0


def test_learning_rates(tmp_path: Path) -> None:
    """As tinker_cookbook 0.5.8 gives them for Qwen/Qwen3-8B and meta-llama/Llama-3.2-1B."""
    qwen, llama = saved(tmp_path / "qwen3-8b", QWEN3_8B), saved(tmp_path / "llama-1b", LLAMA_1B)
    assert hyperparameters.get_lr(qwen) == pytest.approx(4.7297908e-4)
    assert hyperparameters.get_lr(llama) == pytest.approx(4.9082394e-4)
    assert hyperparameters.get_lr(llama, is_lora=False) == pytest.approx(4.9082394e-5)
    with pytest.raises(ConfigError, match="choose one"):
        hyperparameters.get_lr("smollm2-135m")


@pytest.mark.parametrize(
    ("name", "organization", "version", "size", "chat", "renderer"),
    [
        ("Qwen/Qwen3-8B", "Qwen", "3", "8B", True, "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Base", "Qwen", "3", "30B-A3B", False, "role_colon"),
        ("Qwen/Qwen3.5-9B", "Qwen", "3.5", "9B", True, "qwen3_5"),
        ("meta-llama/Llama-3.1-8B", "meta-llama", "3.1", "8B", False, "role_colon"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama", "3.1", "8B", True, "llama3"),
        ("smollm2-135m", "", "2", "135m", True, "chat_template"),
    ],
)
def test_what_a_name_says(name: str, organization: str, version: str, size: str, chat: bool, renderer: str) -> None:
    attributes = model_info.get_model_attributes(name)
    assert (attributes.organization, attributes.version_str, attributes.size_str) == (organization, version, size)
    assert (attributes.is_chat, attributes.recommended_renderers[0]) == (chat, renderer)


def test_an_alias_has_the_format_of_the_model_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBS_ALIASES", "Qwen/Qwen3-8B=smollm2-135m,mine=Qwen/Qwen3-8B")
    assert model_info.get_recommended_renderer_name("Qwen/Qwen3-8B") == "chat_template"
    assert model_info.get_recommended_renderer_name("mine") == "qwen3"


def test_own_tokenizers() -> None:
    made = SimpleNamespace()
    tokenizers.register_tokenizer("mine", lambda: made)
    assert tokenizers.is_tokenizer_registered("mine")
    assert tokenizers.get_registered_tokenizer_names() == ["mine"]
    assert tokenizers.get_tokenizer("mine") is made
    assert tokenizers.unregister_tokenizer("mine")
    assert not tokenizers.unregister_tokenizer("mine")


class Says:
    """A sampling client that replies `b`, and an end."""

    def sample(self, prompt, num_samples, sampling_params):
        sequence = SimpleNamespace(tokens=[ord("b"), 259], logprobs=[0.0, 0.0], stop_reason="stop")
        return SimpleNamespace(result_async=lambda: answered(SimpleNamespace(sequences=[sequence])))


async def answered(value):
    return value


@pytest.mark.parametrize(("both_ways", "wins"), [(True, [0.75, 0.25]), (False, [0.875, 0.375])])
def test_how_often_a_policy_wins(both_ways: bool, wins: list) -> None:
    """The judge gives 0.5 for letters later in the alphabet, and 0.25 for the second place."""

    async def judge(comparison: Comparison) -> float:
        first, second = (side[0]["content"] for side in (comparison.completion_A, comparison.completion_B))
        assert second == "B" or first == "B"
        return (0.5 if second > first else -0.5) + 0.25

    reference = [
        Comparison([{"role": "user", "content": "q"}], [{"role": "assistant", "content": x}], []) for x in "AZ"
    ]
    evaluator = ComparisonEvaluator(
        lambda: judge, reference, "chat_template", "byte-tiny", both_ways, 4, content_preprocessor=str.upper
    )
    metrics = asyncio.run(evaluator(Says()))
    assert metrics["win_rate"] == pytest.approx(sum(wins) / 2)
    assert metrics["stderr"] == pytest.approx(0.25)  # of two numbers 0.5 apart
    with pytest.raises(DataError, match="comparisons is empty"):
        ComparisonEvaluator(lambda: judge, [], "chat_template", "byte-tiny")
