"""What a running mount hears of others: S3 tells it what they change, and it sweeps for what S3 did
not tell.

Threading: `told` is entered by the main thread; a thread consumes, another sweeps.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mimicfs.admin.sources import Sources
from mimicfs.config.values import EventOptions, Target, redacted
from mimicfs.errors import ConfigError
from mimicfs.mimicdb import Mirror
from mimicfs.parts import Parts
from mimicfs.s3.requests.client import S3
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.endpoint import Endpoint
from mimicfs.sync.events.hearing import Hearing
from mimicfs.sync.events.ledger import Ledger
from mimicfs.sync.events.source import EventSource
from mimicfs.sync.events.sqs import SQS
from mimicfs.sync.freshness import note_gap
from mimicfs.sync.sweep import Sweep

log = logging.getLogger(__name__)

_FORMS = "write sqs:QUEUE_URL, http://127.0.0.1:PORT/, unix:/PATH or redis://HOST:6379/0#KEY"
_END_S = 2.0  # nobody waits for a long poll: its messages come again


@contextmanager
def told(
    parts: Parts,
    target: Target,
    options: EventOptions,
    source: EventSource | None,
    sources: Sources,
    state: Path,
) -> Iterator[None]:
    """Within, the mirror hears S3 by *source*, and is swept, as *options* say."""
    buckets = partial(_shown, parts.mimicdb, target)
    with ExitStack() as stack:
        sweep = None
        if options.reconcile_s:
            period_s = options.reconcile_s
            sweep = Sweep(parts.mimicdb, parts.syncer, buckets, period_s, _idle(parts.s3))
            sources.register("reconcile", sweep.figures)
            stack.callback(_started("reconcile", sweep.run, sweep.close))
        if source is not None:
            ledger = Ledger(
                parts.mimicdb,
                source,
                redacted(options.source),
                buckets,
                target.prefix,
                partial(parts.s3.call, "get_bucket_notification_configuration"),
                partial(parts.s3.call, "get_bucket_lifecycle_configuration"),
                sweep.suspect if sweep is not None else partial(_nobody_sweeps, parts.mimicdb),
            )
            hearing = Hearing(parts.mimicdb, parts.s3, parts.syncer)
            consumer = Consumer(source, hearing, state / "events-aside.jsonl", ledger)
            sources.register("events", lambda: consumer.figures() | ledger.figures())
            stack.callback(_started("events", consumer.run, consumer.close))
        yield


@contextmanager
def source_opened(options: EventOptions, s3: S3) -> Iterator[EventSource | None]:
    """Within, the source that *options* name is open, if they name one. Raises ConfigError."""
    if not options.source:
        yield None
        return
    with closing(source_of(options, s3)) as source:
        yield source


def _nobody_sweeps(mimicdb: Mirror, bucket: str, why: str) -> None:
    note_gap(mimicdb, bucket)
    log.warning(
        "s3://%s: %s; without --reconcile, mimicfs does not find out what was missed", bucket, why
    )


def source_of(options: EventOptions, s3: S3) -> EventSource:
    """Return the source that the value of --events names. Raises ConfigError."""
    text, token = options.source, options.token
    if text.startswith("sqs:"):
        return SQS(s3.queue(text.removeprefix("sqs:")))
    if text.startswith(("redis://", "rediss://")):
        from mimicfs.sync.events.redisqueue import RedisQueue  # redis-py is an extra

        return RedisQueue(text, token or None)
    public = "public:" if text.startswith("public:") else ""
    address = text.removeprefix("public:")
    if address.startswith("unix:"):
        return Endpoint(address, token, options.kept_s)
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.netloc and "@" not in address:
        return Endpoint(f"{public}{parts.netloc}", token, options.kept_s)
    raise ConfigError(f"--events {redacted(text)}: not a source of messages; {_FORMS}")


def _started(name: str, run: Callable[[], None], close: Callable[[], None]) -> Callable[[], None]:
    """Run *run* in a thread; return what ends it, by *close*."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()

    def end() -> None:
        close()
        thread.join(_END_S)

    return end


def _shown(mimicdb: Mirror, target: Target) -> list[str]:
    if target.bucket:
        return [target.bucket]
    return [bucket.name for bucket in mimicdb.known_buckets()]


def _idle(s3: S3) -> Callable[[], bool]:
    """Return a function that says whether S3 got no requests since its last call."""
    last: list[Any] = [None]

    def idle() -> bool:
        now = sum(s3.figures()["requests"].values())
        last[0], before = now, last[0]
        return bool(now == before)

    return idle
