"""Writes that S3 must refuse if somebody else was quicker: If-Match, If-None-Match.

Servers differ in what they do with these headers: AWS and moto look at them, `rclone serve s3` and
`juicefs gateway` overwrite all the same, some answer that they know no such header, and Ceph RGW 16
refuses the *right* ETag unless it is written without quotes. So mimicfs tries both halves, on a key
that nobody has: whether the server refuses the wrong condition, and whether it takes the right one,
in the form that is used afterwards. If the server does not look, mimicfs checks a moment before the
write, which is better than nothing, and not safe.

The findings are remembered in the store for a month, by endpoint and bucket.

Threading: any thread. While one thread tries, others wait for the result.
"""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mimicfs.entry import MONTH_S
from mimicfs.errors import NOTHING_SAID, KeyNotFound, ObjectChanged, PosixError, S3Error
from mimicfs.s3.requests.content import bare_etag
from mimicfs.s3.requests.ownkeys import own_key_beside

if TYPE_CHECKING:
    from mimicfs.s3.requests.client import S3

log = logging.getLogger(__name__)

_TURN_MS = 20_000  # how long a write may take before others no longer wait for it
NOBODYS = "00000000000000000000000000000000"  # the ETag of no object
_NOT_KNOWN = (400, 405, 501)  # the status from a server that does not know the header


class Condition(NamedTuple):
    """The condition of a write. Without a field, the write is unconditional."""

    etag: str = ""  # only over this version
    absent: bool = False  # only if there is no object


@dataclass(frozen=True, slots=True)
class Honoured:
    """The treatment of conditions by a server.

    *match* is the form of an ETag in the If-Match of a PUT, "quoted" or "bare"; "": the server does
    not look at it, or cannot be trusted. *absent*: the server looks at If-None-Match of a PUT.
    *delete* is what *match* is, for a DELETE.
    """

    match: str = ""
    absent: bool = False
    delete: str = ""


