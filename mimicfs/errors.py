"""Every error that mimicfs raises, each with the errno that a file system call answers.

    MimicError                      EIO
    ├── ConfigError                 EINVAL     an option or URL that makes no sense
    ├── MountError                  EIO        the mount could not be made or ended
    ├── StoreError                  EIO        the store of the mirror
    │   ├── StoreUnavailable        EIO        not reachable, not writable, full
    │   │   └── StoreReplaced       EIO        its file was moved, replaced or deleted
    │   ├── StoreTooNew             EIO        written by a later version
    │   ├── StoreCorrupt            EIO        not ours, or damaged
    │   └── LogTrimmed              EIO        changes asked for are no longer in the log
    ├── S3Error                     EIO        S3 refused, or could not be asked
    │   ├── AccessDenied            EACCES
    │   ├── CredentialsError        EACCES     none, expired, or not valid
    │   ├── NoSuchBucket            ENODEV     what is mounted is gone: no name is just missing
    │   │   └── NoSuchPrefix        ENODEV
    │   ├── NoSuchQueue             ENODEV     the queue that is to tell of changes is gone
    │   ├── KeyNotFound             ENOENT
    │   ├── ObjectChanged           ESTALE     not the object that was opened
    │   ├── ObjectArchived          EACCES     in an archive class, not restored
    │   ├── BucketNotEmpty          ENOTEMPTY
    │   ├── BucketExists            EEXIST
    │   ├── InvalidRequest          EINVAL     what S3 will not take (a name, a size)
    │   ├── KeyTooLong              ENAMETOOLONG
    │   ├── ObjectTooLarge          EFBIG
    │   ├── Unsupported             EOPNOTSUPP the server has no such operation
    │   ├── OutOfSpace              ENOSPC     a limit of the account or of the server
    │   ├── Throttled               EAGAIN     still refused after every retry
    │   ├── S3Unavailable           EIO        no answer, or a broken one, after every retry
    │   │   └── NotFromS3           EIO        a load balancer, a proxy or another server answered
    │   └── TooManyRequests         EDQUOT     as many as a day may have (--max-requests-per-day)
    ├── TooManyDeletions            ECANCELED  a sync would delete most of what is known
    ├── MalformedListing            EIO        a LIST answer that is not what was asked
    ├── Unlisted                    EIO        the mirror does not know; S3 must be asked
    │   ├── Unasked             EIO        the same, of one object
    │   ├── Unlearned           EIO        the same, of what is stored with some objects
    │   ├── Unversioned         EIO        the same, of the versions of a name
    │   ├── Uncounted           EIO        the answer takes long: a worker must count it
    │   ├── Uncopied            EIO        a shared store has the answer: a worker must ask it
    │   └── Departing           EIO        a directory above is being renamed: a worker must wait
    ├── NotSynced                   EIO        an answer would have holes; sync first
    ├── NotTold                     EIO        S3 changed, and no message said so
    ├── MalformedIndex              EIO        a file of an index, or an inventory, that is none
    ├── Interrupted                 EINTR      the caller was interrupted while waiting
    ├── UploadFailed                its cause  the bytes are kept; the message says where
    └── PosixError                  given      what POSIX says about a path
        ├── PassingAbsence          ENOENT     and nobody is told when there is such a name
        └── BeingRenamed            EBUSY      a directory above it is; wait, and try again

Errors of libraries (botocore, sqlite3, redis) become one of these in the one file that
imports the library.
"""

from __future__ import annotations

import errno as codes
import os
from collections.abc import Sequence


class MimicError(Exception):
    """The base of all errors of mimicfs. *errno* is what a file system call answers; its text says
    what happened, to which thing, and what to do."""

    errno: int = codes.EIO


class ConfigError(MimicError):
    """An option, a URL, a moment or a file that makes no sense, or that must not be used as it
    is."""

    errno = codes.EINVAL


class MountError(MimicError):
    """The mount could not be made or ended."""


class StoreError(MimicError):
    """The store of the mirror failed, or may not be used."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or written, or is full."""


class StoreReplaced(StoreUnavailable):
    pass


class StoreTooNew(StoreError):
    """The store was written by a later version of mimicfs."""


class StoreCorrupt(StoreError):
    """The store is not one of mimicfs, or is damaged."""


class LogTrimmed(StoreError):
    """The change log no longer reaches back as far as was asked."""

    @classmethod
    def after(cls, since: int | None, bucket: str | None = None) -> LogTrimmed:
        """Return the error for the changes after number *since*, of *bucket* ("": the list of
        buckets; None: it is not known here)."""
        of = "" if bucket is None else f" of {bucket or 'the buckets'}"
        return cls(f"changes{of} after {since} are no longer in the log")


class S3Error(MimicError):
    """S3 refused a request, or could not be asked.

    *status* is the HTTP status (0: there was no answer), *code* S3's error code ("NoSuchKey"; ""
    where S3 gave none). *made* is the ETag of the copy that S3 has made although the work failed.
    """

    made: str = ""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class AccessDenied(S3Error):
    """S3 refuses this account the request, or its key of KMS."""

    errno = codes.EACCES


class CredentialsError(S3Error):
    """There are no credentials, or S3 does not take them: wrong, expired, or with a wrong clock."""

    errno = codes.EACCES


class NoSuchBucket(S3Error):
    """There is no such bucket. This is not ENOENT: that is a missing name, and for readdir(3) the
    end of a directory."""

    errno = codes.ENODEV


class NoSuchPrefix(NoSuchBucket):
    """The prefix to be mounted is not there: the name may be mistyped."""


class NoSuchQueue(S3Error):
    """The SQS queue that is to tell of changes is not there."""

    errno = codes.ENODEV


