"""Run folders of earlier versions: they get today's names before anything else reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thumbs.config.former_names import REWARD_MODELS, RUN_SETTINGS, current_key, current_place, rename_settings
from thumbs.pipeline.identity import IDENTITY, Identity, read_identity
from thumbs.tracking.files import plain, read_object, read_object_if_there, write_json, writing
from thumbs.tracking.run_folder import RunFolder


def bring_up_to_date(*runs: Path) -> None:
    """Gives run folders of an earlier version today's names: their settings, stages, and what they say of them.

    Does nothing to other folders. The settings are written last, so that what was interrupted is done again. Raises
    RunError if another process uses a folder or it cannot be written.
    """
    for run in runs:
        settings: dict[str, Any] = plain(read_object_if_there(run / "config.json"))
        if rename_settings(settings, RUN_SETTINGS):
            with RunFolder(run).lock(), writing(run):
                _rename_identities(run)
                for folder in _stages(run):
                    folder.rename(folder.with_name(current_key(folder.name)))
                _rename_results(run)
                write_json(run / "config.json", settings)


def is_former(run: Path) -> bool:
    """Whether a folder is a run's of an earlier version."""
    return bool(rename_settings(plain(read_object_if_there(run / "config.json")), RUN_SETTINGS))


def _stages(run: Path) -> Iterator[Path]:
    """The folders of stages that are called otherwise now."""
    folders = [run, *sorted(run.glob("iteration-*"))]
    yield from [f / name for f in folders for name in RUN_SETTINGS if "." not in name and (f / name).is_dir()]


def _rename_identities(run: Path) -> None:
    """What each stage says that it was made of, under today's names; a stage knows those before it by their digests."""
    former = {file.parent: read_identity(file.parent) for file in run.glob(f"**/{IDENTITY}")}
    digests: dict[str, str] = {}

    def renamed(identity: Identity) -> Identity:
        built_on = {}
        for place, digest in identity.built_on.items():
            before = former.get(run / place) or former.get(run / current_place(place))
            if before is not None and before.digest == digest:
                digest = digests.setdefault(digest, renamed(before).digest)
            built_on[current_place(place)] = digest
        settings = {current_key(key): _current_value(value) for key, value in identity.settings.items()}
        return Identity(settings, {current_key(key): files for key, files in identity.read.items()}, built_on)

    now = {folder: renamed(identity) for folder, identity in former.items() if identity is not None}
    for folder, identity in now.items():
        identity.write(folder)


def _current_value(value: Any) -> Any:
    """A setting; parts of a reward name the run's own model as today."""
    if isinstance(value, list):
        return [_current_value(item) for item in value]
    if isinstance(value, Mapping) and value.get("model") in REWARD_MODELS:
        return {**value, "model": REWARD_MODELS[value["model"]]}
    return value


def _rename_results(run: Path) -> None:
    """The results of the evaluation by system, and the summary by `system.number` and `time_s.stage`."""
    path = run / "evaluation" / "results.json"
    if path.is_file():
        results: dict[str, Any] = plain(read_object(path))
        for table in ("systems", "win_rates"):
            results[table] = {_system(name): value for name, value in results.get(table, {}).items()}
        write_json(path, results)
    path = run / "summary.json"
    if path.is_file():
        write_json(path, {_number(name): value for name, value in read_object(path).items()})


def _system(name: str) -> str:
    place, at, level = name.partition("@")
    return current_place(place) + at + level


def _number(name: str) -> str:
    subject, _, number = name.rpartition(".")
    if subject == "time_s":
        return f"{subject}.{_system(number)}"
    return f"{_system(subject)}.{number}" if subject and subject != "reward" else name
