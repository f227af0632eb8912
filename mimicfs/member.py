"""A mount or a program as a member of its store: it says that it lives, and notices when the
store is not the one that it was.

Threading: one thread a member, which begins with the first change or with `join`; `epoch`,
`said` and `joined` are replaced in one step.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection

from mimicfs.backends import Backend
from mimicfs.backends.sessions import StoreSession, beat, epoch, leave, sessions
from mimicfs.errors import StoreError

log = logging.getLogger(__name__)

LASTS_MS = 6_000  # a member that was silent for so long is dead
BEAT_S = 2.0


def boot_s() -> float:
    """Return the time of a clock that goes on while this process, or the whole machine, is
    stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Member:
    """This process as a user of *backend*. *renewed* is called, in the member's thread, when
    the store has another epoch than before; *kept* is called after each beat that the store took.
    """

    def __init__(
        self, backend: Backend, renewed: Callable[[], None], kept: Callable[[], None]
    ) -> None:
        self.id = os.urandom(8).hex()
        self.epoch = ""  # "": not known yet
        self.said: dict[str, str | int | float] = {}  # shown with the session
        # shown as well, as it is at each beat
        self.tell: Callable[[], dict[str, int | float]] = dict
        self.away = False  # the store did not take the last beat
        self.beat_s = 0.0  # when the last beat that the store took began, by boot_s
        self._lapses = 0  # beats that came too late
        self._suspensions = 0  # waits for a beat that took too long
        self._waits_since_s = 0.0  # the begin of such a wait; 0: there is none
        self.beaten: list[Callable[[], None]] = []  # called after each beat that the store took
        self.epoch_changes = 0
        self.dead: frozenset[str] = frozenset()  # the sessions that were dead at the last look
        self._backend = backend
        self._renewed, self._kept = renewed, kept
        self._mountpoint = ""
        # the buckets in which this process may have left something undone
        self._buckets: list[str] = []
        self._since_ms = 0
        self._lock = threading.Lock()  # protects the start of the thread
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def join(self, mountpoint: str = "") -> None:
        """Be a session of the store from now on. Raises StoreError if the store cannot be told."""
        with self._lock:
            if self._thread is not None or self._over.is_set():
                return
            self._mountpoint = mountpoint
            self._beat()
            self._waits_since_s = boot_s()
            self._thread = threading.Thread(target=self._keep, name="member", daemon=True)
            self._thread.start()

    def changes_in(self, buckets: Collection[str]) -> None:
        """Tell the store that *buckets* may be changed at S3 from now on: others look after them if
        we die. Raises StoreError; then none of them may be changed."""
        self._buckets = sorted(buckets)
        if self._thread is None:
            self.join()
        else:
            self._beat()

    @property
    def lapses(self) -> int:
        """How often others may have taken this process for dead. If the number has changed, they
        may have done its work meanwhile."""
        late = self.joined and boot_s() - self.beat_s > LASTS_MS / 1000
        return self._lapses + late

    @property
    def suspensions(self) -> int:
        """How often this process itself stood still for so long that others may have taken it for
        dead. (A time without the store does not count.)"""
        since_s = self._waits_since_s
        return self._suspensions + bool(since_s and boot_s() - since_s > LASTS_MS / 1000)

    @property
    def joined(self) -> bool:
        return self._thread is not None

    def leave(self) -> None:
        """End the session. If the store is away, it dies by itself."""
        with self._lock:
            self._over.set()
            thread = self._thread
        if thread is None:
            return
        thread.join(BEAT_S)
        try:
            leave(self._backend, self.id)
        except StoreError as exc:
            log.debug("%s", exc)

    def others(self) -> list[StoreSession]:
        """Return all sessions of the store. Raises StoreError."""
        found = sessions(self._backend)
        self.dead = frozenset(each.id for each in found if not each.alive)
        return found

    def _keep(self) -> None:
        while not self._over.wait(BEAT_S):
            self._suspensions, self._waits_since_s = self.suspensions, 0.0
            try:
                self._beat()
                self._kept()
                for call in self.beaten:
                    call()
            except StoreError as exc:
                self._lost(exc)
            except Exception:  # the session must go on, or others take its work for lost
                log.exception("looking at the store failed")
            self._waits_since_s = boot_s()

    def _lost(self, exc: StoreError) -> None:
        if not self.away:
            log.warning("the store does not answer: %s", exc)
        self.away = True

    def _beat(self) -> None:
        from mimicfs import __version__

        began_s = boot_s()
        if self.beat_s and began_s - self.beat_s > LASTS_MS / 1000:
            self._since_ms = 0  # the one that took our place keeps it
        self._since_ms = self._since_ms or self._backend.now_ms()
        mine = (self.id, os.uname().nodename, os.getpid(), __version__, self._mountpoint)
        expires_ms = 0  # the store says when
        said = {**self.said, **self.tell()}
        session = StoreSession(*mine, self._since_ms, expires_ms, said, self._buckets)
        beat(self._backend, session, LASTS_MS)
        late = self.beat_s and boot_s() - self.beat_s > LASTS_MS / 1000
        self.beat_s = began_s
        self._lapses += bool(late)
        if self.away:
            log.warning("the store answers again")
        self.away = False
        self._look()

    def _look(self) -> None:
        before, now = self.epoch, epoch(self._backend)
        self.epoch = now
        if before and before != now:
            self.epoch_changes += 1
            log.warning("the store may have lost changes: mimicfs asks S3 about its contents again")
            self._renewed()
