"""What a machine has for training and sampling, what is used of it, and what it lacks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from thumbs.models import kernels
from thumbs.models.precision import device, multiplies_bfloat16
from thumbs.tracking.run_folder import versions

_GIB = 2**30
_LITTLE_MEMORY = 8
"""GiB; SmolLM2-135M with its four roles takes a third of it."""
_LITTLE_DISK = 5
_REQUIREMENT = re.compile(r"""(?P<name>[\w.-]+)(\[(?P<inner>[\w,-]+)\])?.*;.*extra\s*==\s*['"](?P<extra>[\w-]+)['"]""")


@dataclass(frozen=True)
class Examined:
    """One line of the examination; `advice` says how to get what is missing."""

    what: str
    text: str
    fine: bool = True
    advice: str = ""


def examine() -> list[Examined]:
    """What there is, most important first. Nothing is changed, loaded or downloaded."""
    return [
        Examined("thumbs", f"{versions()['thumbs']} on Python {platform.python_version()}, torch {torch.__version__}"),
        _processor(),
        _accelerator(),
        _number_format(),
        _kernels(),
        _memory(),
        _disk(),
        *_extras(),
    ]


def _processor() -> Examined:
    found = [
        ("AMX", torch.cpu._is_amx_tile_supported()),
        ("AVX-512 with bfloat16", torch.cpu._is_avx512_bf16_supported()),
        ("AVX-512", torch.cpu._is_avx512_supported()),
        ("AVX2", torch.cpu._is_avx2_supported()),
    ]
    parts = ", ".join(name for name, there in found if there) or "no vector instructions that torch knows"
    threads = torch.get_num_threads()
    return Examined("processor", f"{versions()['cpu']}, {os.cpu_count()} cores, {threads} threads used; {parts}")


def _accelerator() -> Examined:
    chosen = device()
    if chosen.type == "cuda":
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        shown = ", ".join(f"{card.name} with {card.total_memory / _GIB:.0f} GiB" for card in cards)
        return Examined("GPU", f"{shown}; a local engine uses the first, engine.kind=cluster all of them")
    if chosen.type == "mps":
        return Examined("GPU", "Apple's, through MPS, which is used")
    if shutil.which("nvidia-smi") is None:
        return Examined("GPU", "none; the processor computes")
    why = "this torch was built without CUDA" if torch.version.cuda is None else "torch cannot use it"
    return Examined("GPU", f"the NVIDIA driver is here, but {why}", False, "pip install --force-reinstall torch")


def _number_format() -> Examined:
    if multiplies_bfloat16():
        return Examined("number format", "bfloat16, which the device multiplies; model.dtype=float32 chooses the other")
    return Examined("number format", "float32, since the processor has no products of bfloat16")


def _kernels() -> Examined:
    if os.environ.get("THUMBS_KERNELS") == "0":
        return Examined("compiled kernels", "switched off by THUMBS_KERNELS=0", False, "unset THUMBS_KERNELS")
    if found := kernels.library():
        return Examined("compiled kernels", f"used, level {found.level}")
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler is None:
        advice = "install a C++ compiler (Debian: apt install g++; macOS: xcode-select --install) and thumbs again"
        return Examined("compiled kernels", "not built, so torch does their work more slowly", False, advice)
    advice = f"{compiler} is here: pip install --force-reinstall --no-deps --no-cache-dir thumbs, from source"
    return Examined("compiled kernels", "not built for this processor, so torch is used", False, advice)


def _memory() -> Examined:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    if total >= _LITTLE_MEMORY:
        return Examined("memory", f"{total:.0f} GiB; `thumbs plan CONFIG` says what a run takes")
    advice = "take a small model, and ask `thumbs plan CONFIG` what a run takes"
    return Examined("memory", f"{total:.0f} GiB", False, advice)


def _disk() -> Examined:
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    fine = free >= _LITTLE_DISK
    return Examined("disk", f"{free:.0f} GiB free in this folder", fine, "" if fine else "make room, or run elsewhere")


def _extras() -> Iterator[Examined]:
    installed = {_plain(found.name) for found in importlib.metadata.distributions() if found.name}
    for extra, libraries in sorted(extras().items()):
        missing = sorted(name for name in libraries if _plain(name) not in installed)
        if not missing:
            yield Examined(f"extra {extra}", "installed")
        else:
            shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            yield Examined(f"extra {extra}", f"lacks {shown}", False, f"pip install 'thumbs[{extra}]'")


def extras() -> dict[str, set[str]]:
    """Extra → the libraries that it brings, those of extras that it names included; `all` and `dev` are left out."""
    found: dict[str, set[str]] = {}
    includes: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("thumbs") or []:
        match = _REQUIREMENT.match(requirement)
        if match is None or match["extra"] in ("all", "dev"):
            continue
        libraries = found.setdefault(match["extra"], set())
        if match["name"] == "thumbs":
            includes[match["extra"]] = match["inner"].split(",")
        else:
            libraries.add(match["name"])
    return {extra: own.union(*(found[name] for name in includes.get(extra, ()))) for extra, own in found.items()}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
