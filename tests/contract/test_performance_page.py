"""docs/performance.md shows what the files of the last runs hold, no more and no less."""

from __future__ import annotations

import json

from example_files import FOLDER, load_file

BENCHMARKS = FOLDER.parent / "benchmarks"


def test_the_page_was_written_from_the_results():
    page = load_file(BENCHMARKS / "page.py")
    text = page.PAGE.read_text(encoding="utf-8")
    grown = json.loads((BENCHMARKS / "results" / "growth.json").read_text(encoding="utf-8"))
    for part in (page.comparisons(page.compared()), page.growth(grown)):
        assert part in text, "run `python benchmarks/page.py`"
    assert page.quality(page.learned()) in text, "run `python benchmarks/page.py`"
