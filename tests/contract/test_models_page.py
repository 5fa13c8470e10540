"""docs/models.md is what the tables of the code and the tests say."""

from __future__ import annotations

from pathlib import Path

from models_page import page
from thumbs.models.quantised import KEYS

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date():
    written = (DOCS / "models.md").read_text(encoding="utf-8")
    assert written == page() + "\n", "PYTHONPATH=src:tests python tests/models_page.py > docs/models.md"


def test_every_method_that_is_read_is_on_the_page():
    assert all(f"`{method}`" in page() for method in KEYS)
