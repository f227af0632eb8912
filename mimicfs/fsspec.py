"""fsspec over the mirror: `fsspec.filesystem("mimicfs")`, `mimicfs://BUCKET/KEY`, on s3fs.

    import mimicfs.fsspec
    mimicfs.fsspec.install(store="sqlite:///home/me/mimicdb.db")   # s3:// from now on
    pandas.read_parquet("s3://bucket/table/")

Everything is s3fs's, but that its client mimics: what was listed once is not listed again, by no
process that uses the same store. A directory that is not known is listed with all below it, up
to 100,000 keys; of one that has more, s3fs asks S3 for what it shows, each time.

Threading: as s3fs; what is asked runs in fsspec's event loop.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import fsspec
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from mimicfs import mimicdb
from mimicfs.backends.open import open_store
from mimicfs.entry import NS
from mimicfs.errors import ConfigError
from mimicfs.process import current
from mimicfs.s3.mimicking.mimic import Forcing, mimic

_PAGES_MAX = 100  # of 1,000 keys, that are read to know a directory


class MimicFileSystem(S3FileSystem):  # type: ignore[misc]
    """s3fs, answered by a mirror.

    *store* is the URL of the mirror's store (mimicfs.backends.open), or a Backend; None is the
    MimicDB of this process, else one in memory. *namespace* keeps several mirrors apart in it. What
    was listed more than *ttl* seconds ago is asked of S3 again; None: only with refresh=True. The
    other options are those of s3fs. Raises ConfigError, StoreError.
    """

    protocol = ("mimicfs", "s3", "s3a")

    def __init__(
        self,
        *args: Any,
        store: Any = None,
        namespace: str = "",
        ttl: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.mimicdb, ours = _mirror(store, namespace)
        if ours:
            weakref.finalize(self, self.mimicdb.close)
        self.ttl = ttl
        self._forcing = Forcing()
        self._too_big: set[tuple[str, str]] = set()  # directories that _PAGES_MAX pages do not show
        super().__init__(*args, **{"use_listings_cache": False} | kwargs)

    async def set_session(self, refresh: bool = False, kwargs: Any = None) -> Any:
        """Return the client of s3fs, which mimics; it is made where there is none, or with
        *refresh*."""
        s3 = await super().set_session(refresh=refresh, kwargs=kwargs or {})
        return mimic(s3, self.mimicdb, self._forcing)

    async def get_s3(self, bucket: str | None = None) -> Any:
        """Return the client that asks for *bucket*, which mimics."""
        return mimic(await super().get_s3(bucket), self.mimicdb, self._forcing)

    async def _lsbuckets(self, refresh: bool = False) -> Any:
        with self._asking("", refresh):
            return await super()._lsbuckets(refresh)

    async def _exists(self, path: str) -> Any:
        with self._asking(path):
            return await super()._exists(path)

    async def _info(
        self,
        path: str,
        bucket: str | None = None,
        key: str | None = None,
        refresh: bool = False,
        version_id: str | None = None,
    ) -> Any:
        with self._asking(path, refresh):
            return await super()._info(path, bucket, key, refresh, version_id)

    async def _metadata(self, path: str, refresh: bool = False, **kwargs: Any) -> Any:
        with self._asking(path, refresh):
            return await super()._metadata(path, refresh, **kwargs)

    # s3fs has made these of its own
    exists = sync_wrapper(_exists)
    metadata = sync_wrapper(_metadata)

    def _asking(self, path: str, refresh: bool = False) -> AbstractContextManager[None]:
        """Return what has S3 asked within, with *refresh*, or if what the mirror has of *path* is
        older than the ttl."""
        bucket, key, _ = self.split_path(path)
        place = (bucket, key[: key.rfind("/") + 1]) if key else ("", "")
        asks = refresh or (self.ttl is not None and not self._knows(*place))
        return self._forcing() if asks else nullcontext()

    async def _lsdir(self, path: str, refresh: bool = False, **kwargs: Any) -> Any:
        bucket, key, _ = self.split_path(path)
        known = not refresh or await self._list(bucket, f"{key}/" if key else "")
        with nullcontext() if known else self._forcing():
            return await super()._lsdir(path, refresh=refresh, **kwargs)

    async def _iterdir(
        self,
        bucket: str,
        max_items: int | None = None,
        delimiter: str = "/",
        prefix: str = "",
        versions: bool = False,
    ) -> AsyncIterator[Any]:
        directory = prefix[: prefix.rfind("/") + 1]
        known = versions or self.version_aware or max_items or self._knows(bucket, directory)
        if not known:
            known = await self._list(bucket, directory)
        with nullcontext() if known else self._forcing():
            async for item in super()._iterdir(bucket, max_items, delimiter, prefix, versions):
                yield item

    def _knows(self, bucket: str, directory: str) -> bool:
        """Whether all below *directory* is in the mirror, and not too old; of the bucket "", the
        list of buckets."""
        oldest_ns = 0 if self.ttl is None else time.time_ns() - int(self.ttl * NS)
        while True:
            scope = self.mimicdb.scope(bucket, directory)
            if scope is not None and (scope.deep or not bucket) and scope.listed_ns >= oldest_ns:
                return True
            if not directory:
                return False
            directory = directory[: directory.rfind("/", 0, -1) + 1]

    async def _list(self, bucket: str, directory: str) -> bool:
        """Have S3 list all below *directory*; the client learns it. Return False if it is
        too big; then it is not listed again."""
        if (bucket, directory) in self._too_big:
            return False
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": directory}
        for _ in range(_PAGES_MAX):
            with self._forcing():  # s3fs takes no parameters that S3 does not have
                answer = await self._call_s3("list_objects_v2", asked)
            if not answer.get("IsTruncated"):
                return True
            asked = asked | {"ContinuationToken": answer["NextContinuationToken"]}
        self._too_big.add((bucket, directory))
        return False


def _mirror(store: Any, namespace: str) -> tuple[mimicdb.Mirror, bool]:
    """Return the mirror in *store*, and whether nobody else closes it."""
    if store is not None and not isinstance(store, str):
        return mimicdb.Mirror(store), False
    if store is None:
        try:
            return current(), False
        except ConfigError:
            store = "memory:"
    return mimicdb.Mirror(open_store(store, namespace)), True


def install(**options: Any) -> None:
    """Make s3:// and s3a:// of this process those of the mirror. *options* are the defaults of
    MimicFileSystem: store, namespace, ttl ... of s3fs."""
    for protocol in ("s3", "s3a"):
        fsspec.register_implementation(protocol, MimicFileSystem, clobber=True)
    for protocol in MimicFileSystem.protocol:
        fsspec.config.conf.setdefault(protocol, {}).update(options)
