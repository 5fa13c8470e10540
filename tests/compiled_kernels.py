"""For tests of the compiled kernels: they are there wherever there is a compiler, at THUMBS_KERNELS=0 too."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from thumbs.models import kernels

NAMED = os.environ.get("THUMBS_KERNELS", "0")
BUILT = kernels.load(None if NAMED == "0" else NAMED)
COMPILER = (shutil.which("c++") or shutil.which("g++")) and sys.platform == "linux"
NEEDS_COMPILER = pytest.mark.skipif(BUILT is None and not COMPILER, reason="no C++ compiler to build the kernels with")


def assert_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses the installed kernels in a test; fails where they are missing or older than their source."""
    assert BUILT is not None, "there is a compiler, but the installed kernels are missing or stale: run `make`"
    monkeypatch.setattr(kernels, "library", lambda: BUILT)
