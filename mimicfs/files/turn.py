"""A lock for long waits: a thread that waits for it can be interrupted.

Reentrant; the thread that has waited longest is served first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from mimicfs.posix import NEVER, Cancellation

_NOBODYS = 0  # the number of no thread


class Turn:
    """One thread at a time has the turn; `with turn:` waits for it as long as it takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the three below
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[Future[None], int]] = deque()

    @contextmanager
    def taken(self, cancellation: Cancellation) -> Iterator[None]:
        """Within, this thread has the turn. Raises Interrupted if *cancellation* comes first."""
        self._take(cancellation)
        try:
            yield
        finally:
            self._give()

    def take_at_once(self) -> bool:
        """Take the turn if no other thread has it; return whether it is taken. The caller gives it
        back."""
        me = threading.get_ident()
        with self._lock:
            if self._owner not in (None, me):
                return False
            self._owner = me
            self._depth += 1
            return True

    def take_alone(self) -> bool:
        """Take the turn if no thread has it, not even this one; return whether it is taken. It then
        belongs to no thread: any may give it back."""
        with self._lock:
            if self._owner is not None:
                return False
            self._owner, self._depth = _NOBODYS, 1
            return True

    @contextmanager
    def adopted(self) -> Iterator[None]:
        """Within, what `take_alone` took is this thread's; then it is given back."""
        with self._lock:
            self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._give()

    def give(self) -> None:
        self._give()

    @contextmanager
    def at_once(self) -> Iterator[bool]:
        """Within, this thread has the turn, if no other has it; yields whether it has."""
        mine = self.take_at_once()
        try:
            yield mine
        finally:
            if mine:
                self._give()

    def __enter__(self) -> None:
        self._take(NEVER)

    def __exit__(self, *_: object) -> None:
        self._give()

    def _take(self, cancellation: Cancellation) -> None:
        me = threading.get_ident()
        with self._lock:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return
            mine = (Future[None](), me)
            self._waiting.append(mine)
        try:
            cancellation.wait(mine[0])
        except BaseException:
            self._leave(mine)
            raise

    def _leave(self, mine: tuple[Future[None], int]) -> None:
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return
        self._give()  # the turn became ours in the same moment

    def _give(self) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth:
                return
            if not self._waiting:
                self._owner = None
                return
            following, self._owner = self._waiting.popleft()
            self._depth = 1
        following.set_result(None)
