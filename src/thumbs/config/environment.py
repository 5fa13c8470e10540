"""Settings of conversations of several turns."""

from __future__ import annotations

from pydantic import Field

from thumbs.config.base import Frozen


class EnvironmentConfig(Frozen):
    """What the policy talks to: tools that its replies call, or an environment of one's own. One of the two."""

    tools: tuple[str, ...] = ()
    """Python functions (`module:name`) that replies may call; their results come back as messages."""
    factory: str | None = None
    """A Python callable (`module:name`) that gives the MessageEnv of a prompt."""
    max_turns: int = Field(default=4, ge=1)
    """Replies of the policy; a conversation that is not done then is over."""
    max_tokens: int = Field(default=1024, ge=8)
    """A conversation that leaves no room for a whole reply within this many tokens is over."""
    time_limit_s: float = Field(default=600.0, gt=0)
    """What an environment may take for an answer, seconds; then the run stops and names the prompt."""
    concurrency: int = Field(default=1, ge=1)
    """Environments that answer at the same time, in threads; tools and environments must be made for it if above 1."""

    def misfit(self) -> str | None:
        """What is wrong with it; None if it can be used."""
        if bool(self.tools) == (self.factory is not None):
            return "give `tools` or `factory`, one of the two"
        return None
