"""Settling the changes of a call whose answer does not say what there is now. S3 is asked; what it
does not tell, the mirror doubts or forgets.

If a hook of the program may have changed a call, nobody knows what it did. Then nothing is believed
of the buckets that it named: the one in its parameters, and the one in the request that was sent.

Threading: as the client, any number of threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from urllib.parse import unquote, urlsplit

from mimicfs.entry import LAST_KEY
from mimicfs.errors import LogTrimmed
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.accounts import owners_kept
from mimicfs.s3.mimicking.conversation import Conversation
from mimicfs.s3.mimicking.operations import Effect, changed_keys, effect_of
from mimicfs.s3.mimicking.pages import entry_of as listed_entry
from mimicfs.s3.mimicking.reads import UNTOLD, Reads
from mimicfs.s3.mimicking.rememberedheads import RememberedHeads
from mimicfs.s3.mimicking.shown import entry_of, is_key, says_gone
from mimicfs.s3.transport.calls import Answer, Params

log = logging.getLogger(__name__)


class Settling:
    """Settles keys and buckets of *mimicdb*; *hooked* as in Reads."""

    def __init__(
        self, mimicdb: Mirror, reads: Reads, heads: RememberedHeads, hooked: Callable[[str], bool]
    ) -> None:
        self._mimicdb = mimicdb
        self._heads = heads
        self._reads = reads
        self._hooked = hooked

    # What S3 can be asked about

    def asked(self, params: Params) -> Conversation[bool]:
        """Ask S3 what our own write has made, and record that. It is not announced: the writer
        knows it. Return whether S3 told; if not, the write was done all the same."""
        bucket, key = params["Bucket"], params["Key"]
        if self._hooked("HeadObject"):
            return False
        since = self._mimicdb.seq(bucket)
        try:
            answer = yield "HeadObject", {"Bucket": bucket, "Key": key}
        except UNTOLD as exc:
            log.debug("HEAD s3://%s/%s: %s", bucket, key, exc)
            if self._hooked("HeadObject"):
                return False
            if says_gone(exc):  # it was deleted since
                self._reads.note_versions("HeadObject", params, getattr(exc, "response", {}))
                self._mimicdb.forget(bucket, key, since)
                return True
            return False
        entry = entry_of(key, answer)
        if entry is None or self._hooked("HeadObject"):
            return False
        self._reads.note_versions("HeadObject", params, answer)
        self._mimicdb.record(bucket, entry, since)
        return True

    def settle(self, bucket: str, keys: Collection[str]) -> Conversation[set[str]]:
        """Ask S3 about *keys*: about each, or, if they are many, for a listing behind the first.
        Return the keys about which S3 told."""
        left, lists, seen = sorted(set(keys)), True, set[str]()
        while left:
            key = left.pop(0)
            if (yield from self._reads.head({"Bucket": bucket, "Key": key})):
                seen.add(key)
            if len(left) > 1 and lists:
                reached = yield from self._list_behind(bucket, key)
                lists = reached is not None
                behind = [key for key in left if key > (reached or key)] if lists else left
                seen |= set(left) - set(behind)
                left = behind
        self._mimicdb.intents.spare(bucket, seen)
        return seen

    def _list_behind(self, bucket: str, after: str) -> Conversation[str | None]:
        """Have S3 list the keys behind *after*. Return the key up to which they are known then;
        None: none is."""
        if self._hooked("ListObjectsV2"):
            return None
        since = self._mimicdb.seq(bucket)
        try:
            answer = yield "ListObjectsV2", {"Bucket": bucket, "StartAfter": after}
        except UNTOLD as exc:
            log.debug("LIST s3://%s: %s", bucket, exc)
            return None
        entries = [listed_entry(item) for item in answer.get("Contents", ())]
        keys = [entry.key for entry in entries]
        truncated = answer.get("IsTruncated", False)
        if self._hooked("ListObjectsV2"):
            return None
        if keys != sorted(set(keys)) or (keys and keys[0] <= after) or (truncated and not keys):
            return None
        upto = keys[-1] if truncated else None
        try:
            self._mimicdb.replace(
                bucket, "", entries, after=after, upto=upto, since=since, deep=True
            )
        except LogTrimmed as exc:
            log.debug("a page was not learned: %s", exc)
            return None
        return upto or LAST_KEY

    # What is doubted or forgotten

    def doubt(self, params: Params) -> None:
        """Make the directory of a key uncertain: something was stored, and nobody says what."""
        bucket, key = params["Bucket"], params["Key"]
        log.debug("S3 has stored s3://%s/%s, and did not say what it is", bucket, key)
        self._mimicdb.uncover(bucket, key[: key.rfind("/") + 1])

    def _doubt_key(self, bucket: str, key: str) -> None:
        """Stop showing *key* from the mirror: nobody says what S3 has of it. It is unsettled then,
        so that nobody takes it for deleted (feed.py)."""
        self.doubt({"Bucket": bucket, "Key": key})
        if self._mimicdb.entry(bucket, key) is not None:
            with self._mimicdb.intents.unknown(bucket, key):
                self._mimicdb.forget(bucket, key)

    def drop_head(self, params: Params, _answer: Answer, _sent: int) -> None:
        """Forget what a HEAD of the key said: it says something else now."""
        self._heads.drop(params["Bucket"], params["Key"])

    def unknown(self, params: Params, _answer: Answer, _sent: int) -> Conversation[None]:
        """Ask S3 about everything that is named, or forget it: nobody knows what was done."""
        bucket = params.get("Bucket")
        if bucket and params.get("Key"):
            yield from self._settle_again(bucket, params["Key"])
        else:
            self._forget_bucket(bucket)

    def _forget_bucket(self, name: str | None) -> None:
        known = self._mimicdb.known_bucket(name) if name else None
        if known is not None:
            with owners_kept(self._mimicdb, known.name):
                self._mimicdb.drop_bucket(known.name)
                self._mimicdb.add_bucket(known.name, known.created_ns)

    def unclear(self, operation: str, params: Params) -> None:
        """Forget what *operation* may have changed, and no intent is kept of: nobody knows whether
        S3 has done it."""
        bucket, effect = params.get("Bucket"), effect_of(operation)
        if operation == "DeleteBucket" or (effect is Effect.UNKNOWN and not params.get("Key")):
            self._forget_bucket(bucket)
        if effect is Effect.BUCKET:
            self._mimicdb.uncover("", "")
        if not self._mimicdb.intents.are_kept:
            for name, key in changed_keys(operation, params):
                if is_key(key):
                    self._doubt_key(name, key)

    # What a hook may have made of a call

    def hooked(self, operation: str, params: Params, urls: Sequence[str]) -> Conversation[None]:
        """Deal with *operation*, of which a hook may have made another change; its requests went to
        *urls*."""
        effect = effect_of(operation)
        if effect is Effect.UPLOAD:
            return
        known = {bucket.name for bucket in self._mimicdb.known_buckets()}
        places = {_place_of(url, known) for url in urls}
        bucket = params.get("Bucket", "")
        certain = places and None not in places and bucket in known
        if certain and effect in (Effect.KEY, Effect.HEAD):
            for where in sorted({(bucket, params["Key"]), *filter(None, places)}):
                yield from self._settle_again(*where)
            return
        named = {name for url in urls for name in known if _may_be_of(url, name)}
        for name in sorted(named | (known & {bucket})):
            self._forget_bucket(name)
        if effect in (Effect.BUCKET, Effect.UNKNOWN):
            self._mimicdb.uncover("", "")

    def _settle_again(self, bucket: str, key: str) -> Conversation[None]:
        self._heads.drop(bucket, key)
        if key not in (yield from self.settle(bucket, [key])):
            self._doubt_key(bucket, key)


def _place_of(url: str, known: Collection[str]) -> tuple[str, str] | None:
    """Return the bucket and the key of *url*; None: it may be of a bucket other than the *known*
    ones."""
    parts = urlsplit(url)
    path, host = unquote(parts.path).removeprefix("/"), parts.hostname or ""
    for name in known:
        if host.startswith(f"{name}."):
            return name, path
    bucket, _, key = path.partition("/")
    return (bucket, key) if bucket in known and key else None


def _may_be_of(url: str, bucket: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return bucket in unquote(parts.path).split("/") or host.startswith(f"{bucket}.")
