"""APIs that people know from elsewhere, on our engine: TRL's step API (`trl_ppo`) and a pipeline of one flat config."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["rlhf_pipeline", "settings", "trl_ppo"]


def suggestion(name: str, known: Iterable[str], shown: Iterable[str] | None = None) -> str:
    """What an error about an unknown name ends with: the nearest known one, or all that there are (or `shown`)."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(shown or known)}"
