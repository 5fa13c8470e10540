"""A page on this machine that follows a run: the report, made anew while the run goes on."""

from __future__ import annotations

import hashlib
import secrets
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from thumbs.errors import ThumbsError
from thumbs.report.build import build_page, build_report
from thumbs.report.page import render
from thumbs.tracking import RunFolder
from thumbs.web.listening import listen, url_of

HOST = "127.0.0.1"
SHARE = 0.1
"""Most of a core's time that making pages takes."""
_LOOK_S = 1.0
_GOODBYE_S = 10.0
"""How long the last page waits for the browser to fetch it."""
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Pages:
    """The page of a run, made when the folder has changed and not more often than SHARE allows."""

    def __init__(self, run: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self._clock = run, clock
        self._lock = threading.Lock()
        self._seen: object = None
        self._due = -float("inf")
        self._page = b""
        self.last_was_fetched = threading.Event()

    def page(self) -> bytes:
        """The newest page; where the folder cannot be read at this moment, the one before."""
        with self._lock:
            if self._clock() >= self._due and (now := self._state()) != self._seen:
                began = self._clock()
                try:
                    self._page, self._seen = build_page(self.run, live=True).encode("utf-8", "replace"), now
                except (ThumbsError, OSError) as error:  # half of a move, or of `--fresh`: the next look finds it done
                    self._page = self._page or render("wait.html.j2", {"why": str(error)}).encode("utf-8", "replace")
                self._due = self._clock() + (self._clock() - began) / SHARE
            return self._page

    def end(self, page: bytes) -> None:
        """From now on this page is served, and that it was fetched is noted."""
        with self._lock:
            self._page, self._due = page, float("inf")

    def ended(self) -> bool:
        """Whether the last page is there."""
        return self._due == float("inf")

    def _state(self) -> object:
        """What changes when a run writes: the small files of its stages."""
        found = [path for form in ("*.json", "*/*.json*", "iteration-*/*/*.json*") for path in self.run.glob(form)]
        states = []
        for path in sorted(found):
            try:
                told = path.stat()
            except FileNotFoundError:
                continue
            states.append((path, told.st_mtime_ns, told.st_size))
        return states


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def server_of(pages: Pages, token: str, port: int = 0) -> ThreadingHTTPServer:
    """What serves the page at /TOKEN/ of this machine, to those who know the token."""
    listener = listen(HOST, port)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Answers with the page, or with 304 if the browser has it."""
            name = (self.headers.get("Host") or "").rpartition(":")[0]
            if name not in (HOST, "localhost"):
                return self._answer(HTTPStatus.FORBIDDEN, b"this page is for this machine alone")
            if not secrets.compare_digest(self.path.encode(), f"/{token}/".encode()):
                return self._answer(HTTPStatus.NOT_FOUND, b"open the address that thumbs printed")
            ended, page = pages.ended(), pages.page()
            tag = f'"{hashlib.sha256(page).hexdigest()[:32]}"'
            if self.headers.get("If-None-Match") == tag:
                return self._answer(HTTPStatus.NOT_MODIFIED, b"", tag)
            self._answer(HTTPStatus.OK, page, tag)
            if ended:
                pages.last_was_fetched.set()

        def _answer(self, status: HTTPStatus, body: bytes, tag: str = "") -> None:
            self.send_response_only(status)
            for key, value in {**_HEADERS, "Content-Length": str(len(body)), **({"ETag": tag} if tag else {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Visits are no news."""

    server = _Server(listener.getsockname(), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    return server


def follow(run: Path, say: Callable[[str], None], port: int = 0) -> Path:
    """Serves the report while a process works on the run; writes it when that ends and returns its path.

    Raises RunError if `run` is not a run folder.
    """
    folder = RunFolder(run)
    folder.settings()
    if not folder.is_worked_on():
        say(f"no process works on {run}, so there is nothing to follow")
        return build_report(run)
    pages, token = Pages(run), secrets.token_urlsafe(16)
    with server_of(pages, token, port) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        say(f"following {run}: {url_of(server.socket, HOST)}/{token}/ (Ctrl-C ends this, and not the run)")
        while folder.is_worked_on():
            time.sleep(_LOOK_S)
        path = build_report(run)
        pages.end(path.read_bytes())
        pages.last_was_fetched.wait(_GOODBYE_S)
        server.shutdown()
    say("the run has ended")
    return path
