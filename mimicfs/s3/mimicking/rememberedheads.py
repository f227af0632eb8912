"""What HEADs have said (Entry.head), and the calls that end it: of one key, or of a whole bucket.

A call that changes what all HEADs of a bucket say, as one that begins versions, is noted beside the
bucket before S3 is asked for it, and what is remembered is forgotten. From then on, nobody
remembers a HEAD of that bucket until the call is over, nor one that was asked for before that. So a
process that dies meanwhile leaves nothing wrong, and neither does a store that goes away. A call of
which nobody knows what came is over once no attempt of it can be on its way.

Threading: any; each change is one note, or one change of the mirror.
"""

from __future__ import annotations

import json
import os

from mimicfs.entry import PAGE
from mimicfs.intent import LASTS_MS
from mimicfs.mimicdb import Mirror

_NOTE = "heads"  # [the newest call, {each that is not over: until when it may last, in ms}]


class RememberedHeads:
    """The remembered HEADs in *mimicdb*."""

    def __init__(self, mimicdb: Mirror) -> None:
        self._mimicdb = mimicdb

    # Of one key

    def noted(self, bucket: str) -> str | None:
        """Return what `may_keep` must know of the time before a HEAD is asked for."""
        return self._mimicdb.note(bucket, _NOTE)

    def may_keep(self, noted: str | None) -> bool:
        """Whether the answer to a HEAD may be remembered, before which there was *noted*. Once it
        is, the caller calls `kept`."""
        under_way = _under_way(noted)
        return not under_way or max(under_way.values()) < self._mimicdb.now_ms()

    def kept(self, bucket: str, key: str, noted: str | None) -> None:
        """Drop the answer to a HEAD of *key*, just remembered, if a call has begun since."""
        if self._mimicdb.note(bucket, _NOTE) != noted:
            self.drop(bucket, key)

    def drop(self, bucket: str, key: str) -> None:
        """Forget what a HEAD of *key* said: it says something else now. That is logged even where
        no answer is known: one that was asked for before may still be on its way."""
        while True:
            since = self._mimicdb.seq(bucket)
            known = self._mimicdb.entry(bucket, key)
            if known is None:
                self._mimicdb.forget(bucket, key, since)
            else:
                self._mimicdb.record(bucket, known._replace(head=None), since)
            left = self._mimicdb.entry(bucket, key)
            if left is None or left.head is None:
                return

    # Of a bucket

    def begin(self, bucket: str) -> str:
        """Begin a call after which HEADs of all keys of *bucket* say something else; return its
        name. Raises StoreError; then S3 must not be asked."""
        call = os.urandom(8).hex()
        self._change(bucket, call, self._mimicdb.now_ms() + LASTS_MS)
        self._drop_all(bucket)
        return call

    def over(self, bucket: str, call: str) -> None:
        """Note that S3 has answered *call*. If it was not noted until now, because it took too long
        or the mirror has forgotten the bucket, forget what HEADs have said since."""
        if not self._change(bucket, call, None):
            self._drop_all(bucket)

    def _change(self, bucket: str, call: str, until_ms: int | None) -> bool:
        """Note *call* as one that may last *until_ms*, or as over. Return whether it was noted."""
        swapped, was, text = False, False, self._mimicdb.note(bucket, _NOTE)
        while not swapped:
            now_ms = self._mimicdb.now_ms()
            left = {each: at for each, at in _under_way(text).items() if at > now_ms}
            was = left.pop(call, None) is not None
            if until_ms is not None:
                left[call] = until_ms
            after = json.dumps([call, left])
            swapped, text = self._mimicdb.swap_note(bucket, _NOTE, text, after)
        return was

    def _drop_all(self, bucket: str) -> None:
        after, left = "", True
        while left:
            since = self._mimicdb.seq(bucket)
            page = self._mimicdb.listing(bucket, "", after)
            heads = [entry._replace(head=None) for entry in page if entry.head is not None]
            if heads:  # and then once more: those that were learned meanwhile were left alone
                self._mimicdb.record_all(bucket, heads, since)
            else:
                left = len(page) == PAGE
                after = page[-1].key if left else ""


def _under_way(text: str | None) -> dict[str, int]:
    """Return the calls that *text* notes as not over, and until when each may last."""
    found: dict[str, int] = json.loads(text)[1] if text is not None else {}
    return found
