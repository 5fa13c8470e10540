"""How the server is: for probes, for Prometheus, and for people."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thumbs.service.requests import owner_of
from thumbs.service.state import Routes, Service, route

log = logging.getLogger("thumbs.service.requests")

_QUIET = {"retrieve", "heartbeat", "telemetry", "health", "metrics"}
"""Endpoints that are called all the time; logged at level DEBUG."""
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,  # names of models, owners and metadata are what clients chose
    undefined=jinja2.StrictUndefined,
)
_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 20.0, 45.0)


class Meter:
    """Counts and times requests by endpoint, never by path: paths hold what clients chose."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("thumbs_requests", "Requests.", ["endpoint", "status"], registry=self.registry)
        self._seconds = Histogram(
            "thumbs_request_seconds", "Time to answer.", ["endpoint"], buckets=_BUCKETS_S, registry=self.registry
        )
        self.registry.register(_Gauges(service))
        ProcessCollector(registry=self.registry)
        self._tokens = time.monotonic(), 0

    def count(self, endpoint: str, status: int, seconds: float) -> None:
        """Note one request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def memory_mib(self) -> float:
        """Memory of this process, MiB; 0 where the system does not tell."""
        return (self.registry.get_sample_value("process_resident_memory_bytes") or 0.0) / 2**20

    def tokens_per_s(self, sampled: int) -> float:
        """Rate since this was last asked, with the number of tokens `sampled` so far."""
        (then, before), now = self._tokens, time.monotonic()
        self._tokens = now, sampled
        return (sampled - before) / max(now - then, 1e-3)


class _Gauges(Collector):
    """What the backend says of itself, asked when somebody looks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> list[Metric]:
        """One metric a number."""
        found = numbers(self._service)
        tokens = CounterMetricFamily("thumbs_sampled_tokens", "Tokens sampled.", value=found.pop("sampled_tokens"))
        gauges = [
            GaugeMetricFamily(f"thumbs_{name}", f"{name.replace('_', ' ').capitalize()}.", value=value)
            for name, value in found.items()
        ]
        caught = CounterMetricFamily("thumbs_filtered", "Texts that filters caught.", labels=["place", "filter"])
        for place_and_filter, count in self._service.screen.found.items() if self._service.screen else ():
            caught.add_metric(place_and_filter, count)
        return [tokens, caught, *gauges]


def numbers(service: Service) -> dict[str, int]:
    """The numbers of the backend by name, and how many promises are open."""
    found = service.backend.waiting()
    return {"open_promises": len(service.promises), **found, "operations": sum(found["operations"].values())}


class Observation:
    """Middleware: one structured log line and one measurement per request."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app = app
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and notes how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            seconds = time.monotonic() - start
            endpoint = getattr(scope.get("endpoint"), "__name__", "none")
            self._meter.count(endpoint, status, seconds)
            _log(scope, endpoint, status, seconds)


def _log(scope: Scope, endpoint: str, status: int, seconds: float) -> None:
    level = logging.DEBUG if endpoint in _QUIET and status < 500 else logging.INFO
    if log.isEnabledFor(level):
        owner = scope.get("state", {}).get("owner")
        # A download's path is its permission, so it is not for the log.
        path = "" if endpoint == "download" else scope["path"][:200]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "endpoint": endpoint, "method": scope["method"], "path": path, "owner": owner}
        log.log(level, json.dumps({**line, "status": status, "ms": round(seconds * 1000, 1)}))


class StatusRoutes(Routes):
    """Probes, measurements and the page."""

    def __init__(self, service: Service, meter: Meter) -> None:
        super().__init__(service)
        self._meter = meter

    @route("GET", "/healthz", "/health", "/api/v1/healthz", keyed=False)
    async def health(self, request: Request) -> Response:
        """Says that the server answers."""
        return JSONResponse({"status": "ok"})

    @route("GET", "/metrics")
    async def metrics(self, request: Request) -> Response:
        """The measurements in Prometheus' text format."""
        text = await self._work(generate_latest, self._meter.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    @route("GET", "/")
    async def page(self, request: Request) -> Response:
        """Queues, memory and the caller's own runs, for a browser."""
        content = await self._work(self._render, owner_of(request))
        headers = {
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "Cache-Control": "no-store",
        }
        return HTMLResponse(content, headers=headers)

    def _render(self, owner: str) -> str:
        backend = self._backend
        runs, total = backend.store.runs(owner, 20, 0)
        found = numbers(self._service)
        measured = {"sampled_tokens_per_s": self._meter.tokens_per_s(found["sampled_tokens"])}
        shown: dict[str, Any] = {
            "models": [model.model_name for model in backend.bases.supported()],
            "numbers": {**found, **measured, "memory_MiB": self._meter.memory_mib()},
            "runs": runs,
            "total": total,
            "owner": owner,
        }
        return _ENVIRONMENT.get_template("status.html").render(shown)
