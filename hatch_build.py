"""Compiles the kernels into the package if there is a compiler, and says where the project is at home.

An editable installation gets one library for this machine. A wheel may leave it, so it has one library for each level
of processors (src/thumbs/models/kernel_levels.py) and a tag for every Python, since ctypes loads them. Without any of
them torch does the same work.
"""

from __future__ import annotations

import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface
from packaging.tags import platform_tags

MODELS = Path("src/thumbs/models")
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-Wno-psabi"]
# Linked without OpenMP: the one that torch has loaded serves, so that there is one set of threads.
OPENMP, LINK = ["-fopenmp"], ["-shared"]
if sys.platform == "darwin":
    # Apple's clang compiles OpenMP's pragmas but lacks its header, which `brew install libomp` brings.
    headers = (f"{prefix}/opt/libomp/include" for prefix in ("/opt/homebrew", "/usr/local"))
    OPENMP = ["-Xpreprocessor", "-fopenmp", *(f"-I{each}" for each in headers if Path(each).is_dir())]
    LINK = ["-shared", "-undefined", "dynamic_lookup"]


class Home(MetadataHookInterface):
    """URLs of the repository in THUMBS_REPOSITORY (https://…), and a readme whose links lead there from an index.

    Without it, as in a checkout or a fork, no URL is told and the readme is as it is.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        text, home = (Path(self.root) / "README.md").read_text(encoding="utf-8"), os.environ.get("THUMBS_REPOSITORY")
        metadata["urls"] = {}
        if home:
            at = f"{home.rstrip('/')}/blob/v{metadata['version']}"
            metadata["urls"] = {
                "Repository": home,
                "Documentation": f"{at}/docs/README.md",
                "Changelog": f"{at}/CHANGELOG.md",
                "Issues": f"{home.rstrip('/')}/issues",
            }
            text = re.sub(r"\]\((?!https?://|#)", f"]({at}/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


class KernelBuild(BuildHookInterface):
    """Runs before the wheel is put together, for an editable installation too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        models = Path(self.root) / MODELS
        table = runpy.run_path(str(models / "kernel_levels.py"))
        self.folder = Path(tempfile.mkdtemp())
        wanted = [table["NATIVE"]] if version == "editable" else table["levels"]()
        digest = hashlib.sha256((models / "kernels.cpp").read_bytes()).hexdigest()
        libraries = {self.folder / table["file_name"](digest, level): level for level in wanted}
        for library, level in libraries.items():
            if reason := compile_kernels(models / "kernels.cpp", library, level.options):
                self.app.display_warning(f"thumbs will work without its compiled kernels: {level.name}: {reason}")
                return  # a wheel has every level or none, so that what it does depends on the processor alone
        if version == "editable":
            for old in models.glob("_kernels-*"):
                old.unlink()
            for library in libraries:
                shutil.copyfile(library, models / library.name)
        elif libraries:
            build_data["force_include"] |= {str(each): f"thumbs/models/{each.name}" for each in libraries}
            build_data["pure_python"] = False
            # What it may call itself on other distributions, auditwheel says (docs/reference/releases.md).
            plain = (tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
            build_data["tag"] = f"py3-none-{next(plain)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.target_name == "wheel":
            shutil.rmtree(self.folder)


def compile_kernels(source: Path, library: Path, options: tuple[str, ...]) -> str:
    """Compiles for the processors that these options name; returns why it could not, or ""."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return "there is no C++ compiler"
    compiled = library.with_suffix(".o")
    for command in (
        [compiler, *FLAGS, *options, *OPENMP, "-c", str(source), "-o", str(compiled)],
        [compiler, *LINK, str(compiled), "-o", str(library)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{compiler} failed"
    compiled.unlink()
    return ""
