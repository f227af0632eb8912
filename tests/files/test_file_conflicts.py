"""Two who change one object: neither loses what the other has written, unseen.

Over both servers: moto looks at If-Match and If-None-Match of a write, rclone at neither.
"""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.proxy import Hold, Lose, Proxy, Rule

from mimicfs.errors import Interrupted, ObjectChanged, PosixError, UploadFailed
from mimicfs.files.staging import Staging
from mimicfs.posix import NEVER, Cancellation
from mimicfs.s3.requests.client import Content

pytestmark = pytest.mark.slow

MIB = 1 << 20
moto_only = pytest.mark.parametrize("server", ["moto"], indirect=True)


def stored(client: Any, bucket: str) -> bytes:
    body: bytes = client.get_object(Bucket=bucket, Key="key")["Body"].read()
    return body


def somebody_puts(files: Any, client: Any) -> None:
    client.put_object(Bucket=files.bucket, Key="key", Body=b"theirs")


def test_a_change_of_what_somebody_else_has_replaced_is_estale_and_is_kept(
    files: Any, client: Any, calm: Cancellation
) -> None:
    files.put("key", b"old")
    file = files.open("key")
    file.write(3, memoryview(b" and ours"), calm)
    somebody_puts(files, client)
    with pytest.raises(UploadFailed) as raised:
        file.flush(calm)
    assert raised.value.errno == errno.ESTALE
    kept = Path(raised.value.kept_at)
    assert kept.parent == files.journal.directory / "recovered"
    assert kept.read_bytes() == b"old and ours"
    assert stored(client, files.bucket) == b"theirs"
    assert files.mimicdb.entry(files.bucket, "key").size == 6


