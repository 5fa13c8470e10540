"""What makes a release refuses what is none; the images copy files that are there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from thumbs.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
GIT = shutil.which("git") or ""
HOME = "https://example.org/a/thumbs"
FAKE_WHEEL = '#!/bin/sh\nmkdir -p "$1" && echo "$THUMBS_REPOSITORY" > "$1/thumbs.whl"\n'


class Checkout:
    """A repository that is ready to be released as v1.2.0; what it would publish is a stand-in."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / ".ci").mkdir()
        (folder / "src/thumbs").mkdir(parents=True)
        shutil.copy(ROOT / ".ci/release", folder / ".ci")
        self.write(".ci/wheel", FAKE_WHEEL).chmod(0o755)
        self.write("pyproject.toml", '[project]\nversion = "1.2.0"\n')
        self.write("src/thumbs/__init__.py", '__version__ = "1.2.0"\n')
        self.write("CHANGELOG.md", "# Changelog\n\n## 1.2.0 (2027-01-31)\n\n* more\n")
        self.write(".gitignore", "dist/\n")
        self.git("init", "-q")
        self.commit()
        self.git("tag", "v1.2.0")

    def write(self, name: str, text: str) -> Path:
        (self.folder / name).write_text(text, encoding="utf-8")
        return self.folder / name

    def git(self, *words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run([GIT, *identity, *words], cwd=self.folder, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "-qm", "x")

    def release(self, *words: str) -> str:
        """The last line that it says, with what it says in errors."""
        done = subprocess.run([".ci/release", *words], cwd=self.folder, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (not done.stderr)
        return (done.stderr or done.stdout).splitlines()[-1]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_tag_is_built_and_not_published_unless_asked(checkout: Checkout):
    assert checkout.release("v1.2.0", HOME) == "nothing is published; --publish uploads dist/v1.2.0"
    assert (checkout.folder / "dist/v1.2.0/thumbs.whl").read_text(encoding="utf-8").strip() == HOME


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("pyproject.toml", '[project]\nversion = "1.3.0"\n', "the tag is v1.2.0 and pyproject.toml says 1.3.0"),
        ("src/thumbs/__init__.py", '__version__ = "1.1.0"\n', "__init__.py says another version"),
        ("CHANGELOG.md", "## 1.2.0 (unreleased)\n", "no heading '## 1.2.0 (YYYY-MM-DD)'"),
        ("CHANGELOG.md", "## 1a2.0 (2027-01-31)\n", "no heading '## 1.2.0 (YYYY-MM-DD)'"),
        ("README.md", "later\n", "v1.2.0 is another commit"),
    ],
)
def test_what_does_not_fit_the_tag_is_no_release(checkout: Checkout, file: str, text: str, says: str):
    checkout.write(file, text)
    checkout.commit()
    assert says in checkout.release("v1.2.0", HOME)
    assert not (checkout.folder / "dist").exists()


def test_a_missing_tag_a_changed_folder_and_unknown_words_are_no_release(checkout: Checkout):
    assert "say .ci/release" in checkout.release("v1.2.0")
    assert "--upload is unknown" in checkout.release("v1.2.0", HOME, "--upload")
    checkout.write("new.txt", "x")
    assert "not committed" in checkout.release("v1.2.0", HOME)
    checkout.git("tag", "-d", "v1.2.0")
    assert "there is no tag v1.2.0" in checkout.release("v1.2.0", HOME)


def test_the_images_are_built_from_files_that_are_there():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    stages, copied = set(), []
    for line in (DOCKER / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("FROM "):
            stages.add(line.split()[-1])
        elif line.startswith("COPY ") and (stage := re.match(r"COPY --from=(\w+)", line)):
            assert stage[1] in stages
        elif line.startswith("COPY "):
            copied += line.split()[1:-1]
    assert copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored


def test_the_services_of_a_team_use_what_the_command_and_the_images_have():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    collect = compose["services"]["collect"]
    build = collect["build"]
    dockerfile = DOCKER / build["context"] / build["dockerfile"]
    assert f" AS {build['target']}\n" in dockerfile.read_text(encoding="utf-8")
    assert all(port.startswith("127.0.0.1:") for port in collect["ports"])
    shown = CliRunner().invoke(app, ["collect", "serve", "--help"], terminal_width=200).output
    assert collect["command"][:2] == ["collect", "serve"]
    assert [word for word in collect["command"] if word.startswith("--") and word not in shown] == []
    assert all(name in shown for name in collect["environment"] if name.startswith("THUMBS_"))
    mounted = {volume.partition(":")[0] for each in compose["services"].values() for volume in each["volumes"]}
    assert mounted == set(compose["volumes"])
