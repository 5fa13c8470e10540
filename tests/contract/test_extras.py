"""The base is light: it imports and trains without the libraries of any extra, and names the extra that is missing."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "thumbs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

WINGS = {
    "clients": ("serve",),
    "service": ("serve",),
    "storage": ("serve", "collect"),
    "types": ("serve",),
    "web.guards": ("serve", "collect"),
    "web.proxies": ("serve", "collect"),
    "web.signing": ("serve", "collect"),
    "collect.web.oidc": ("sso",),
    "collect": ("collect",),
    "recipe": ("cookbook",),
    "models.architectures": ("hf",),
    "models.hf": ("hf",),
    "models.hf_lora": ("hf",),
    "models.gguf": ("gguf",),
    "models.gguf_writer": ("gguf",),
}
"""Modules that exist for extras alone: they may import at the top what each of these brings."""

GUARDED = {
    "cli.serve": ("serve",),
    "workers.ray_actors": ("cluster",),
    "cli.collect": ("collect",),
    "cli.collect_serve": ("collect",),
    "cli.collect_team": ("collect",),
}
"""Modules whose functions run inside `needs` of the command."""

MISSING = {
    "data": ("from thumbs.data.sources import read_rows; list(read_rows('hub:some/data'))", "data sets of the hub"),
    "hf": ("from thumbs.pipeline.exports import classifier_name; classifier_name('llama')", "exporting a reward model"),
    "gguf": ("from thumbs.models.catalog import resolve; resolve('FILE')", "reading tiny.gguf"),
    "report": ("from thumbs.report.charts import Plane, draw; print(draw(Plane('a', 'b', 'c'), []).svg)", "the chart"),
    "demo": ("from thumbs.evaluation.judges import vader; vader([], 'good')", "the judge of warmth"),
    "eval": ("from thumbs.evaluation.text import bleu; bleu(['a'], ['a'])", "BLEU"),
    "trackers": ("from thumbs.compat.trl_ppo.accelerator import _wandb; _wandb(None)", "log_with='wandb'"),
    "serve": ("import thumbs as tinker; tinker.ServiceClient()", "thumbs.ServiceClient"),
    "collect": ("from thumbs.cli.main import app; app(['collect', 'pairs.jsonl'])", "`thumbs collect`"),
    "sso": (
        "import os; os.environ['THUMBS_OIDC_SECRET'] = 'x'; from thumbs.cli.collect_serve import _provider; "
        "_provider('https://id.example.org', 'id', [])",
        "signing in through an identity provider",
    ),
    "cluster": ("from thumbs.workers.ray_actors import RayCrew; RayCrew()", "a cluster of Ray"),
    "vllm": ("from thumbs.rollout.vllm_worker import vllm_parts; vllm_parts()", "rollout.kind vllm"),
    "cookbook": ("import thumbs; thumbs.recipe.supervised", "thumbs.recipe"),
}
"""For each extra, what needs it and how the error begins."""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(extra: str) -> set[str]:
    """What an extra names, through the extras that it includes."""
    found: set[str] = set()
    for requirement in PROJECT["optional-dependencies"][extra]:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        if name[0] == "thumbs":
            included = re.search(r"\[(.+)\]", requirement)
            assert included is not None
            found |= set().union(*(distributions(one) for one in included[1].split(",")))
        else:
            found.add(canonical(name[0]))
    return found


BASE = {canonical(re.split(r"[\[<>=]", line)[0]) for line in PROJECT["dependencies"]}
EXTRAS = set(PROJECT["optional-dependencies"]) - {"all", "dev", "postgres"}
OPTIONAL = set().union(*map(distributions, EXTRAS)) - BASE
HOMES = {module: {canonical(d) for d in names} for module, names in importlib.metadata.packages_distributions().items()}
HOMES |= {"wandb": {"wandb"}}  # not in the environment of the tests
REFUSED = sorted(module for module, names in HOMES.items() if names & OPTIONAL and not names & BASE)


def without_extras(program: str) -> subprocess.CompletedProcess[str]:
    """Runs `program` where no library that only an extra brings can be imported."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.modules.update(dict.fromkeys({REFUSED}))\n{program}"],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def wing_of(module: str) -> tuple[str, ...]:
    """The extras that a module of ours exists for; none for the base."""
    return next((extras for wing, extras in WINGS.items() if f"{module}.".startswith(f"{wing}.")), ())


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def base_modules() -> list[str]:
    names = map(module_name, sorted(PACKAGE.rglob("*.py")))
    return [f"thumbs.{name}" for name in names if not wing_of(name) and "migrations" not in name]


