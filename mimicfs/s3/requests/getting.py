"""GETs of small objects that are read ahead, sent together by one thread (together.py). Otherwise
each would be a thread of the pool, and 15 to 25 switches of threads a file were half of its CPU.

The thread reads the number of the mirror's latest change once for all GETs that it is about to
send: what became known after that number is not overridden by what they show. (A number that is
older than need be only makes more of it stand, Mirror.record.)

A plain answer with the right version, length and checksum is taken, and the mirror learns from it;
in the pool, where the mirror must be changed for that: somebody else may be changing it for long.
That S3 has not this version is told to whoever asks for any other object (S3.read_into). Whatever
else S3 says is found out by asking once more like that.

Threading: any thread calls `get` and `close`; see together.py.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from http.client import HTTPException
from typing import Any, NamedTuple

from mimicfs.baton import Baton
from mimicfs.entry import Entry
from mimicfs.errors import S3Unavailable
from mimicfs.s3.requests import checksums
from mimicfs.s3.requests.believing import believed
from mimicfs.s3.requests.content import bare_etag
from mimicfs.s3.requests.layers import GivenRefusals
from mimicfs.s3.requests.together import Together, UnderWay, Ways, end
from mimicfs.s3.transport.answers import decoded
from mimicfs.s3.transport.calls import CallParams
from mimicfs.s3.transport.errors import EarlierRefusal, refusal_as_error
from mimicfs.s3.transport.plain import PlainAnswer, answer_in, refusal

log = logging.getLogger(__name__)

_SPARE = 16  # of so many connections, one is left to others
_READ = 80 << 10  # bytes of a refusal that are read
# The codes by which S3 says that it has not what was asked for, by status.
_GONE = {404: ("NoSuchKey",), 412: ("PreconditionFailed", "412")}


class SmallGet(NamedTuple):
    """A GetObject of all bytes of the version *entry* of an object in *bucket* into *buffer*.
    *has_come* is called once they are there. *otherwise* does all that as for any other object.
    Then *future* is done."""

    bucket: str
    entry: Entry
    buffer: memoryview
    future: Future[None]
    has_come: Callable[[], None]
    otherwise: Callable[[], None]


class _GetUnderWay(UnderWay):
    def __init__(self, get: SmallGet) -> None:
        super().__init__(get.bucket, get.entry.key, get.future)
        self.get = get
        self.since: int | None = None  # the number of the mirror's latest change before it was sent
        self.found: PlainAnswer
        self.answer: CallParams = {}

    @property
    def params(self) -> CallParams:
        """As S3.read_into asks for it."""
        etag = f'"{self.get.entry.etag}"'
        return {"Bucket": self.bucket, "Key": self.key, "IfMatch": etag, "ChecksumMode": "ENABLED"}


class Getter(Together[_GetUnderWay]):
    """Gets by *ways*, whose learner learns from the answers. *seen* is told of each, and of its
    bucket. *given* takes S3's word that it has not what was asked for to whoever deals with it."""

    _awaited = True

    def __init__(
        self,
        ways: Ways,
        seen: Callable[[str, CallParams], None],
        given: GivenRefusals,
        baton: Baton,
    ) -> None:
        connections = ways.options.connections
        most = connections - max(1, connections // _SPARE)
        super().__init__(ways, "GetObject", most, "s3-gets", baton=baton)
        self._told = seen
        self._given = given
        self._calls: deque[tuple[Future[None], Callable[[], None]]] = deque()

    def get(self, gets: Sequence[SmallGet]) -> None:
        """Bring *gets*, in order. Their futures can be cancelled until they are sent. Raises
        S3Unavailable, or RuntimeError; then none of the futures will be done."""
        self._add([_GetUnderWay(get) for get in gets])

    def call(self, work: Callable[..., None], *args: object) -> Future[None]:
        """Have the thread call *work*, which is about to `get` something and takes less than a
        millisecond: another thread would fight with this one for the interpreter's lock."""
        future: Future[None] = Future()
        self._calls.append((future, partial(work, *args)))
        try:
            self._add([])
        except (S3Unavailable, RuntimeError) as exc:
            log.debug("nothing is read ahead: %s", exc)
            future.cancel()
        return future

    def close(self) -> None:
        super().close()
        for future, _ in tuple(self._calls):
            future.cancel()

    # The thread that sends

    def _prepare(self) -> None:
        while self._calls:
            future, work = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                end(future, work)

    def _host(self, each: _GetUnderWay) -> str:
        if self._unclear or self._wire.credentials.are_renewed_next:  # others would wait, too
            return ""
        ready = self._wire.ready("GetObject", self._rules.sent("GetObject", each.params))
        if ready is not None:
            each.is_ready(ready)
        return each.host

    def _otherwise(self, each: _GetUnderWay) -> Callable[[], None]:
        return each.get.otherwise

    def _again(self, each: _GetUnderWay, _status: int) -> Callable[[], None]:
        error = _gone(each.come, each.since)
        return each.get.otherwise if error is None else partial(self._told_by, each, error)

    def _told_by(self, each: _GetUnderWay, error: Exception) -> None:
        """Have whoever asks for any other object deal with *error*, instead of asking."""
        with self._given.given(each.params, error):
            each.get.otherwise()

    def _begin_group(self, bucket: str, group: Sequence[_GetUnderWay]) -> None:
        since = self._learner.number_before_read(bucket)
        for each in group:
            each.since = since

    def _is_confirmed(self, each: _GetUnderWay, found: PlainAnswer) -> bool:
        answer = self._wire.shown(found)
        if answer is None:
            return False
        each.found, each.answer = found, believed("GetObject", each.params, answer, _nobody)
        return True

    def _confirmed(self, done: Sequence[_GetUnderWay]) -> None:
        for each in done:
            self._baton.pauses()
            work: Callable[[], None] | None = None
            try:
                if not self._has_bytes(each):
                    work = each.get.otherwise
                elif not self._learns(each, writes=False):
                    work = partial(self._takes, each)
            except Exception:  # noqa: BLE001 - who asks again meets it again, and is told
                work = each.get.otherwise
            if work is None:
                end(each.future, each.get.has_come)
            else:
                self._in_pool(each.future, work)

    def _has_bytes(self, each: _GetUnderWay) -> bool:
        """Whether the answer to *each* has the bytes; then they are in the buffer."""
        get, found = each.get, each.found
        if bare_etag(each.answer) != get.entry.etag or found.length != get.buffer.nbytes:
            return False
        self._traffic.moved(found.readinto(get.buffer), 0)
        return not checksums.missed(found.joined, get.buffer)

    def _learns(self, each: _GetUnderWay, *, writes: bool) -> bool:
        """Learn what the answer to *each* shows. Unless it *writes*: return False if the mirror
        must be changed for that."""
        self._told(each.bucket, each.answer)
        shown = (each.bucket, each.key, each.answer, each.since)
        return self._learner.has_read(*shown, writes=writes)

    def _takes(self, each: _GetUnderWay) -> None:
        """End *each*, in the pool."""
        self._learns(each, writes=True)
        each.get.has_come()


def _gone(come: bytes, since: int | None) -> Exception | None:
    """Return the refusal that has *come* of a request that was sent after number *since*, if it
    says that S3 has not this version; None: it may be about something else, or not all of it is
    here."""
    if refusal(come) not in _GONE:
        return None
    try:
        status, headers, said = answer_in(come, "GET")
    except (OSError, HTTPException):
        return None
    found = refusal_as_error("GetObject", status, headers, decoded(headers, said, _READ))
    is_gone = found.response["Error"]["Code"] in _GONE[status]
    return EarlierRefusal(found, since) if is_gone else None


def _nobody(*_: Any) -> Any:
    raise AssertionError("an answer to a GET of a whole object says all there is to say")
