"""One HTML file from a run folder."""

__all__ = ["build", "charts", "compare", "figures", "headline", "numbers", "page", "record"]