def imports(node: ast.AST, extra: str | None = None) -> Iterator[tuple[str, str | None, int]]:
    """(module, extra that is named around it, line) of every import that runs."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from ((alias.name, extra, node.lineno) for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from ((f"{node.module}.{alias.name}", extra, node.lineno) for alias in node.names)
    around = [item.context_expr for item in node.items] if isinstance(node, ast.With) else []
    around += node.decorator_list if isinstance(node, ast.FunctionDef) else []
    for call in around:
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "needs":
            extra = ast.literal_eval(call.args[0])
    for child in ast.iter_child_nodes(node):
        yield from imports(child, extra)


def misfit(module: str, imported: str, named: str | None) -> str | None:
    """What is wrong with an import of `imported` inside `needs(named, …)` in a module of ours."""
    always = [extras for unit, extras in {**WINGS, **GUARDED}.items() if f"{module}.".startswith(f"{unit}.")]
    top, _, rest = imported.partition(".")
    if top == "thumbs":
        wanted = wing_of(rest)
        offered = {named} if named else set(always[0]) if always else set()
        fits = not wanted or any(distributions(one) >= distributions(w) for one in offered for w in wanted)
        return None if fits else f"needs({wanted[0]!r}, …) is missing"
    homes = HOMES.get(top, set())
    if not homes & OPTIONAL or homes & BASE:
        return None
    brought = bool(named and homes & distributions(named)) or any(
        all(homes & distributions(extra) for extra in extras) for extras in always
    )
    return None if brought else f"no extra around it brings {top}"


def test_the_base_is_small():
    assert len(BASE) <= 14


def test_every_extra_has_its_case_here():
    assert set(MISSING) == EXTRAS


def test_a_library_of_an_extra_is_imported_where_the_extra_is_named():
    wrong = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = module_name(path)
        for imported, extra, line in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if why := misfit(module, imported, extra):
                wrong[f"{path.relative_to(ROOT)}:{line} {imported}"] = why
    assert wrong == {}


def test_every_module_of_the_base_imports_without_extras():
    names = base_modules()
    assert len(names) > 150
    program = f"import importlib\nfor name in {names}:\n    importlib.import_module(name)\n"
    result = without_extras(program)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("extra", sorted(MISSING))
def test_a_missing_extra_names_the_command_that_installs_it(extra: str, tmp_path: Path):
    program, purpose = MISSING[extra]
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    result = without_extras(program.replace("FILE", str(tmp_path / "tiny.gguf")))
    said = result.stdout + result.stderr.rpartition("MissingExtra: ")[2]
    assert purpose in said
    assert f"pip install 'thumbs[{extra}]'" in said.replace("&#39;", "'")


def test_a_run_trains_and_reports_without_extras(tmp_path: Path):
    (tmp_path / "talk.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{n}", "response": "yes"}) + "\n" for n in range(8)), encoding="utf-8"
    )
    overrides = ["model.name=byte-tiny", "model.lora=null", "sft.epochs=1", "sft.batch_size=4", "sft.data.holdout=0.0"]
    config = tmp_path / "config.yaml"
    config.write_text(f"run: {tmp_path}/run\nsft: {{data: {{path: {tmp_path}/talk.jsonl}}}}\n", encoding="utf-8")
    result = without_extras(f"from thumbs.cli.main import app\napp(['run', {str(config)!r}, *{overrides}])")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "pip install &#39;thumbs[report]&#39;" in page
