"""While a mount runs: it is told by S3 what others change, and sweeps up what it was not told.

Threading: `told` is entered by the main thread; a thread consumes, another sweeps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mimicfs.admin.sources import Sources
from mimicfs.config.values import EventOptions, Target, refuse_shown_secret
from mimicfs.errors import ConfigError, MimicError
from mimicfs.mimicdb import MimicDB
from mimicfs.parts import Parts
from mimicfs.s3.requests.client import S3
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.endpoint import Endpoint
from mimicfs.sync.events.hearing import Hearing
from mimicfs.sync.events.messages import Told
from mimicfs.sync.events.source import Source
from mimicfs.sync.events.sqs import SQS
from mimicfs.sync.sweep import Sweep

log = logging.getLogger(__name__)

_FORMS = "write sqs:QUEUE_URL, http://127.0.0.1:PORT/, unix:/PATH or redis://HOST:6379/0#KEY"
_TOLD = "told"  # the note with the time (ns) until which messages were applied
_NOTE_S = 10.0  # between two such notes
_END_S = 2.0  # a long poll is not waited for: what it brings comes again


@contextmanager
def told(
    parts: Parts, target: Target, options: EventOptions, sources: Sources, state: Path
) -> Iterator[None]:
    """Within, the mirror hears what S3 tells, and is swept, as *options* say. Raises
    ConfigError."""
    with ExitStack() as stack:
        sweep = None
        if options.reconcile_s:
            buckets = partial(_shown, parts.mimicdb, target)
            sweep = Sweep(
                parts.mimicdb, parts.syncer, buckets, options.reconcile_s, _idle(parts.s3)
            )
            sources.register("reconcile", sweep.figures)
            stack.callback(_started("reconcile", sweep.run, sweep.close))
        if options.source:
            source = source_of(options.source, options.token, parts.s3)
            stack.callback(source.close)
            hearing = Hearing(parts.mimicdb, parts.s3, parts.syncer)
            notes = _Notes(parts.mimicdb, sweep)
            notes.look_back(source, _shown(parts.mimicdb, target))
            consumer = Consumer(source, hearing, state / "events-aside.jsonl", told=notes.heard)
            sources.register("events", consumer.figures)
            stack.callback(_started("events", consumer.run, consumer.close))
        yield


def source_of(text: str, token: str, s3: S3) -> Source:
    """Return the source that *text*, the value of --events, names. Raises ConfigError."""
    refuse_shown_secret("--events", text)
    if text.startswith("sqs:"):
        return SQS(s3.queue(text.removeprefix("sqs:")))
    if text.startswith(("redis://", "rediss://")):
        from mimicfs.sync.events.redisqueue import RedisQueue  # redis-py is an extra

        return RedisQueue(text, token or None)
    public = "public:" if text.startswith("public:") else ""
    address = text.removeprefix("public:")
    if address.startswith("unix:"):
        return Endpoint(address, token)
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.netloc:
        return Endpoint(f"{public}{parts.netloc}", token)
    raise ConfigError(f"--events {text}: no source of messages; {_FORMS}")


def _started(name: str, run: Callable[[], None], close: Callable[[], None]) -> Callable[[], None]:
    """Run *run* in a thread; return what ends it, by *close*."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()

    def end() -> None:
        close()
        thread.join(_END_S)

    return end


def _shown(mimicdb: MimicDB, target: Target) -> list[str]:
    if target.bucket:
        return [target.bucket]
    return [bucket.name for bucket in mimicdb.backend.buckets()]


def _idle(s3: S3) -> Callable[[], bool]:
    """Return what says whether S3 was asked for nothing since the last question."""
    last: list[Any] = [None]

    def idle() -> bool:
        now = sum(s3.figures()["requests"].values())
        last[0], before = now, last[0]
        return bool(now == before)

    return idle


class _Notes:
    """Notes in the store until when messages were applied, and finds gaps in that."""

    def __init__(self, mimicdb: MimicDB, sweep: Sweep | None) -> None:
        self._mimicdb = mimicdb
        self._sweep = sweep
        self._noted_s: dict[str, float] = {}

    def look_back(self, source: Source, buckets: Sequence[str]) -> None:
        """A consumer that was away for longer than the queue keeps messages has lost some."""
        if self._sweep is None:
            return
        try:
            kept_s = source.retention_s()
        except MimicError as exc:
            log.warning("%s: %s", source.name, exc)
            return
        for bucket in buckets:
            text = self._mimicdb.note(bucket, _TOLD) or ""
            away_s = (time.time_ns() - int(text)) / 1e9 if text.isdecimal() else 0.0
            if kept_s is not None and away_s > kept_s:
                days = kept_s / 86_400
                self._sweep.suspect(bucket, f"nothing was heard for longer than {days:.1f} days")

    def heard(self, told: Sequence[Told]) -> None:
        now_s = time.monotonic()
        for bucket in {each.bucket for each in told}:
            if now_s - self._noted_s.get(bucket, float("-inf")) >= _NOTE_S:
                self._noted_s[bucket] = now_s
                if self._mimicdb.backend.bucket(bucket) is not None:
                    self._mimicdb.set_note(bucket, _TOLD, str(time.time_ns()))
