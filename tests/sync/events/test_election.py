"""One member of a store takes the messages; when it is killed, another one has them within 10 s."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing

import pytest
from support.clients import queue_of
from support.mounts import wait_until

from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import S3Options
from mimicfs.member import LASTS_MS
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.queue import queue_id
from mimicfs.sync import Syncer
from mimicfs.sync.events import consumer as consuming
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.election import Election, listening
from mimicfs.sync.events.hearing import Hearing
from mimicfs.sync.events.ledger import Ledger
from mimicfs.sync.events.sqs import SQS

# Takes one message, and lives on without acknowledging it. SQS gives it to another one after a
# second instead of ten.
_TAKER = """
import sys, time
from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import S3Options
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests import queue
from mimicfs.s3.requests.client import S3
from mimicfs.sync.events.election import Election
from mimicfs.sync.events.sqs import SQS
store, endpoint, url = sys.argv[1:]
queue.TAKEN_S = 1
mirror = Mirror(SQLite(store))
election = Election(mirror, url)
mirror.join("/mnt/killed")
assert election.is_ours()
print("elected", flush=True)
source = SQS(S3(S3Options(endpoint_url=endpoint), mirror).queue(url))
while not any('"late"' in each.body for each in source.receive(20)):
    pass
print("taken", flush=True)
time.sleep(600)
"""


@pytest.fixture
def mirror(tmp_path):
    with closing(Mirror(SQLite(str(tmp_path / "store.db")))) as mirror:
        yield mirror


@pytest.fixture
def taker():
    began = []

    def begin(*arguments):
        command = [sys.executable, "-c", _TAKER, *arguments]
        began.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return began[-1]

    yield begin
    for process in began:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_a_killed_mount_had_taken_another_one_applies(
    mirror, taker, server, client, bucket, tmp_path, monkeypatch
):
    url = queue_of(server, bucket)
    with closing(S3(S3Options(endpoint_url=server), mirror)) as s3:
        syncer = Syncer(mirror, s3)
        syncer.sync(bucket)
        killed = taker(str(tmp_path / "store.db"), server, url)
        assert killed.stdout.readline() == b"elected\n"
        monkeypatch.setattr(consuming, "_TURN_S", 0.01)
        source = SQS(s3.queue(url))
        asks = [lambda _: {}, lambda _: {}]
        ledger = Ledger(mirror, source, url, lambda: [bucket], "", *asks, lambda *_: None)
        mirror.join()
        consumer = Consumer(source, Hearing(mirror, s3, syncer), tmp_path / "aside", ledger)
        thread = threading.Thread(target=consumer.run, daemon=True)
        thread.start()
        wait_until(lambda: consumer.figures()["state"] == "waiting")
        client.put_object(Bucket=bucket, Key="late", Body=b"1")
        assert killed.stdout.readline() == b"taken\n"
        killed.kill()
        killed.wait()
        later_ms = LASTS_MS - 100
        now_ms = mirror.backend.now_ms
        monkeypatch.setattr(mirror.backend, "now_ms", lambda: now_ms() + later_ms)
        wait_until(lambda: mirror.entry(bucket, "late") is not None, 30)
        consumer.close()
        thread.join(20)


def test_one_queue_has_one_consumer_however_its_url_is_written(mirror, tmp_path):
    aws, own = "eu-central-1.amazonaws.com/1/q", "127.0.0.1:9324/1/q"
    ways = [
        f"https://sqs.{aws}",
        f"https://SQS.{aws}/",
        "https://eu-central-1.queue.amazonaws.com/1/q",
    ]
    ways += [
        "https://sqs.eu-central-1.amazonaws.com:443/1/q",
        "https://sqs.eu-central-1.api.aws/1/q",
    ]
    assert {queue_id(url) for url in ways} == {"eu-central-1/1/q"}
    assert queue_id("https://queue.amazonaws.com/1/q") == "us-east-1/1/q"
    assert queue_id(f"http://{own}") != queue_id("http://127.0.0.1:9325/1/q")
    with closing(Mirror(SQLite(str(tmp_path / "store.db")))) as other:
        first = Election(mirror, f"sqs:{ways[0]}")
        mirror.join()
        joined_ms = mirror.backend.now_ms()
        wait_until(lambda: other.backend.now_ms() > joined_ms)  # else their names decide
        second = Election(other, f"sqs:{ways[1]}")
        other.join()
        assert (first.is_ours(), second.is_ours()) == (True, False)
        assert listening(other, f"sqs:{ways[2]}")


def test_a_death_is_noticed_within_ten_seconds():
    assert LASTS_MS / 1000 + consuming._TURN_S < 10
