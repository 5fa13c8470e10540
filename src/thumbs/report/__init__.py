"""One HTML file from a run folder."""

__all__ = [
    "build", "charts", "compare", "evidence", "figures", "frontier", "headline", "live", "numbers", "page", "record",
    "safety", "systems",
]  # fmt: skip
