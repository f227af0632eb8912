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
    receipt: Any  # what the source knows it by


class EventSource(ABC):
    """A queue of messages, each delivered at least once."""

    name: str = ""  # for messages to people; no secret
    exact: bool = True  # whether [] without a wait says that no message is there
    ordered: bool = True  # whether messages come about in the order in which they were put in
    unsettled_s: float = 0.0  # how long it may hold back what a consumer that died had taken
    complete: bool = True  # whether it gives what waits in it before it says that nothing is there
    shared: bool = False  # whether several members of a store may take its messages
    looked_ns: int = 0  # when (ns) the last look for messages began
    lost: int = 0  # messages that were given up, and may not come again
    owed: int = 0  # messages that were refused; their sender sends them again when it likes

    @abstractmethod
    def receive(self, wait_s: float) -> list[Delivery]:
        """Return the messages that have come; [] if there are none for *wait_s*, or after
        `close`. Raises MimicError where the source cannot be asked."""

    def given_until_ns(self) -> int:
        """Return until when (ns) all that was put in has been given by `receive`, which has just
        said that nothing is there: when the last look began. 0: not known."""
        return self.looked_ns

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge *deliveries*, which are in the mirror: they need not come again."""

    def retry(self, deliveries: Sequence[Delivery]) -> None:  # noqa: B027  most come by themselves
        """*deliveries* could not be applied: they are to come again soon."""

    def at_stake(self) -> int:
        """Return how many messages were given for the last time, and are neither acknowledged nor
        among `lost` yet: a consumer that dies now loses them."""
        return 0

    def retention_s(self) -> float | None:
        """Return how long a message waits for a consumer before it is lost; None: not known."""
        return None

    def arn(self) -> str:
        """Return by which name the configuration of a bucket tells this source; "": by any."""
        return ""

    def identity(self) -> str:
        """Return which source this is: one of another identity has nothing of what was put into
        this one, although it has the same name. Raises MimicError."""
        return self.name

    def signed(self) -> str:
        """Return what was last left by `sign`, by whomever; "": nothing. Raises MimicError."""
        return ""

    def sign(self, text: str) -> None:  # noqa: B027  most are given to one process only
        """Leave *text* at the source, for whoever asks by `signed`. Raises MimicError."""

    def resume(self) -> None:  # noqa: B027  most have nothing left over
        """Messages may have been taken and not acknowledged, by another consumer or before an
        error here: those that would not come by themselves are to come again."""

    def close(self) -> None:  # noqa: B027  there may be nothing to do
        """Give up what is held. A second time does nothing."""
