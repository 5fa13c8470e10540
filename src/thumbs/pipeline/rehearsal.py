"""`thumbs run --dry-run`: everything that a run checks before it begins, and what it would do; nothing is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from thumbs.config.pipeline import STAGES, PipelineConfig
from thumbs.errors import RunError
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.checks import check_data, check_settings, check_source, done_stages, last_place, wanted_stages
from thumbs.pipeline.former_runs import is_former
from thumbs.pipeline.names import require_files
from thumbs.pipeline.plan import Plan, plan
from thumbs.pipeline.standing import Standing, require_same, standings
from thumbs.pipeline.takeover import decisions
from thumbs.tracking.run_folder import RunFolder


@dataclass(frozen=True)
class Rehearsal:
    """stages: (place, what would happen to it); forecast: of the stages that are left, without times."""

    stages: tuple[tuple[str, str], ...]
    forecast: Plan | None
    run: Path
    fresh: bool

    def text(self) -> str:
        """What would happen, for a terminal."""
        before = [f"{self.run} would be emptied first (--fresh)"] if self.fresh and any(self.run.glob("*")) else []
        shown = [] if self.forecast is None else [self.forecast.text(), ""]
        there = f"in {self.run} would be written: a folder per stage, config.json, summary.json, report.html"
        wide = max(len(name) for name, _ in self.stages)
        return "\n".join([*shown, *(f"{name:<{wide}}  {fate}" for name, fate in self.stages), "", *before, there])


def rehearse(
    config: PipelineConfig, *, until: str | None = None, fresh: bool = False, source: Path | None = None
) -> Rehearsal:
    """What `run_pipeline` would do with the same arguments; raises what it would raise before its first stage."""
    run, wanted = Path(config.run), wanted_stages(config, until)
    for folder in filter(None, (run, source)):
        if is_former(folder):
            raise RunError(
                f"{folder} is of an earlier version, which a run renames first; run it, or name another folder"
            )
    check_settings(config, wanted)
    check_source(run, source)
    _require_room(run, fresh=fresh)
    tokenizer = open_tokenizer(config.model)
    found = standings(config, run / "emptied" if fresh else run)  # a folder that is not there holds nothing
    taken = {d.place: d.words for d in ([] if source is None else decisions(config, run, source)) if d.taken}
    if not fresh:
        require_same(config, run, found)
    require_files(s for s in found if s.place.rpartition("/")[2] in wanted and s.place not in taken)
    done = [*(() if fresh else done_stages(config)), *(name for name in STAGES if last_place(config, name) in taken)]
    left = check_data(config, wanted, tokenizer, done=done)
    forecast = plan(left, probe=False) if wanted_stages(left) else None
    stages = [(s.place, taken.get(s.place) or _fate(s)) for s in found if s.place.rpartition("/")[2] in wanted]
    return Rehearsal(tuple(stages), forecast, run, fresh)


def _fate(standing: Standing) -> str:
    if standing.grows:
        return "goes on to more steps"
    if standing.again:
        return "is measured again"
    if standing.done:
        return "is done already"
    return "goes on where it stopped" if standing.begun else "begins"


def _require_room(run: Path, *, fresh: bool) -> None:
    """Raises RunError if the run folder cannot be written, is worked on, or is none that --fresh may empty."""
    there = next(path for path in (run.absolute(), *run.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise RunError(f"{there} is not a folder that can be written; name another with run=PATH")
    if there == run.absolute():
        if RunFolder(run).is_worked_on():
            raise RunError(f"another process works in {run}; wait for it, or name another folder with run=PATH")
        if fresh and any(run.iterdir()) and not (run / "config.json").exists():
            raise RunError(f"{run} holds no run, so --fresh does not delete it; name another folder with run=PATH")
