"""The command line: one file per command; torch is imported inside the commands that need it."""

__all__ = [
    "benchmarks", "chat", "cluster", "collect", "collect_serve", "collect_team", "compare", "data", "doctor",
    "evaluate", "export", "init", "lab", "lint", "main", "plan", "report", "run", "safety", "sample", "schema",
    "serve", "shell", "trace",
]  # fmt: skip
