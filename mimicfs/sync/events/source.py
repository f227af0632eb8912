"""The sources of messages, and what each of them promises to the consumer.

Threading: one consumer asks; `close` may come from another thread, and ends a `receive`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """One message on its way. It comes again unless it is acknowledged."""

    body: bytes | str
    receipt: Any  # the name by which the source knows it


class EventSource(ABC):
    """A queue of messages, each delivered at least once."""

    name: str = ""  # for messages to people; no secret
    exact: bool = True  # whether [] without a wait says that no message is there
    ordered: bool = True  # whether messages come about in the order in which they were put in
    unsettled_s: float = 0.0  # how long it may hold back messages that a dead consumer had taken
    # whether it gives all waiting messages before it says that nothing is there
    complete: bool = True
    shared: bool = False  # whether several members of a store may take its messages
    looked_ns: int = 0  # when (ns) the last look for messages began
    lost: int = 0  # messages that were given up, and may not come again
    owed: int = 0  # messages that were refused, and that their sender sends again when it likes

    @abstractmethod
    def receive(self, wait_s: float) -> list[Delivery]:
        """Return the messages that have come; [] if none comes for *wait_s*, or after `close`.
        Raises MimicError if the source cannot be asked."""

    def given_until_ns(self) -> int:
        """Return until when (ns) `receive`, which has just said that nothing is there, has given
        everything that was put in: the begin of its last look. 0: not known."""
        return self.looked_ns

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge *deliveries*, which the mirror has: they need not come again."""

    def retry(self, deliveries: Sequence[Delivery]) -> None:  # noqa: B027  most come by themselves
        """Have *deliveries*, which could not be applied, come again soon."""

    def at_stake(self) -> int:
        """Return how many messages were given for the last time, and are neither acknowledged nor
        among `lost` yet: a consumer that dies now loses them."""
        return 0

    def retention_s(self) -> float | None:
        """Return how long a message waits for a consumer before it is lost; None: not known."""
        return None

    def arn(self) -> str:
        """Return the name of this source in the configuration of a bucket; "": any name may lead to
        it."""
        return ""

    def identity(self) -> str:
        """Return a mark of this source: a source with another mark has none of the messages that
        were put into this one, although it has the same name. Raises MimicError."""
        return self.name

    def signed(self) -> str:
        """Return the text that somebody last left by `sign`; "": there is none. Raises
        MimicError."""
        return ""

    def sign(self, text: str) -> None:  # noqa: B027  most are given to one process only
        """Leave *text* at the source, for all that ask by `signed`. Raises MimicError."""

    def resume(self) -> None:  # noqa: B027  most have nothing left over
        """Have messages come again that were taken and not acknowledged, by another consumer or
        before an error here, if they would not come by themselves."""

    def close(self) -> None:  # noqa: B027  there may be nothing to do
        """Give up connections and messages. A second call does nothing."""
