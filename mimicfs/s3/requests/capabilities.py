"""The capabilities of the server at an endpoint, beside conditions (conditions.py): learned from
what it refuses, once, and remembered in the store for a month; or said by an option (--server-can),
or expected of a provider (profiles.py) until they are learned.

Only a trial teaches: the server takes the same thing when it is asked in another way. A refusal
alone teaches nothing.

Threading: any thread; `_lock` is held for a few instructions.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping

from mimicfs.config.values import CAPABILITIES
from mimicfs.entry import MONTH_S
from mimicfs.mimicdb import Mirror

log = logging.getLogger(__name__)


class Capabilities:
    """The capabilities of the server at *endpoint*. *said* holds, whatever is learned; *expected*
    holds until something is."""

    def __init__(
        self,
        mimicdb: Mirror,
        endpoint: str,
        said: Mapping[str, str],
        expected: Mapping[str, str],
    ) -> None:
        self._mimicdb = mimicdb
        self._note = f"capabilities {endpoint}"
        self._said = said
        self._expected = expected
        self._lock = threading.Lock()  # protects the next
        self._learned: dict[str, str] | None = None  # None: the store was not asked yet

    def __getitem__(self, name: str) -> str:
        """Return the value that is taken for true of *name*, one of CAPABILITIES."""
        value, _ = self._of(name)
        return value

    def known(self) -> dict[str, tuple[str, str]]:
        """Return (value, from where) of each: "said", "learned", "expected" or "usual"."""
        return {name: self._of(name) for name in CAPABILITIES}

    def _of(self, name: str) -> tuple[str, str]:
        learned = self._from_store()
        sources = ((self._said, "said"), (learned, "learned"), (self._expected, "expected"))
        for table, how in sources:
            if name in table:
                return table[name], how
        usual, *_ = CAPABILITIES[name]
        return usual, "usual"

    def learned(self, name: str, value: str) -> None:
        """Remember that the server was seen to do *value*."""
        known = self._from_store()
        with self._lock:
            if known.get(name) == value:
                return
            known[name] = value
            text = json.dumps({**known, "at_s": int(time.time())})
        log.info("%s: %s is %s", self._note, name, value)
        self._mimicdb.set_note("", self._note, text)

    def _from_store(self) -> dict[str, str]:
        with self._lock:
            if self._learned is None:
                self._learned = _understood(self._mimicdb.note("", self._note))
            return self._learned


def _understood(text: str | None) -> dict[str, str]:
    """Return what *text* from the store says, as far as this version knows the words."""
    try:
        said = json.loads(text or "{}")
        if not 0 <= time.time() - said["at_s"] < MONTH_S:  # servers are upgraded
            return {}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: said[name] for name, known in CAPABILITIES.items() if said.get(name) in known}
