"""Exports as files: whole or not there, each with a manifest that says what is in it and how to make it again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import insert
from sqlalchemy import select as query

from thumbs import __version__
from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.exports.dataset import write_dataset
from thumbs.collect.exports.formats import ExportFormat, find_format, fitted
from thumbs.collect.exports.select import Filters, Selection, with_settings
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import EXPORTS
from thumbs.data.sources import canonical_json
from thumbs.storage import inserted_id
from thumbs.tracking.files import new_folder, replacing, sync, write_json, writing
from thumbs.web.tables import table_lines

LOOKED_THROUGH = 500
"""Items that a preview counts, unless it is told otherwise."""


@dataclass(frozen=True)
class Counts:
    """What is in an export. All but items and rows are judgements: read = kept + everything dropped."""

    items: int
    rows: int
    read: int
    kept: int
    verdicts: Mapping[str, int]
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class Kept:
    """An export of the record: what makes the same file again, and its manifest as a plain mapping."""

    id: int
    project_id: int
    account_id: int | None
    format: str
    filters: Mapping[str, Any]
    watermark: int
    manifest: Mapping[str, Any]
    created: datetime


@dataclass(frozen=True)
class Preview:
    """The first rows of an export, and its counts; whole: they are of all items, not of the first ones alone."""

    rows: tuple[Mapping[str, Any], ...]
    counts: Counts
    whole: bool


@dataclass(frozen=True)
class Manifest:
    """What an export holds. The same project, format, filters and watermark give the same bytes.

    questions, guidelines: version, SHA-256 of its text, judgements that answer to it; generators: who wrote the replies
    and how many; turned: whether people chose the more harmful reply and the signs were turned round; file, sha256: the
    name of the file and of its content (of a folder: of the list of its files with theirs).
    """

    project: str
    format: str
    file: str
    sha256: str
    counts: Counts
    filters: Mapping[str, Any]
    watermark: int
    turned: bool
    questions: tuple[Mapping[str, Any], ...]
    guidelines: tuple[Mapping[str, Any], ...]
    generators: tuple[Mapping[str, Any], ...]
    thumbs: str


def preview(
    store: CollectStore,
    project_id: int,
    format: str,
    filters: Filters,
    n: int = 5,
    *,
    most_items: int | None = LOOKED_THROUGH,
) -> Preview:
    """The first `n` rows that `export` would write, and what the filters do to the first `most_items` items with
    answers (None: to all). The filter per_person reads all judgements first.
    """
    filters = with_settings(store, project_id, filters)
    made = _Making(store, project_id, format, filters, store.votes.watermark(project_id))
    shown = []
    for row in made.rows(most_items):
        if len(shown) < n:
            shown.append(row)
    whole = most_items is None or len(made.answered(0, most_items)) < most_items
    return Preview(tuple(shown), made.counts(), whole)


def export(
    store: CollectStore,
    project_id: int,
    format: str,
    filters: Filters,
    out: Path,
    *,
    by: int | None = None,
    watermark: int | None = None,
) -> Manifest:
    """Writes the file `out` (format "dataset": the folder) and `out`.manifest.json; memory does not grow with them.

    `watermark` makes an earlier export again (its manifest has it). The export is kept in the database and in the audit
    log. Raises CollectError for a format or filter that does not fit, and where nothing is left to write.
    """
    newest = store.votes.watermark(project_id)
    if watermark is not None and watermark > newest:
        raise CollectError(f"watermark {watermark} is of judgements to come; the newest has the number {newest}")
    filters = with_settings(store, project_id, filters)
    manifest = _Making(store, project_id, format, filters, newest if watermark is None else watermark).write(out)
    _keep(store, manifest, project_id, by)
    return manifest


def record_export(
    store: CollectStore, project_id: int, format: str, filters: Filters, *, by: int | None = None
) -> Kept:
    """Does what `export` does, but writes no file: checks that it can be made and counts what is in it.

    `export_again` makes the file.
    """
    filters, watermark = with_settings(store, project_id, filters), store.votes.watermark(project_id)
    made = _Making(store, project_id, format, filters, watermark)
    with tempfile.TemporaryDirectory(prefix="thumbs-export-") as folder:
        manifest = made.write(Path(folder) / made.file)
    return kept_export(store, _keep(store, manifest, project_id, by), project_id)


def kept_export(store: CollectStore, export_id: int, project_id: int | None = None) -> Kept:
    """An export of the record; raises NotFound if there is none, or it is of another project."""
    of = query(EXPORTS).where(EXPORTS.c.id == export_id)
    if project_id is not None:
        of = of.where(EXPORTS.c.project_id == project_id)
    whose = "" if project_id is None else " of this project"
    return store.db.the(Kept, of, NotFound(f"there is no export {export_id}{whose}"))


def kept_exports(store: CollectStore, project_id: int, most: int = 10) -> list[Kept]:
    """The newest exports of a project, newest first."""
    of = query(EXPORTS).where(EXPORTS.c.project_id == project_id)
    return store.db.all(Kept, of.order_by(EXPORTS.c.id.desc()).limit(most))


def export_again(store: CollectStore, kept: Kept) -> Path:
    """The file of an export of the record, made into a folder of its own that the caller deletes (the path's parent); a
    dataset comes as a .zip.

    Raises CollectError if the bytes are not those of its manifest, because another version of thumbs made it.
    """
    filters = Filters.model_validate(dict(kept.filters), strict=False)
    made = _Making(store, kept.project_id, kept.format, filters, kept.watermark)
    folder = Path(tempfile.mkdtemp(prefix="thumbs-export-"))
    try:
        out = folder / made.file
        if made.write(out).sha256 != kept.manifest["sha256"]:
            raise CollectError(
                f"export {kept.id} was made by thumbs {kept.manifest['thumbs']}, and this one, {__version__}, writes "
                "other bytes; make a new export"
            )
        return Path(shutil.make_archive(str(out), "zip", out.parent, out.name)) if out.is_dir() else out
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def manifest_path(out: Path) -> Path:
    """Where the manifest of that file is."""
    return out.with_name(f"{out.name}.manifest.json")


class _Making(Selection):
    """One pass: rows, and with them what they are made of."""

    def __init__(self, store: CollectStore, project_id: int, name: str, filters: Filters, watermark: int) -> None:
        self.form: ExportFormat = find_format(name, store.projects.question(project_id)[1], filters)
        super().__init__(store, store.projects.get(project_id), filters, watermark)
        self.name, self.n_items, self.n_rows, self.turned = name, 0, 0, False
        self.verdicts: Counter[str] = Counter()
        self.used: dict[str, Counter[int]] = {"questions": Counter(), "guidelines": Counter()}
        self.generators: Counter[str] = Counter()

    def rows(self, most_items: int | None = None) -> Iterator[Mapping[str, Any]]:
        """All rows, or those of the first items that have answers."""
        for judged in self.items(most_items):
            fit, rows = fitted(self.form, judged, self.filters, self.dropped)
            if not rows:
                continue
            for opinion in fit.opinions:
                self.verdicts[opinion.answer.verdict] += 1
                self.used["questions"][opinion.vote.question] += 1
                self.used["guidelines"][opinion.vote.guideline] += 1
                self.turned |= opinion.vote.direction != "better"
            for reply in fit.replies:
                maker = asdict(reply.generator) | {"seed": None}
                self.generators[canonical_json(maker)] += 1
            self.n_items += 1
            self.n_rows += len(rows)
            yield from rows

    def counts(self) -> Counts:
        """What was counted until now."""
        kept, verdicts = self.verdicts.total(), dict(sorted(self.verdicts.items()))
        return Counts(self.n_items, self.n_rows, kept + self.dropped.total(), kept, verdicts, dict(self.dropped))

    @property
    def file(self) -> str:
        """What the file is called if nobody says otherwise."""
        return f"{self.project.slug}-{self.name}{self.form.suffix}"

    def write(self, out: Path) -> Manifest:
        """Writes the file or folder, whole or not at all, and its manifest next to it."""
        is_file = bool(self.form.suffix)
        with writing(out), replacing(out) if is_file else new_folder(out) as held:
            digest = _write_lines(self, held) if is_file else write_dataset(self.rows(), held)
            if not self.n_rows:
                raise CollectError(_nothing(self.counts()))
        sync(out.parent)
        manifest = Manifest(
            project=self.project.slug,
            format=self.name,
            file=out.name,
            sha256=digest,
            counts=self.counts(),
            filters=self.filters.model_dump(mode="json"),
            watermark=self.watermark,
            turned=self.turned,
            questions=self._versions("questions"),
            guidelines=self._versions("guidelines"),
            generators=tuple(
                {"replies": number} | {key: value for key, value in json.loads(maker).items() if key != "seed"}
                for maker, number in sorted(self.generators.items())
            ),
            thumbs=__version__,
        )
        write_json(manifest_path(out), asdict(manifest))
        return manifest

    def _versions(self, what: Literal["questions", "guidelines"]) -> tuple[dict[str, Any], ...]:
        return tuple(
            {"version": version.version, "sha256": version.sha256, "judgements": self.used[what][version.id]}
            for version in self.store.projects.versions(what, self.project.id)
            if version.id in self.used[what]
        )


def _write_lines(made: _Making, path: Path) -> str:
    lines = table_lines(made.rows()) if made.form.suffix == ".csv" else _json_lines(made.rows())
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for line in lines:
            content = line.encode("utf-8", errors="replace")  # half a character may stand in what came with an item
            digest.update(content)
            file.write(content)
    return digest.hexdigest()


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _nothing(counts: Counts) -> str:
    if not counts.read:
        return "nobody has judged anything here yet, so there is nothing to export"
    why = ", ".join(f"{number} {reason}" for reason, number in counts.dropped.items())
    return f"of {counts.read} judgements none is left to export ({why}); loosen the filters, or choose another format"


def _keep(store: CollectStore, manifest: Manifest, project_id: int, by: int | None) -> int:
    """Puts the export into the database and the audit log; its number."""
    row = {
        "project_id": project_id,
        "account_id": by,
        "format": manifest.format,
        "filters": dict(manifest.filters),
        "watermark": manifest.watermark,
        "manifest": asdict(manifest),
        "created": datetime.now(UTC),
    }
    told = {"format": manifest.format, "watermark": manifest.watermark, "sha256": manifest.sha256}
    with store.db.transaction(durable=True) as db:
        made = db.execute(insert(EXPORTS).values(row))
        store.audit.note(db, "export", by, project_id, told | {"rows": manifest.counts.rows})
    return inserted_id(made)
