"""Learning: what S3 answers to a boto3 client is written to the mirror before it is returned.

`learn(client, mimicdb)` wraps `_make_api_call`, the one method that every call of a client
passes through: paginators, waiters, resources and s3transfer included. (What the mirror can
answer instead of S3 is `mimic.py`'s, on top of this.)

What is learned: puts, copies, finished multipart uploads, deletions, HEAD, GET, and the
making and removing of buckets. operations.py says what each other call means; where its answer
does not say what there is now, S3 is asked, or the mirror forgets. A 404 or 412, and an answer
that shows another version than the mirror has, repair the mirror and are announced; for that, a
write that S3 refused with one of these costs a HEAD. Listings are not learned here: pages.py
and sync/ merge them, since a page says also what is not there.

The mirror cannot be written although S3 has done what was asked: StoreError is raised, and
says so; the key is asked of S3 once the store is back. Reads go on without the store: what S3
says to them is learned another time.

Threading: as the client, any number of threads. Answers may come in another order than
requests: what was asked before a change of the key became known is not believed (the
sequence number read before the request, Mirror.record).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mimicfs.entry import LAST_KEY, OBJECT, Entry, pages, unquoted
from mimicfs.errors import LogTrimmed, S3Error, StoreError, TooManyRequests
from mimicfs.intent import StoreIntent
from mimicfs.merging import same_version
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.answers import head_text, settled
from mimicfs.s3.mimicking.conversation import Conversation, hold
from mimicfs.s3.mimicking.operations import Effect, changed_keys, effect_of
from mimicfs.s3.mimicking.pages import entry_of as listed_entry
from mimicfs.s3.mimicking.sent import UNKNOWN, no_more, note_requests, noting
from mimicfs.s3.mimicking.shown import (
    Answer,
    Params,
    date_ns,
    entry_of,
    is_key,
    may_be_done,
    meta_of,
    shows_versions,
    status_of,
    time_ns,
)
from mimicfs.s3.mimicking.uploads import Uploads

log = logging.getLogger(__name__)

_PAGE = 1000  # entries of the mirror read at a time


_Ask = Callable[[str, dict[str, Any]], Any]  # as a client's `_make_api_call`
_Learn = Callable[[Params, Answer, int], "Conversation[Any] | None"]
_Learning = Callable[[], AbstractContextManager[None]]
_ATTEMPTS = 20  # to see a contended key unchanged for as long as a HEAD takes
# Codes of keys that DeleteObjects has certainly not deleted.
_NOT_DONE = frozenset({"AccessDenied", "MethodNotAllowed", "InvalidRequest", "InvalidArgument"})
# S3 has not said what was asked beside a call: that changes nothing of what came of the call.
_UNTOLD = (ClientError, BotoCoreError, S3Error)
_PLAIN_HEAD = frozenset({"Bucket", "Key"})  # with others, S3 says more or less
# The note beside a bucket that has, or had, versions.
VERSIONS = "versions"


def learn(client: Any, mimicdb: Mirror, *, heads: bool = False) -> Any:
    """Make *client*, a boto3 S3 client, write into *mimicdb* what S3 answers; return it.

    *heads*: also all that a HEAD says (Entry.head), so that it can be said again.
    """
    client._make_api_call = learning(client, mimicdb, client._make_api_call, heads=heads)
    return client


def learning(client: Any, mimicdb: Mirror, ask: _Ask, *, heads: bool = False) -> _Ask:
    """Return *ask*, with which *client* asks S3, as a call that *mimicdb* learns from."""
    learner = Learner(mimicdb, heads=heads)
    mimicdb.intents.resolve = lambda bucket, key: hold(learner.resolve(bucket, [key]), ask)
    note_requests(client)
    return lambda operation, params: hold(learner.talk(operation, params), ask)


class Learner:
    """Learns into *mimicdb*; *heads* as in `learn`. *hooked* says whether a hook of the program
    may make another question of an operation: nothing is learned from what S3 answers to it."""

    def __init__(
        self, mimicdb: Mirror, *, heads: bool, hooked: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._mimicdb = mimicdb
        self._heads = heads
        self._hooked = hooked
        self._uploads = Uploads()
        self._learn: dict[str, _Learn] = {
            "PutObject": self._put,
            "CopyObject": self._copy,
            "CreateMultipartUpload": self._uploads.begin,
            "UploadPart": self._uploads.part,
            "UploadPartCopy": self._uploads.part_copy,
            "CompleteMultipartUpload": self._complete,
            "AbortMultipartUpload": self._uploads.abort,
            "DeleteObject": self._delete,
            "DeleteObjects": self._delete_many,
            "CreateBucket": lambda params, _answer, _sent: self._mimicdb.add_bucket(
                params["Bucket"], time.time_ns()
            ),
            "DeleteBucket": self._delete_bucket,
        }
        self._by_effect: dict[Effect, _Learn] = {
            Effect.RENAME: self._rename,
            Effect.HEAD: self._drop_head,
            Effect.HEADS: self._drop_heads,
        }

    def talk(self, operation: str, params: dict[str, Any]) -> Conversation[Any]:
        """Ask S3 what was to be asked, learn, and return the answer."""
        if operation in ("HeadObject", "GetObject"):
            return (yield from self._read(operation, params, _unlearned(operation, params)))
        effect = effect_of(operation)
        if effect in (Effect.NONE, Effect.ACCESS):
            answer = yield operation, params
            self._note_versions(operation, params, answer)
            return answer
        asked = dict(params)  # botocore rewrites some of them in place
        intent = self._begun(operation, asked)
        sizes, token = noting()
        try:
            answer = yield operation, params
        except ClientError as exc:
            yield from self._failed(operation, asked, intent, exc)
            raise
        except BaseException as exc:
            with self._ending(operation, asked, intent):
                self._broken(intent, unsent=isinstance(exc, TooManyRequests) and not sizes)
            raise
        finally:
            no_more(token)
        with self._ending(operation, asked, intent):
            self._note_versions(operation, asked, answer)
            with intent.learning():
                more = self._learned(operation, effect)(asked, answer, sizes[-1] if sizes else 0)
                if more is not None:
                    yield from more
            self._mimicdb.intents.end(intent, unsure=True)
            yield from self.resolve(intent.bucket, sorted(intent.contended))
        return answer

    def _begun(self, operation: str, params: Params) -> StoreIntent:
        """Say in the store what is about to be changed. Raises StoreError: S3 is not asked."""
        changed = changed_keys(operation, params)
        keys = [key for _, key in changed if is_key(key)]
        bucket = params.get("Bucket")
        if not keys or not isinstance(bucket, str):
            return StoreIntent("", (), "")
        return self._mimicdb.intents.begin(bucket, keys)

    def _failed(
        self, operation: str, params: Params, intent: StoreIntent, exc: ClientError
    ) -> Conversation[None]:
        """S3 has refused a change, or perhaps not."""
        with self._ending(operation, params, intent):
            if may_be_done(exc):
                self._broken(intent, unsent=False)
                return
            self._mimicdb.intents.end(intent, unsure=False)
            yield from self._unfulfilled(params, exc)
            yield from self.resolve(intent.bucket, sorted(intent.contended))

    def _broken(self, intent: StoreIntent, *, unsent: bool) -> None:
        """No answer came: nobody knows what S3 did, unless the request was *unsent*. S3 is in
        trouble, and would keep our caller waiting: it is asked in another thread."""
        self._mimicdb.intents.end(intent, unsure=not unsent)
        if intent.contended:
            self._mimicdb.intents.look_soon()

    @contextmanager
    def _ending(self, operation: str, params: Params, intent: StoreIntent) -> Iterator[None]:
        """Within, what came of *intent* is said; what the store does not take is kept."""
        with _told(operation, params):
            try:
                yield
            except StoreError:
                self._mimicdb.intents.keep(intent)
                raise

    def resolve(self, bucket: str, keys: Sequence[str]) -> Conversation[None]:
        """Ask S3 what it has of *keys*, which are contended, until nothing changed meanwhile. Where
        a hook may make another question of that, another client must ask."""
        if self._hooked("HeadObject"):
            return
        left, attempts = list(keys), _ATTEMPTS * len(keys)
        while left and attempts:
            attempts -= 1
            key = left.pop(0)
            rows = self._mimicdb.intents.unsettled(bucket, key)
            if not rows:
                continue
            try:
                entry = entry_of(key, (yield "HeadObject", {"Bucket": bucket, "Key": key}))
            except _UNTOLD as exc:
                if not isinstance(exc, ClientError) or status_of(exc) != 404:
                    log.debug("HEAD s3://%s/%s: %s", bucket, key, exc)
                    continue  # it is asked again by whoever looks after what is undone
                entry = None
            else:
                if entry is None:  # no answer of S3
                    continue
            if not self._mimicdb.settle(bucket, key, rows[0].generation, entry):
                left.append(key)

    def _learned(self, operation: str, effect: Effect) -> _Learn:
        """Return what learns from the answer to *operation*."""
        if self._hooked(operation):
            return self._forget_bucket
        found = self._learn.get(operation)
        return found if found is not None else self._by_effect.get(effect, self._unknown)

    # Writes

    def _put(self, params: Params, answer: Answer, sent: int) -> Conversation[None]:
        size = answer.get("Size", sent)  # Size: of an object that was appended to
        if not (answer.get("ETag") and size != UNKNOWN) and (yield from self._asked(params)):
            return
        if size == UNKNOWN:
            self._doubt(params)
            return
        self._written(params, size, answer.get("ETag", ""), date_ns(answer), meta_of(params))

    def _copy(self, params: Params, answer: Answer, _sent_size: int) -> Conversation[None]:
        result = answer["CopyObjectResult"]
        source = self._source(params)
        # Another etag may be that of another version: there are servers that do not look at
        # CopySourceIfMatch (rclone). And of a copy of we know not what, only S3 knows the size.
        same = source is not None and source.etag == unquoted(result.get("ETag"))
        if not same and (yield from self._asked(params)):
            return
        if source is None:
            self._doubt(params)
            return
        replaced = params.get("MetadataDirective") == "REPLACE"
        meta: Mapping[str, str] | None = meta_of(params) if replaced else source.meta
        self._written(
            params, source.size, result.get("ETag", ""), time_ns(result["LastModified"]), meta
        )

    def _doubt(self, params: Params) -> None:
        """Something was stored, and nobody says what: what is in its directory is not certain."""
        bucket, key = params["Bucket"], params["Key"]
        log.debug("S3 has stored s3://%s/%s, and did not say what it is", bucket, key)
        self._mimicdb.uncover(bucket, key[: key.rfind("/") + 1])

    def _source(self, params: Params) -> Entry | None:
        """Return the copied version, if the mirror has just that."""
        source, etag = params["CopySource"], unquoted(params.get("CopySourceIfMatch"))
        if not isinstance(source, Mapping) or source.get("VersionId") or not etag:
            return None
        entry = self._mimicdb.entry(source["Bucket"], source["Key"])
        return entry if entry is not None and entry.etag == etag else None

    def _complete(self, params: Params, answer: Answer, _sent_size: int) -> Conversation[None]:
        upload = self._uploads.completed(params)
        # Its LastModified is when it began (S3), and not every answer has its ETag (rclone).
        if (yield from self._asked(params)):
            return
        if upload is None:
            self._doubt(params)
            return
        started = {**upload.params, "Bucket": params["Bucket"], "Key": params["Key"]}
        self._written(
            started, upload.size, answer.get("ETag", ""), date_ns(answer), meta_of(started)
        )

    def _delete(self, params: Params, _answer: Answer, _sent_size: int) -> Conversation[None]:
        if params.get("VersionId"):  # an older one may be the current one now, or none
            yield from self._settle(params["Bucket"], [params["Key"]])
        else:
            self._mimicdb.forget(params["Bucket"], params["Key"])

    def _delete_many(self, params: Params, answer: Answer, _sent_size: int) -> Conversation[None]:
        refused = {error.get("Key"): error.get("Code") for error in answer.get("Errors", ())}
        objects = params["Delete"]["Objects"]
        versions = {item["Key"] for item in objects if item.get("VersionId")}
        changed = {key for key, code in refused.items() if code == "PreconditionFailed"}
        gone = {item["Key"] for item in objects} - versions - refused.keys()
        spared = {key for key, code in refused.items() if code in _NOT_DONE}
        self._mimicdb.intents.spare(params["Bucket"], spared)
        self._mimicdb.forget_all(params["Bucket"], sorted(gone))
        yield from self._settle(params["Bucket"], sorted(versions | changed))

    def _rename(self, params: Params, _answer: Answer, _sent_size: int) -> Conversation[None]:
        keys = [key for _, key in changed_keys("RenameObject", params)]
        yield from self._settle(params["Bucket"], keys)

    def _delete_bucket(self, params: Params, _answer: Answer, _sent_size: int) -> None:
        self._mimicdb.drop_bucket(params["Bucket"])

    # What a call names, and no more is known of

    def _drop_head(self, params: Params, _answer: Answer, _sent_size: int) -> None:
        bucket, key = params["Bucket"], params["Key"]
        since = self._mimicdb.seq(bucket)
        known = self._mimicdb.entry(bucket, key)
        if known is not None and known.head is not None:
            self._mimicdb.record(bucket, known._replace(head=None), since)

    def _drop_heads(self, params: Params, _answer: Answer, _sent_size: int) -> None:
        bucket = params["Bucket"]
        since = self._mimicdb.seq(bucket)
        for page in pages(lambda after: self._mimicdb.listing(bucket, "", after, _PAGE), _PAGE):
            heads = [entry._replace(head=None) for entry in page if entry.head is not None]
            if heads:
                self._mimicdb.record_all(bucket, heads, since)
            since = self._mimicdb.seq(bucket)

    def _unknown(self, params: Params, answer: Answer, sent: int) -> Conversation[None]:
        """Nobody knows what was done: what is named is asked of S3, or forgotten."""
        bucket = params.get("Bucket")
        if bucket and params.get("Key"):
            self._drop_head(params, answer, sent)
            yield from self._settle(bucket, [params["Key"]])
        else:
            self._forget_bucket(params, answer, sent)

    def _forget_bucket(self, params: Params, _answer: Answer, _sent_size: int) -> None:
        bucket = params.get("Bucket")
        known = self._mimicdb.known_bucket(bucket) if bucket else None
        if known is not None:
            self._mimicdb.drop_bucket(known.name)
            self._mimicdb.add_bucket(known.name, known.created_ns)

    def _settle(self, bucket: str, keys: Sequence[str]) -> Conversation[None]:
        """Ask S3 what it has of *keys* now: each, or, of many, what it lists behind the first."""
        left, lists, seen = sorted(set(keys)), True, set[str]()
        while left:
            key = left.pop(0)
            if (yield from self._head({"Bucket": bucket, "Key": key})):
                seen.add(key)
            if len(left) > 1 and lists:
                reached = yield from self._list_behind(bucket, key)
                lists = reached is not None
                behind = [key for key in left if key > (reached or key)] if lists else left
                seen |= set(left) - set(behind)
                left = behind
        self._mimicdb.intents.spare(bucket, seen)

    def _list_behind(self, bucket: str, after: str) -> Conversation[str | None]:
        """Have S3 list what is behind *after*. Return the key up to which is known what it has;
        None: not at all."""
        if self._hooked("ListObjectsV2"):
            return None
        since = self._mimicdb.seq(bucket)
        try:
            answer = yield "ListObjectsV2", {"Bucket": bucket, "StartAfter": after}
        except _UNTOLD as exc:
            log.debug("LIST s3://%s: %s", bucket, exc)
            return None
        entries = [listed_entry(item) for item in answer.get("Contents", ())]
        keys = [entry.key for entry in entries]
        truncated = answer.get("IsTruncated", False)
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

    def _note_versions(self, operation: str, params: Params, answer: Answer) -> None:
        """Note that the bucket has versions, if *answer* shows one, or that it will."""
        bucket = params.get("Bucket")
        if not isinstance(bucket, str) or not shows_versions(operation, answer):
            return
        if self._mimicdb.note(bucket, VERSIONS) is None:
            self._mimicdb.set_note(bucket, VERSIONS, "seen")

    def _asked(self, params: Params) -> Conversation[bool]:
        """Ask S3 what our own write has made, and record that. It is not announced: who
        wrote it knows. Return whether S3 told; if not, the write was done all the same."""
        bucket, key = params["Bucket"], params["Key"]
        if self._hooked("HeadObject"):
            return False
        since = self._mimicdb.seq(bucket)
        try:
            answer = yield "HeadObject", {"Bucket": bucket, "Key": key}
        except _UNTOLD as exc:
            log.debug("HEAD s3://%s/%s: %s", bucket, key, exc)
            if isinstance(exc, ClientError) and status_of(exc) == 404:  # deleted since
                self._mimicdb.forget(bucket, key, since)
                return True
            return False
        entry = entry_of(key, answer)
        if entry is not None:
            self._mimicdb.record(bucket, entry, since)
        return entry is not None

    def _written(
        self, params: Params, size: int, etag: str, mtime_ns: int, meta: Mapping[str, str] | None
    ) -> None:
        storage_class = params.get("StorageClass", "")
        storage_class = "" if storage_class == "STANDARD" else storage_class
        entry = Entry(params["Key"], size, mtime_ns, unquoted(etag), storage_class, meta)
        self._mimicdb.record(params["Bucket"], entry)

    # Reads

    def _read(
        self, operation: str, params: dict[str, Any], learning: _Learning
    ) -> Conversation[Any]:
        """Ask S3 to show an object, and learn within *learning* what it showed."""
        bucket, key = params.get("Bucket"), params.get("Key")
        other = params.get("VersionId") or params.get("PartNumber") or self._hooked(operation)
        if not bucket or not key or other:  # an older version, a part, or who knows what
            return (yield operation, params)
        since: int | None = None
        with learning():
            since = self._mimicdb.seq(bucket)
        if since is None:
            return (yield operation, params)
        try:
            answer = yield operation, params
        except ClientError as exc:
            with learning():
                yield from self._refused(params, exc, since)
            raise
        with _body_of(answer), learning():
            self._note_versions(operation, params, answer)
            entry = entry_of(key, answer)
            if entry is not None:
                stays = settled(answer)
                said = operation == "HeadObject" and params.keys() <= _PLAIN_HEAD
                if self._heads and stays and said:
                    entry = entry._replace(head=head_text(answer))
                self._seen(bucket, entry, since, heads_stay=stays)
        return answer

    def _seen(self, bucket: str, entry: Entry, since: int, *, heads_stay: bool) -> None:
        known = self._mimicdb.entry(bucket, entry.key)
        if known is None or not same_version(known, entry):
            self._mimicdb.repair(bucket, entry.key, entry, since)
            return
        head = entry.head or known.head if heads_stay else None
        entry = entry._replace(mtime_ns=known.mtime_ns, head=head)
        if entry.meta != known.meta and entry.meta:
            self._mimicdb.repair(bucket, entry.key, entry, since)
        elif entry != known:  # that there is no metadata changes nothing that is seen
            self._mimicdb.record(bucket, entry, since)

    def _refused(self, params: Params, exc: ClientError, since: int) -> Conversation[None]:
        """A read was refused."""
        status = status_of(exc)
        if status == 404:
            self._note_versions("HeadObject", params, exc.response)
            known = self._mimicdb.entry(params["Bucket"], params["Key"])
            if known is not None and known.kind == OBJECT:
                self._mimicdb.repair(params["Bucket"], params["Key"], None, since)
        elif status in (412, 416):  # 416: shorter than whoever asked for the range thought
            yield from self._head(params)

    def _unfulfilled(self, params: Params, exc: ClientError) -> Conversation[None]:
        """A write was refused. If S3 has something else than its conditions say, see what."""
        if status_of(exc) not in (404, 412):
            return
        source = params.get("CopySource")
        if isinstance(source, Mapping) and not source.get("VersionId"):
            yield from self._head(source)
        if params.get("IfMatch") or params.get("IfNoneMatch"):
            yield from self._head(params)

    def _head(self, params: Params) -> Conversation[bool]:
        """Ask S3 what is there now; the answer is learned like any other. Return whether S3
        told."""
        if self._hooked("HeadObject"):
            return False
        try:
            where = {"Bucket": params["Bucket"], "Key": params["Key"]}
            yield from self._read("HeadObject", where, nullcontext)
        except _UNTOLD as exc:  # a 404 was learned, another is no news
            log.debug("HEAD s3://%s/%s: %s", params["Bucket"], params["Key"], exc)
            return isinstance(exc, ClientError) and status_of(exc) == 404
        return True


@contextmanager
def _told(operation: str, params: Params) -> Iterator[None]:
    try:
        yield
    except StoreError as exc:
        about = f"s3://{params.get('Bucket')}/{params.get('Key', '')}"
        raise type(exc)(
            f"S3 has answered {operation} of {about}, but the mirror could not record it:"
            f" {exc}; mimicfs asks S3 about the key again when the store is back"
        ) from exc


def _unlearned(operation: str, params: Params) -> _Learning:
    """Return what a reader's learning is done in: while the store is away, reads go on."""

    @contextmanager
    def learning() -> Iterator[None]:
        try:
            yield
        except StoreError as exc:
            about = f"s3://{params.get('Bucket')}/{params.get('Key')}"
            log.debug(
                "the mirror could not learn from the answer to %s of %s: %s", operation, about, exc
            )

    return learning


@contextmanager
def _body_of(answer: Answer) -> Iterator[None]:
    """Within, an error means that nobody will read the body: its connection is closed."""
    try:
        yield
    except BaseException:
        if "Body" in answer:
            answer["Body"].close()
        raise
