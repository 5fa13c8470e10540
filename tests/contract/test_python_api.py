"""thumbs from Python: the documents' snippets run, the page is what the code says, and importing it is light."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import api_page
import pytest
import yaml

import thumbs
from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from unit.pipeline.tiny_run_settings import tiny_settings

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "pydantic",
    "typer",
    "sqlalchemy",
    "starlette",
    "matplotlib",
    "thumbs.config.pipeline",
)
PACKAGES = [found.name for found in pkgutil.iter_modules(thumbs.__path__) if found.ispkg]


def snippets(document: str) -> str:
    text = (ROOT / document).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def imported(program: str) -> list[str]:
    """Which heavy modules a program has loaded at its end."""
    program += f"\nimport json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.yaml, whose run is runs/mine."""
    folder = tmp_path_factory.mktemp("api")
    settings = {**tiny_settings(folder), "run": "runs/mine"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize("document", ["README.md", "docs/guides/python.md"])
def test_the_snippets_of_the_documents_run(document: str, working_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(working_folder)
    shown = snippets(document)
    assert "thumbs.run(" in shown
    exec(compile(shown.replace('"ppo.kl.coef=0.05"', '"run=runs/readme"'), document, "exec"), {})  # noqa: S102
    opened = thumbs.open_run("runs/mine" if "guides" in document else "runs/readme")
    assert opened.stages == ("sft", "labels", "reward_model", "ppo", "evaluation")
    assert opened.results["ppo.gold"] == json.loads((opened.path / "summary.json").read_text())["ppo.gold"]
    assert (opened.path / "report.html").exists()


def test_a_config_is_a_path_a_mapping_or_an_object(tmp_path: Path):
    settings = {"run": "runs/mine", "sft": {"data": {"path": "talk.jsonl"}, "epochs": 2}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    wanted = build_config(PipelineConfig, {**settings, "seed": 4})
    for config in (path, str(path), settings, build_config(PipelineConfig, settings)):
        assert thumbs.load_config(config, ["seed=4"]) == wanted


def test_what_is_wrong_is_an_error_of_thumbs(tmp_path: Path):
    with pytest.raises(thumbs.errors.RunError, match="is not a run folder"):
        thumbs.open_run(tmp_path)
    with pytest.raises(thumbs.errors.ConfigError, match="did you mean 'seed'"):
        thumbs.run({"run": str(tmp_path / "run"), "sed": 1})
    with pytest.raises(thumbs.errors.ConfigError, match="no section `group`"):
        thumbs.run({"run": str(tmp_path / "run")}, until="group")


def test_the_page_is_what_the_code_gives_now():
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert page == api_page.page(), "python docs/generators/api_page.py > docs/reference/api.md"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_says_what_is_public_in_it(name: str):
    package = importlib.import_module(f"thumbs.{name}")
    assert package.__doc__
    assert len(set(package.__all__)) == len(package.__all__) > 0
    modules = {found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_")}
    with contextlib.suppress(thumbs.errors.MissingExtra):  # the recipes are those of a library
        missing = [one for one in package.__all__ if one not in modules and not hasattr(package, one)]
        assert missing == []
    if set(package.__all__) <= modules:  # a list of modules is a list of all of them
        assert modules == set(package.__all__)


def test_importing_thumbs_loads_nothing_heavy():
    assert imported("import thumbs") == []


def test_help_loads_no_torch():
    shown = "import contextlib, io\nfrom thumbs.cli.main import app\n"
    shown += "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    app(['--help'])"
    assert set(imported(shown)) <= {"pydantic", "typer"}
