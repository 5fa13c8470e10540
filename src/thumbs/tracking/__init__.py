"""The run folder, metric names with units, the metric log, and progress bars."""

from thumbs.tracking.files import StepLog, read_json, read_object, read_object_if_there, write_json, write_text
from thumbs.tracking.metrics import METRICS, Metric, MetricLog
from thumbs.tracking.progress import Progress
from thumbs.tracking.run_folder import RunFolder, StageFolder

__all__ = [
    "METRICS",
    "Metric",
    "MetricLog",
    "Progress",
    "RunFolder",
    "StageFolder",
    "StepLog",
    "read_json",
    "read_object",
    "read_object_if_there",
    "write_json",
    "write_text",
]
