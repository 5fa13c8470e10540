"""Benchmarks of others, run by their own programs on a policy that is served: lm-evaluation-harness and inspect-ai.

A task is named as its program names it. `arc_easy` or `folder/task.yaml` is one of lm-evaluation-harness, `tasks.py`,
`tasks.py@name` or `package/name` one of inspect-ai. What they find is kept sample by sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thumbs.errors import ConfigError, DataError, needs
from thumbs.tracking.files import plain, read_json, write_json, write_text

FOLDER = "benchmarks"
"""Folder of a run in which what was found is kept: `results.json` and the samples of each task."""
_BATCH = 8


@dataclass(frozen=True)
class Served:
    """A policy behind an OpenAI-compatible endpoint. url: of the server. name: of the model there.

    tokenizer: folder from which transformers reads its tokenizer. context: tokens, prompt and reply together.
    """

    url: str
    name: str
    tokenizer: Path
    context: int


@dataclass(frozen=True)
class BenchmarkScore:
    """One number of a task. error: its standard error, None where the program gives none. samples: how many."""

    system: str
    program: str
    task: str
    metric: str
    value: float
    error: float | None
    samples: int


def run_tasks(
    served: Served, system: str, tasks: Sequence[str], folder: Path, limit: int | None = None
) -> list[BenchmarkScore]:
    """Runs each task on a served policy and returns what was found; `folder` gets the samples.

    limit: at most so many samples a task. Raises ConfigError for a task that its program does not know.
    """
    return [
        score
        for task in tasks
        for score in (_inspect if is_of_inspect(task) else _harness)(served, system, task, folder, limit)
    ]


def is_of_inspect(task: str) -> bool:
    """Whether a task is one of inspect-ai, by its name; of lm-evaluation-harness if not."""
    return not task.endswith((".yaml", ".yml")) and ("/" in task or task.partition("@")[0].endswith(".py"))


def require_tasks(tasks: Sequence[str]) -> None:
    """Raises ConfigError for a file of tasks that is not there, before a policy is served."""
    for task in tasks:
        file = task.partition("@")[0]
        if file.endswith((".yaml", ".yml", ".py")) and not Path(file).is_file():
            raise ConfigError(f"--tasks {task}: there is no file {file}")


def _harness(served: Served, system: str, task: str, folder: Path, limit: int | None) -> Iterator[BenchmarkScore]:
    with needs("eval", "a task of lm-evaluation-harness"):
        from lm_eval import simple_evaluate  # type: ignore[import-not-found]
        from lm_eval.models.openai_completions import LocalCompletionsAPI  # type: ignore[import-not-found]
        from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    path = Path(task)
    manager = TaskManager(include_path=str(path.parent)) if path.suffix in (".yaml", ".yml") else TaskManager()
    name = path.stem if path.suffix in (".yaml", ".yml") else task
    if name not in manager.all_tasks:
        raise ConfigError(
            f"--tasks {task}: lm-evaluation-harness knows no task {name}; a file has the name of the task in it, and "
            "`lm-eval ls tasks` lists the others"
        )
    model = LocalCompletionsAPI(
        base_url=f"{served.url}/v1/completions",
        model=served.name,
        tokenizer=str(served.tokenizer),
        tokenizer_backend="huggingface",
        max_length=served.context,
        batch_size=_BATCH,
        max_retries=1,
    )
    found = simple_evaluate(model=model, tasks=[name], task_manager=manager, limit=limit, bootstrap_iters=1000)
    samples = found["samples"]
    for each, rows in samples.items():
        keep_samples(folder, f"{system}-{each}", rows)
    for each, numbers in found["results"].items():
        count = int(numbers.get("sample_len") or len(samples.get(each, ())))
        for key, value in numbers.items():
            metric, comma, filtered = key.partition(",")
            if comma and not metric.endswith("_stderr") and isinstance(value, float | int):
                error = numbers.get(f"{metric}_stderr,{filtered}")
                shown = metric if filtered == "none" else f"{metric}, {filtered}"
                error = float(error) if isinstance(error, float | int) else None
                yield BenchmarkScore(system, "lm-eval", each, shown, float(value), error, count)


def _inspect(served: Served, system: str, task: str, folder: Path, limit: int | None) -> Iterator[BenchmarkScore]:
    with needs("eval", "a task of inspect-ai"):
        import inspect_ai  # type: ignore[import-not-found]
        from inspect_ai.model import get_model  # type: ignore[import-not-found]

    model = get_model(f"openai-api/thumbs/{served.name}", base_url=f"{served.url}/v1", api_key="local")
    logs = inspect_ai.eval(task, model=model, limit=limit, log_dir=str(folder / "inspect"), display="none")
    for log in logs:
        if log.status != "success" or log.results is None:
            raise DataError(f"--tasks {task}: inspect-ai ended with {log.error.message if log.error else log.status}")
        rows = [sample.model_dump(mode="json", include={"id", "input", "target", "output", "scores"})
                for sample in log.samples or ()]  # fmt: skip
        keep_samples(folder, f"{system}-{log.eval.task.rpartition('/')[2]}", rows)
        for scorer in log.results.scores:
            error = scorer.metrics.get("stderr")
            for metric, found in scorer.metrics.items():
                if metric != "stderr":
                    known = float(error.value) if error is not None and metric == "accuracy" else None
                    name, count = f"{metric}, {scorer.name}", log.results.total_samples
                    yield BenchmarkScore(system, "inspect-ai", log.eval.task, name, float(found.value), known, count)


def keep_samples(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes the samples of a task, one JSON object a line, in place of those of an earlier time."""
    write_text(folder / f"{name.replace('/', '-')}.jsonl", "".join(f"{json.dumps(plain(dict(r)))}\n" for r in rows))


def keep_scores(folder: Path, scores: Sequence[BenchmarkScore]) -> Path:
    """Adds scores to `results.json`; those of the same system and task take the place of earlier ones."""
    path, again = folder / "results.json", {(score.system, score.task) for score in scores}
    kept = [score for score in read_scores(folder) if (score.system, score.task) not in again]
    write_json(path, [asdict(score) for score in [*kept, *scores]])
    return path


def read_scores(folder: Path) -> list[BenchmarkScore]:
    """What was found so far; empty where no task was run."""
    path = folder / "results.json"
    return [BenchmarkScore(**row) for row in read_json(path)] if path.exists() else []
