"""The KMS keys of single objects. A copy that does not name the key of its source is encrypted by
the setting of its bucket (S3 API, CopyObject): the key would be lost.

Only the answer to a HEAD or GET tells the key of an object. As long as no object of a bucket has
shown another key than the bucket's, a copy costs no further request. Otherwise a HEAD of the source
comes before a copy, unless this process has written the source. It also comes before a copy of an
object whose name has a key by a rule, as the object may have been written by that rule. The bucket
is asked for its key when the first key is seen, and again for keys that are seen an hour later:
somebody may have given it another one.

Threading: any thread. `_lock` protects what was seen; S3 is asked without it, at worst twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mimicfs.config.values import Buckets
from mimicfs.entry import Entry
from mimicfs.errors import NOTHING_SAID, MimicError
from mimicfs.s3.requests.content import encryption_of

if TYPE_CHECKING:
    from mimicfs.s3.requests.client import S3

log = logging.getLogger(__name__)

_GOOD_S = 3600.0


class OwnKeys:
    """Knows the keys in the buckets of *s3*, which have the rules of *buckets*."""

    def __init__(self, s3: S3, buckets: Buckets) -> None:
        self._s3 = s3
        self._buckets = buckets
        self._lock = threading.Lock()
        self._seen: dict[str, set[str]] = {}  # by bucket: keys of objects, until it is asked
        # By bucket: its own key ("": it says none), and when that was asked.
        self._usual: dict[str, tuple[str, float]] = {}
        self._mixed: set[str] = set()  # buckets in which another key was seen

    def seen(self, bucket: str, answer: Mapping[str, Any]) -> None:
        """Take note of *answer*, to a HEAD or GET of an object in *bucket*."""
        key = answer.get("SSEKMSKeyId")
        if key:
            with self._lock:
                self._seen.setdefault(bucket, set()).add(key)
                self._compare(bucket)

    def of(self, bucket: str, entry: Entry) -> dict[str, Any]:
        """Return the key of the object *entry* as parameters of a copy; {} if it has no key of its
        own, as far as was seen. Raises S3Error."""
        if bucket in self._seen:
            usual = self._asked(bucket)
            with self._lock:
                self._usual[bucket] = usual, time.monotonic()
                self._compare(bucket)
        if bucket not in self._mixed and not self._has_by_rule(bucket, entry.key):
            return {}
        known = self._s3.kept.remembered(bucket, entry)
        if known is not None:
            return encryption_of(known.headers)
        return encryption_of(self._s3.call("head_object", bucket, entry.key))

    def _has_by_rule(self, bucket: str, key: str) -> bool:
        return self._buckets.of(bucket).stored(key).sse.startswith("aws:kms")

    def _compare(self, bucket: str) -> None:
        """Compare what was seen with the key of *bucket*, if that is known."""
        usual, asked_s = self._usual.get(bucket, ("", -_GOOD_S))
        if time.monotonic() - asked_s >= _GOOD_S:
            return
        if not all(_is(key, usual) for key in self._seen.pop(bucket, ())):
            self._mixed.add(bucket)

    def _asked(self, bucket: str) -> str:
        try:
            answer = self._s3.call("get_bucket_encryption", bucket)
        except NOTHING_SAID:
            raise
        except MimicError as exc:
            log.debug("%s", exc)
            return ""
        rules = answer.get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
        said = (rule.get("ApplyServerSideEncryptionByDefault", {}) for rule in rules)
        return next((rule["KMSMasterKeyID"] for rule in said if rule.get("KMSMasterKeyID")), "")


def _is(key: str, usual: str) -> bool:
    """Whether *key*, an ARN, is *usual*: an ARN, or the id at the end of one."""
    return bool(usual) and (key == usual or key.endswith(f"/{usual}"))
