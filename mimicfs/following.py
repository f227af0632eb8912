"""The follower of a mount: it announces what other processes change in a shared store.

It reads only the logs of the buckets that the mount shows: of one bucket, or of the list of buckets
and of each one in it. A place in a log moves on only when the listeners were told the lines before
it. So if anything interrupts the telling, they are told again. Changes that cannot be told line by
line (a log that was cut or begun anew, a bucket that is new, too many lines, an error in a
listener) are told as "anything may have changed".

Each look that succeeds renews the lease of the store (backends/lease.py). Without it nobody knows
what others do, and answers to the kernel must be short-lived.

Where the mirror is a replica, it takes the lines in before anybody is told of them.

Threading: `begin` is called before the mount answers anything; `run` is a thread of its own, and
so is the watch over the lease. `close` may be called by any thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from mimicfs.backends.lease import LEASE_S, Lease
from mimicfs.entry import Change, Difference
from mimicfs.errors import LogTrimmed, MimicError, StoreReplaced
from mimicfs.member import boot_s
from mimicfs.mimicdb import Mirror

log = logging.getLogger(__name__)

_LOOK_S = 1.0  # most time between two looks
_COMPARE = 2  # of the looks that nothing woke, every second one compares numbers
_TICK_S = LEASE_S / 6
_AGAIN_S = 0.2  # between two looks while the store does not answer
_MANY = 1000  # for more foreign lines at once, everything is told: that costs less
_PAGE = 2 * _MANY  # lines; with Redis, the client takes 40 us for each
_NOWHERE = -1  # the place in a log about which nothing is known: everything is told


class Follower:
    """Follows *bucket* of *mimicdb* ("": the list of buckets, and all of them). *leased* is called
    with False when the *lease* is lost, and with True when it is back."""

    def __init__(
        self,
        mimicdb: Mirror,
        bucket: str,
        leased: Callable[[bool], None] = lambda _: None,
        lease: Lease | None = None,
    ) -> None:
        self._mimicdb = mimicdb
        self._store = mimicdb.backend
        self._shared = self._store.exact
        self._bucket = bucket
        self.leased = leased
        self.lease = lease or Lease(boot_s)
        self._waiter = self._store.waiter()
        self._waiter.ours_later = True
        self._ended = threading.Event()
        # By bucket: the number of the last line that was told. Only the thread of the follower
        # changes it.
        self._places: dict[str, int] = {}
        self._looked = threading.Condition()  # told after each look
        self._turn = 0  # counts the looks while all logs are quiet
        self._away = False  # the store did not answer the last look
        self._telling = False  # the listeners are being told, and the store is not asked
        self.told = 0  # how many lines of others were told
        self.restarts = 0  # how often everything was told

    def begin(self) -> None:
        """Note where the logs are. Raises StoreError; then everything is told later."""
        self._places = {self._bucket: _NOWHERE}
        names = [self._bucket]
        if not self._bucket:
            names += [bucket.name for bucket in self._shared.buckets()]
        for name in names:
            self._store.catch_up(name)
        self._places = {name: self._shared.seq(name) for name in names}
        self.lease.renew()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, what others change is announced."""
        threads = [
            threading.Thread(target=self._run, name="follow", daemon=True),
            threading.Thread(target=self._watch, name="lease", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._waiter.close()
            for thread in threads:
                thread.join(5)

    def figures(self) -> dict[str, float]:
        """Return the figures that a mount shows of its follower."""
        return {
            "silent_s": round(self.lease.silent_s, 1),
            "told": self.told,
            "restarts": self.restarts,
            "leased": int(self.lease.held),
        }

    # The threads

    def _run(self) -> None:
        woken: Iterable[str] = list(self._places)
        while not self._ended.is_set():
            try:
                self.look(woken)
                self._answered()
                woken = self._waiter.wait(self._places, _LOOK_S) or self._unheard()
            except MimicError as exc:
                woken = list(self._places)
                self._failed(exc)
            except Exception:
                log.exception("following the changes of others failed; kernel caches are dropped")
                self._places = dict.fromkeys(self._places, _NOWHERE)
                woken = list(self._places)
                self._ended.wait(_AGAIN_S)

    def _answered(self) -> None:
        self.lease.renew()
        if self._away:
            self._away = False
            log.warning("the store answers again; the changes of others have been applied")

    def _failed(self, exc: MimicError) -> None:
        if not self._ended.is_set():
            self.lease.lose()
        if not self._away and not self._ended.is_set():
            self._away = True
            log.warning("changes by others cannot be followed: %s", exc)
            if isinstance(exc, StoreReplaced):  # nobody else uses this file, perhaps for good
                for name in self._places:
                    self._announce(name, None)
        self._ended.wait(_AGAIN_S)

    def _unheard(self) -> list[str]:
        """Return the log that has news although nothing was heard of it. Logs are compared one at a
        time, and not at each look, so that a mount of many buckets asks no more often than a mount
        of one. Raises StoreError."""
        names = list(self._places)
        self._turn += 1
        turn, now = divmod(self._turn, _COMPARE)
        name = names[turn % len(names)]
        return [] if now or self._shared.seq(name) == self._places[name] else [name]

    def _watch(self) -> None:
        held, ticked_s = True, boot_s()
        while not self._ended.wait(_TICK_S):
            now, before_s = self.lease.held, ticked_s
            ticked_s = boot_s()
            # If we are late ourselves, it was not the store: this process was stopped.
            late = ticked_s - before_s >= 2 * _TICK_S
            if self.lease.unheard_s >= LEASE_S and not late and not self._telling:
                self.lease.lose()
            if now != held:
                held = now
                if not held:
                    log.warning("%s: the lease is lost", self._why_lost())
                self.leased(held)

    def _why_lost(self) -> str:
        if self.lease.away:
            return f"the store has not answered for {LEASE_S:.0f} s"
        return f"changes by others have not been known for {LEASE_S:.0f} s"

    # One look

    def look(self, names: Iterable[str] | None = None) -> None:
        """Announce what others changed in the logs *names* (None: in all). Raises StoreError; then
        the next look tells the rest."""
        with self.lease.looking():
            if self.lease.away:
                self._come_back()
            for name in list(self._places if names is None else names):
                if name in self._places:
                    self._catch_up(name)
        with self._looked:
            self._looked.notify_all()

    def reach(self, bucket: str, timeout_s: float) -> bool:
        """Return once all that others have done until now in *bucket*, and to the list of buckets
        where that is followed, was announced; False if that takes longer. Raises StoreError."""
        now = {name: self._shared.seq(name) for name in ("", bucket) if name in self._places}
        with self._looked:
            return self._looked.wait_for(lambda: self._is_past(now), timeout_s)

    def _is_past(self, places: dict[str, int]) -> bool:
        return all(self._places.get(name, seq) >= seq for name, seq in places.items())

    def _come_back(self) -> None:
        """Catch up after the store was away: a copy of it takes in what others changed meanwhile,
        before anybody is told of it or gets an answer from it."""
        for name in self._places:
            self._store.catch_up(name)
        self._shared.seq(self._bucket)
        self.lease.renew()

    def _catch_up(self, name: str) -> None:
        try:
            if self._places[name] == _NOWHERE:
                raise LogTrimmed("the mount did not follow its log until now")
            while changes := self._shared.changes(name, self._places[name], _PAGE):
                self.lease.heard()
                foreign = [each for each in changes if not self._store.is_own(each.origin)]
                self.told += len(foreign)
                if len(foreign) > _MANY:  # the rest need not be read here
                    self._restart(name)
                    break
                self._store.catch_up(name, changes[-1].seq)
                self._tell(name, foreign)
                self._places[name] = changes[-1].seq
                if len(changes) < _PAGE:  # that was the end; a log that keeps growing has none
                    break
        except LogTrimmed as exc:
            log.info("%s: %s; kernel caches are dropped", name or "the buckets", exc)
            self._restart(name)
        if not name:
            self._keep_up_with_buckets()

    def _restart(self, name: str) -> None:
        """Tell everything of *name*, and go on from where its log is now."""
        place = self._shared.seq(name)  # read before the telling: lines after it are told again
        self._store.catch_up(name, place)
        self.restarts += 1
        self._announce(name, None)
        self._places[name] = place

    def _keep_up_with_buckets(self) -> None:
        """Follow each bucket that is new in the list, and stop following those that are gone."""
        if self._bucket:
            return
        known = {bucket.name for bucket in self._shared.buckets()}
        for gone in self._places.keys() - known - {""}:
            del self._places[gone]
        for new in sorted(known - self._places.keys()):
            self._restart(new)

    def _tell(self, name: str, foreign: list[Change]) -> None:
        if any(change.first != change.last for change in foreign):
            self.restarts += 1
            self._announce(name, None)
        elif foreign:
            keys = list(dict.fromkeys(change.first for change in foreign))
            self._announce(name, self._judged(name, keys))

    def _announce(self, name: str, difference: Difference | None) -> None:
        self._telling = True
        try:
            self._mimicdb.announce(name, difference)
        finally:
            self.lease.heard()  # the store was not asked meanwhile
            self._telling = False

    def _judged(self, bucket: str, keys: list[str]) -> Difference:
        """Judge what others did, of which only the keys are known: a key that is there now was
        added or changed, which is told the same way; any other was deleted."""
        if bucket:
            there = {key for key in keys if self._store.get(bucket, key) is not None}
        else:
            there = {each.name for each in self._store.buckets()}
        present = [key for key in keys if key in there]
        return Difference(present, [], [key for key in keys if key not in there], 0)


@contextmanager
def followed(follower: Follower) -> Iterator[None]:
    """Within, *follower* runs, from where the logs are now."""
    with suppress(MimicError):  # a store that is away at the start: then everything is told
        follower.begin()
    with follower.running():
        yield
