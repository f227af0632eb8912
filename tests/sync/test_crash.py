"""A sync that is killed is gone on with by the next one, and the mirror is as after a fresh one."""

import subprocess
import sys

from support.big import Big
from support.mounts import wait_until

from mimicfs.backends.sqlite import SQLite
from mimicfs.mimicdb import MimicDB

PROGRAM = """
import sys
from mimicfs.backends.sqlite import SQLite
from mimicfs.config import S3Options
from mimicfs.mimicdb import MimicDB
from mimicfs.s3.client import S3
from mimicfs.sync import Syncer
mimicdb = MimicDB(SQLite(sys.argv[1]))
Syncer(mimicdb, S3(S3Options(endpoint_url=sys.argv[2]), mimicdb)).sync(sys.argv[3])
"""


def test_kill_9_within_a_sync(lists, tmp_path):
    path = str(tmp_path / "store.db")
    big = Big(lists, SQLite(path))
    try:
        big.fill(f"file-{n:07}.dat" for n in range(50_000))
        big.proxy.latency_s = 0.2
        words = [sys.executable, "-c", PROGRAM, path, big.proxy.url, big.bucket]
        syncing = subprocess.Popen(words)
        wait_until(lambda: big.mimicdb.backend.note(big.bucket, "sync:") is not None)
        syncing.kill()
        syncing.wait()
        big.proxy.latency_s = 0.0
        assert big.mimicdb.scope(big.bucket, "") is None
        report = big.syncer.sync(big.bucket)
        assert report.resumed
        assert report.keys < 50_000
        fresh = MimicDB(SQLite(str(tmp_path / "fresh.db")))
        type(big.syncer)(fresh, big.s3).sync(big.bucket)
        assert big.mimicdb.listing(big.bucket, limit=60_000) == fresh.listing(
            big.bucket, limit=60_000
        )
        assert big.mimicdb.backend.bucket(big.bucket)[2:4] == fresh.backend.bucket(big.bucket)[2:4]
        assert big.mimicdb.backend.note(big.bucket, "sync:") is None
        fresh.close()
    finally:
        big.close()
