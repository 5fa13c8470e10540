"""Files of what people said: chosen by filters, in the formats that trainers read, each with a manifest."""

from __future__ import annotations

from thumbs.collect.exports.formats import FORMATS
from thumbs.collect.exports.select import DROPS, Filters
from thumbs.collect.exports.write import (
    Counts,
    Kept,
    Manifest,
    Preview,
    export,
    export_again,
    kept_export,
    kept_exports,
    preview,
    record_export,
)

__all__ = [
    "DROPS",
    "FORMATS",
    "Counts",
    "Filters",
    "Kept",
    "Manifest",
    "Preview",
    "export",
    "export_again",
    "kept_export",
    "kept_exports",
    "preview",
    "record_export",
]
