"""The figures of a mount for Prometheus; site.py answers with them. Anybody who reaches a public
address reads names of buckets, and counts.

The numbers of each source become gauges MIMICFS_SOURCE_NAME; those in the tables below become
counters and labels. So a new source needs nothing here.

Threading: any thread asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mimicfs.admin.site import Response, Route
from mimicfs.admin.sources import Figures, failure
from mimicfs.errors import ConfigError

Collect = Callable[[], Mapping[str, Figures]]
_MISSING = "--metrics needs the package prometheus-client: pip install 'mimicfs[metrics]'"

# By source and figure: a counter and what its parts are called; "": it has no parts.
_COUNTERS = {
    ("kernel", "requests"): ("request", "Requests of the kernel."),
    ("kernel", "errors"): ("errno", "Errors that were answered to the kernel."),
    ("kernel", "saved"): ("kind", "S3 requests that the mirror made unnecessary."),
    ("kernel", "answered_by_mirror"): ("", "Questions that the mirror answered."),
    ("kernel", "asked_s3_first"): ("", "Questions for which S3 had to be asked first."),
    ("kernel", "bytes_read"): ("", "Bytes read by programs."),
    ("kernel", "bytes_written"): ("", "Bytes written by programs."),
    ("small_files", "fetched"): ("", "Small files that were fetched when they were listed."),
    ("small_files", "bytes"): ("", "Their bytes."),
    ("sharing", "contended"): ("", "Keys that this mount and others changed at the same time."),
    ("sharing", "resolved"): ("", "Keys that were settled by asking S3."),
    ("sharing", "epoch_changes"): ("", "How often the store may have lost changes."),
    ("follower", "told"): ("", "Changes by others that the kernel was told of."),
    ("follower", "restarts"): ("", "How often the kernel was told that all may have changed."),
    ("s3", "requests"): ("kind", "Requests sent to S3, retries included."),
    ("s3", "calls"): ("operation", "Calls of S3, each with its retries."),
    ("s3", "seconds"): ("operation", "Seconds until their answers began."),
    ("s3", "errors"): ("code", "Requests that S3 refused, or did not answer."),
    ("s3", "slow"): ("", "Requests that took longer than --slow-request."),
    ("s3", "bytes_in"): ("", "Bytes received from S3."),
    ("s3", "bytes_out"): ("", "Bytes sent to S3."),
}
_PARTS = {
    ("kernel", "threads_max"): "pool",
    ("events", "told_until_ns"): "bucket",
    ("reconcile", "swept_until_ns"): "bucket",
}
_TIMES = {"_ns": 1e-9, "_s": 1.0}
_WORD = re.compile(r"[^a-zA-Z0-9_]+")


def exposition(collect: Collect) -> Route:
    """Return a function that answers with the figures of *collect*, in the form of Prometheus.
    Raises ConfigError."""
    try:
        import prometheus_client
    except ImportError as exc:
        raise ConfigError(_MISSING) from exc
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(collect))
    render, kind = prometheus_client.generate_latest, prometheus_client.CONTENT_TYPE_LATEST
    return lambda _: Response(kind, render(registry))


class _Collector:
    """From figures to metrics, each time that Prometheus asks."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        found = self._collect()
        up = GaugeMetricFamily("mimicfs_up", "Whether this part answers.", labels=["part"])
        for source, figures in found.items():
            up.add_metric([source], float(not failure(figures)))
        yield up
        for source, figures in found.items():
            if not failure(figures):
                yield from _families(source, figures)


def _families(source: str, figures: Figures) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, value in figures.items():
        metric, unit = _named(source, name)
        counted = _COUNTERS.get((source, name))
        if counted is not None:
            part, help_ = counted
            yield _filled(CounterMetricFamily, metric, help_, part, value)
        elif (source, name) in _PARTS:
            yield _filled(GaugeMetricFamily, metric, metric, _PARTS[source, name], value, unit)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield GaugeMetricFamily(metric, metric, value=value * unit)
        elif (source, name) == ("mirror", "buckets"):
            yield from _of_buckets(value)
        elif isinstance(value, dict):
            yield from _families(f"{source}_{name}", value)
        elif isinstance(value, list):
            yield GaugeMetricFamily(metric, f"How many: {name}.", value=len(value))


def _named(source: str, name: str) -> tuple[str, float]:
    """Return the metric of a figure, and its unit: Prometheus has seconds, and writes them out."""
    metric = _WORD.sub("_", f"mimicfs_{source}_{name}")
    for ending, unit in _TIMES.items():
        if metric.endswith(ending):
            return f"{metric.removesuffix(ending)}_seconds", unit
    return metric, 1.0


def _filled(family: Any, metric: str, help_: str, part: str, value: Any, unit: float = 1.0) -> Any:
    if not part:
        return family(metric, help_, value=value)
    made = family(metric, help_, labels=[part])
    for each, count in value.items():
        made.add_metric([str(each)], count * unit)
    return made


def _of_buckets(buckets: Iterable[dict[str, Any]]) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily

    table = {
        "objects": ("mimicfs_bucket_objects", "Objects that the mirror knows.", 1.0),
        "bytes": ("mimicfs_bucket_bytes", "Their bytes.", 1.0),
        "synced_ns": ("mimicfs_bucket_last_sync_seconds", "When it was last listed.", 1e-9),
    }
    for name, (metric, help_, unit) in table.items():
        family = GaugeMetricFamily(metric, help_, labels=["bucket"])
        for bucket in buckets:
            if bucket[name] is not None:
                family.add_metric([bucket["name"]], bucket[name] * unit)
        yield family
