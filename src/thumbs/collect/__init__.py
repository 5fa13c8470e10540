"""People's judgements of replies: asked for, kept, weighed, exported."""

__all__ = [
    "access", "asking", "audit", "chat", "desk", "errors", "exports", "importing", "invitations", "items", "judgement",
    "overview", "overview_numbers", "passwords", "people", "projects", "quality", "question", "queue", "records",
    "screening", "settings", "simulate", "store", "supply", "tables", "votes", "web", "work",
]  # fmt: skip
