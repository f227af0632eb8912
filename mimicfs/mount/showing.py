"""While a mount runs: figures for Prometheus (--metrics), and a web page (--ui).

Threading: `shown` is entered by the main thread; requests are answered by threads of the site.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from mimicfs.admin.sources import Sources
from mimicfs.errors import ConfigError, MimicError
from mimicfs.mount.mounted import mounts

if TYPE_CHECKING:
    from mimicfs.admin.site import Route
    from mimicfs.config.values import Settings
    from mimicfs.s3.requests.client import S3

log = logging.getLogger(__name__)

_ANY_PORT = "127.0.0.1:0"
_COUNTED = ("s3", "kernel")  # the parts whose counters the hour has
_HARM = "read names of buckets, errors and counts"
_NOT_PUBLIC = "--ui: anybody could read the page at {address}; write 127.0.0.1:PORT or unix:/PATH"


@contextmanager
def shown(settings: Settings, sources: Sources, s3: S3) -> Iterator[str]:
    """Within, the figures of *sources*, and the page, are at the address that was asked for.
    Yield the URL of the page; "": there is none. Raises ConfigError."""
    address = settings.metrics or (_ANY_PORT if settings.ui else "")
    if not address:
        yield ""
        return
    from mimicfs.admin.site import Site

    option = "--metrics" if settings.metrics else "--ui"
    with ExitStack() as stack:
        routes = _routes(stack, settings, sources, s3)
        site = stack.enter_context(closing(Site(option, address, routes, _HARM)))
        yield site.url if settings.ui else ""


def _routes(stack: ExitStack, settings: Settings, sources: Sources, s3: S3) -> dict[str, Route]:
    from mimicfs.admin.metrics import exposition

    routes: dict[str, Route] = {}
    try:
        routes["/metrics"] = exposition(sources.collect)
    except ConfigError:
        if not settings.ui:  # which needs no library
            raise
        log.info("no /metrics: prometheus-client is not installed")
    if settings.ui:
        routes["/"] = _page(stack, settings, sources, s3, metrics="/metrics" in routes)
    return routes


def _page(
    stack: ExitStack, settings: Settings, sources: Sources, s3: S3, *, metrics: bool
) -> Route:
    from mimicfs.page.document import MountPage
    from mimicfs.page.hour import Hour, sampled
    from mimicfs.page.warned import RecentWarnings, noted

    if settings.metrics.startswith("public:"):
        raise ConfigError(_NOT_PUBLIC.format(address=settings.metrics))
    notes, hour = RecentWarnings(), Hour(time.time())
    stack.enter_context(noted(notes))
    stack.enter_context(sampled(hour, lambda: sources.collect(only=_COUNTED)))
    page = MountPage(
        sources,
        hour,
        notes,
        lambda: [each._asdict() for each in mounts(settings)],
        lambda: _secrets(s3),
        metrics=metrics,
    )
    return page.answer


def _secrets(s3: S3) -> list[str]:
    try:
        return s3.secrets()
    except MimicError as exc:
        log.debug("credentials: %s", exc)
        return []
