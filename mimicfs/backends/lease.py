"""The lease of a mount: whether it knows what the others that share its store do.

It is held as long as a look at the logs succeeded in the last LEASE_S seconds. A mount that has
not looked for longer does not know why: it may have been stopped, and the store has news for it;
it may be reading a long log; or the store is away. So there is a third state:

    held    from a look that succeeded on
    unsure  LEASE_S later: the mount is about to look, or the look goes on
    away    looks were tried, and the store did not answer

Threading: any thread. The follower tells the results of its looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LEASE_S = 3.0


class Lease:
    """*clock* is in seconds, and goes on while this process is stopped."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_s = self._heard_s = clock()
        self.begun = False  # a follower looks
        self.away = False
        self._looker = 0  # the thread that looks
        self._changed = threading.Condition()

    @property
    def held(self) -> bool:
        return not self.away and self._clock() - self._looked_s < LEASE_S

    @property
    def silent_s(self) -> float:
        """Return how long ago a look succeeded last."""
        return self._clock() - self._looked_s

    @property
    def unheard_s(self) -> float:
        """Return how long ago the store answered last."""
        return self._clock() - self._heard_s

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Within, this thread looks, and tells what it has found. It knows that, and must not wait
        for itself."""
        self._looker = threading.get_ident()
        try:
            yield
        finally:
            self._looker = 0

    def heard(self) -> None:
        """Note that the store has answered, and the look goes on."""
        with self._changed:
            self._heard_s = self._clock()
            self.away = False
            self._changed.notify_all()

    def renew(self) -> None:
        """Note that a look has succeeded."""
        with self._changed:
            self._looked_s = self._heard_s = self._clock()
            self.away = False
            self.begun = True
            self._changed.notify_all()

    def lose(self) -> None:
        """Note that the store does not answer."""
        with self._changed:
            self.away = True
            self._changed.notify_all()

    def settle(self, timeout_s: float = 4 * LEASE_S) -> bool:
        """Wait until the lease is held, or the store is known to be away; return whether it is
        held. For the thread that looks it is."""
        if threading.get_ident() == self._looker:
            return True
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self.held and not self.away and time.monotonic() < deadline:
                self._changed.wait(deadline - time.monotonic())
            return self.held
