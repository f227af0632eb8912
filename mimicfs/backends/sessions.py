"""The sessions of a store: its users, and whether it is still the store that it was.

A session is a mount or a program that changes what is in S3: a note beside the list of buckets,
which it renews every few seconds. One that is not renewed is dead. All times are of the store's
clock: those of the machines that share it may differ by hours.

The epoch is a text that changes whenever the store may have lost something that it had confirmed:
it was flushed, it began again without a log, or another server, which may have lagged behind, took
its place. Then earlier numbers of a log and earlier scopes mean nothing. If something may have been
lost, the epoch says when it began (`began_ms`).

Threading: no state; any thread.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

from mimicfs.backends import EPOCH, Backend
from mimicfs.entry import StoreSaid

log = logging.getLogger(__name__)

SESSION = "session/"
_FORGOTTEN_MS = 3_600_000  # a session that has been dead for so long is forgotten


class StoreSession(NamedTuple):
    """A mount or a program. Times are milliseconds of the store's clock since 1970."""

    id: str
    host: str
    pid: int
    version: str
    mountpoint: str  # "": a program
    since_ms: int
    expires_ms: int
    said: dict[str, str | int | float]  # what it says of itself besides (its follower's lag, ...)
    buckets: Sequence[str] = ()  # where it may have left undone what it began
    alive: bool = True


_FIELDS = len(StoreSession._fields) - 1  # `alive` is not written


def beat(backend: Backend, session: StoreSession, lasts_ms: int) -> None:
    """Keep *session* alive for *lasts_ms* from now on. Raises StoreError."""
    renewed = session._replace(expires_ms=backend.now_ms() + lasts_ms)
    backend.set_note("", SESSION + session.id, json.dumps(renewed[:-1]))


def leave(backend: Backend, session_id: str) -> None:
    """Note that the session has ended. Raises StoreError."""
    backend.set_note("", SESSION + session_id, None)


def sessions(backend: Backend) -> list[StoreSession]:
    """Return the sessions, those first that have been there for longest, dead ones included.
    Raises StoreError."""
    now_ms = backend.now_ms()
    found: list[StoreSession] = []
    for name, text in backend.notes("").items():
        if not name.startswith(SESSION):
            continue
        session = _session_of(text)
        if session is None:  # whoever lives writes it again
            log.warning("the note %s of the store is not of a session: %.80r", name, text)
        if session is None or session.expires_ms + _FORGOTTEN_MS < now_ms:
            backend.set_note("", name, None)
        else:
            found.append(session._replace(alive=now_ms < session.expires_ms))
    return sorted(found, key=lambda session: (session.since_ms, session.id))


def _session_of(text: str) -> StoreSession | None:
    """Return the session in *text*, which a later version may have written with more fields; None:
    it is none."""
    try:
        found = StoreSession(*json.loads(text)[:_FIELDS])
    except (ValueError, TypeError, KeyError):
        return None
    numbers = all(isinstance(each, int) for each in (found.since_ms, found.expires_ms))
    words = all(isinstance(each, str) for each in (found.id, found.host, found.mountpoint))
    return found if numbers and words and isinstance(found.said, dict) else None


def epoch(backend: Backend, said: StoreSaid | None = None) -> str:
    """Return the epoch of the store, a new one where what is there may not be all that was
    confirmed. "": this store has none, and nobody shares it. *said*: if it was asked already.
    Raises StoreError.

    A new epoch is noted once everything that follows from it is done: after a kill before that, the
    next one that asks does it. A store without an epoch is new, or has lost that, too.
    """
    identity, noted = said or backend.said()
    known, _, text = (noted or "").partition(" ")
    if known and text == identity:
        return known
    if known or identity:
        backend.begin_epoch()
        new = f"{os.urandom(16).hex()}-{backend.now_ms()}"
    else:
        new = os.urandom(16).hex()
    if not backend.intents:
        backend.set_note("", EPOCH, f"{new} {identity}")
        return (backend.note("", EPOCH) or "").partition(" ")[0]
    done, _ = backend.swap_note("", EPOCH, noted, f"{new} {identity}", tell=False)
    # another process has noted one, which perhaps began later
    return new if done else epoch(backend)


def began_ms(known: str) -> int:
    """Return when an epoch began, by the store's clock; 0: nothing was lost before."""
    return int(known.partition("-")[2] or 0)
