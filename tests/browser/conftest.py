"""A server of its own for each test, and a browser in which people use it."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, sync_playwright

from browser.world import World
from thumbs.collect.store import CollectStore
from thumbs.collect.web.app import create_app
from thumbs.collect.web.site import Site

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "images" / "collect"


@pytest.fixture(scope="module")  # no longer: while it is open, its event loop keeps others from theirs
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def world(browser: Browser, tmp_path: Path) -> Iterator[World]:
    store = CollectStore(tmp_path / "collect.db", chance=random.Random(5))
    sources: dict[str, Any] = {}
    app = create_app(Site(store=store, key=b"k" * 32, sources=sources))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, port=0, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        made = World(store, f"http://127.0.0.1:{port}", browser, sources)
        yield made
        for context in made.contexts:
            for page in context.pages:
                if page.url.startswith(made.url):
                    made.complaints += page.evaluate("window.broken ?? []")
            context.close()
        assert made.complaints == []
    finally:
        server.should_exit = True
        thread.join()
        store.close()


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Takes a picture for the documents, where THUMBS_SCREENSHOTS=1 asks for it."""

    def take(page: Page, name: str) -> None:
        if os.environ.get("THUMBS_SCREENSHOTS") == "1":
            PICTURES.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=PICTURES / f"{name}.png")

    return take
