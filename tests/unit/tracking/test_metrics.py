"""Metric names are a closed list, the log is JSONL, and the list stands in the documentation."""

import json
from pathlib import Path

import pytest

from thumbs.tracking import METRICS, MetricLog
from thumbs.tracking.metrics import UnknownMetricError

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_log_writes_one_line_a_step_at_once(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "sft" / "metrics.jsonl")
    log.log(1, {"sft/loss": 2.5, "sft/tokens_per_s": 100})
    log.log(2, {"sft/loss": float("inf")})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [{k: v for k, v in line.items() if k != "wall_s"} for line in lines] == [
        {"step": 1, "sft/loss": 2.5, "sft/tokens_per_s": 100.0},
        {"step": 2, "sft/loss": None},
    ]


def test_wall_time_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "wall_s": 100.0}\n{"step": 2, "wall_s": 200.0}\n{"step": 3, "wall_s": 300.0}\n')
    log = MetricLog(path)
    log.truncate_after(2)
    log.log(3, {"sft/loss": 1.0})
    steps, wall_s = zip(*((r["step"], r["wall_s"]) for r in log.read()), strict=True)
    assert steps == (1, 2, 3)
    assert 200 <= wall_s[2] < 210


def test_an_unknown_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "metrics.jsonl")
    with pytest.raises(UnknownMetricError, match="did you mean 'ppo/entropy'"):
        log.log(1, {"ppo/kl": 1.0, "ppo/entrpy": 1.0})
    assert not log.path.exists()


def test_the_documentation_lists_exactly_the_metrics() -> None:
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    documented = [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows]
    assert documented == [(f"`{m.name}`", m.unit, m.meaning) for m in METRICS.values()]