@moto_only
def test_a_file_that_follows_another_version_while_it_is_fetched_has_the_bytes_of_that(
    files: Any, client: Any, calm: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put("key", b"old")
    file = files.open("key")
    read_into = files.s3.read_into

    def read(*about: Any) -> None:
        read_into(*about)
        monkeypatch.setattr(files.s3, "read_into", read_into)
        assert file.follow(files.put("key", b"theirs"))  # when the old bytes have just come

    monkeypatch.setattr(files.s3, "read_into", read)
    file.append(memoryview(b" and ours"), calm)
    file.flush(calm)
    assert stored(client, files.bucket) == b"theirs and ours"


def test_an_append_that_s3_has_taken_after_all_is_not_put_behind_others_again(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation
) -> None:
    files.put("key", b"old")
    file = files.open("key")
    file.append(memoryview(b"1"), calm)
    gone = Cancellation()
    sending = Hold(lambda each: (each.kind, each.key) == ("PUT", "key"), answers=True)
    with proxy.rule(sending), ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(file.flush, gone)
        assert sending.reached.wait(60)
        gone.cancel()
        with pytest.raises(Interrupted):
            flushed.result(10)
        file.append(memoryview(b"2"), calm)
    client.put_object(Bucket=files.bucket, Key="key", Body=b"old1theirs")
    file.flush(calm)
    assert stored(client, files.bucket) == b"old1theirs2"


@moto_only
def test_a_promised_append_is_safe_behind_the_version_of_others_before_its_old_place_goes(
    files: Any, client: Any, calm: Cancellation, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put("key", b"old")
    file = files.open("key")
    file.append(memoryview(b" and ours"), calm)
    file.secure()
    somebody_puts(files, client)
    done = []
    for name in ("sync", "remove"):
        call = getattr(Staging, name)

        def noted(self: Staging, name: str = name, call: Any = call) -> None:
            done.append((name, self.record.closed))
            call(self)

        monkeypatch.setattr(Staging, name, noted)
    file.flush(calm)
    assert done[:2] == [("sync", True), ("remove", True)]
    assert stored(client, files.bucket) == b"theirs and ours"


@moto_only
def test_what_is_lost_while_the_disk_is_full_is_kept_in_the_segment(
    files: Any,
    client: Any,
    calm: Cancellation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    born = files.journal._born

    def full(name: str, kind: str = "data") -> Any:
        if kind == "data":
            raise PosixError(errno.ENOSPC, "no room")
        return born(name, kind)

    monkeypatch.setattr(files.journal, "_born", full)
    file = files.create("key", absent=True)
    file.write(0, memoryview(b"ours"), calm)
    somebody_puts(files, client)
    for _ in range(2):
        with pytest.raises(UploadFailed, match=r"\.segment") as raised:
            file.flush(calm)
        assert raised.value.errno == errno.EEXIST
    assert b"ours" in Path(raised.value.kept_at).read_bytes()
    assert stored(client, files.bucket) == b"theirs"
    assert "no room" in caplog.text


def test_what_was_lost_stays_lost_and_says_so(files: Any, client: Any, calm: Cancellation) -> None:
    files.put("key", b"old")
    file = files.open("key")
    file.write(0, memoryview(b"new"), calm)
    somebody_puts(files, client)
    for _ in range(2):
        with pytest.raises(UploadFailed, match="recovered/key"):
            file.flush(calm)
    with pytest.raises(ObjectChanged):
        file.read(0, 9, calm)
    with pytest.raises(ObjectChanged):
        file.write(0, memoryview(b"more"), calm)
    file.close()
    assert len(list((files.journal.directory / "recovered").iterdir())) == 2  # and its record
    assert files.journal.orphans() == []


def test_a_change_of_what_somebody_else_has_deleted_is_estale(
    files: Any, client: Any, calm: Cancellation
) -> None:
    files.put("key", b"old")
    file = files.open("key")
    file.write(3, memoryview(b"er"), calm)
    client.delete_object(Bucket=files.bucket, Key="key")
    with pytest.raises(UploadFailed) as raised:
        file.flush(calm)
    assert raised.value.errno == errno.ESTALE
    assert files.mimicdb.entry(files.bucket, "key") is None


def test_whoever_has_uploaded_before_is_refused_as_well(
    files: Any, client: Any, calm: Cancellation
) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"one"), calm)
    file.flush(calm)
    somebody_puts(files, client)
    file.write(3, memoryview(b"two"), calm)
    with pytest.raises(UploadFailed) as raised:
        file.flush(calm)
    assert raised.value.errno == errno.ESTALE
    assert stored(client, files.bucket) == b"theirs"


def test_what_is_written_from_its_start_replaces_what_is_there(
    files: Any, client: Any, calm: Cancellation
) -> None:
    files.put("key", b"old")
    file = files.open("key")
    somebody_puts(files, client)
    file.truncate(0, calm)
    file.write(0, memoryview(b"ours"), calm)
    file.flush(calm)
    assert stored(client, files.bucket) == b"ours"
    somebody_puts(files, client)
    file.truncate(0, calm)
    file.flush(calm)
    assert stored(client, files.bucket) == b""


def test_a_file_that_is_to_be_new_replaces_nothing(
    files: Any, client: Any, calm: Cancellation
) -> None:
    file = files.create("key", absent=True)
    file.write(0, memoryview(b"ours"), calm)
    somebody_puts(files, client)
    with pytest.raises(UploadFailed) as raised:
        file.flush(calm)
    assert raised.value.errno == errno.EEXIST
    assert Path(raised.value.kept_at).read_bytes() == b"ours"
    assert stored(client, files.bucket) == b"theirs"


@moto_only
def test_a_large_change_is_refused_too(files: Any, client: Any, calm: Cancellation) -> None:
    files.put("key", b"old")
    file = files.open("key")
    file.write(11 * MIB, memoryview(b"end"), calm)  # two parts, in these tests
    somebody_puts(files, client)
    with pytest.raises(UploadFailed) as raised:
        file.flush(calm)
    assert raised.value.errno == errno.ESTALE
    assert stored(client, files.bucket) == b"theirs"
    assert Path(raised.value.kept_at).stat().st_size == 11 * MIB + 3


@moto_only
@pytest.mark.parametrize("new", [True, False])
def test_an_answer_that_was_lost_is_no_conflict(
    files: Any, client: Any, proxy: Any, calm: Cancellation, new: bool
) -> None:
    """S3 has the bytes; the request that is sent again is refused, because of ourselves."""
    files.know_conditions()
    if new:
        file = files.create("key", Content(meta={"mine": "1"}), absent=True)
    else:
        files.put("key", b"old", Content(meta={"mine": "1"}))
        file = files.open("key")
    file.write(3, memoryview(b"new"), calm)
    file.set_meta({"mtime": "1600000000.123456789"})
    with proxy.rule(Lose(lambda request: request.kind == "PUT")) as rule:
        entry = file.flush(calm)
    assert rule.seen == 2
    assert stored(client, files.bucket) == (b"\0\0\0" if new else b"old") + b"new"
    assert (file.dirty, file.etag, entry.size) == (False, entry.etag, 6)


@moto_only
def test_as_many_bytes_of_the_same_time_are_those_of_somebody_else(
    files: Any, client: Any, calm: Cancellation
) -> None:
    """Two who copy files by `rsync -t`, say: only the bytes tell theirs from ours."""
    said = {"mtime": "1600000000.123456789"}
    files.put("key", b"old", Content(meta=said))
    file = files.open("key")
    file.write(0, memoryview(b"our"), calm)
    file.change_meta(lambda meta: {**meta, **said}, 1_600_000_000_123_456_789)
    client.put_object(Bucket=files.bucket, Key="key", Body=b"new", Metadata=said)
    with pytest.raises(UploadFailed) as raised:
        file.flush(calm)
    assert raised.value.errno == errno.ESTALE
    assert stored(client, files.bucket) == b"new"
    assert Path(raised.value.kept_at).read_bytes() == b"our"


def test_whether_the_server_looks_is_tried_once(
    files: Any, client: Any, calm: Cancellation, server: str, moto: str
) -> None:
    for text in (b"one", b"two", b"three"):
        file = files.create(text.decode(), absent=True)
        file.write(0, memoryview(text), calm)
        file.flush(calm)
    # The right one and wrong ones; learning.py asks about each key that was refused. Where the
    # server does not look, we do, before each write.
    tried = {"PUT": 4 if server == moto else 6, "HEAD": 3, "DELETE": 2}
    assert files.s3.requests == {**tried, "PUT": tried["PUT"] + 3}
    listed = client.list_objects_v2(Bucket=files.bucket)["Contents"]
    assert [item["Key"] for item in listed] == ["one", "three", "two"]


@moto_only
def test_many_who_write_at_once_wait_for_one_who_tries(
    files: Any, calm: Cancellation, proxy: Any
) -> None:
    made = [files.create(f"new{number}", absent=True) for number in range(8)]
    for file in made:
        file.write(0, memoryview(b"text"), calm)
    files.s3.requests.clear()
    proxy.latency_s = 0.05  # so that all have begun
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda file: file.flush(calm), made))
    assert files.s3.requests == {"PUT": 12, "HEAD": 3, "DELETE": 2}


