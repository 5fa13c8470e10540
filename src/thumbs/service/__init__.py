"""The training service over HTTP: the Tinker and MinT protocol for many clients on one machine."""

__all__ = [
    "absent", "adapters", "app", "auth", "completions", "copies", "downloads", "hub", "keys", "mint", "models",
    "openai", "openai_errors", "openai_parameters", "openai_requests", "promises", "refusals", "requests", "rest",
    "retrieval", "sampling", "screening", "sessions", "speech", "state", "status", "streaming", "submissions",
    "threads", "training", "uploads", "wire", "wire_results", "wire_schema",
]  # fmt: skip
