"""A backend that passes on to another what it does not answer itself.

Threading: as the other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mimicfs.backends import Backend
from mimicfs.backends.pending import Begun, Unsettled
from mimicfs.backends.waiter import Waiter
from mimicfs.entry import LINES, Change, DirectoryCopy, Entry, Scope, StoreSaid, Total


class Forwarding(Backend):
    """Passes on to *shared*. A subclass says who may ask it, and answers what it knows."""

    def __init__(self, shared: Backend) -> None:
        super().__init__()
        self.shared = shared
        self.private, self.intents = shared.private, shared.intents

    @abstractmethod
    def _ask(self, bucket: str = "", directory: str = "") -> Backend:
        """Return the store, for a thread that may wait. Raises Uncopied, StoreUnavailable."""

    @property
    def exact(self) -> Backend:
        return self.shared

    @property
    def evicts(self) -> bool:  # type: ignore[override]
        return self.shared.evicts

    @property
    def origin(self) -> int:
        return self.shared.origin

    @contextmanager
    def finding(self) -> Iterator[None]:
        with self.shared.finding():
            yield

    def is_own(self, origin: int) -> bool:
        return self.shared.is_own(origin)

    # Entries

    def stride(self, bucket: str, prefix: str, after: str, count: int) -> tuple[str, int]:
        return self._ask().stride(bucket, prefix, after, count)

    def total(self, bucket: str, prefix: str = "") -> Total:
        return self._ask().total(bucket, prefix)

    def directories(
        self, bucket: str, directories: Sequence[str], limit: int
    ) -> list[DirectoryCopy]:
        return self._ask().directories(bucket, directories, limit)

    def lookups(
        self, bucket: str, wanted: Sequence[tuple[str, str]]
    ) -> list[tuple[Entry | None, Entry | None]]:
        return self._ask().lookups(bucket, wanted)

    # Changes

    def begin(self, bucket: str, keys: Sequence[str], token: str, lasts_ms: int) -> set[str]:
        return self._ask().begin(bucket, keys, token, lasts_ms)

    def begin_seeing(
        self, bucket: str, key: str, token: str, lasts_ms: int, note: str, most: int
    ) -> Begun:
        return self._ask().begin_seeing(bucket, key, token, lasts_ms, note, most)

    def end(self, bucket: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        return self._ask().end(bucket, keys, token, unsure=unsure)

    def unsettled(self, bucket: str, key: str | None = None) -> list[Unsettled]:
        return self._ask().unsettled(bucket, key)

    def reap(self, bucket: str, lives: Callable[[str], bool]) -> set[str]:
        return self._ask().reap(bucket, lives)

    def seq(self, bucket: str) -> int:
        return self._ask().seq(bucket)

    def seq_lately(self, bucket: str) -> int:
        return self._ask().seq_lately(bucket)

    def changes(self, bucket: str, since: int, limit: int = LINES) -> list[Change]:
        return self._ask().changes(bucket, since, limit)

    # Of the store alone

    def scopes(self, bucket: str) -> list[Scope]:
        return self._ask().scopes(bucket)

    def note(self, bucket: str, name: str) -> str | None:
        return self._ask(bucket).note(bucket, name)

    def set_note(self, bucket: str, name: str, text: str | None) -> None:
        self._ask(bucket).set_note(bucket, name, text)

    def notes(self, bucket: str) -> dict[str, str]:
        return self._ask(bucket).notes(bucket)

    def swap_note(
        self, bucket: str, name: str, before: str | None, after: str | None, *, tell: bool
    ) -> tuple[bool, str | None]:
        return self._ask().swap_note(bucket, name, before, after, tell=tell)

    def now_ms(self) -> int:
        return self.shared.now_ms()

    def identity(self) -> str:
        return self.shared.identity()

    def said(self) -> StoreSaid:
        return self.shared.said()

    def waiter(self) -> Waiter:
        return self.shared.waiter()

    def orphans(self, bucket: str) -> list[str]:
        return self.shared.orphans(bucket)
