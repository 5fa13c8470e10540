"""The programs that `tracking` names, each as a `Tracker`."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from thumbs.errors import needs
from thumbs.pipeline.trackers import TrackedRun, Tracker
from thumbs.tracking.run_folder import flat_settings

Values = Mapping[str, float]
Rows = Sequence[Mapping[str, Any]]


def _named(place: str, values: Values) -> dict[str, float]:
    """Metrics by the names that they are shown under: `ppo/kl`, in later iterations `iteration-2/ppo/kl`."""
    iteration, _, stage = place.rpartition("/")
    before = f"{iteration}/" if iteration else ""
    return {f"{before}{name if '/' in name else f'{stage}/{name}'}": value for name, value in values.items()}


def _table(rows: Rows) -> tuple[list[str], list[list[Any]]]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return columns, [[row.get(column) for column in columns] for row in rows]


class _Trackio:
    def __init__(self, about: TrackedRun) -> None:
        with needs("trackers", "tracking: trackio"):
            import trackio  # pyright: ignore[reportMissingImports] (an optional package)
        self._table = trackio.Table
        self._run = trackio.init(
            project=about.project,
            name=f"{about.name}-{about.id}",
            config=dict(about.settings),
            resume="allow",
            embed=False,
        )

    def numbers(self, place: str, step: int, values: Values) -> None:
        self._run.log(_named(place, values), step=step)

    def samples(self, place: str, step: int, rows: Rows) -> None:
        columns, data = _table(rows)
        import pandas  # trackio brings it

        self._run.log({f"{place}/samples": self._table(dataframe=pandas.DataFrame(data, columns=columns))}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Wandb:
    def __init__(self, about: TrackedRun) -> None:
        with needs("trackers", "tracking: wandb"):
            import wandb  # pyright: ignore[reportMissingImports] (an optional package)
        self._table = wandb.Table
        self._defined: set[str] = set()
        self._run = wandb.init(
            project=about.project,
            name=about.name,
            id=about.id,
            dir=str(about.folder),
            config=dict(about.settings),
            resume="allow",
        )

    def numbers(self, place: str, step: int, values: Values) -> None:
        named = _named(place, values)
        axis = f"{place}/step"  # each stage counts its own steps, and W&B has one counter for all
        for name in named.keys() - self._defined:
            self._run.define_metric(name, step_metric=axis)
            self._defined.add(name)
        self._run.log({**named, axis: step})

    def samples(self, place: str, step: int, rows: Rows) -> None:
        columns, data = _table(rows)
        self._run.log({f"{place}/samples": self._table(columns=columns, data=data), f"{place}/step": step})

    def close(self) -> None:
        self._run.finish()


class _TensorBoard:
    def __init__(self, about: TrackedRun) -> None:
        with needs("trackers", "tracking: tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(about.folder / "tensorboard"))

    def numbers(self, place: str, step: int, values: Values) -> None:
        for name, value in _named(place, values).items():
            self._writer.add_scalar(name, value, step)

    def samples(self, place: str, step: int, rows: Rows) -> None:
        # The page shows Markdown with HTML in it; in a block of code a reply is text, whatever it holds.
        shown = [f"    {key}: {html.escape(str(row[key]))}" for row in rows for key in row if key != "step"]
        text = "\n".join(line.replace("\n", "\n    ") for line in shown)
        self._writer.add_text(f"{place}/samples", text, step)

    def close(self) -> None:
        self._writer.close()


class _Mlflow:
    def __init__(self, about: TrackedRun) -> None:
        with needs("trackers", "tracking: mlflow"):
            from mlflow.entities import Metric, Param, RunStatus  # pyright: ignore[reportMissingImports]
            from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]
        self._metric, self._finished = Metric, RunStatus.to_string(RunStatus.FINISHED)
        self._client = MlflowClient()
        experiment = self._client.get_experiment_by_name(about.project)
        where = experiment.experiment_id if experiment else self._client.create_experiment(about.project)
        found = self._client.search_runs([where], f"tags.`thumbs.id` = '{about.id}'")
        if found:
            self._id = found[0].info.run_id
            return
        self._id = self._client.create_run(where, run_name=about.name, tags={"thumbs.id": about.id}).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in flat_settings(about.settings).items()]
        for start in range(0, len(params), 100):  # as many as one request may hold
            self._client.log_batch(self._id, params=params[start : start + 100])

    def numbers(self, place: str, step: int, values: Values) -> None:
        wall_ms = round(1000 * values.get("wall_s", 0.0))
        named = _named(place, values).items()
        self._client.log_batch(self._id, metrics=[self._metric(name, value, wall_ms, step) for name, value in named])

    def samples(self, place: str, step: int, rows: Rows) -> None:
        columns, data = _table(rows)
        self._client.log_dict(self._id, {"columns": columns, "data": data}, f"samples/{place}/{step:06d}.json")

    def close(self) -> None:
        self._client.set_terminated(self._id, self._finished)


def trackio(about: TrackedRun) -> Tracker:
    """Trackio: local by default, `trackio show` opens its page."""
    return _Trackio(about)


def wandb(about: TrackedRun) -> Tracker:
    """Weights & Biases: needs `wandb login`; WANDB_MODE=offline keeps everything in the run folder."""
    return _Wandb(about)


def tensorboard(about: TrackedRun) -> Tracker:
    """TensorBoard: event files in the run folder, for `tensorboard --logdir runs`."""
    return _TensorBoard(about)


def mlflow(about: TrackedRun) -> Tracker:
    """MLflow: the server of MLFLOW_TRACKING_URI, else the database that MLflow makes in the current folder."""
    return _Mlflow(about)
