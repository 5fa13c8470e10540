"""What the kernels are compiled for: `hatch_build.py` compiles by this table, `kernels.py` chooses by it.

It imports nothing of ours, since the build reads it before anything is installed.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Level(NamedTuple):
    """One library. options: of the compiler; needs: flags in /proc/cpuinfo without which it is not loaded."""

    name: str
    options: tuple[str, ...]
    needs: frozenset[str] = frozenset()


_V3 = frozenset(["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"])
_V4 = _V3 | frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"])

NATIVE = Level("native", () if sys.platform == "darwin" else ("-march=native",))
"""For the machine that compiles it: what an editable installation gets. Apple's clang is for Apple's processors as it
is.
"""

_X86 = (
    Level("avx512_bf16", ("-march=x86-64-v4", "-mavx512bf16"), _V4 | {"avx512_bf16"}),
    Level("avx512", ("-march=x86-64-v4",), _V4),
    Level("avx2", ("-march=x86-64-v3",), _V3),
)
_ARM = (Level("neon", ()),)
LEVELS = {"x86_64": _X86, "aarch64": _ARM, "arm64": _ARM}
"""Levels of a wheel by `platform.machine()`, the best first. On a processor below the last one torch does the work."""


def levels(machine: str | None = None) -> tuple[Level, ...]:
    """Levels of a wheel for this kind of machine, the best first; () for a kind that has none."""
    return LEVELS.get(machine or platform.machine(), ())


def usable_levels(flags: Iterable[str], machine: str | None = None) -> list[Level]:
    """Levels whose every instruction a processor with these flags has, the best first."""
    return [level for level in levels(machine) if level.needs <= set(flags)]


def processor_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Flags that every core has; empty where there is no such file, as on macOS, whose one level needs none."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    cores = [frozenset(line.partition(":")[2].split()) for line in lines if line.split(":")[0].strip() == "flags"]
    return frozenset.intersection(*cores) if cores else frozenset()


def file_name(digest: str, level: Level) -> str:
    """The library of a level. digest: of the source it was compiled from, so that an older one is never loaded."""
    return f"_kernels-{digest[:12]}{'' if level == NATIVE else f'-{level.name}'}.so"
