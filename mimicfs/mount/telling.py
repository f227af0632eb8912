"""What a running mount hears of others: S3 tells it what they change, and it sweeps for what S3 did
not tell.

Threading: `told` is entered by the main thread; a thread consumes, another sweeps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
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
from mimicfs.sync.events.notification import Configuration
from mimicfs.sync.events.source import EventSource
from mimicfs.sync.events.sqs import SQS
from mimicfs.sync.freshness import note_gap
from mimicfs.sync.sweep import Sweep

log = logging.getLogger(__name__)

_FORMS = "write sqs:QUEUE_URL, http://127.0.0.1:PORT/, unix:/PATH or redis://HOST:6379/0#KEY"
_IDLE_S = 10.0  # without a request that somebody waits for
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
    buckets, idle = partial(_shown, parts.mimicdb, target), Idleness(parts.s3)
    with ExitStack() as stack:
        sweep = None
        if options.reconcile_s:
            period_s = options.reconcile_s
            about = parts.mimicdb, parts.syncer, buckets, period_s
            sweep = Sweep(*about, idle, idle.asked)
            sources.register("reconcile", sweep.figures)
            stack.callback(_started("reconcile", sweep.run, sweep.close))
        if source is not None:
            ledger = Ledger(
                parts.mimicdb,
                source,
                redacted(options.source),
                buckets,
                target.prefix,
                idle.looks("get_bucket_notification_configuration"),
                idle.looks("get_bucket_lifecycle_configuration"),
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


class Idleness:
    """Whether nobody needs S3 at the moment: for some seconds, *s3* has sent no requests but those
    of the sweep and of the looks at configurations (`asked`)."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._lock = threading.Lock()  # protects the numbers
        self._own = 0  # requests that nobody waits for
        self._seen = -1  # the others, at the last question,
        self._seen_s = 0.0  # and when that number was new

    def asked(self, count: int = 1) -> None:
        """Note that *count* requests were such that nobody waits for."""
        with self._lock:
            self._own += count

    def __call__(self) -> bool:
        now_s, sent = time.monotonic(), sum(self._s3.figures()["requests"].values())
        with self._lock:
            if sent - self._own != self._seen:
                self._seen, self._seen_s = sent - self._own, now_s
            return now_s - self._seen_s >= _IDLE_S

    def looks(self, operation: str) -> Callable[[str], Configuration]:
        """Return a function that asks S3 for a configuration of a bucket."""

        def look(bucket: str) -> Configuration:
            self.asked()
            found: Configuration = self._s3.call(operation, bucket)
            return found

        return look
