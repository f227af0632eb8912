"""A large bucket and its mirror."""

from __future__ import annotations

import itertools

from benchlib.server import Server

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from support.proxy import Proxy

_numbers = itertools.count(1)


class Big:
    """A bucket of that server, its mirror, and what keeps the one true to the other."""

    def __init__(self, lists: Server, backend=None) -> None:
        self.lists = lists
        self.bucket = f"big-{next(_numbers)}"
        self.proxy = Proxy(lists.endpoint)
        self.mimicdb = Mirror(backend or Memory())
        self.s3 = S3(S3Options(endpoint_url=self.proxy.url, attempts=1), self.mimicdb)
        self.syncer = Syncer(self.mimicdb, self.s3)

    def close(self) -> None:
        self.s3.close()
        self.mimicdb.close()
        self.proxy.close()

    def fill(self, keys) -> None:
        self.lists.control("fill", body=list(keys), bucket=self.bucket, kind="lines")

    def known(self, mimicdb=None):
        """Return what the mirror has, as (key, size, etag)."""
        page = (mimicdb or self.mimicdb).listing(self.bucket, limit=1 << 30)
        return [(entry.key, entry.size, entry.etag) for entry in page]

    def true(self):
        """Return what a new mirror has after a sync that asks for one page after the other."""
        mirror = Mirror(Memory())
        after = ""
        while True:
            page = self.s3.list_page(self.bucket, after=after)
            if page.entries:
                mirror.backend.apply(self.bucket, page.entries)
            if page.upto is None:
                return self.known(mirror)
            after = page.upto
