"""thumbs from Python: what the commands do, as functions. All of it is there as `thumbs.NAME`.

A config is the path of a YAML file, the same settings as a mapping, or a PipelineConfig; overrides are `key=value`, as
on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from thumbs.errors import ConfigError

if TYPE_CHECKING:  # imported where it is used, so that `thumbs --help` answers at once
    from thumbs.config.pipeline import PipelineConfig
    from thumbs.config.sampling import SamplingConfig
    from thumbs.pipeline.plan import Plan
    from thumbs.pipeline.trace import Trace
    from thumbs.records import Reply
    from thumbs.report.record import RunRecord
    from thumbs.stages.people import LabelSource

__all__ = ["Config", "Run", "load_config", "open_run", "plan", "run"]

Config: TypeAlias = "PipelineConfig | Mapping[str, Any] | str | Path"
"""Settings of a run: an object, plain data, or the path of a YAML file."""


def load_config(config: Config, overrides: Iterable[str] = ()) -> PipelineConfig:
    """The settings of a run, checked; raises ConfigError in the words that the command line uses."""
    from thumbs.config.base import apply_overrides, build_config
    from thumbs.config.base import load_config as read_config
    from thumbs.config.pipeline import PipelineConfig

    if isinstance(config, str | Path):
        return read_config(PipelineConfig, config, overrides)
    raw = config.model_dump(exclude_unset=True) if isinstance(config, PipelineConfig) else config
    return build_config(PipelineConfig, apply_overrides(raw, overrides))


def plan(config: Config, overrides: Iterable[str] = ()) -> Plan:
    """What a run would take on this machine: parameters, tokens per step, memory, seconds; with warnings.

    Nothing is trained. `print(thumbs.plan(config).text())` shows what `thumbs plan` prints.
    """
    from thumbs.pipeline.plan import plan as forecast

    return forecast(load_config(config, overrides))


def run(
    config: Config,
    overrides: Iterable[str] = (),
    *,
    until: str | None = None,
    fresh: bool = False,
    source: str | Path | None = None,
    people: LabelSource | None = None,
) -> Run:
    """Runs every stage of a config, evaluates, and writes the report; a run that was stopped goes on.

    until: the last stage to run. fresh: start over. source: a run whose finished stages are taken over if the config
    makes them the same. people: who judges the pairs if the config has `labels.people`, for example
    `thumbs.collect.desk.Desk()`.
    """
    from thumbs.pipeline.run import run_pipeline
    from thumbs.report.build import build_report

    checked = load_config(config, overrides)
    if until is not None and getattr(checked, until, None) is None:
        raise ConfigError(f"the config has no section `{until}`; add one, or leave `until` out for the stages it has")
    taken = None if source is None else Path(source)
    folder = run_pipeline(checked, until=until, fresh=fresh, people=people, source=taken)
    build_report(folder)
    return Run(folder)


def open_run(path: str | Path) -> Run:
    """A run that is there, finished or not; raises RunError if the folder is not a run."""
    from thumbs.pipeline.former_runs import bring_up_to_date
    from thumbs.tracking.run_folder import RunFolder

    path = Path(path)
    bring_up_to_date(path)
    RunFolder(path).settings()
    return Run(path)


@dataclass(frozen=True)
class Run:
    """A run folder: its numbers, and what can be done with its models. Models are loaded when they are asked for."""

    path: Path

    @property
    def config(self) -> PipelineConfig:
        """The settings that the run was made with."""
        return load_config(self.path / "config.json")

    @property
    def metrics(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The log of each stage, a mapping per step; docs/metrics.md says what the names mean."""
        return self._record.metrics

    @property
    def results(self) -> Mapping[str, Any]:
        """The numbers of summary.json: held-out losses, gold scores, KL, win rates, seconds; empty until the end."""
        return self._record.summary

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are finished, in order."""
        from thumbs.config.pipeline import STAGES

        return tuple(stage for stage in STAGES if stage in self._record.finished)

    @property
    def policy(self) -> str:
        """The stage whose policy is the result so far: the last method that left a model, else sft, else base."""
        from thumbs.pipeline.artifacts import last_policy

        return last_policy(self.path)

    def sample(
        self,
        prompts: str | Sequence[str],
        *,
        stage: str | None = None,
        n: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
    ) -> list[list[Reply]]:
        """n replies to each prompt from the model that a stage left; None: the last method's that left one.

        `base` is what the run started from.
        """
        from thumbs.config.sampling import SamplingConfig
        from thumbs.pipeline.artifacts import sample_text

        asked = [prompts] if isinstance(prompts, str) else prompts
        return sample_text(self.path, stage or self.policy, asked, n, sampling or SamplingConfig(), seed)

    def evaluate(
        self, *, prompts: str | Path | None = None, gold: Any = None, people: LabelSource | None = None
    ) -> Mapping[str, Any]:
        """Measures the models on held-out prompts again, or for the first time; returns the new numbers.

        prompts: a file, in place of those of the config. gold: what is trusted: a word or settings, as
        `evaluation.gold` has them. people: who asks people, if they are the gold.
        """
        from thumbs.config.base import build_config
        from thumbs.config.evaluation import GoldConfig, gold_settings
        from thumbs.pipeline.evaluate import evaluate_run

        given = gold_settings(gold) if isinstance(gold, str) else gold
        trusted = given if given is None or isinstance(given, GoldConfig) else build_config(GoldConfig, given)
        return evaluate_run(self.path, prompts=None if prompts is None else str(prompts), gold=trusted, people=people)

    def audit(self, *, halves: bool = False) -> Mapping[str, Any]:
        """Audits the reward model on held-out pairs; with `halves`, also compares models of two halves of the data."""
        from thumbs.pipeline.reward_audit import audit_reward

        return audit_reward(self.path, halves=halves)

    def export(
        self,
        out: str | Path,
        *,
        stage: str | None = None,
        format: str | None = None,
        merge: bool = False,
        dtype: str | None = None,
        allow_unsafe: str | None = None,
        push: str | None = None,
        public: bool = False,
    ) -> Path:
        """Writes the model of a stage for other tools.

        stage: None: the last method's that left a model. format: `peft`, an adapter; `hf`, a whole Hugging Face model;
        `gguf`, one file for llama.cpp and Ollama; None: an adapter if there is one. merge: short for format `hf`.

        dtype: of whole weights (float32, bfloat16, float16; None: that of the base). allow_unsafe: why a policy
        that the gate of `safety` holds back is to leave all the same; the card says so. push: `owner/name` on the
        Hugging Face hub, which then gets the folder in one commit; public: it may be read by all (a new one is private
        otherwise).
        """
        from thumbs.pipeline.artifacts import export

        if merge and format not in (None, "hf"):
            raise ConfigError(f"merge=True is short for format='hf', and format={format!r} was given; leave one out")
        if public and push is None:
            raise ConfigError("public says who may read what is pushed, and nothing is: give push too, or leave it out")
        form = "hf" if merge else format
        return export(self.path, stage or self.policy, Path(out), form, dtype, allow_unsafe, push=push, public=public)

    def safety(self) -> Mapping[str, Any]:
        """Probes every policy and measures its share of unsafe replies; the summary of safety/summary.json."""
        from thumbs.pipeline.safety import measure_safety

        return measure_safety(self.path)

    def report(self) -> Path:
        """Writes report.html, one file that needs no network, and returns its path."""
        from thumbs.report.build import build_report

        return build_report(self.path)

    def trace(self) -> Trace:
        """Which labels shaped which checkpoint."""
        from thumbs.pipeline.trace import trace_run

        return trace_run(self.path)

    @property
    def _record(self) -> RunRecord:
        from thumbs.report.record import read_run

        return read_run(self.path)
