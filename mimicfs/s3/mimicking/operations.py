"""The effects of each operation of S3 on what the mirror has: one table.

`effect_of` also judges operations that the table does not have, of a botocore that is newer than
it: an operation that reads, by its name, does nothing; any other is `UNKNOWN`, and the mirror
forgets what it names.

Pure values; any thread may call.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from urllib.parse import unquote

from mimicfs.s3.transport.calls import Params


class Effect(Enum):
    """The effect on the mirror of a call that S3 has done."""

    NONE = auto()  # it reads, or changes something that is not mirrored
    UPLOAD = auto()  # it is about a multipart upload, which nobody sees yet
    KEY = auto()  # the object at Key is another one, or gone
    KEYS = auto()  # the objects of Delete are gone, or others
    RENAME = auto()  # the object at RenameSource is at Key now
    HEAD = auto()  # a HEAD of Key says something else
    HEADS = auto()  # HEADs of all keys of Bucket do
    ACCESS = auto()  # who may read what is in Bucket is different
    BUCKET = auto()  # Bucket was made or removed
    UNKNOWN = auto()  # anything may be different


# Operations whose names say that they read, and the others by what they do.
_READING = ("Get", "Head", "List")
_TABLE = {
    Effect.NONE: """
        CreateSession SelectObjectContent WriteGetObjectResponse
        CreateBucketMetadataConfiguration CreateBucketMetadataTableConfiguration
        DeleteBucketAnalyticsConfiguration DeleteBucketCors DeleteBucketEncryption
        DeleteBucketIntelligentTieringConfiguration DeleteBucketInventoryConfiguration
        DeleteBucketMetadataConfiguration DeleteBucketMetadataTableConfiguration
        DeleteBucketMetricsConfiguration DeleteBucketReplication
        DeleteBucketWebsite PutBucketAccelerateConfiguration
        PutBucketAnalyticsConfiguration PutBucketCors PutBucketEncryption
        PutBucketIntelligentTieringConfiguration PutBucketInventoryConfiguration
        PutBucketLogging PutBucketMetricsConfiguration PutBucketNotification
        PutBucketNotificationConfiguration PutBucketReplication
        PutBucketWebsite PutObjectLockConfiguration
        UpdateBucketMetadataAnnotationTableConfiguration
        UpdateBucketMetadataInventoryTableConfiguration
        UpdateBucketMetadataJournalTableConfiguration
    """,
    Effect.UPLOAD: "CreateMultipartUpload UploadPart UploadPartCopy AbortMultipartUpload",
    Effect.KEY: "PutObject CopyObject CompleteMultipartUpload DeleteObject",
    Effect.KEYS: "DeleteObjects",
    Effect.RENAME: "RenameObject",
    Effect.HEAD: """
        RestoreObject PutObjectRetention PutObjectLegalHold PutObjectTagging
        DeleteObjectTagging PutObjectAcl UpdateObjectEncryption PutObjectAnnotation
        DeleteObjectAnnotation
    """,
    # These change whether a HEAD has a version id, and when an object will expire.
    Effect.HEADS: """
        PutBucketVersioning PutBucketLifecycle PutBucketLifecycleConfiguration
        DeleteBucketLifecycle
    """,
    # Of a bucket with attribute-based access control, its tags say who may read.
    Effect.ACCESS: """
        PutBucketAbac PutBucketTagging DeleteBucketTagging
        PutBucketAcl PutBucketPolicy DeleteBucketPolicy PutPublicAccessBlock
        DeletePublicAccessBlock PutBucketOwnershipControls DeleteBucketOwnershipControls
        PutBucketRequestPayment
    """,
    Effect.BUCKET: "CreateBucket DeleteBucket",
}
_EFFECTS = {name: effect for effect, names in _TABLE.items() for name in names.split()}


def effect_of(operation: str) -> Effect:
    """Return what *operation* does to the mirror."""
    found = _EFFECTS.get(operation)
    if found is not None:
        return found
    return Effect.NONE if operation.startswith(_READING) else Effect.UNKNOWN


def unclassed(operations: Iterable[str]) -> list[str]:
    """Return the *operations* that are not judged: neither named here nor reading by name."""
    return [name for name in operations if effect_of(name) is Effect.UNKNOWN]


def changed_keys(operation: str, params: Params) -> list[tuple[str, str]]:
    """Return the (bucket, key) of each object that *operation* puts, replaces or removes, or of
    which a HEAD says something else after it."""
    bucket = params.get("Bucket", "")
    match effect_of(operation):
        case Effect.KEY | Effect.HEAD:
            return [(bucket, params.get("Key", ""))]
        case Effect.KEYS:
            objects = params.get("Delete", {}).get("Objects", ())
            return [(bucket, key) for key in dict.fromkeys(item.get("Key", "") for item in objects)]
        case Effect.RENAME:
            return [(bucket, key) for key in (params.get("Key", ""), *renamed(params))]
        case Effect.UNKNOWN if params.get("Key"):
            return [(bucket, params["Key"])]
        case _:
            return []


def renamed(params: Params) -> list[str]:
    """Return the keys of which a RenameObject may rename one: its source may have the bucket before
    it, or begin with the same name."""
    source = unquote(str(params.get("RenameSource", ""))).removeprefix("/")
    return list(dict.fromkeys([source.removeprefix(f"{params.get('Bucket')}/"), source]))
