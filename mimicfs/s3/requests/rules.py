"""What the options of a bucket (config.BucketOptions) make of each request to it: storage
class, encryption and ACL of what is written, who pays, and that nothing is changed where
nothing may be.

What the caller says of a request goes before what the options say.

Threading: any number of threads; nothing changes but a table that is filled once.
"""

from __future__ import annotations

from typing import Any

from mimicfs import metadata
from mimicfs.config.values import BucketOptions, Buckets

_STORES = frozenset({"PutObject", "CopyObject", "CreateMultipartUpload"})
_CHANGES = ("Put", "Copy", "Create", "Upload", "Complete", "Delete", "Restore", "Rename", "Write")

Params = dict[str, Any]


class Rules:
    """The rules of *buckets* for the calls of *client*."""

    def __init__(self, client: Any, buckets: Buckets) -> None:
        self._buckets = buckets
        self._model = client.meta.service_model
        self._payable: dict[str, bool] = {}  # by operation: whether it knows who pays

    def stored(self, operation: str, params: Params) -> Params:
        """Return *params* with what holds for what is written to their bucket. Raises
        PosixError EROFS. To be asked before the mirror learns of the call."""
        bucket = params.get("Bucket", "")
        if operation.startswith(_CHANGES):
            self._buckets.check_writable(bucket)
        if operation not in _STORES:
            return params
        options = self._buckets.of(bucket)
        if not options.metadata and params.get("Metadata"):
            params = {**params, "Metadata": metadata.without_ours(params["Metadata"])}
        said = _stored(options)
        if any(name.startswith("Grant") for name in params):
            said.pop("ACL", None)  # S3 takes one or the other
        return {**said, **params}

    def paid(self, operation: str, params: Params) -> Params:
        """Return *params* with who pays. The mirror need not know."""
        if not self._buckets.of(params.get("Bucket", "")).requester_pays:
            return params
        if operation not in self._payable:
            shape = self._model.operation_model(operation).input_shape
            self._payable[operation] = "RequestPayer" in (shape.members if shape else ())
        return {"RequestPayer": "requester", **params} if self._payable[operation] else params


def _stored(options: BucketOptions) -> dict[str, str]:
    said = {
        "StorageClass": options.storage_class,
        "ServerSideEncryption": options.sse,
        "SSEKMSKeyId": options.kms_key_id,
        "ACL": options.acl,
    }
    return {name: value for name, value in said.items() if value}
