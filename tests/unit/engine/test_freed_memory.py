"""Freed memory is kept for the next step, unless the user has told glibc otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

PROGRAM = """
import resource, torch
from thumbs.engine.memory import keep_freed_memory
keep_freed_memory()
def pages():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
before = pages()
torch.ones(2**24)
print((pages() - before) * resource.getpagesize() / 2**26)
"""


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "131072"}, False), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)],
)
def test_the_memory_of_a_freed_tensor_stays_unless_glibc_was_told_otherwise(settings: dict[str, str], kept: bool):
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=ours | settings, capture_output=True, text=True, check=True)
    assert (float(done.stdout) > 0.9) == kept