class LoseThenFail(Rule):
    """The first request is done, and its answer lost; all others are refused with *status*."""

    def __init__(self, matches: Any, status: int, code: str) -> None:
        super().__init__(matches)
        self._status = status
        self._body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()

    def before(self, handler: Any) -> bool:
        if self.seen == 1:
            return False
        handler.body()
        handler.send(self._status, [("Content-Type", "application/xml")], self._body)
        return True

    def after(self, handler: Any, response: Any) -> bool:
        response.read()
        handler.close_connection = True
        return True


@moto_only
@pytest.mark.parametrize(
    ("size", "status", "code"),
    [(10, 500, "InternalError"), (10, 503, "SlowDown"), (12 * MIB, 503, "SlowDown")],
)
@pytest.mark.parametrize("waits", [Cancellation(), NEVER], ids=["fsync", "close"])
def test_what_is_changed_after_an_answer_was_lost_and_s3_was_away_is_no_conflict(
    files: Any,
    client: Any,
    proxy: Any,
    calm: Cancellation,
    status: int,
    code: str,
    waits: Any,
    size: int,
) -> None:
    data = bytes([1]) * size
    files.put("key", b"old")
    files.know_conditions()
    file = files.open("key")
    file.write(0, memoryview(data), calm)
    ends = (lambda r: r.kind == "PUT") if size == 10 else is_completion
    with proxy.rule(LoseThenFail(ends, status, code)), pytest.raises(UploadFailed):
        file.flush(waits)
    assert stored(client, files.bucket) == data
    file.write(size, memoryview(b" and more"), calm)
    file.flush(waits)
    assert stored(client, files.bucket) == data + b" and more"
    assert not (files.journal.directory / "recovered").exists()


def is_completion(request: Any) -> bool:
    return request.kind == "POST" and "uploadId" in request.query