class KeyNotFound(S3Error):
    """S3 has no such object, version or upload."""

    errno = codes.ENOENT


class ObjectChanged(S3Error):
    """The object in S3 is no longer the one that was opened."""

    errno = codes.ESTALE

    @classmethod
    def since_opened(cls, about: str) -> ObjectChanged:
        """Return the error for *about*, an object's URL."""
        return cls(f"{about}: changed in S3; open it again")

    @classmethod
    def deleted(cls, about: str) -> ObjectChanged:
        """Return the error for *about*, the URL of an object that is no longer in S3."""
        return cls(f"{about}: deleted in S3")


class ObjectArchived(S3Error):
    """The object is in an archive class and not restored: its bytes cannot be read."""

    errno = codes.EACCES


class BucketNotEmpty(S3Error):
    """A bucket that has objects cannot be removed."""

    errno = codes.ENOTEMPTY


class BucketExists(S3Error):
    """There is a bucket of that name already, of this account or another one."""

    errno = codes.EEXIST


class InvalidRequest(S3Error):
    """S3 does not take what was asked: a name, a size, a parameter."""

    errno = codes.EINVAL


class KeyTooLong(S3Error):
    """A key has more than 1,024 bytes in UTF-8."""

    errno = codes.ENAMETOOLONG


class ObjectTooLarge(S3Error):
    """The object is larger than S3 takes."""

    errno = codes.EFBIG


class Unsupported(S3Error):
    """The server has no such operation."""

    errno = codes.EOPNOTSUPP


class OutOfSpace(S3Error):
    """A limit of the account or of the server's disks is reached."""

    errno = codes.ENOSPC


class Throttled(S3Error):
    """S3 asks to slow down, after every retry too."""

    errno = codes.EAGAIN


class S3Unavailable(S3Error):
    """S3 gave no answer, or one that makes no sense, after every retry."""


class NotFromS3(S3Unavailable):
    """What answered is not S3: a load balancer or a proxy before it, or another server."""


class TooManyRequests(S3Error):
    """As many requests as a day may have (--max-requests-per-day) were sent. Nothing was asked."""

    errno = codes.EDQUOT


# S3 was not asked, or has not answered the question: nobody knows more than before, and nothing
# follows from that.
NOTHING_SAID: tuple[type[S3Error], ...] = (
    S3Unavailable,
    Throttled,
    TooManyRequests,
    CredentialsError,
)


class TooManyDeletions(MimicError):
    """A sync would delete most of what the mirror knows, and nobody said that this is right."""

    errno = codes.ECANCELED


class MalformedListing(MimicError):
    """A LIST answer is not what was asked. Nothing of it was believed."""


class Unlisted(MimicError):
    """The mirror cannot answer for *directory* of *bucket* until it has been listed.

    An empty bucket name stands for the list of buckets.
    """

    def __init__(self, bucket: str, directory: str = "") -> None:
        super().__init__(f"not listed yet: s3://{bucket}/{directory}")
        self.bucket = bucket
        self.directory = directory


class Unasked(Unlisted):
    """Nobody knows what S3 answers to *operation* (boto3's name) about the object *key*, or its
    version with the id *version*."""

    def __init__(self, bucket: str, key: str, operation: str, version: str = "") -> None:
        super().__init__(bucket, key)
        self.key = key
        self.operation = operation
        self.version = version


class Unlearned(Unlisted):
    """Nobody knows what is stored with *key*, which is in *directory* of *bucket*."""

    def __init__(self, bucket: str, directory: str, key: str) -> None:
        super().__init__(bucket, directory)
        self.key = key


class Unversioned(Unlisted):
    """S3 was not asked just now which versions *key* has, or all objects in the directory *key*."""

    def __init__(self, bucket: str, key: str, *, directory: bool) -> None:
        super().__init__(bucket, key)
        self.key = key
        self.of_directory = directory


class Uncounted(Unlisted):
    """The answer takes longer than the asking thread may take: it must be counted first."""


class Uncopied(Unlisted):
    """The answer is in a store that others share, and this thread must not wait."""


class Departing(Unlisted):
    """A directory above gets another name in a moment: the caller must wait for that."""


class NotSynced(MimicError):
    """The mirror knows only a part of the answer, and S3 may not be asked."""


class NotTold(MimicError):
    """S3 changed, and no message has said so."""


class MalformedIndex(MimicError):
    """A file is no index, or no whole one; or it is no inventory."""


class Interrupted(MimicError):
    """The caller was interrupted while it waited."""

    errno = codes.EINTR


class UploadFailed(MimicError):
    """An upload failed; the bytes are kept in the file *kept_at*."""

    def __init__(self, message: str, *, errno: int, kept_at: str) -> None:
        super().__init__(message)
        self.errno = errno
        self.kept_at = kept_at


class PosixError(MimicError):
    """An error of POSIX about a path: an errno, and the path or name that it is about."""

    def __init__(self, errno: int, about: str = "") -> None:
        super().__init__(f"{os.strerror(errno)}: {about}" if about else os.strerror(errno))
        self.errno = errno


class PassingAbsence(PosixError):
    """There is no such name now. When there is one, nobody is told: the kernel asks again."""

    def __init__(self, name: bytes) -> None:
        super().__init__(codes.ENOENT, repr(name))


class BeingRenamed(PosixError):
    """Somebody is renaming a directory above one of *keys* of *bucket*: what is done there now may
    be missing at its new place."""

    def __init__(self, bucket: str, keys: Sequence[str]) -> None:
        super().__init__(codes.EBUSY, f"s3://{bucket}/{keys[0]}: its directory is being renamed")
        self.bucket, self.keys = bucket, keys
