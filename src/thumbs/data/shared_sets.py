"""Preference sets on the hub: a file, the manifest that came with it, and a card; what is pulled is what was pushed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from thumbs.data.hub import fetch, listing, push
from thumbs.data.lint import LintReport, lint
from thumbs.errors import DataError
from thumbs.tracking.files import new_folder, plain, read_object
from thumbs.tracking.run_folder import versions

MANIFEST, CARD = ".manifest.json", "README.md"
_PUSHED = (".jsonl", ".json", ".csv", ".parquet")


def push_set(path: Path, repo: str, *, public: bool = False) -> str:
    """Pushes a file of preferences as a data set, with its manifest and a card; returns the commit's URL.

    The manifest is the one of `thumbs collect export` next to it; without one it says the file's SHA-256 and rows.
    Raises DataError for a file that is none of preferences, or another than its manifest says; HubError by the hub.
    """
    if path.suffix.lower() not in _PUSHED:
        raise DataError(f"{path}: pushed are files that the hub shows, {', '.join(_PUSHED)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    found = lint(path)
    if found.kind != "preferences" or not found.rows_left:
        raise DataError(f"{path}: {found.rows_left} usable rows of {found.kind}; a preference set has preferences")
    manifest = manifest_of(path, found)
    files: dict[str, Path | bytes] = {
        path.name: path,
        path.name + MANIFEST: (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode(),
        CARD: card(repo, path.name, manifest, found).encode(),
    }
    return push(repo, "dataset", files, public=public, message=f"{path.name} by thumbs {versions()['thumbs']}")


def pull_set(repo: str, out: Path, *, revision: str | None = None) -> tuple[Path, str]:
    """Fetches a set that `push_set` pushed into the new folder `out`; returns its file and the commit.

    Raises DataError if there is no manifest, or the file is not the one that it tells of; HubError by the hub.
    """
    commit, names = listing(repo, "dataset", revision)
    sets = [name.removesuffix(MANIFEST) for name in names if name.endswith(MANIFEST) and "/" not in name]
    if len(sets) != 1 or sets[0] not in names:
        raise DataError(
            f"{repo} has {len(sets)} manifests (FILE{MANIFEST}) with their files, and a set that `thumbs data push` "
            f"made has one; read other data sets as `path: hub:{repo}`"
        )
    with new_folder(out) as scratch:
        for name in (sets[0], sets[0] + MANIFEST, *({CARD} & set(names))):
            fetch(repo, "dataset", name, commit, scratch)
        told, is_ = read_object(scratch / (sets[0] + MANIFEST)).get("sha256"), _sha256(scratch / sets[0])
        if told != is_:
            raise DataError(f"{repo}: {sets[0]} has the SHA-256 {is_}, and its manifest says {told}; it was changed")
    return out / sets[0], commit


def manifest_of(path: Path, found: LintReport) -> dict[str, Any]:
    """The manifest next to the file, or one that tells what the file alone does; raises DataError if it lies."""
    own = _sha256(path)
    beside = path.with_name(path.name + MANIFEST)
    if not beside.is_file():
        return {"file": path.name, "sha256": own, "rows": found.rows_left, "thumbs": versions()["thumbs"]}
    manifest = plain(read_object(beside))
    if manifest.get("sha256") != own:
        raise DataError(
            f"{path} is not the file that {beside.name} tells of (SHA-256 {own}, there {manifest.get('sha256')}); "
            "export it again, or move the manifest away"
        )
    return manifest


def card(repo: str, file: str, manifest: dict[str, Any], found: LintReport) -> str:
    """README.md of the data set. Only counts and settings stand in it, nothing that people or models wrote."""
    front = {
        "configs": [{"config_name": "default", "data_files": file}],
        "tags": ["rlhf", "preferences", "thumbs"],
        "task_categories": ["text-generation"],
    }
    told = {key: manifest[key] for key in ("format", "counts", "filters", "turned", "thumbs") if key in manifest}
    ties = "" if found.ties is None else f" In {found.ties:.1%} of them the judgements favour neither reply."
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {repo}\n\n"
        f"{found.rows_left} pairs of replies with judgements.{ties} `{file}{MANIFEST}` says where\n"
        f"they come from; the SHA-256 of `{file}` is `{manifest['sha256']}`.\n\n"
        f"```\nthumbs data pull {repo} pairs/      # the file, checked against its manifest\n```\n\n"
        f"In a config of thumbs: `path: hub:{repo}`.\n\n## How it was made\n\n"
        f"```yaml\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}```\n\n"
        "Whoever judged and whoever wrote the replies decide what this set may be used for; this card does not.\n"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
