"""Which library of kernels a processor gets, by its flags in /proc/cpuinfo; .ci/wheel tests what they compute."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compiled_kernels import NEEDS_COMPILER
from thumbs.errors import ConfigError
from thumbs.models import kernel_levels, kernels
from thumbs.models.kernel_levels import LEVELS, processor_flags, usable_levels

IVY_BRIDGE = "fpu sse sse2 ssse3 sse4_1 sse4_2 avx f16c rdrand"
HASWELL = f"{IVY_BRIDGE} fma movbe abm bmi1 avx2 bmi2"
KNIGHTS_LANDING = f"{HASWELL} avx512f avx512pf avx512er avx512cd"  # AVX-512, but not that of servers
SKYLAKE_X = f"{HASWELL} avx512f avx512dq avx512cd avx512bw avx512vl"
ZEN_4 = f"{SKYLAKE_X} avx512ifma avx512_bf16 avx512vbmi"
SAPPHIRE_RAPIDS = f"{ZEN_4} amx_bf16 amx_tile amx_int8"


@pytest.mark.parametrize(
    ("flags", "machine", "best"),
    [
        ("", "x86_64", None),
        (IVY_BRIDGE, "x86_64", None),
        (HASWELL, "x86_64", "avx2"),
        (HASWELL.replace(" fma", ""), "x86_64", None),  # a hypervisor that hides it
        (KNIGHTS_LANDING, "x86_64", "avx2"),
        (SKYLAKE_X, "x86_64", "avx512"),
        (ZEN_4, "x86_64", "avx512_bf16"),
        (SAPPHIRE_RAPIDS, "x86_64", "avx512_bf16"),
        ("fp asimd", "aarch64", "neon"),
        ("", "arm64", "neon"),  # macOS has no /proc/cpuinfo
        (ZEN_4, "riscv64", None),
    ],
)
def test_the_best_level_of_a_processor(flags: str, machine: str, best: str | None):
    found = [level.name for level in usable_levels(flags.split(), machine)]
    assert found[:1] == ([best] if best else [])
    assert found == [level.name for level in LEVELS.get(machine, ()) if level.name in found]  # the best first


def test_flags_are_those_that_every_core_has(tmp_path: Path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fma avx2 abm\nbugs: none\n\nflags : avx2 abm\nvmx flags : fma\n")
    assert processor_flags(info) == {"avx2", "abm"}
    assert processor_flags(tmp_path / "none") == frozenset()


@NEEDS_COMPILER
def test_the_library_of_this_machine_goes_first_and_a_level_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = Path(kernels.__file__).with_suffix(".cpp")
    (native,) = [path for path in source.parent.glob("_kernels-*.so") if path.stem.count("-") == 1]
    shutil.copy(source, tmp_path)
    monkeypatch.setattr(kernels, "__file__", str(tmp_path / "kernels.py"))
    monkeypatch.setattr(kernels, "processor_flags", lambda: frozenset(HASWELL.split()))
    monkeypatch.setattr(kernel_levels.platform, "machine", lambda: "x86_64")
    assert kernels.load() is None
    for name in (native.stem, f"{native.stem}-avx2", f"{native.stem}-avx512"):
        shutil.copy(native, tmp_path / f"{name}.so")
    assert kernels.load().level == "native"
    (tmp_path / native.name).unlink()
    assert kernels.load().level == "avx2"
    with pytest.raises(ConfigError, match=r"THUMBS_KERNELS=avx512: allowed here are 0 \(none\), avx2"):
        kernels.load("avx512")
