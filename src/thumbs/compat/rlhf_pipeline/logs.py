"""Where a pipeline's messages go: its own log file, and stderr where the program has set nothing up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thumbs.tracking.files import writing


@contextmanager
def log_to(file: Path, level: str) -> Iterator[None]:
    """Within it the package's messages of at least `level` go to `file` too, with their time."""
    logger = logging.getLogger("thumbs")
    handlers: list[logging.Handler] = []
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(file, encoding="utf-8", errors="backslashreplace"))
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level, logger.propagate
    if not logger.hasHandlers():
        handlers.append(logging.StreamHandler())
        handlers[1].setFormatter(logging.Formatter("%(message)s"))
        logger.propagate = False  # a library that sets up the root logger meanwhile must not double what is shown
    logger.setLevel(level)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
