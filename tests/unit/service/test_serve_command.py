"""`thumbs serve`, as far as it goes without listening."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.cli.serve import _configs, _policy, _screen, _serving, serve
from thumbs.cli.shell import Shell
from thumbs.clients.store import Store
from thumbs.config.base import build_config
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, RunError
from thumbs.pipeline.artifacts import open_run
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Example, Message
from thumbs.service.openai_errors import RefusedError
from unit.pipeline.tiny_run_settings import tiny_settings

app = typer.Typer(cls=Shell)
app.command("serve")(serve)
app.command("other")(lambda: None)


def _run(folder: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["serve", "--folder", str(folder), "--model", "byte-tiny", *arguments])
    return result.exit_code, result.output


def test_a_key_is_shown_once_listed_and_revoked(tmp_path: Path) -> None:
    code, output = _run(tmp_path, "--add-token", "alice\x1b[31m")
    assert code == 0
    key = re.search(r"tml-\S+", output)
    assert key is not None
    assert "\x1b" not in output
    store = Store(tmp_path)
    assert store.owner_of(key[0]) == "alice\x1b[31m"
    code, output = _run(tmp_path, "--tokens")
    assert key[0] not in output
    assert store.tokens()[0].id in output
    assert _run(tmp_path, "--revoke", store.tokens()[0].id)[0] == 0
    assert store.owner_of(key[0]) is None
    assert _run(tmp_path, "--revoke", "nothing")[0] == 1
    store.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104
def test_other_machines_are_let_in_only_with_keys(tmp_path: Path, host: str) -> None:
    code, output = _run(tmp_path, "--host", host)
    assert code == 2
    assert "--add-token" in output


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, output = _run(tmp_path, "--port", str(taken.getsockname()[1]))
    assert code == 2
    assert "choose another port" in output


def test_a_format_that_is_none(tmp_path: Path) -> None:
    code, output = _run(tmp_path, "--dtype", "float99")
    assert code == 2
    assert "'auto', 'float32' or 'bfloat16' (got 'float99')" in output


def test_models_and_aliases_compute_in_the_format_asked_for() -> None:
    configs = _configs(["byte-tiny"], ["org/name=byte-small"], "float32")
    assert {name: (c.name, c.dtype) for name, c in configs.items()} == {
        "byte-tiny": ("byte-tiny", "float32"),
        "org/name": ("byte-small", "float32"),
    }


def test_an_alias_without_a_name(tmp_path: Path) -> None:
    code, output = _run(tmp_path, "--port", "0", "--alias", "nothing")
    assert code == 2
    assert "NAME=MODEL" in output


def test_a_model_whose_replies_nothing_ends_is_found_at_the_start(tmp_path: Path) -> None:
    folder = save_tiny_chat_model(tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    code, output = _run(tmp_path / "kept", "--alias", f"Qwen/Qwen3-8B={folder}", "--port", "0")
    assert code == 1
    assert "no special token ends a reply" in " ".join(output.split())


def test_help_shows_how_to_start(tmp_path: Path) -> None:
    code, output = _run(tmp_path, "--help")
    assert code == 0
    for word in ("--alias", "--add-token", "thumbs serve --model smollm2-135m"):
        assert word in output


def test_settings_of_templates_reach_every_model() -> None:
    configs = _configs(["a", "b"], ["c=d"], "auto", ["variables.enable_thinking=false", "date=2031-05-09"])
    for config in configs.values():
        assert config.template.variables == {"enable_thinking": False}
        assert str(config.template.date) == "2031-05-09"
    with pytest.raises(ConfigError, match="template"):
        _configs(["a"], [], "auto", ["variable=1"])


def test_engine_and_rollout_are_the_sections_of_a_run(tmp_path: Path) -> None:
    engine = {"kind": "cluster", "workers": 4, "launcher": "pipes", "shard": "hybrid", "gpus_per_worker": 0}
    others = ["engine.shard_group=2", "engine.recompute=true", "rollout.python=/env/python", "rollout.cache_gib=0.5"]
    sections = {"engine": engine, "rollout": {"kind": "vllm", "workers": 2}}
    serving = _serving(sections, others, tmp_path)
    chosen = {"shard_group": 2, "recompute": True, "logs": str(tmp_path / "logs")}
    assert serving.engine == EngineConfig(**engine, **chosen)  # type: ignore[arg-type]
    assert serving.rollout == RolloutConfig(kind="vllm", workers=2, python="/env/python", cache_gib=0.5, adapters=8)
    assert _serving({}, ["engine.kind=cluster", "engine.logs=elsewhere"], tmp_path).engine.logs == "elsewhere"


def test_filters_are_those_of_the_section_safety(tmp_path: Path) -> None:
    given = {"safety": {"filters": ["secrets", "cards"]}}
    assert [each.name for each in _serving(given, [], tmp_path).safety.filters] == ["secrets", "cards"]
    listed = _serving(given, ["safety.filters=[{name: words, terms: [anvil]}]"], tmp_path)
    screen = _screen(listed.safety, tmp_path)
    assert screen is not None
    with pytest.raises(RefusedError, match="words: the listed term 'anvil'"):
        screen.sample([Message("user", "An Anvil!")], lambda _: "", Future, together=False)
    assert _screen(_serving({}, [], tmp_path).safety, tmp_path) is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--shard", "full"], "shard 'full' spreads weights over ranks; set kind to cluster"),
        (["--workers", "2"], "workers is for ranks; set kind to cluster"),
        (["--engine", "clutser"], "engine.kind"),
        (["--engine", "cluster", "--shard", "half"], "'none', 'full' or 'hybrid' (got 'half')"),
        (["--engine", "cluster", "--launcher", "pipes", "--gpus-per-worker", "1"], "launcher pipes hands out no GPUs"),
        (["--rollout", "sglang"], "rollout.kind"),
        (["--set", "rollout.tensor_parallel=2"], "tensor_parallel is for kind: vllm"),
        (["--set", "rollout.staleness=1"], "rollout.staleness: a client says how far its samples may be behind"),
        (["--set", "rollout.cut_after_s=3"], "rollout.cut_after_s: a client says"),
        (["--set", "rollout.samplers=2"], "samplers"),
        (["--set", "ppo.steps=2"], "ppo"),
        (["--set", "safety.max_unsafe=0.5"], "safety.max_unsafe: a server has filters and a guard, and no gate"),
        (["--filter", "guard"], "guard asks a model, which `safety.guard` names"),
        (["--filter", "secrets", "--set", "safety.guard.model=byte-tiny"], "safety.guard is asked by the filter"),
        (["--filter", "secretz"], "secretz"),
        (["--filter", "words"], "words has no words"),
        (["--rollout", "vllm", "--alias", "other=byte-small"], "a worker with vLLM holds one base model"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, arguments: list[str], told: str) -> None:
    code, output = _run(tmp_path, "--port", "0", *arguments)
    assert code == 2, output
    assert told in " ".join(output.split())


def test_a_policy_of_a_run_is_served_by_the_name_of_its_stage(tmp_path: Path) -> None:
    """What the server would draw from has the logprobs of the policy in the run."""
    config = build_config(PipelineConfig, tiny_settings(tmp_path) | {"evaluation": None})
    run = run_pipeline(config)
    served = _policy(run, None, tmp_path / "serve")
    assert list(served) == ["ppo"]
    assert _policy(run, "ppo", tmp_path / "serve") == served  # written once
    opened, engine = open_run(run), LocalEngine()
    model = _configs(None, [], "float32", (), served)["ppo"].model_copy(update={"lora": None})
    data = [Example.next_token(opened.tokenizer.encode("Ana, nice day."))]
    (theirs,) = engine.forward(engine.create(ModelSpec("served", model, ("lm",), trainable=False)), data)
    (ours,) = opened.engine.forward(opened.model("ppo"), data)
    np.testing.assert_allclose(theirs.logprobs, ours.logprobs, atol=1e-5)
    for stage, told in (("reward_model", "cannot generate text"), ("rejection", "has no model"), ("pop", "no stage")):
        with pytest.raises(RunError, match=told):
            _policy(run, stage, tmp_path / "serve")
    with pytest.raises(ConfigError, match="--stage says which policy of a --run"):
        _policy(None, "ppo", tmp_path)
    assert list(_configs(None, [], "auto")) == ["smollm2-135m"]
    assert list(_configs(["byte-tiny"], [], "auto", (), served)) == ["byte-tiny", "ppo"]
