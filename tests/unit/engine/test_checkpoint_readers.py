"""Several ranks may find a checkpoint under the name that a crash left it with."""

from __future__ import annotations

import threading
from pathlib import Path

from thumbs.engine.checkpoints import MANIFEST, exists


def test_all_that_look_for_a_checkpoint_that_a_crash_left_aside_find_it(tmp_path: Path):
    for number in range(50):
        path = tmp_path / f"saved-{number}"
        old = path.with_name(path.name + ".old")
        old.mkdir()
        (old / MANIFEST).write_text("{}")
        found: list[bool] = []
        gate = threading.Barrier(4)

        def look(path: Path = path, found: list[bool] = found, gate: threading.Barrier = gate) -> None:
            gate.wait()
            found.append(exists(path))

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 4
