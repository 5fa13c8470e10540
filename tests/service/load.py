"""The goal for many clients at once: 200 samples and 8 trainers on a model of some 5M weights, on two cores.

python tests/service/load.py [tiny|5m]

Runs load_script.py with the real SDK against a server in this process, and tells when everybody was served and how
long control calls took. test_service_load.py asserts the same of the tiny model.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from service.conformance import TINKER
from service.serving import seen_by, served_by
from thumbs.clients.backend import Backend

SIZES: dict[str, dict[str, int]] = {
    "tiny": {},
    "5m": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_key_value_heads": 4},
}
LONGEST_S = 1800


def main() -> None:
    size = sys.argv[1] if len(sys.argv) > 1 else "5m"
    if size not in SIZES:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with served_by(Backend, folder, size=SIZES[size]) as url:
            seen = seen_by(TINKER, "load_script.py", url, folder, LONGEST_S)
    steps, samples = (np.array(seen[name]) - seen["start"] for name in ("steps", "samples"))
    control = 1000 * np.array(seen["control"])
    lines = [
        f"model {size}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end",
        f"trainers: first step of each after {_span(steps.min(axis=1))} s, all steps of each after "
        f"{_span(steps.max(axis=1))} s",
        f"samplers: first sample of each after {_span(samples.min(axis=1))} s, all samples of each after "
        f"{_span(samples.max(axis=1))} s",
        "control calls, {}: p50 {:.0f} ms, p99 {:.0f} ms, longest {:.0f} ms".format(
            len(control), *np.percentile(control, [50, 99, 100])
        ),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _span(seconds: np.ndarray) -> str:
    return f"{seconds.min():.1f} to {seconds.max():.1f}"


if __name__ == "__main__":
    main()
