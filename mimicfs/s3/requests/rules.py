"""The rules that the options of a bucket (config.BucketOptions) apply to each request to it: the
ACL of new objects, who pays, who must own the bucket, and no changes to a read-only bucket.
Everything else that is stored with an object, such as storage class and encryption, comes earlier
(kept.py): that holds for uploaded bytes, and not for each copy.

The caller's own parameters override those of the options.

Threading: any number of threads; nothing changes but a table that is filled once.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from mimicfs import metadata
from mimicfs.config.values import Buckets
from mimicfs.s3.requests.checksums import md5_of
from mimicfs.s3.transport.calls import CallParams

_STORES = frozenset({"PutObject", "CopyObject", "CreateMultipartUpload"})
_CHANGES = ("Put", "Copy", "Create", "Upload", "Complete", "Delete", "Restore", "Rename", "Write")


class Rules:
    """The rules of *buckets* for the calls of *client*. *owner* is the account to which the buckets
    must belong; "": any."""

    def __init__(self, client: Any, buckets: Buckets, owner: str = "") -> None:
        self._owner = owner
        self._buckets = buckets
        self._model = client.meta.service_model
        self._parameters: dict[str, frozenset[str]] = {}  # by operation

    def stored(self, operation: str, params: CallParams) -> CallParams:
        """Return *params* with the rules for objects that are written to their bucket. Raises
        PosixError EROFS. This comes before the mirror learns of the call."""
        bucket = params.get("Bucket", "")
        if operation.startswith(_CHANGES):
            self._buckets.check_writable(bucket)
        if operation not in _STORES:
            return params
        options = self._buckets.of(bucket)
        if not options.keeps_metadata and params.get("Metadata"):
            params = {**params, "Metadata": metadata.without_ours(params["Metadata"])}
        return self.granted(operation, params)

    def granted(self, operation: str, params: CallParams) -> CallParams:
        """Return *params* with the ACL for objects that are written to their bucket."""
        acl = self._buckets.of(params.get("Bucket", "")).acl if operation in _STORES else ""
        if not acl or any(name.startswith("Grant") for name in params):
            return params  # S3 takes an ACL or grants
        return {"ACL": acl, **params}

    def sent(self, operation: str, params: CallParams) -> CallParams:
        """Return *params* with those that the mirror need not know: who pays, who must own the
        buckets, and the keys of SSE-C."""
        bucket = params.get("Bucket", "")
        options, source = self._buckets.of(bucket), params.get("CopySource")
        more: CallParams = {}
        if options.requester_pays:
            more["RequestPayer"] = "requester"
        if self._owner and bucket:
            more |= {"ExpectedBucketOwner": self._owner, "ExpectedSourceBucketOwner": self._owner}
        if options.sse_c_key:
            more |= _sse_c("", options.sse_c_key)
        if isinstance(source, Mapping) and (key := self._buckets.of(source["Bucket"]).sse_c_key):
            more |= _sse_c("CopySource", key)
        if not more:
            return params
        known = self._known(operation)
        return {**{name: value for name, value in more.items() if name in known}, **params}

    def _known(self, operation: str) -> frozenset[str]:
        if operation not in self._parameters:
            shape = self._model.operation_model(operation).input_shape
            self._parameters[operation] = frozenset(shape.members if shape else ())
        return self._parameters[operation]


def obeying(client: Any, buckets: Buckets, owner: str) -> Any:
    """Return *client*, to whose calls `Rules` adds its parameters from now on."""
    rules, ask = Rules(client, buckets, owner), client._make_api_call

    def call(operation: str, params: CallParams) -> Any:
        return ask(operation, rules.sent(operation, rules.granted(operation, params)))

    client._make_api_call = call
    return client


def _sse_c(of: str, key: bytes) -> CallParams:
    """Return the parameters for *key*; in the form of botocore, which wire.py does not pass
    through."""
    md5 = md5_of(key)
    return {
        f"{of}SSECustomerAlgorithm": "AES256",
        f"{of}SSECustomerKey": b64encode(key).decode(),
        f"{of}SSECustomerKeyMD5": md5,
    }
