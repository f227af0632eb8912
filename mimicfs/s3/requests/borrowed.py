"""The requests that a sync needs, sent by a client that a program has made: with its endpoint,
proxies, certificates, credentials and hooks. So the sync reaches what the client's calls can reach,
in the same way.

The lister asks for pages, as it parses ten times as fast as botocore, through the client's own HTTP
session. If the program has hooks on the client, which may change requests or look at answers, the
client itself asks.

Threading: any thread may ask; `pool` is where pages are fetched ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import cached_property
from typing import Any

from botocore import UNSIGNED
from botocore.config import Config

from mimicfs.config.values import S3Options
from mimicfs.entry import (
    LIST_MAX,
    LISTED,
    BucketEntry,
    Entry,
    clamped_ns,
    is_directory_bucket,
    unquoted,
)
from mimicfs.s3.requests.lister import Lister
from mimicfs.s3.requests.listing import (
    OF_VERSIONS,
    Asked,
    Page,
    checked_page,
    directories_of,
)
from mimicfs.s3.requests.versions import Marker, Version, VersionPage, checked_versions
from mimicfs.s3.transport.errors import ours
from mimicfs.s3.transport.express import sign_with_sessions
from mimicfs.s3.transport.regional import presign_as_called
from mimicfs.s3.transport.traffic import Traffic

_CONNECTIONS = 16
_LIST = "ListObjectsV2"
# The events in which a program can hook into a call, except before-send, which `_Door` emits
# itself.
_HOOKS = (
    "provide-client-params",
    "before-parameter-build",
    "before-endpoint-resolution",
    "before-call",
    "request-created",
    "choose-signer",
    "before-sign",
    "needs-retry",
    "before-parse",
    "response-received",
    "after-call",
    "after-call-error",
)
_THEIR_OWN = frozenset({"boto3", "botocore", "aiobotocore", "mimicfs"})


class BorrowedS3:
    """Lists through *client*, which mimics."""

    def __init__(self, client: Any) -> None:
        self.pool = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="s3-list")
        self.lists = _CONNECTIONS
        self._client = client
        self._hooked = _is_hooked(client)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def list_buckets(self) -> list[BucketEntry]:
        with ours("list of buckets"):
            found = self._client.list_buckets(Force=True).get("Buckets", [])
        return sorted(BucketEntry(item["Name"], _ns(item.get("CreationDate"))) for item in found)

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str = "",
        after: str = "",
        token: str | None = None,
        limit: int = LIST_MAX,
    ) -> Page:
        """As S3.list_page."""
        if self._hooked:
            return self._asked_itself(bucket, prefix, delimiter, after, token, limit)
        return self._lister.page(bucket, prefix, delimiter, after, token, limit)

    def directories(self, bucket: str, prefix: str) -> list[str]:
        """As S3.directories."""
        return directories_of(self.list_page(bucket, prefix, delimiter="/"))

    def version_page(
        self, bucket: str, prefix: str, after: Marker, limit: int = LIST_MAX, delimiter: str = ""
    ) -> VersionPage:
        """As S3.version_page."""
        if self._hooked:
            return self._versions_asked_itself(bucket, prefix, after, limit, delimiter)
        return self._lister.versions(bucket, prefix, after, limit, delimiter)

    @cached_property
    def _lister(self) -> Lister:
        options = S3Options(connections=_CONNECTIONS)
        return Lister(
            self._signer,
            lambda: self._client,
            options,
            _Door(self._client),
            None,
            _count_nothing,
            Traffic(options.slow_s),
        )

    def _asked_itself(
        self, bucket: str, prefix: str, delimiter: str, after: str, token: str | None, limit: int
    ) -> Page:
        """Return the answer of the client, as a page."""
        ordered = not is_directory_bucket(bucket)
        asked = Asked(bucket, prefix, after if ordered else "", delimiter, 2, ordered)
        params: dict[str, Any] = {"Bucket": bucket, "MaxKeys": limit}
        optional = {"Prefix": prefix, "Delimiter": delimiter, "ContinuationToken": token}
        params |= {name: value for name, value in optional.items() if value}
        if token is None and asked.after:
            params["StartAfter"] = asked.after
        with ours(str(asked)):
            answer = self._client.list_objects_v2(**params, Force=True)
        entries = [_entry(item) for item in answer.get("Contents", ())]
        prefixes = [Entry(each["Prefix"], kind=LISTED) for each in answer.get("CommonPrefixes", ())]
        truncated, token = answer.get("IsTruncated", False), answer.get("NextContinuationToken")
        return checked_page(asked, entries, prefixes, truncated=truncated, token=token)

    def _versions_asked_itself(
        self, bucket: str, prefix: str, after: Marker, limit: int, delimiter: str
    ) -> VersionPage:
        params: dict[str, Any] = {"Bucket": bucket, "MaxKeys": limit, "Prefix": prefix}
        optional = {
            "KeyMarker": after.key,
            "VersionIdMarker": after.version,
            "Delimiter": delimiter,
        }
        params |= {name: value for name, value in optional.items() if value}
        asked = Asked(bucket, prefix, after.key, delimiter, OF_VERSIONS)
        with ours(str(asked)):
            answer = self._client.list_object_versions(**params)
        found = [_version(item, deleted=False) for item in answer.get("Versions", ())]
        markers = [_version(item, deleted=True) for item in answer.get("DeleteMarkers", ())]
        following = None
        if answer.get("IsTruncated"):
            version = answer.get("NextVersionIdMarker", "")
            following = Marker(answer.get("NextKeyMarker", ""), version)
        directories = tuple(item["Prefix"] for item in answer.get("CommonPrefixes", ()))
        page = checked_versions(asked, found + markers, following, after)
        return page._replace(directories=directories)

    def _signer(self, region: str | None) -> Any:
        """Return a client that signs as the borrowed one for *region* (None: the client's own).
        It asks the same endpoint, or where the client has AWS's, that of the region.

        It always signs by version 4: for another endpoint in us-east-1, botocore signs addresses by
        version 2 unless it is told otherwise.
        """
        import boto3

        theirs = self._client.meta.config
        resolver = self._client._ruleset_resolver
        unsigned = theirs.signature_version is UNSIGNED
        config = Config(signature_version=UNSIGNED if unsigned else "s3v4")
        signer: Any = boto3.session.Session().client(
            "s3",
            region_name=region or self._client.meta.region_name,
            endpoint_url=resolver._builtins.get("SDK::Endpoint"),
            config=theirs.merge(config),
            aws_access_key_id="replaced below",
            aws_secret_access_key="replaced below",
        )
        # The AWS configuration of this process may say otherwise, and may not be that of the
        # client.
        signer._ruleset_resolver._builtins = resolver._builtins | (
            {"AWS::Region": region} if region else {}
        )
        signer._ruleset_resolver._use_ssl = resolver._use_ssl
        presign_as_called(signer.meta.events)
        sign_with_sessions(signer)
        # This signer asks for a session itself, where the client would.
        door = _Door(self._client)
        signer.meta.events.register("before-send.s3", lambda request, **_: door.sent(request))
        signer._request_signer._credentials = self._client._request_signer._credentials
        return signer


class _Door:
    """Sends requests as *client* sends its own: past the listeners to before-send (moto is one),
    through its proxies, with its certificates."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def sent(self, request: Any) -> Any:
        events = self._client.meta.events
        for _, answer in events.emit(f"before-send.s3.{_LIST}", request=request):
            if answer is not None:
                return answer
        return self._client._endpoint.http_session.send(request)


def _is_hooked(client: Any) -> bool:
    """Whether a program has hooks of its own on the listings of *client*."""
    return any(module not in _THEIR_OWN for module in _hooks(client))


def _hooks(client: Any) -> Iterator[str]:
    """Yield the package that each hook on the listings of *client* is of."""
    known = client.meta.events._emitter._handlers
    for event in _HOOKS:
        for hook in known.prefix_search(f"{event}.s3.{_LIST}"):
            function = getattr(hook, "func", hook)
            owner = getattr(function, "__self__", None)
            module = type(owner).__module__ if owner is not None else function.__module__
            yield str(module).partition(".")[0]


def _entry(item: dict[str, Any]) -> Entry:
    storage_class = item.get("StorageClass", "")
    return Entry(
        item["Key"],
        item["Size"],
        _ns(item.get("LastModified")),
        unquoted(item.get("ETag")),
        "" if storage_class == "STANDARD" else storage_class,
    )


def _version(item: dict[str, Any], *, deleted: bool) -> Version:
    storage_class = item.get("StorageClass", "")
    return Version(
        item["Key"],
        item["VersionId"],
        item["IsLatest"],
        deleted,
        _ns(item.get("LastModified")),
        item.get("Size", 0),
        unquoted(item.get("ETag")),
        "" if storage_class == "STANDARD" else storage_class,
    )


def _ns(at: datetime | None) -> int:
    return clamped_ns(at) if at is not None else 0


def _count_nothing(_kind: str) -> None:
    """Count nothing: the borrower of a client counts its requests."""
