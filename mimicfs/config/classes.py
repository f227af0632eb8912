"""Storage classes and keys of KMS: users hear of a misspelt one before an upload is refused. Pure;
no state.

mimicfs does not refuse it, because the server decides: Ceph's classes and MinIO's keys have any
names, and S3 gets new ones.
"""

from __future__ import annotations

import re

from mimicfs.config.options import nearest

# The classes of S3 (S3 API, PutObject: x-amz-storage-class).
_OF_S3 = (
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "GLACIER_IR",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "SNOW",
    "EXPRESS_ONEZONE",
    "FSX_OPENZFS",
    "FSX_ONTAP",
    "AWS_BACKUP_WARM",
    "AWS_BACKUP_LOW_COST_WARM",
)
# A key of KMS (API, Encrypt, KeyId): an id, an alias, or the ARN of one.
_KEY_OF_KMS = (
    r"arn:aws[\w-]*:kms:.+|alias/[\w/-]+|mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)


def doubt(storage_class: str, *, own: bool) -> str:
    """Return, in words, why to doubt *storage_class*; "": no reason. *own*: the server may have
    classes of its own, so only a name that is nearly one of S3's is doubted."""
    if not storage_class or storage_class in _OF_S3:
        return ""
    near = nearest(storage_class.upper().replace("-", "_"), _OF_S3)
    if not near:
        return "" if own else f"{storage_class} is no storage class of S3 that mimicfs knows"
    return f"{storage_class} is no storage class of S3; did you mean {near}?"


def doubt_of_key(kms_key_id: str, *, own: bool) -> str:
    """Return, in words, why to doubt *kms_key_id*; "": no reason. *own*: the server may name keys
    as it likes."""
    if own or not kms_key_id or re.fullmatch(_KEY_OF_KMS, kms_key_id):
        return ""
    return f"{kms_key_id} is no id, ARN or alias of a key in AWS; an alias is written alias/NAME"