class Conditions:
    """Knows how the server of *s3* treats conditions."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._trying = threading.Lock()  # held during a trial (`_tried`): one serves all callers
        self._found: dict[str, Honoured] = {}  # by bucket
        self._of_deletes = True  # False: the server refuses every condition of a deletion

    def params(self, bucket: str, key: str, condition: Condition) -> dict[str, str]:
        """Return the parameters of a write that is to be done only under *condition*. If the server
        would not look, raises what `check` raises."""
        if condition == Condition():
            return {}
        self.honoured(bucket, key)
        said = self.params_at_once(bucket, condition)
        if said is None:
            self.check(bucket, key, condition)
        return said or {}

    def params_at_once(self, bucket: str, condition: Condition) -> dict[str, str] | None:
        """Return the same, if S3 need not be asked; otherwise None."""
        if condition == Condition():
            return {}
        found = self._found.get(bucket)
        if found is not None and condition.absent and found.absent:
            return {"IfNoneMatch": "*"}
        if found is not None and condition.etag and found.match:
            return {"IfMatch": _written(condition.etag, found.match)}
        return None

    def are_ignored(self, bucket: str) -> bool:
        """Whether the server is known not to look at the ETag of a PUT."""
        found = self._found.get(bucket)
        return found is not None and not found.match

    @contextmanager
    def turn(self, bucket: str, key: str, condition: Condition, size: int = 0) -> Iterator[None]:
        """Within, *key* is written under *condition*, *size* bytes at once. Where the server does
        not look, mounts that share a store write one after the other: what `check` has seen
        holds, as far as they are concerned. Raises StoreError."""
        if condition != Condition():
            self.honoured(bucket, key)
        if self.params_at_once(bucket, condition) is not None:
            yield
            return
        lasts_ms = _TURN_MS + size // 1000  # a megabyte a second
        with self._s3.mimicdb.intents.alone(bucket, key, lasts_ms):
            yield

    def check(self, bucket: str, key: str, condition: Condition) -> None:
        """Raise ObjectChanged, or PosixError EEXIST, if *condition* does not hold now."""
        try:
            now, _ = self._s3.head(bucket, key)
        except KeyNotFound as exc:
            if condition.absent:
                return
            raise ObjectChanged.deleted(f"s3://{bucket}/{key}") from exc
        if condition.absent:
            raise PosixError(errno.EEXIST, f"s3://{bucket}/{key}")
        if now.etag != condition.etag:
            raise ObjectChanged.since_opened(f"s3://{bucket}/{key}")

    def delete(self, bucket: str, key: str, etag: str) -> None:
        """Delete the version *etag* of *key* ("": any). Raises ObjectChanged if there is another
        version by now; a missing key is no error. Unless the server is known to look, a HEAD does:
        a server that does not know If-Match would delete whatever is there."""
        if not etag:
            return self._s3.delete(bucket, key)
        form = self.of_deletes(bucket)
        try:
            if form:
                return self._delete_only(bucket, key, etag, form)
            self._must_be(bucket, key, etag)
            if form is None:
                return self._delete_perhaps_only(bucket, key, etag)
        except KeyNotFound:
            return None
        return self._s3.delete(bucket, key)

    def of_deletes(self, bucket: str) -> str | None:
        """Return the form of the ETag that the server wants in the If-Match of a DELETE; "": it
        does not look; None: nobody knows, and a deletion alone is no reason to try. S3
        looks."""
        if not self._of_deletes:
            return ""
        found = self._found.get(bucket) or self._remembered(bucket)
        if found is not None:
            return found.delete
        return "quoted" if self._s3.endpoint == "aws" else None

    def _must_be(self, bucket: str, key: str, etag: str) -> None:
        now, _ = self._s3.head(bucket, key)
        if now.etag != etag:
            raise ObjectChanged(f"s3://{bucket}/{key}: changed in S3 meanwhile")

    def _delete_only(self, bucket: str, key: str, etag: str, form: str) -> None:
        try:
            self._s3.call("delete_object", bucket, key, IfMatch=_written(etag, form))
        except S3Error as exc:
            if not is_refused(exc):
                raise
            self._of_deletes = False
            self.delete(bucket, key, etag)

    def _delete_perhaps_only(self, bucket: str, key: str, etag: str) -> None:
        """As `_delete_only`, of a server that may look, and may want the ETag in another form: it
        refuses then what a HEAD shows to be there."""
        try:
            self._delete_only(bucket, key, etag, "quoted")
        except ObjectChanged:
            self._must_be(bucket, key, etag)
            self._of_deletes = False
            self._s3.delete(bucket, key)

    # What the server does

    def honoured(self, bucket: str, key: str) -> Honoured:
        """Return how the server treats conditions of writes in *bucket*. It is tried once, beside
        *key*: an account that may write that may write the keys of the trial."""
        found = self._found.get(bucket)
        if found is not None:
            return found
        with self._trying:
            found = self._found.get(bucket) or self._remembered(bucket)
            if found is None:
                return self._tried(bucket, key)
            self._found[bucket] = found
            return found

    def tried(self, bucket: str, key: str) -> Honoured:
        """Try it anew, and return the same."""
        with self._trying:
            return self._tried(bucket, key)

    def _tried(self, bucket: str, key: str) -> Honoured:
        found = Trial(self._s3, bucket, key).run()
        self._remember(bucket, found)
        log.info("conditions of writes to s3://%s: %s", bucket, found)
        self._found[bucket] = found
        return found

    @property
    def _note(self) -> str:
        return f"conditions {self._s3.endpoint}"

    def _remembered(self, bucket: str) -> Honoured | None:
        text = self._s3.mimicdb.note(bucket, self._note)
        try:
            said = json.loads(text or "{}")
            if not 0 <= time.time() - said.pop("at_s") < MONTH_S:  # servers are upgraded
                return None
            return Honoured(**said)
        except (ValueError, KeyError, TypeError):
            return None  # there is no note, or it is of another version of mimicfs

    def _remember(self, bucket: str, found: Honoured) -> None:
        text = json.dumps({**asdict(found), "at_s": int(time.time())})
        self._s3.mimicdb.set_note(bucket, self._note, text)


class Trial:
    """Tries what the server does with conditions, on a new key beside *key* in *bucket*."""

    def __init__(self, s3: S3, bucket: str, key: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._key = own_key_beside(key)
        self._etag = ""  # of the key as it is now

    def run(self) -> Honoured:
        """Try, remove the key, and return what was found. Raises the error of a plain write."""
        absent = self._takes(self._writes, IfNoneMatch="*")
        if not absent:
            self._put()
        try:
            match = self._form(self._writes)
            absent = absent and not self._writes(IfNoneMatch="*")
            delete = self._form(self._deletes, wrong_first=True)
        except BaseException:
            self._s3.delete(self._bucket, self._key)
            raise
        if not delete:
            self._s3.delete(self._bucket, self._key)
        return Honoured(match, absent, delete)

    def _form(self, does: Callable[..., bool], *, wrong_first: bool = False) -> str:
        """Return the form in which the server takes the right ETag and refuses a wrong one; "":
        none."""
        for form in ("quoted", "bare"):
            wrong = {"IfMatch": _written(NOBODYS, form)}
            if wrong_first and does(**wrong):
                return ""
            right = self._takes(does, IfMatch=_written(self._etag, form))
            if right and (wrong_first or not does(**wrong)):
                return form
        return ""

    def _takes(self, does: Callable[..., bool], **condition: str) -> bool:
        """Whether the server does what *does* asks under a condition that holds. If it refuses,
        this looks at the key: the answer to the first request may have been lost, and then the
        repeated one is refused because the first was done."""
        if does(**condition):
            return True
        before, self._etag = self._etag, self._now()
        return self._etag != before

    def _now(self) -> str:
        try:
            entry, _ = self._s3.head(self._bucket, self._key)
        except KeyNotFound:
            return ""
        return entry.etag

    def _writes(self, **condition: str) -> bool:
        try:
            return self._is_done(lambda: self._put(**condition))
        except KeyNotFound:
            return False

    def _put(self, **condition: str) -> None:
        answer = self._s3.sender.put(self._bucket, self._key, b"", 0, dict(condition))
        self._etag = bare_etag(answer) or self._now()

    def _deletes(self, **condition: str) -> bool:
        where = (self._bucket, self._key)
        try:
            return self._is_done(lambda: self._s3.call("delete_object", *where, **condition))
        except KeyNotFound:  # this request deleted it, before it was repeated
            return True

    @staticmethod
    def _is_done(ask: Callable[[], Any]) -> bool:
        """Whether the server does what *ask* asks under a condition; it may not know the header."""
        try:
            ask()
        except ObjectChanged:
            return False
        except S3Error as exc:
            if not is_refused(exc):
                raise
            return False
        return True


def _written(etag: str, form: str) -> str:
    return etag if form == "bare" else f'"{etag}"'


def is_refused(exc: S3Error) -> bool:
    """Whether *exc* may say that the server does not know the condition. (An expired key, and a
    body that did not arrive, are answered with 400, too: then it does not.)"""
    return exc.status in _NOT_KNOWN and not isinstance(exc, NOTHING_SAID)


@contextmanager
def refusals(about: str, condition: Condition) -> Iterator[None]:
    """Within, S3's refusal of a write under *condition* is what `Conditions.check` raises."""
    try:
        yield
    except ObjectChanged as exc:
        if condition.absent:
            raise PosixError(errno.EEXIST, about) from exc
        raise
    except KeyNotFound as exc:
        if condition.etag and exc.code != "NoSuchUpload":
            raise ObjectChanged.deleted(about) from exc
        raise
