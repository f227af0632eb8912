"""A sync that is killed is gone on with by the next one, and the mirror is as after a fresh one."""

import json
import signal
import subprocess
import sys

import pytest
from support.big import Big
from support.mounts import MIMICFS, succeed, wait_until

from mimicfs.backends.sqlite import SQLite
from mimicfs.mimicdb import Mirror

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import S3Options
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
mimicdb = Mirror(SQLite(sys.argv[1]))
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
        fresh = Mirror(SQLite(str(tmp_path / "fresh.db")))
        type(big.syncer)(fresh, big.s3).sync(big.bucket)
        assert big.mimicdb.listing(big.bucket, limit=60_000) == fresh.listing(
            big.bucket, limit=60_000
        )
        assert big.mimicdb.backend.bucket(big.bucket)[2:4] == fresh.backend.bucket(big.bucket)[2:4]
        assert big.mimicdb.backend.note(big.bucket, "sync:") is None
        fresh.close()
    finally:
        big.close()


def test_ctrl_c_ends_the_command_and_the_next_goes_on(lists, tmp_path, state):
    big = Big(lists)
    try:
        big.fill(f"file-{n:07}.dat" for n in range(40_000))
        big.proxy.latency_s = 0.1
        words = ["--endpoint-url", big.proxy.url, "--store", f"sqlite://{tmp_path}/store.db"]
        words += ["--json", f"s3://{big.bucket}"]
        syncing = subprocess.Popen([MIMICFS, "sync", *words], stderr=subprocess.PIPE, text=True)
        wait_until((tmp_path / "store.db").exists)
        store = Mirror(SQLite(str(tmp_path / "store.db")))
        wait_until(lambda: len(store.listing(big.bucket, limit=12_000)) == 12_000)
        syncing.send_signal(signal.SIGINT)
        assert syncing.communicate(timeout=20)[1] == "mimicfs: interrupted\n"
        assert syncing.returncode == 130
        big.proxy.latency_s = 0.0
        report = json.loads(succeed("sync", *words))
        assert report["resumed"]
        assert report["keys"] < 30_000
        assert len(store.listing(big.bucket, limit=50_000)) == 40_000
        store.close()
    finally:
        big.close()
