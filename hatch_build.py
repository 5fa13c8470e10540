"""Compiles the kernels into the package where there is a compiler; torch does the same work without them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/thumbs/models/kernels.cpp")
FLAGS = ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-Wno-psabi"]


class KernelBuild(BuildHookInterface):
    """Runs before the wheel is put together, for an editable installation too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        source = Path(self.root) / SOURCE
        for old in source.parent.glob("_kernels-*"):
            old.unlink()
        # Named by its source: a library of an older one is never loaded (models/kernels.py looks for this name).
        library = SOURCE.with_name(f"_kernels-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.so")
        if reason := compile_kernels(source, Path(self.root) / library):
            self.app.display_warning(f"thumbs will work without its compiled kernels: {reason}")
            return
        build_data["artifacts"].append(str(library))
        build_data["pure_python"], build_data["infer_tag"] = False, True


def compile_kernels(source: Path, library: Path) -> str:
    """Compiles for this processor; returns why it could not, or ""."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return "there is no C++ compiler"
    compiled = library.with_suffix(".o")
    # Linked without OpenMP: the one that torch has loaded serves, so that there is one set of threads.
    for command in (
        [compiler, *FLAGS, "-c", str(source), "-o", str(compiled)],
        [compiler, "-shared", str(compiled), "-o", str(library)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{compiler} failed"
    compiled.unlink()
    return ""
