"""What a stage reads from outside of its run, by content: data files, the source of Python functions, models."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel

from thumbs.config.data import DataConfig
from thumbs.config.environment import EnvironmentConfig
from thumbs.config.evaluation import GoldConfig
from thumbs.config.labels import LabelsConfig, PeopleConfig
from thumbs.config.named import load_callable
from thumbs.config.reward_parts import OWN_COST, RUNS_OWN, RewardPart
from thumbs.config.watch import WatchConfig
from thumbs.models.catalog import cache_folder, is_builtin_byte, resolve
from thumbs.tracking.digests import DigestCache, file_digest

Files = list[dict[str, str | None]]
"""{"name", "sha256"} of each file, without its folder; the digest of a file that is not there is null."""

Name = Literal["function", "reward function", "judge", "model", "reward model"]
_NAMES: Mapping[type[BaseModel], Mapping[str, Name]] = {
    RewardPart: {"function": "reward function", "judge": "model", "model": "reward model"},
    EnvironmentConfig: {"tools": "function", "factory": "function"},
    GoldConfig: {"rule": "judge", "function": "reward function", "model": "reward model"},
    LabelsConfig: {"judge": "judge", "judge_model": "model"},
    PeopleConfig: {"reward_model": "reward model"},
    WatchConfig: {"second_proxy": "reward model"},
}
"""The fields of sections that hold names, and what each is the name of."""

_MODEL_FILES = (".json", ".jinja", ".safetensors", ".gguf", ".model", ".txt")


def sections(config: BaseModel, key: str) -> Iterator[tuple[str, BaseModel]]:
    """(dotted key, section) of a section and all sections within it."""
    yield key, config
    for name in type(config).model_fields:
        value = getattr(config, name)
        for place, item in enumerate(value) if isinstance(value, tuple) else ((None, value),):
            if isinstance(item, BaseModel):
                yield from sections(item, f"{key}.{name}" + ("" if place is None else f".{place}"))


def names(part: BaseModel) -> Iterator[tuple[str, Name, str]]:
    """(field, what the name is of, the name) of each name in a section that something outside of the config has."""
    for field, kind in _NAMES.get(type(part), {}).items():
        value = getattr(part, field)
        for place, name in enumerate(value) if isinstance(value, tuple) else ((None, value),):
            if name is not None and not (kind == "reward model" and name in (RUNS_OWN, OWN_COST)):
                yield field if place is None else f"{field}.{place}", kind, name


def reads(section: BaseModel, key: str) -> dict[str, Files]:
    """What a section of a config names that lies outside of the run, by dotted key.

    Imports the modules of the functions that it names. Raises ConfigError or ModelError for a name that is none.
    """
    found: dict[str, Files] = {}
    for path, part in sections(section, key):
        if isinstance(part, DataConfig):
            found[f"{path}.path"] = [file for source in part.paths for file in data_files(source)]
        for name, kind, value in names(part):
            if kind != "judge":
                models = kind in ("model", "reward model")
                found[f"{path}.{name}"] = model_files(value) if models else source_files(load_callable(value))
    return {name: files for name, files in found.items() if files}


def data_files(path: str) -> Files:
    """The file of a data source, of a folder all in it; none of a source that is not a file here."""
    if path.startswith("hub:"):
        return []
    if path.startswith("builtin:"):
        packaged = resources.files("thumbs.data") / "builtin" / f"{path.removeprefix('builtin:')}.jsonl"
        with resources.as_file(packaged) as file:
            return [{"name": file.name, "sha256": _digest(file)}]
    given = Path(path)
    files = sorted(file for file in given.rglob("*") if file.is_file()) if given.is_dir() else [given]
    return [{"name": file.name, "sha256": _digest(file)} for file in files]


def is_local_file(path: str) -> bool:
    """Whether a data path names a file on this machine, which is known by its content and not by its place."""
    return not path.startswith(("hub:", "builtin:"))


def model_files(name: str) -> Files:
    """The files of a model: a folder, also that of a run's stage, a .gguf file, or a name; none of a byte model.

    Their digests are kept in the cache folder, so that they cost nothing the second time. Raises ModelError for a name
    that is none.
    """
    if is_builtin_byte(name):
        return []
    given, folders = Path(name).expanduser(), []
    if given.is_dir():
        folders.append(given)
        folders += [given / "model"] if (given / "model").is_dir() else []
    if not given.is_dir() or ((given / "adapter_config.json").is_file() and not (given / "thumbs.json").is_file()):
        folders.append(resolve(name))
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in _MODEL_FILES]
    files = [file for file in files if file.is_file() and file.name not in _OF_THE_STAGE]
    digests = DigestCache(cache_folder() / "digests.json").digests(files)
    return [{"name": file.name, "sha256": digest} for file, digest in zip(files, digests, strict=True)]


_OF_THE_STAGE = ("audit.json", "spent_s.json", "identity.json")
"""Files in the folder of a stage that say nothing of its model."""


def source_files(function: Callable[..., Any]) -> Files:
    """The file that a function is defined in, and those of the modules next to it that it uses.

    Modules that are installed count with their own package only; the standard library does not count.
    """
    first = sys.modules.get(getattr(function, "__module__", "") or "")
    root = _root(first)
    if first is None or root is None:
        return []
    pending, seen = [first], {}
    while pending:
        module = pending.pop()
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).is_relative_to(root) or module.__name__ in seen:
            continue
        seen[module.__name__] = Path(file)
        pending += [used for value in list(vars(module).values()) if (used := _module_of(value)) is not None]
    return [{"name": name, "sha256": _digest(file)} for name, file in sorted(seen.items())]


def _root(module: ModuleType | None) -> Path | None:
    """The folder whose modules count; None if the module has no file."""
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return None
    depth = module.__name__.count(".") + (Path(file).name == "__init__.py")
    root = Path(file).parents[depth]
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    return root / module.__name__.partition(".")[0] if root in installed else root


def _module_of(value: Any) -> ModuleType | None:
    if isinstance(value, ModuleType):
        return value
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _digest(file: Path) -> str | None:
    try:
        return file_digest(file)
    except OSError:
        return None
