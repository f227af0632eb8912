"""The states of an open file, and what happens to it: every transition there is.

A step that is not in the table cannot happen: `File` refuses it before (a read or write of an
expired, lost or closed file), or holds it off (a thread that changes or uploads a file has its
turn).

Pure values; no locks.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A file is in one of these. A file is *apart* from its object if its name no longer stands for
    it."""

    CLEAN = "clean"  # it stands for a version in S3, which has all its bytes
    DIRTY = "dirty"  # its staging file has bytes that S3 does not have; a record says so
    DETACHED = "detached"  # unlinked or replaced here: it lives on in its staging file
    UNSAVED = "unsaved"  # the same, with bytes that S3 never had
    EXPIRED = "expired"  # others replaced its object: ESTALE
    VANISHED = "vanished"  # others deleted its object before anybody had a byte of it: ENOENT
    LOST = "lost"  # S3 will never take its bytes; they are in the directory `recovered`
    CLOSED = "closed"  # the last handle is gone

    @property
    def apart(self) -> bool:
        return self not in (State.CLEAN, State.DIRTY, State.CLOSED)

    @property
    def expired(self) -> bool:
        return self in (State.EXPIRED, State.VANISHED, State.LOST)


class Event(Enum):
    """An event in the life of a file, in the order of the columns below."""

    CHANGED = 0  # its bytes, or its metadata while S3 does not have the bytes
    STORED = 1  # S3 has confirmed that it has all of it
    LEAVES = 2  # its name is about to go, by an unlink or a rename in this mount
    STAYS = 3  # the name did not go after all
    REPLACED = 4  # in S3, by others
    DELETED = 5  # in S3, by others
    REFUSED = 6  # S3 has another version than the bytes may replace
    CLOSED = 7  # by the last handle


_CLEAN, _DIRTY, _DETACHED, _UNSAVED = State.CLEAN, State.DIRTY, State.DETACHED, State.UNSAVED
_EXPIRED, _VANISHED, _LOST, _CLOSED = State.EXPIRED, State.VANISHED, State.LOST, State.CLOSED
_NEVER = None

# fmt: off
_TABLE: dict[State, tuple[State | None, ...]] = {
    #          CHANGED    STORED     LEAVES     STAYS      REPLACED   DELETED    REFUSED  CLOSED
    _CLEAN:    (_DIRTY,    _CLEAN,    _DETACHED, _CLEAN,    _EXPIRED,  _VANISHED, _NEVER,  _CLOSED),
    _DIRTY:    (_DIRTY,    _CLEAN,    _UNSAVED,  _DIRTY,    _DIRTY,    _DIRTY,    _LOST,   _CLOSED),
    _DETACHED: (_UNSAVED,  _NEVER,    _DETACHED, _CLEAN,    _DETACHED, _DETACHED, _NEVER,  _CLOSED),
    _UNSAVED:  (_UNSAVED,  _NEVER,    _UNSAVED,  _DIRTY,    _UNSAVED,  _UNSAVED,  _NEVER,  _CLOSED),
    _EXPIRED:  (_NEVER,    _NEVER,    _EXPIRED,  _EXPIRED,  _EXPIRED,  _EXPIRED,  _NEVER,  _CLOSED),
    _VANISHED: (_NEVER,    _NEVER,    _VANISHED, _VANISHED, _VANISHED, _VANISHED, _NEVER,  _CLOSED),
    _LOST:     (_NEVER,    _NEVER,    _LOST,     _LOST,     _LOST,     _LOST,     _NEVER,  _CLOSED),
    _CLOSED:   (_NEVER,    _NEVER,    _CLOSED,   _CLOSED,   _CLOSED,   _CLOSED,   _NEVER,  _CLOSED),
}
# fmt: on


def after(state: State, event: Event) -> State:
    """Return the state of a file in *state* after *event*. Raises ValueError if that cannot
    happen."""
    found = _TABLE[state][event.value]
    if found is None:
        raise ValueError(f"{event.name} cannot happen to a file that is {state.value}")
    return found
