"""The commands pass on what the user typed, and turn what comes back into text and exit codes."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.cli.shell import printable
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import CheckpointError, ConfigError, DataError, RunError
from thumbs.records import Generator, Reply

COMMANDS = (
    "init",
    "demo",
    "run",
    "sft",
    "cost-model",
    "reward-model",
    "direct",
    "ppo",
    "group",
    "rejection",
    "plan",
    "lab",
    "lint",
    "sample",
    "chat",
    "eval",
    "compare",
    "report",
    "safety",
    "export",
    "trace",
    "cluster",
    "collect",
    "data",
    "serve",
    "schema",
    "doctor",
)
CONFIG = """
run: runs/mine
sft: {data: {path: demonstrations.jsonl}}
ppo: {prompts: {path: prompts.jsonl}}
"""

Fake = Callable[..., None]


def typed(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(autouse=True)
def _keep_log_quiet():
    yield
    logging.getLogger("thumbs").handlers.clear()
    logging.getLogger("thumbs").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _folder_with_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder, in which runs/mine is a run."""
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a module of the given functions in place of one that would load torch."""

    def replace(name: str, **functions: Any) -> None:
        module = ModuleType(name)
        module.__dict__.update(functions)
        monkeypatch.setitem(sys.modules, name, module)

    return replace


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return str(path)


@pytest.fixture
def runs(fake: Fake) -> list[tuple[PipelineConfig, str | None, bool]]:
    """The calls of run_pipeline; the report is always runs/mine/report.html."""
    calls: list[tuple[PipelineConfig, str | None, bool]] = []

    def run_pipeline(
        config: PipelineConfig, *, until: str | None, fresh: bool, people: object, source: Path | None
    ) -> Path:
        assert source is None
        asks = config.labels is not None and config.labels.people is not None
        assert (people is not None) == asks
        calls.append((config, until, fresh))
        return Path("runs/mine")

    fake("thumbs.pipeline.run", run_pipeline=run_pipeline)
    fake("thumbs.report.build", build_report=lambda run: run / "report.html")
    return calls


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_help_lists_every_command():
    result = typed("--help")
    assert result.exit_code == 0
    table = result.stdout.partition("Commands:")[2].partition("Methods")[0]
    listed = [line.split()[0] for line in table.splitlines() if re.match(r"  \S", line)]
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(command: str):
    result = typed(command, "--help")
    assert result.exit_code == 0
    assert re.search(rf"Example:\n    thumbs {command}[ \n]", result.stdout)


def test_run_applies_overrides_and_says_where_the_report_is(config_file: str, runs: list):
    result = typed("run", config_file, "seed=7", "ppo.kl.coef=0.05", "run=runs/other", "--fresh")
    assert result.exit_code == 0, result.output
    ((config, until, fresh),) = runs
    assert (config.seed, config.ppo.kl.coef, config.run) == (7, 0.05, "runs/other")
    assert (until, fresh) == (None, True)
    assert str(Path("runs/mine/report.html")) in result.stdout


def test_a_run_whose_pairs_people_judge_is_given_who_asks_them(config_file: str, runs: list):
    result = typed("run", config_file, "labels.people.pairs=20", "labels.prompts.path=prompts.jsonl")
    assert result.exit_code == 0, result.output
    assert [call[0].labels.people.pairs for call in runs] == [20]


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_stage_commands_run_up_to_their_stage(stage: str, config_file: str, runs: list):
    assert typed(stage, config_file).exit_code == 0
    assert [(until, fresh) for _, until, fresh in runs] == [(stage, False)]


def test_a_stage_that_the_config_lacks_is_a_usage_error(config_file: str, runs: list):
    result = typed("reward-model", config_file)
    assert result.exit_code == 2
    assert "no section `reward_model`" in result.stderr
    assert runs == []


def test_an_unknown_key_names_the_nearest_known_one(config_file: str, runs: list):
    result = typed("run", config_file, "ppo.kl.coeff=0.05")
    assert result.exit_code == 2
    assert "did you mean 'coef'" in result.stderr
    assert runs == []


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(ConfigError("c"), 2), (DataError("d"), 1), (RunError("r"), 1), (CheckpointError("k"), 1)],
)
def test_errors_for_users_are_one_message_without_a_traceback(
    error: Exception, exit_code: int, config_file: str, fake: Fake, runs: list
):
    fake("thumbs.pipeline.run", run_pipeline=raising(error))
    result = typed("run", config_file)
    assert (result.exit_code, result.stderr) == (exit_code, f"error: {error}\n")


def test_an_error_that_nobody_foresaw_keeps_its_traceback(config_file: str, fake: Fake, runs: list):
    fake("thumbs.pipeline.run", run_pipeline=raising(ZeroDivisionError("a bug")))
    assert isinstance(typed("run", config_file).exception, ZeroDivisionError)


def test_ctrl_c_says_how_to_go_on(config_file: str, fake: Fake, runs: list):
    fake("thumbs.pipeline.run", run_pipeline=raising(KeyboardInterrupt()))
    result = typed("run", config_file)
    assert result.exit_code == 130
    assert "stopped; run the same command again to go on" in result.stderr


def test_a_dry_run_prints_what_would_happen_and_runs_nothing(config_file: str, fake: Fake, runs: list):
    seen: list[Any] = []

    def rehearse(config: PipelineConfig, *, until: str | None, fresh: bool, source: Path | None) -> Any:
        seen.append((config.seed, until, fresh, source))
        return SimpleNamespace(text=lambda: "sft  begins", forecast=SimpleNamespace(warnings=("too long",)))

    fake("thumbs.pipeline.rehearsal", rehearse=rehearse)
    result = typed("sft", config_file, "seed=3", "--fresh", "--dry-run")
    assert (result.stdout, result.stderr) == ("sft  begins\n", "warning: too long\n")
    assert seen == [(3, "sft", True, None)]
    assert runs == []


def test_plan_prints_the_plan_and_its_warnings(config_file: str, fake: Fake):
    seen: list[PipelineConfig] = []

    def plan(config: PipelineConfig) -> Any:
        seen.append(config)
        return SimpleNamespace(text=lambda: "parameters 5", warnings=("too long",))

    fake("thumbs.pipeline.plan", plan=plan)
    result = typed("plan", config_file, "seed=3")
    assert result.exit_code == 0
    assert (result.stdout, result.stderr) == ("parameters 5\n", "warning: too long\n")
    assert seen[0].seed == 3


@pytest.mark.parametrize(("rows_left", "exit_code"), [(3, 0), (0, 1)])
def test_lint_fails_only_when_nothing_is_left(rows_left: int, exit_code: int, fake: Fake):
    calls: list[Any] = []

    def lint(path: str, tokenizer: Any = None, kind: str = "auto", **settings: Any) -> Any:
        calls.append((path, tokenizer, kind))
        return SimpleNamespace(text=lambda: "a\x1b[2Jb", rows_left=rows_left)

    fake("thumbs.data.lint", lint=lint)
    result = typed("lint", "data.jsonl", "--kind", "prompts")
    assert result.exit_code == exit_code
    assert result.stdout == "a\\x1b[2Jb\n"
    assert calls == [("data.jsonl", None, "prompts")]


def test_lint_measures_with_the_tokenizer_of_a_model(fake: Fake):
    used: list[Any] = []

    def lint(path: str, tokenizer: Any = None, kind: str = "auto", **settings: Any) -> Any:
        used.append(tokenizer)
        return SimpleNamespace(text=lambda: "", rows_left=1)

    fake("thumbs.data.lint", lint=lint)
    fake(
        "thumbs.data.tokenizers",
        ByteTokenizer=lambda: "bytes",
        load_tokenizer=lambda folder: f"from {folder}",
    )
    fake(
        "thumbs.models.catalog",
        is_builtin_byte=lambda name: name == "byte-tiny",
        resolve=lambda name: f"cache/{name}",
    )
    assert typed("lint", "data.jsonl", "--model", "byte-tiny").exit_code == 0
    assert typed("lint", "data.jsonl", "--model", "smollm2-135m").exit_code == 0
    assert used == ["bytes", "from cache/smollm2-135m"]


def test_sample_passes_on_how_to_draw_and_prints_replies_harmlessly(fake: Fake):
    calls: list[Any] = []
    generator = Generator(kind="model", name="m")

    def sample_text(*arguments: Any) -> list[list[Reply]]:
        calls.append(arguments)
        return [[Reply("Hi\x1b]0;x\x07", generator), Reply("So", generator, stop_reason="length")]]

    fake("thumbs.pipeline.artifacts", sample_text=sample_text)
    result = typed(
        "sample", "runs/mine", "--stage", "sft", "Hello?", "-n", "2",
        "--temperature", "0.5", "--max-new-tokens", "9", "--seed", "4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout == "Hi\\x1b]0;x\\x07\n\nSo [cut]\n\n"
    ((run, stage, prompts, n, sampling, seed),) = calls
    assert (run, stage, prompts, n, seed) == (Path("runs/mine"), "sft", ["Hello?"], 2, 4)
    assert (sampling.temperature, sampling.max_new_tokens) == (0.5, 9)


def test_a_number_out_of_range_is_a_usage_error(fake: Fake):
    fake("thumbs.pipeline.artifacts", sample_text=raising(AssertionError("must not be called")))
    assert typed("sample", "runs/mine", "Hello?", "--temperature", "-1").exit_code == 2


def test_eval_prints_json(fake: Fake, monkeypatch: pytest.MonkeyPatch):
    calls: list[Any] = []

    def evaluate_run(run: Path, **asked: Any) -> dict[str, Any]:
        calls.append((asked["prompts"], None if asked["gold"] is None else asked["gold"].title))
        return {"run": str(run), "ppo.gold": 0.5}

    fake("thumbs.pipeline.evaluate", evaluate_run=evaluate_run)
    fake("thumbs.report.build", build_report=lambda run: run / "report.html")
    monkeypatch.setattr("thumbs.cli.evaluate._people", lambda run, gold: None)
    assert json.loads(typed("eval", "runs/mine").stdout) == {"run": "runs/mine", "ppo.gold": 0.5}
    settings = ("--gold", "judge=j", "--gold", "endpoint=http://localhost:1/v1")
    assert typed("eval", "runs/mine", "--prompts", "p.jsonl", *settings).exit_code == 0
    assert typed("eval", "runs/mine", "--gold", "vader").exit_code == 0
    assert calls == [(None, None), ("p.jsonl", "j"), (None, "vader")]
    mixed = typed("eval", "runs/mine", "--gold", "vader", "--gold", "judge=j")
    assert (mixed.exit_code, "write one gold in short, or settings alone" in mixed.stderr) == (2, True)
    two = typed("eval", "runs/mine", "--gold", "judge=j", "--gold", "function=a:b")
    assert "a gold is one of" in two.stderr


def test_eval_judge_prints_a_table(fake: Fake):
    def audit_pair_judge(settings: Any, pairs: str) -> dict[str, Any]:
        assert (settings.judge, settings.endpoint, pairs) == ("j", "http://h/v1", "p.jsonl")
        names = ("consistency", "position", "longer", "longer_labels", "length_bias", "agreement", "null_longer")
        number = {"value": 0.75, "low": 0.5, "high": 0.875}
        return {"pairs": 9, "untied": 8, **dict.fromkeys((*names, "null_first"), number)}

    fake("thumbs.pipeline.reward_audit", audit_pair_judge=audit_pair_judge)
    result = typed("eval", "judge", "j", "--gold", "endpoint=http://h/v1", "--pairs", "p.jsonl")
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("agreement")]
    assert row.split() == [
        "agreement",
        "with",
        "people",
        "0.750",
        "0.500",
        "to",
        "0.875",
        "8",
        "untied",
        "pairs",
        "of",
        "9",
    ]


def test_eval_reward_audits_and_names_the_report(fake: Fake, monkeypatch: pytest.MonkeyPatch):
    calls: list[Any] = []

    def audit_reward(run: Path, *, halves: bool) -> dict[str, str]:
        calls.append((run, halves))
        return {"finding": "\x1b[2J"}

    fake("thumbs.pipeline.reward_audit", audit_reward=audit_reward)
    fake("thumbs.report.build", build_report=lambda run: run / "report.html")
    monkeypatch.setattr("thumbs.cli.evaluate.audit_lines", lambda found: [found["finding"]])
    result = typed("eval", "reward-model", "runs/mine", "--halves")
    assert (result.exit_code, result.stdout) == (0, "\\x1b[2J\nreport: runs/mine/report.html\n")
    assert calls == [(Path("runs/mine"), True)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "b"), "thumbs eval reward-model RUN"),
        (("reward-model", "a", "b"), "thumbs eval reward-model RUN"),
        (("runs/mine", "--halves"), "--halves belongs to `thumbs eval reward-model …`"),
        (("judge", "j"), "needs --pairs FILE"),
        (("reward-model", "a", "--gold", "vader"), "--gold belongs to `thumbs eval RUN …` or `thumbs eval judge …`"),
    ],
)
def test_eval_says_how_it_is_written(arguments: tuple[str, ...], words: str, fake: Fake):
    fake("thumbs.pipeline.evaluate", evaluate_run=raising(AssertionError("must not be called")))
    result = typed("eval", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())


def test_report_prints_where_it_is(fake: Fake):
    fake("thumbs.report.build", build_report=lambda run: run / "report.html")
    assert typed("report", "runs/mine").stdout == "runs/mine/report.html\n"


def test_export_takes_the_folder_after_the_options(fake: Fake):
    calls: list[Any] = []

    def export(*arguments: Any, **pushed: Any) -> Path:
        calls.append((arguments, pushed))
        return Path("out")

    fake("thumbs.pipeline.artifacts", export=export)
    result = typed("export", "runs/mine", "--stage", "ppo", "--merge", "--push", "me/kind", "out/")
    assert (result.exit_code, result.stdout) == (0, "out\n")
    wanted = (Path("runs/mine"), "ppo", Path("out"), "hf", None, None)
    assert calls == [(wanted, {"push": "me/kind", "public": False})]
    assert "is pushed, and nothing is" in typed("export", "runs/mine", "out/", "--stage", "sft", "--public").stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 你好\n\tline", "plain é 你好\n\tline"),
        ("\x1b[31m\r\x00", "\\x1b[31m\\r\\x00"),
        ("a\u202eb", "a\\u202eb"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable_escapes_what_would_steer_the_terminal(text: str, shown: str):
    assert printable(text) == shown
