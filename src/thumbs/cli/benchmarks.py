"""`thumbs eval RUN --tasks …`: benchmarks of others on a run's policy, through our own server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from thumbs import api
from thumbs.cli.shell import printable
from thumbs.errors import needs
from thumbs.evaluation.benchmarks import (
    FOLDER,
    BenchmarkScore,
    Served,
    keep_scores,
    require_tasks,
    run_tasks,
)


def run_benchmarks(run: Path, tasks: Sequence[str], stage: str | None, limit: int | None) -> None:
    """Runs the tasks on the policy of a stage (None: what the run has made so far), prints and keeps what they found.

    The policy is served whole and in float32 on a port of this machine, to this process alone.
    """
    from thumbs.pipeline.summary import peak_rss_bytes, summarise
    from thumbs.tracking.files import write_json
    from thumbs.tracking.run_folder import RunFolder

    require_tasks(tasks)
    opened = api.open_run(run)
    system = stage or opened.policy
    with RunFolder(run).lock(), policy_server(run, system) as served:
        scores = run_tasks(served, system, tasks, run / FOLDER, limit)
        path = keep_scores(run / FOLDER, scores)
        write_json(run / "summary.json", summarise(run, peak_rss_bytes()))
    for line in score_lines(scores):
        typer.echo(printable(line))
    typer.echo(f"numbers: {path}\nreport: {opened.report()}")


@contextlib.contextmanager
@needs("serve", "benchmarks")
def policy_server(run: Path, stage: str) -> Iterator[Served]:
    """A server of a run's policy on a free port."""
    from thumbs.clients.backend import Backend
    from thumbs.clients.store import Store
    from thumbs.config.model import ModelConfig
    from thumbs.pipeline.artifacts import open_run
    from thumbs.service.app import create_app
    from thumbs.web.listening import listen, server_of, url_of
    from thumbs.web.signing import load_key

    with TemporaryDirectory(prefix="thumbs-benchmarks-") as scratch, listen("127.0.0.1", 0) as listener:
        folder, opened = Path(scratch), open_run(run)
        opened.require_policy(stage)
        (folder / "model").mkdir()
        opened.write_policy(stage, folder / "model", "float32")
        store = Store(folder / "records", None)
        backend = Backend(store, {stage: ModelConfig(name=str(folder / "model"), dtype="float32")})
        server = server_of(create_app(backend, load_key(folder / "key"), needs_token=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.02)
            (model,) = backend.bases.supported()
            yield Served(url_of(listener, "127.0.0.1"), stage, folder / "model", model.max_context_length or 0)
        finally:
            server.should_exit = True
            thread.join()
            backend.close()
            store.close()


def score_lines(scores: Sequence[BenchmarkScore]) -> Iterator[str]:
    """What was found, for a terminal."""
    yield f"{'task':<28}{'metric':<24}{'value':>8}  {'error':<8}samples"
    for s in scores:
        error = "-" if s.error is None else f"{s.error:.3f}"
        yield f"{s.task:<28}{s.metric:<24}{s.value:>8.3f}  {error:<8}{s.samples}"
