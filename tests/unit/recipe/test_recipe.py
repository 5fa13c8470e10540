"""`thumbs.recipe` with a stand-in for the cookbook; the cookbook itself is in tests/service/test_cookbook.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[3] / "src"
FILES = {
    "__init__.py": "",
    "tokenizer_utils.py": "NAMES = {}\nregister_tokenizer = NAMES.__setitem__\n",
    "model_info.py": "def get_recommended_renderer_name(model):\n    return {'Qwen/Qwen3-8B': 'qwen3'}[model]\n",
    "rl/__init__.py": "",
    "rl/train.py": "import tinker\nmain = 'their main'\nCLIENT = tinker.ServiceClient\n",
    "needs_more.py": "import a_library_that_nobody_has\n",
}


def said(program: str, folder: Path | None = None, **settings: str) -> str:
    """What a new process prints; a cookbook of a few lines is in `folder`."""
    for name, text in FILES.items() if folder else ():
        file = folder / "tinker_cookbook" / name  # type: ignore[operator]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TINKER_", "MINT_"))}
    path = os.pathsep.join(map(str, filter(None, (SRC, folder))))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**clean, "PYTHONPATH": path, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_without_the_cookbook_the_command_that_installs_it_is_named() -> None:
    for program in ("from thumbs.recipe.supervised import train", "import thumbs; thumbs.recipe.rl.train"):
        assert "run pip install 'thumbs[cookbook]'" in said(program)


def test_modules_and_names_are_the_cookbooks(tmp_path: Path) -> None:
    program = "from thumbs.recipe.rl import train; import thumbs, tinker_cookbook.rl.train as theirs\n"
    program += (
        "print(train.main, thumbs.recipe.rl.train is train, train.CLIENT is theirs.CLIENT, train.CLIENT.__mro__[1])"
    )
    expected = "their main True True <class 'thumbs.clients.service_client.ServiceClient'>\n"
    assert said(program, tmp_path) == expected


def test_tokenizers_of_local_names_are_registered(tmp_path: Path) -> None:
    program = "from thumbs.recipe.tokenizer_utils import NAMES; print(sorted(NAMES))\n"
    names = said(program, tmp_path, THUMBS_ALIASES="mine=byte-tiny")
    assert "'byte-small', 'byte-tiny', 'mine', 'smollm2-135m'" in names
    shown = said("from thumbs import recipe; print(recipe.get_recommended_renderer_name('Qwen/Qwen3-4B'))", tmp_path)
    assert shown == "qwen3\n"


def test_a_library_that_the_cookbook_misses_is_not_the_cookbook(tmp_path: Path) -> None:
    message = said("import thumbs.recipe.needs_more", tmp_path)
    assert "ModuleNotFoundError: No module named 'a_library_that_nobody_has'" in message
    assert "thumbs[cookbook]" not in message


@pytest.mark.parametrize(
    ("variable", "distribution"), [("TINKER_BASE_URL", "tinker"), ("MINT_BASE_URL", "mindlab-toolkit")]
)
def test_a_server_needs_its_sdk(variable: str, distribution: str, tmp_path: Path) -> None:
    message = said("import thumbs.recipe", tmp_path, **{variable: "http://there"})
    assert f"{variable}=http://there sends recipes to that server" in message
    assert f"pip install {distribution}," in message


def test_an_sdk_that_was_imported_stays(tmp_path: Path) -> None:
    (tmp_path / "tinker.py").write_text("ServiceClient = 'the SDK'\n", encoding="utf-8")
    assert said("import tinker; from thumbs import recipe; print(recipe.rl.train.CLIENT)", tmp_path) == "the SDK\n"
    settings = {"TINKER_BASE_URL": "http://there"}
    assert said("from thumbs import recipe; print(recipe.rl.train.CLIENT)", tmp_path, **settings) == "the SDK\n"
