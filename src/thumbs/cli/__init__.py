"""The command line: one file per command; torch is imported inside the commands that need it."""

__all__ = [
    "cluster", "collect", "collect_serve", "collect_team", "compare", "evaluate", "export", "lab", "lint", "main",
    "plan", "report", "run", "sample", "serve", "shell", "trace",
]  # fmt: skip
