"""PUTs of small objects, sent together by one thread (together.py), with one transaction for a
burst of closed files (--write-back) instead of two for each.

The thread begins all new PUTs in one transaction (StoreIntents.begin), and records in one
transaction what S3 has answered meanwhile. An object that is put otherwise (S3.put) goes on with
the intent that was begun for it.

INVARIANT: nothing is sent to S3 before the store has the intent of it, and no future is done before
the result is recorded, or the caller is told that it is not.

Threading: any thread calls `put` and `close`; see together.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from mimicfs.entry import Entry
from mimicfs.errors import StoreError
from mimicfs.intent import StoreIntent
from mimicfs.s3.mimicking.learning import untold
from mimicfs.s3.mimicking.sent import is_unheard
from mimicfs.s3.requests.together import Together, UnderWay, Ways, end
from mimicfs.s3.transport.calls import Answer, CallParams
from mimicfs.s3.transport.errors import ours
from mimicfs.s3.transport.plain import PlainAnswer

_GATHER_S = 0.003  # no single caller waits: the larger a group, the cheaper it is


class SmallPut(NamedTuple):
    """A PutObject with *params*. *has_stored* is called with what S3 has then, and whether that is
    contended, and returns what the caller gets. *otherwise* does all that as for any other PUT."""

    params: CallParams
    has_stored: Callable[[Entry, bool], Entry]
    otherwise: Callable[[], Entry]

    @property
    def about(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def size(self) -> int:
        return len(self.params["Body"])

    @property
    def bucket(self) -> str:
        return str(self.params["Bucket"])

    @property
    def key(self) -> str:
        return str(self.params["Key"])


class _PutUnderWay(UnderWay):
    def __init__(self, put: SmallPut, future: Future[Entry]) -> None:
        super().__init__(put.bucket, put.key, future)
        self.put = put
        self.whole: StoreIntent  # the intent of all that were begun with it
        self.answer: Answer = {}


class Putter(Together[_PutUnderWay]):
    """Puts by *ways*, whose learner learns the results."""

    def __init__(self, ways: Ways) -> None:
        most = ways.options.connections * 3 // 4  # the rest is for readers
        super().__init__(ways, "PutObject", most, "s3-puts", _GATHER_S)

    def put(self, put: SmallPut) -> Future[Entry] | None:
        """Return a future of what S3.put returns or raises. It can be cancelled until the PUT
        begins. None: the object is not to be sent like this. Raises PosixError EROFS."""
        params = self._rules.stored("PutObject", put.params)
        with ours(put.about):
            ready = self._wire.ready("PutObject", self._rules.sent("PutObject", params))
        if ready is None or self._unclear or not self._most:
            return None
        future: Future[Entry] = Future()
        each = _PutUnderWay(put._replace(params=params), future)
        each.is_ready(ready)
        self._add([each])
        return future

    # The thread that sends

    def _body_size(self, each: _PutUnderWay) -> int:
        return each.put.size

    def _otherwise(self, each: _PutUnderWay) -> Callable[[], Entry]:
        return each.put.otherwise

    def _begin_group(self, bucket: str, group: Sequence[_PutUnderWay]) -> None:
        intent = self._learner.begin_puts(bucket, [each.key for each in group])
        for each in group:
            each.whole = intent

    def _is_confirmed(self, each: _PutUnderWay, found: PlainAnswer) -> bool:
        answer = self._wire.confirmed(found)
        if answer is None or not answer.get("ETag"):
            return False
        each.answer = answer
        self._traffic.moved(0, each.put.size)
        return True

    def _confirmed(self, done: Sequence[_PutUnderWay]) -> None:
        groups: dict[str, list[_PutUnderWay]] = {}
        for each in done:
            groups.setdefault(each.whole.token, []).append(each)
        for group in groups.values():
            self._learn_group(group)

    def _learn_group(self, group: list[_PutUnderWay]) -> None:
        intent = group[0].whole.part([each.key for each in group])
        done = [(each.put.params, each.answer, each.put.size) for each in group]
        try:
            entries = self._learner.put_together(intent, done)
        except Exception as exc:  # noqa: BLE001 - whatever it is, each caller is told
            for each in group:
                each.future.set_exception(_told(each.put, exc))
            return
        for each, entry in zip(group, entries, strict=True):
            if each.key in intent.contended:
                self._in_pool(each.future, partial(self._resolved, each.put, entry))
            else:
                end(each.future, partial(each.put.has_stored, entry, False))

    def _resolved(self, put: SmallPut, entry: Entry) -> Entry:
        resolve = self._learner.mimicdb.intents.resolve
        if resolve is not None:
            resolve(put.bucket, put.key)
        return put.has_stored(entry, True)

    def _again(self, each: _PutUnderWay, status: int) -> Callable[[], Entry]:
        put, intent = each.put, each.whole.part([each.key])
        intent.unsure = not 400 <= status < 500
        if is_unheard(status):
            self._learner.mimicdb.intents.expect(intent)

        def again() -> Entry:
            try:
                with intent.given():
                    return put.otherwise()
            finally:
                if not intent.taken:
                    self._learner.cut_off(intent)

        return again


def _told(put: SmallPut, exc: Exception) -> Exception:
    """Return the error for the caller of *put*, which S3 has done, by *exc*."""
    return untold("PutObject", put.params, exc) if isinstance(exc, StoreError) else exc
