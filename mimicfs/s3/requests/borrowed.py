"""What a sync needs of S3, over a client that somebody else has made: its credentials, its
endpoint. Any thread may ask; `pool` is where pages are fetched ahead.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mimicfs.config.values import S3Options
from mimicfs.entry import Bucket
from mimicfs.s3.requests.lister import Lister
from mimicfs.s3.requests.listing import Page
from mimicfs.s3.transport.errors import ours
from mimicfs.s3.transport.http import Transport
from mimicfs.s3.transport.traffic import Traffic

_CONNECTIONS = 16


class BorrowedS3:
    """Lists through *client*, which mimics."""

    def __init__(self, client: Any) -> None:
        self.pool = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="s3-list")
        self.lists = _CONNECTIONS
        self._client = client
        options = S3Options(connections=_CONNECTIONS)
        verify = getattr(client._endpoint.http_session, "_verify", True)
        bundle = verify if isinstance(verify, str) else None
        self._transport = Transport(options, bundle)
        self._lister = Lister(
            *(self._signer, client, options, self._transport, None, _count_nothing),
            Traffic(options.slow_s),
        )

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        self._transport.close()

    def list_buckets(self) -> list[Bucket]:
        with ours("list of buckets"):
            found = self._client.list_buckets(Force=True)["Buckets"]
        return sorted(
            Bucket(item["Name"], int(item["CreationDate"].timestamp()) * 1_000_000_000)
            for item in found
        )

    def list_page(
        self,
        bucket: str,
        prefix: str = "",
        *,
        delimiter: str = "",
        after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> Page:
        """As S3.list_page."""
        return self._lister.page(bucket, prefix, delimiter, after, token, limit)

    def _signer(self, region: str | None) -> Any:
        """Return a client that signs for *region* (None: the client's own). It asks the same
        endpoint, or where the client has AWS's, that of the region."""
        if region is None:
            return self._client
        import boto3

        credentials = self._client._request_signer._credentials.get_frozen_credentials()
        return boto3.session.Session().client(
            "s3",
            region_name=region,
            endpoint_url=self._client._ruleset_resolver._builtins.get("SDK::Endpoint"),
            config=self._client.meta.config,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.token,
        )


def _count_nothing(_kind: str) -> None:
    """Who borrows a client counts its requests himself."""
