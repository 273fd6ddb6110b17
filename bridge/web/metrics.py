"""`/metrics`: what `bridge.metrics` keeps, as Prometheus text, with what is looked at only then: queue, breakers, disk, memory.

Who may read may look. The numbers of the spool are at most a second old, or older where they take long to find: fifty times as
long as that took, so that looking at them never takes more than a fiftieth of its reader's time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, MutableMapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge import __version__, metrics
from bridge.spool.base import SpoolError
from bridge.web.context import Web
from bridge.web.guard import allowed

FRESH_S = 1.0
SHARE = 50
PATIENCE_S = 5.0  # for the spool; without its numbers the others are shown


def routes(web: Web) -> list[BaseRoute]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Kept())
    ProcessCollector(registry=registry)
    look = SpoolLook(web)
    metrics.info.set(1, __version__)
    for protocol in metrics.PROTOCOLS:
        metrics.received.show(protocol)

    async def show(request: Request) -> Response:
        allowed(web, request, "read")
        await look.refresh()
        _look_around(web)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return [Route("/metrics", show)]


class Kept(Collector):
    """The values of `bridge.metrics`."""

    def collect(self) -> Iterator[Metric]:
        for metric in metrics.ALL:
            if isinstance(metric, metrics.Gauge):
                yield _with_samples(GaugeMetricFamily(metric.name, metric.help, labels=metric.labels), metric)
            elif isinstance(metric, metrics.Counter):
                yield _with_samples(CounterMetricFamily(metric.name, metric.help, labels=metric.labels), metric)
            else:
                yield _spread(metric)


def _with_samples(
    family: GaugeMetricFamily | CounterMetricFamily, metric: metrics.Gauge | metrics.Counter
) -> GaugeMetricFamily | CounterMetricFamily:
    for labels, value in tuple(metric.values.items()):
        family.add_metric(_texts(labels), value)
    return family


def _spread(metric: metrics.Histogram) -> HistogramMetricFamily:
    """Prometheus' buckets hold all that is within their bound."""
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = [*(str(float(bound)) for bound in metric.bounds), "+Inf"]
    for labels, spread in tuple(metric.values.items()):
        buckets = list(zip(bounds, accumulate(spread.counts), strict=True))
        family.add_metric(_texts(labels), buckets, sum_value=spread.sum)
    return family


def _texts(labels: metrics.Labels) -> list[str]:
    return [str(label) for label in labels]


# --- what is looked at only when somebody asks


def _look_around(web: Web) -> None:
    metrics.show_providers(one.provider.name for one in web.dispatchers.all)
    metrics.breaker_state.clear()
    for one in web.dispatchers.all:
        for state in metrics.STATES:
            metrics.breaker_state.set(one.breaker.state == state, one.provider.name, state)
    if web.budget:
        metrics.memory_used.set(web.budget.used)
        metrics.memory_total.set(web.budget.total)


class SpoolLook:
    """Sets the gauges of the spool; those who ask at the same time share a look."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._again_at = float("-inf")
        self._looking = asyncio.Lock()

    async def refresh(self) -> None:
        async with self._looking:
            began = time.monotonic()
            if began < self._again_at:
                return
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._look()
            except (SpoolError, OSError):  # TimeoutError is one. Nothing is shown rather than what was once
                for gauge in (metrics.queue_depth, metrics.queue_age, metrics.spool_bytes, metrics.disk_free):
                    gauge.clear()
                metrics.spool_writable.set(0)
            now = time.monotonic()
            self._again_at = now + max(FRESH_S, SHARE * (now - began))

    async def _look(self) -> None:
        spool, now = self._web.spool, self._web.clock.now()
        depth = await spool.queue_depth()
        for status, number in depth.recipients.items():
            metrics.queue_depth.set(number, status)
            metrics.queue_age.set(max(now - depth.oldest.get(status, now), 0), status)
        metrics.spool_bytes.set(depth.bytes)
        metrics.disk_free.set(await spool.free_bytes())
        metrics.spool_writable.set(await spool.writable())


# --- what the HTTP side counts of itself


class Counted:
    """Counts the answers, by the first part of a path that we have; others are one, or anybody could make any number of them."""

    def __init__(self, app: ASGIApp, *, routes: list[BaseRoute]) -> None:
        self._app = app
        self._paths = {_first_part(getattr(route, "path", "")) for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = _first_part(scope["path"])
        label = path if path in self._paths else "other"

        begun = False

        async def counting(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                metrics.http_requests.add(label, message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            if not begun:  # whoever is further out answers it with this
                metrics.http_requests.add(label, 500)
            raise


def _first_part(path: str) -> str:
    part = "/" + path.lstrip("/").partition("/")[0]
    return "other" if "{" in part else part
