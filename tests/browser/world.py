"""A running site and the windows in which its people see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page

from thumbs.collect.records import Vote
from thumbs.collect.store import CollectStore

_WATCH = """
window.broken = [];
addEventListener('securitypolicyviolation', (event) => window.broken.push(event.violatedDirective));
"""


@dataclass
class World:
    """A running site, its store, and the browser's windows of its people."""

    store: CollectStore
    url: str
    browser: Browser
    sources: dict[str, Any]
    requested: list[str] = field(default_factory=list)
    """Addresses that any window asked for."""
    complaints: list[str] = field(default_factory=list)
    """What any window's console said of errors, and what the policy of the page refused."""
    contexts: list[BrowserContext] = field(default_factory=list)

    def window(self, account: int, **options: Any) -> BrowserContext:
        """A browser of its own in which the account is logged in."""
        context = self.browser.new_context(**options)
        context.set_default_timeout(10_000)
        context.add_init_script(_WATCH)
        self.log_in(context, account)
        context.on("request", lambda request: self.requested.append(request.url))
        context.on("console", self._heard)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.contexts.append(context)
        return context

    def log_in(self, context: BrowserContext, account: int) -> None:
        """Begins a session of the account in that window."""
        name = f"collect_login_{self.url.rpartition(':')[2]}"
        context.add_cookies([{"name": name, "value": self.store.people.log_in(account), "url": self.url}])

    def open(self, account: int, path: str, **options: Any) -> Page:
        """A page in a new window."""
        page = self.window(account, **options).new_page()
        page.goto(self.url + path)
        return page

    def votes(self, slug: str = "work") -> list[Vote]:
        """The judgements of a project that stand."""
        return list(self.store.votes.all(self.store.projects.find(slug).id))

    def _heard(self, message: Any) -> None:
        # A refused or failed request is part of several tests; scripts and policies must never complain.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)
