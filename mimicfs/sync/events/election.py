"""The election of the member of a store that takes the messages of a source which several members
have.

Each member says in its session (member.py) to which source it listens. The one that has been a
member for longest takes the messages. Its session ends with it, or dies six seconds after its last
beat; then the next look of the others, at most a second later, makes another one the first. For a
moment two may take messages: that costs requests, and does no harm (hearing.py).

A member that cannot take messages (no rights, no network) stands back while another one can.

Threading: the consumer's thread.
"""

from __future__ import annotations

from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.queue import queue_id

SAID = "events"  # in a session: the source to which it listens


def listening(mimicdb: Mirror, source: str) -> bool:
    """Whether a living member of the store listens to *source*, as --events writes it. Raises
    StoreError."""
    name = _source_id(source)
    return any(it.alive and it.said.get(SAID) == name for it in mimicdb.member.others())


class Election:
    """*source* is its name, as --events writes it, without secrets."""

    def __init__(self, mimicdb: Mirror, source: str) -> None:
        self._member = mimicdb.member
        self._source = _source_id(source)
        self.stand()

    def is_ours(self) -> bool:
        """Whether this process is to take messages now. Raises StoreError."""
        for session in self._member.others():  # the oldest first
            if session.alive and session.said.get(SAID) == self._source:
                return session.id == self._member.id
        return True

    def stand(self) -> None:
        self._say(self._source)

    def stand_back(self) -> None:
        """Let another member, if there is any, take the messages: here it is not possible at the
        moment."""
        self._say("")

    def _say(self, source: str) -> None:
        if self._member.said.get(SAID) != source:
            self._member.said = {**self._member.said, SAID: source}


def _source_id(source: str) -> str:
    """Return the part that all forms of *source* have in common, so that one queue has one
    consumer."""
    if source.startswith("sqs:"):
        return f"sqs:{queue_id(source.removeprefix('sqs:'))}"
    return source
