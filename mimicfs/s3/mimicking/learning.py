"""Learning: what S3 answers to a boto3 client is written to the mirror before it is returned.

`learn(client, mimicdb)` wraps `_make_api_call`, the one method that every call of a client
passes through: paginators, waiters, resources and s3transfer included. (What the mirror can
answer instead of S3 is `mimic.py`'s, on top of this.)

The mirror learns puts, copies, finished multipart uploads, deletions, HEAD, GET, and the making and
removing of buckets. operations.py says what each other call means; if its answer does not say what
there is now, S3 is asked, or the mirror forgets. A 404 or 412, and an answer that shows another
version than the mirror has, repair the mirror and are announced; for that, a write that S3 refused
with one of these costs a HEAD. Listings are not learned here: pages.py and sync/ merge them, since
a page also says what is not there.

If the mirror cannot be written although S3 has done what was asked, StoreError is raised and says
so; S3 is asked about the key once the store is back. Reads go on without the store: their answers
are learned another time.

Threading: as the client, any number of threads. Answers may come in another order than requests: an
answer is not believed if a change of the key became known after its request (by the sequence number
that was read before, Mirror.record).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mimicfs.entry import Entry, unquoted, whole_seconds_ns
from mimicfs.errors import StoreError, TooManyRequests
from mimicfs.intent import StoreIntent
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking.conversation import Conversation, hold
from mimicfs.s3.mimicking.operations import Effect, changed_keys, effect_of
from mimicfs.s3.mimicking.reads import UNTOLD, Reads, going_on
from mimicfs.s3.mimicking.rememberedheads import RememberedHeads
from mimicfs.s3.mimicking.sent import UNKNOWN, no_more, note_requests, noting
from mimicfs.s3.mimicking.settling import Settling
from mimicfs.s3.mimicking.shown import (
    date_ns,
    entry_of,
    is_key,
    may_be_done,
    meta_of,
    says_gone,
    status_of,
)
from mimicfs.s3.mimicking.uploads import Uploads
from mimicfs.s3.transport.calls import Answer, Ask, Params

log = logging.getLogger(__name__)

_Learn = Callable[[Params, Answer, int], "Conversation[Any] | None"]
_ATTEMPTS = 20  # how often to wait for a contended key to stay unchanged during a HEAD
_DELETIONS = ("DeleteObject", "DeleteObjects")
# These are also raised before S3 is asked: by the limit of the day, or by botocore, which does not
# take the name of a bucket, or has no credentials.
_UNASKED = (TooManyRequests, BotoCoreError)
# Statuses of copies of what is not as it was: 400 is of one that is too large by now, 416 of a part
# of one that is too short.
_OF_A_SOURCE = (400, 404, 412, 416)
# With these codes DeleteObjects has certainly not deleted a key.
_NOT_DONE = frozenset({"AccessDenied", "MethodNotAllowed", "InvalidRequest", "InvalidArgument"})


def learn(client: Any, mimicdb: Mirror, *, heads: bool = False) -> Any:
    """Make *client*, a boto3 S3 client, write into *mimicdb* what S3 answers; return it.

    *heads*: keep all that a HEAD says (Entry.head), so that it can be answered again.
    """
    client._make_api_call = learning(client, mimicdb, client._make_api_call, heads=heads)
    return client


def learning(client: Any, mimicdb: Mirror, ask: Ask, *, heads: bool = False) -> Ask:
    """Return *ask*, with which *client* asks S3, as a call that *mimicdb* learns from."""
    return taught(client, Learner(mimicdb, heads=heads), ask)


def taught(client: Any, learner: Learner, ask: Ask) -> Ask:
    """Return *ask*, with which *client* asks S3, as a call that *learner* learns from."""
    mimicdb = learner.mimicdb
    mimicdb.intents.resolve = lambda bucket, key: hold(learner.resolve(bucket, [key]), ask)
    note_requests(client)
    return lambda operation, params: hold(learner.talk(operation, params), ask)


class Learner:
    """Learns into *mimicdb*; *heads* as in `learn`. *hooked* says whether a hook of the program may
    change the question of an operation: then nothing is learned from the answer."""

    def __init__(
        self, mimicdb: Mirror, *, heads: bool, hooked: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.mimicdb = mimicdb
        self._hooked = hooked
        self._heads = RememberedHeads(mimicdb)
        self._reads = Reads(mimicdb, self._heads if heads else None, hooked)
        self._settling = Settling(mimicdb, self._reads, self._heads, hooked)
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
            "CreateBucket": self._create_bucket,
            "DeleteBucket": self._delete_bucket,
        }
        self._by_effect: dict[Effect, _Learn] = {
            Effect.RENAME: self._rename,
            Effect.HEAD: self._settling.drop_head,
            Effect.HEADS: lambda *_: None,
        }

    def talk(self, operation: str, params: dict[str, Any]) -> Conversation[Any]:
        """Ask S3, learn from the answer, and return it."""
        if operation in ("HeadObject", "GetObject"):
            return (yield from self._reads.read(operation, params))
        effect = effect_of(operation)
        if effect in (Effect.NONE, Effect.ACCESS):
            answer = yield operation, params
            with going_on(operation, params):
                self._reads.note_versions(operation, params, answer)
            return answer
        asked = dict(params)  # botocore rewrites some of them in place
        intent = self._begun(operation, asked)
        heads = self._begun_heads(effect, asked)
        sent, token = noting()
        try:
            try:
                answer = yield operation, params
            finally:
                no_more(token)
                if sent.unheard:
                    self.mimicdb.intents.expect(intent)
        except ClientError as exc:
            intent.unsure |= sent.doubtful or may_be_done(exc)
            yield from self._failed(operation, asked, intent, heads, exc)
            raise
        except BaseException as exc:
            intent.unsure |= not isinstance(exc, _UNASKED) or bool(sent)
            if intent.unsure:
                self.mimicdb.intents.expect(intent)
            with self._ending(operation, asked, intent):
                self._undone(operation, asked, intent, heads)
                self._look_soon(intent)
            raise
        with self._ending(operation, asked, intent):
            if heads:
                self._heads.over(asked["Bucket"], heads)
            self._reads.note_versions(operation, asked, answer)
            with intent.learning():
                if self._hooked(operation):
                    yield from self._settling.hooked(operation, asked, sent.urls())
                else:
                    more = self._learned(operation, effect)(asked, answer, sent.size)
                    if more is not None:
                        yield from more
            self.mimicdb.intents.end(intent, unsure=True)
            yield from self.resolve(intent.bucket, sorted(intent.contended))
        return answer

    def _begun(self, operation: str, params: Params) -> StoreIntent:
        """Tell the store what is about to be changed; return the intent. Raises StoreError; then
        S3 is not asked."""
        changed = changed_keys(operation, params)
        keys = [key for _, key in changed if is_key(key)]
        bucket = params.get("Bucket")
        if not keys or not isinstance(bucket, str):
            return StoreIntent("", (), "")
        return self.mimicdb.intents.begin(bucket, keys, deletes=operation in _DELETIONS)

    def _begun_heads(self, effect: Effect, params: Params) -> str:
        """Say in the store that HEADs of all keys of a bucket are about to change, if they are.
        Return the name of the call. Raises StoreError: S3 is not asked."""
        bucket = params.get("Bucket")
        if effect is not Effect.HEADS or not isinstance(bucket, str):
            return ""
        return self._heads.begin(bucket)

    def _failed(
        self, operation: str, params: Params, intent: StoreIntent, heads: str, exc: ClientError
    ) -> Conversation[None]:
        """Deal with a change that S3 has refused, or perhaps not."""
        with self._ending(operation, params, intent):
            if intent.unsure and _has_no_source(operation, params, exc):
                with intent.learning():
                    yield from self._settling.asked(params)
            self._undone(operation, params, intent, heads)
            if may_be_done(exc):
                self._look_soon(intent)
                return
            yield from self._unfulfilled(operation, params, exc, intent.contended)
            yield from self.resolve(intent.bucket, sorted(intent.contended))

    def _undone(self, operation: str, params: Params, intent: StoreIntent, heads: str) -> None:
        """Note that S3 has not done *operation*; or, if *intent* is unsure, that nobody knows."""
        if intent.unsure:
            self._settling.unclear(operation, params)
        elif heads:
            self._heads.over(params["Bucket"], heads)
        self.mimicdb.intents.end(intent, unsure=False)

    def _look_soon(self, intent: StoreIntent) -> None:
        """Ask S3 in another thread: it is in trouble, and would keep our caller waiting."""
        if intent.contended:
            self.mimicdb.intents.look_soon()

    @contextmanager
    def _ending(self, operation: str, params: Params, intent: StoreIntent) -> Iterator[None]:
        """Within, the result of *intent* is told to the store; what the store does not take is
        kept."""
        with _told(operation, params):
            try:
                yield
            except StoreError:
                self.mimicdb.intents.keep(intent)
                raise
            except BaseException:  # as when a task is cancelled, or a program interrupted
                self.cut_off(intent)
                raise

    def cut_off(self, intent: StoreIntent) -> None:
        """End *intent*, whose result was not learned to the end; the caller does not hear of
        that."""
        try:
            self.mimicdb.intents.end(intent, unsure=True)
        except StoreError as exc:
            log.debug("what came of a change could not be recorded: %s", exc)
            self.mimicdb.intents.keep(intent)
        if intent.keys:
            self.mimicdb.intents.look_soon()

    def resolve(self, bucket: str, keys: Sequence[str]) -> Conversation[None]:
        """Ask S3 about *keys*, which are contended, until nothing changed meanwhile. If a hook
        changes the question, another client must ask."""
        if self._hooked("HeadObject"):
            return
        left, attempts = list(keys), _ATTEMPTS * len(keys)
        while left and attempts:
            attempts -= 1
            key = left.pop(0)
            rows = self.mimicdb.intents.unsettled(bucket, key)
            if not rows:
                continue
            try:
                answer = yield "HeadObject", {"Bucket": bucket, "Key": key}
                entry = entry_of(key, answer)
            except UNTOLD as exc:
                if not says_gone(exc):
                    log.debug("HEAD s3://%s/%s: %s", bucket, key, exc)
                    continue  # the thread that looks after undone intents asks again
                entry, answer = None, getattr(exc, "response", {})
            else:
                if entry is None:  # no answer of S3
                    continue
            if self._hooked("HeadObject"):
                return
            self._reads.note_versions("HeadObject", {"Bucket": bucket}, answer)
            if not self.mimicdb.settle(bucket, key, rows[0].generation, entry):
                left.append(key)

    # Reads and puts that are sent together

    def number_before_read(self, bucket: str) -> int | None:
        """Return the number of the latest change of *bucket*, for objects that are read from now
        on; None: the store is away, and nothing is learned from them."""
        return self._reads.number_before(bucket)

    def has_read(
        self, bucket: str, key: str, answer: Answer, since: int | None, *, writes: bool
    ) -> bool:
        """Learn from *answer*, to a GetObject of *key* that was sent after number *since*. Unless
        it *writes*: return False if the mirror must be changed for that."""
        return self._reads.has_shown(bucket, key, answer, since, writes=writes)

    def begin_puts(self, bucket: str, keys: Sequence[str]) -> StoreIntent:
        """Tell the store that *keys* are about to be put; return the intent. Raises StoreError;
        then S3 is not asked."""
        return self.mimicdb.intents.begin(bucket, keys)

    def put_together(
        self, intent: StoreIntent, puts: Sequence[tuple[Params, Answer, int]]
    ) -> list[Entry]:
        """Learn *puts*, all those of *intent*, which S3 has done: their parameters, answers and
        sizes, each confirmed by an ETag. Return the entries now; the caller resolves contended
        ones. Raises StoreError (`untold` says what that means)."""
        try:
            for params, answer, _ in puts:
                self._reads.note_versions("PutObject", params, answer)
            entries = [put_entry(params, size, answer) for params, answer, size in puts]
            with intent.learning():
                self.mimicdb.record_all(intent.bucket, entries)
            self.mimicdb.intents.end(intent, unsure=True)
        except StoreError:
            self.mimicdb.intents.keep(intent)
            raise
        except BaseException:
            self.cut_off(intent)
            raise
        return entries

    def _learned(self, operation: str, effect: Effect) -> _Learn:
        """Return the method that learns from the answer to *operation*."""
        found = self._learn.get(operation)
        return found if found is not None else self._by_effect.get(effect, self._settling.unknown)

    # Writes

    def _put(self, params: Params, answer: Answer, sent: int) -> Conversation[None]:
        size = answer.get("Size", sent)  # Size: of an object that was appended to
        if not (answer.get("ETag") and size != UNKNOWN) and (
            yield from self._settling.asked(params)
        ):
            return
        if size == UNKNOWN:
            self._settling.doubt(params)
            return
        self._written(params, size, answer.get("ETag", ""), date_ns(answer), meta_of(params))

    def _copy(self, params: Params, answer: Answer, _sent_size: int) -> Conversation[None]:
        result = answer.get("CopyObjectResult", {})
        source = self._source(params)
        # Another ETag may be that of another version: some servers (rclone) do not look at
        # CopySourceIfMatch. And if the source is not known, only S3 knows the size of the copy.
        same = source is not None and source.etag == unquoted(result.get("ETag"))
        if not same and (yield from self._settling.asked(params)):
            return
        if source is None:
            self._settling.doubt(params)
            return
        replaced = params.get("MetadataDirective") == "REPLACE"
        meta: Mapping[str, str] | None = meta_of(params) if replaced else source.meta
        at = result.get("LastModified")
        at_ns = date_ns(answer) if at is None else whole_seconds_ns(at)
        self._written(params, source.size, result.get("ETag", ""), at_ns, meta)

    def _source(self, params: Params) -> Entry | None:
        """Return the copied version, if the mirror has just that."""
        source, etag = params["CopySource"], unquoted(params.get("CopySourceIfMatch"))
        if not isinstance(source, Mapping) or "VersionId" in source or not etag:
            return None
        entry = self.mimicdb.entry(source["Bucket"], source["Key"])
        return entry if entry is not None and entry.etag == etag else None

    def _complete(self, params: Params, answer: Answer, _sent_size: int) -> Conversation[None]:
        upload = self._uploads.completed(params)
        # Its LastModified is the time when it began (S3), and some answers (rclone) have no ETag.
        if (yield from self._settling.asked(params)):
            return
        if upload is None:
            self._settling.doubt(params)
            return
        started = {**upload.params, "Bucket": params["Bucket"], "Key": params["Key"]}
        self._written(
            started, upload.size, answer.get("ETag", ""), date_ns(answer), meta_of(started)
        )

    def _delete(self, params: Params, _answer: Answer, _sent_size: int) -> Conversation[None]:
        if "VersionId" in params:  # an older version may be the current one now; S3 refuses ""
            yield from self._settling.settle(params["Bucket"], [params["Key"]])
        else:
            self.mimicdb.forget(params["Bucket"], params["Key"])

    def _delete_many(self, params: Params, answer: Answer, _sent_size: int) -> Conversation[None]:
        refused = {error.get("Key"): error.get("Code") for error in answer.get("Errors", ())}
        objects = params["Delete"]["Objects"]
        versions = {item["Key"] for item in objects if "VersionId" in item}
        changed = {key for key, code in refused.items() if code == "PreconditionFailed"}
        gone = {item["Key"] for item in objects} - versions - refused.keys()
        spared = {key for key, code in refused.items() if code in _NOT_DONE}
        self.mimicdb.intents.spare(params["Bucket"], spared)
        self.mimicdb.forget_all(params["Bucket"], sorted(gone))
        yield from self._settling.settle(params["Bucket"], sorted(versions | changed))

    def _rename(self, params: Params, _answer: Answer, _sent_size: int) -> Conversation[None]:
        keys = [key for _, key in changed_keys("RenameObject", params)]
        yield from self._settling.settle(params["Bucket"], keys)

    def _create_bucket(self, params: Params, answer: Answer, _sent_size: int) -> None:
        if self.mimicdb.known_bucket(params["Bucket"]) is None:  # us-east-1 accepts it twice
            self.mimicdb.add_bucket(params["Bucket"], date_ns(answer))

    def _delete_bucket(self, params: Params, _answer: Answer, _sent_size: int) -> None:
        self.mimicdb.drop_bucket(params["Bucket"])

    def _written(
        self, params: Params, size: int, etag: str, mtime_ns: int, meta: Mapping[str, str] | None
    ) -> None:
        self.mimicdb.record(params["Bucket"], _entry_of(params, size, etag, mtime_ns, meta))

    def _unfulfilled(
        self, operation: str, params: Params, exc: ClientError, contended: Collection[str]
    ) -> Conversation[None]:
        """A change was refused. If S3 may have something else than the caller believes, see what;
        of what is *contended*, that is seen anyway."""
        status = status_of(exc)
        source = params.get("CopySource")
        if status in _OF_A_SOURCE and isinstance(source, Mapping) and "VersionId" not in source:
            yield from self._reads.head(source)
        if params.get("Key") in contended:
            return
        conditional = params.get("IfMatch") or params.get("IfNoneMatch")
        head = effect_of(operation) is Effect.HEAD  # as of a restore that others have begun
        if (conditional and status in (404, 412)) or (head and status in (404, 409)):
            yield from self._reads.head(params)


def _has_no_source(operation: str, params: Params, exc: ClientError) -> bool:
    """Whether S3 has refused a copy to another key because its source is gone. An earlier request,
    which it has not answered, may have made the copy, and that is ours then."""
    source = params.get("CopySource")
    place = {"Bucket": params.get("Bucket"), "Key": params.get("Key")}
    return operation == "CopyObject" and status_of(exc) == 404 and source != place


def _entry_of(
    params: Params, size: int, etag: str, mtime_ns: int, meta: Mapping[str, str] | None
) -> Entry:
    """Return the entry that *params* have stored."""
    storage_class = params.get("StorageClass", "")
    storage_class = "" if storage_class == "STANDARD" else storage_class
    return Entry(params["Key"], size, mtime_ns, unquoted(etag), storage_class, meta)


def put_entry(params: Params, size: int, answer: Answer) -> Entry:
    """Return the entry that a PutObject of *size* bytes has stored, by its *answer*."""
    return _entry_of(params, size, answer["ETag"], date_ns(answer), meta_of(params))


@contextmanager
def _told(operation: str, params: Params) -> Iterator[None]:
    try:
        yield
    except StoreError as exc:
        raise untold(operation, params, exc) from exc


def untold(operation: str, params: Params, exc: StoreError) -> StoreError:
    """Return the error for a caller if the store does not take what S3 has done."""
    about = f"s3://{params.get('Bucket')}/{params.get('Key', '')}"
    return type(exc)(
        f"S3 has answered {operation} of {about}, but the mirror could not record it:"
        f" {exc}; mimicfs asks S3 about the key again when the store is back"
    )
