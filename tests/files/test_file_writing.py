"""Writing an open file: what is in S3 after a flush, what it costs, and what no failure loses."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import disks
from support.mounts import wait_until
from support.proxy import Fail, Hold, Proxy

from mimicfs.config.values import FileOptions
from mimicfs.errors import Interrupted, MimicError, ObjectChanged, PosixError, UploadFailed
from mimicfs.files.behind import Behind
from mimicfs.files.multipart import parts_of
from mimicfs.files.transfer import RequestBatch, Slice
from mimicfs.metadata import written
from mimicfs.posix import NEVER, Cancellation
from mimicfs.s3.requests.client import Content

pytestmark = pytest.mark.slow

KIB = 1 << 10
MIB = 1 << 20

Background = Callable[[Callable[[], object]], threading.Thread]


def stored(client: Any, bucket: str, key: str) -> bytes:
    data: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return data


def kept(files: Any) -> list[str]:
    """What is left on the disk; a segment of which all is done goes with the mount."""
    files.journal.close()
    return sorted(path.suffix for path in files.journal.directory.iterdir())


# What is written


def test_a_new_file_is_in_s3_and_in_the_mirror_after_flush(
    files: Any, client: Any, calm: Cancellation
) -> None:
    file = files.create("new.txt", Content("text/plain", {"mode": "33188"}))
    assert file.write(0, memoryview(b"hello"), calm) == 5
    assert file.read(0, 100, calm) == b"hello"
    assert files.mimicdb.entry(files.bucket, "new.txt") is None
    entry = file.flush(calm)
    assert entry == files.mimicdb.entry(files.bucket, "new.txt") == file.entry
    assert (entry.size, file.dirty) == (5, False)
    assert entry.meta == {"mode": "33188", **written(mtime_ns=file.mtime_ns)}
    found = client.get_object(Bucket=files.bucket, Key="new.txt")
    assert (found["Body"].read(), found["ContentType"]) == (b"hello", "text/plain")
    assert files.s3.requests == {"PUT": 1}
    file.close()
    assert kept(files) == []


def test_a_flush_of_a_clean_file_is_no_request(files: Any, calm: Cancellation) -> None:
    files.put("key", b"bytes")
    file = files.open("key")
    assert file.flush(calm) is None
    assert files.s3.requests == {}


def test_writes_may_overlap_skip_and_append(files: Any, client: Any, calm: Cancellation) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"aaaaaa"), calm)
    file.write(3, memoryview(b"bbbbbb"), calm)
    file.write(12, memoryview(b"c"), calm)
    assert file.read(0, 99, calm) == b"aaabbbbbb\0\0\0c"
    file.flush(calm)
    file.write(file.size, memoryview(b"d"), calm)
    file.flush(calm)
    assert stored(client, files.bucket, "key") == b"aaabbbbbb\0\0\0cd"


def test_a_change_of_an_object_keeps_the_bytes_that_it_does_not_overwrite(
    files: Any, client: Any, calm: Cancellation, server: str, moto: str
) -> None:
    old = random.Random(1).randbytes(20 * MIB)
    files.put("key", old)
    file = files.open("key")
    file.write(9 * MIB, memoryview(b"new"), calm)
    file.flush(calm)
    assert stored(client, files.bucket, "key") == old[: 9 * MIB] + b"new" + old[9 * MIB + 3 :]
    # To make a part that is large enough; rclone cannot copy parts, there it is all of the rest.
    assert files.s3.fetched == (5 * MIB - 3 if files.s3.copies_parts else 20 * MIB - 3)
    assert files.s3.copies_parts == (server == moto)


def test_truncating_to_nothing_fetches_nothing(files: Any, client: Any, calm: Cancellation) -> None:
    files.put("key", bytes(MIB))
    file = files.open("key")
    file.truncate(0, calm)
    file.write(0, memoryview(b"new"), calm)
    file.flush(calm)
    assert stored(client, files.bucket, "key") == b"new"
    assert files.s3.requests == {"PUT": 1}


def test_shrinking_fetches_only_what_remains(files: Any, client: Any, calm: Cancellation) -> None:
    old = random.Random(2).randbytes(12 * MIB)
    files.put("key", old)
    file = files.open("key")
    file.truncate(1000, calm)
    file.flush(calm)
    assert stored(client, files.bucket, "key") == old[:1000]
    assert files.s3.fetched == 1000


def test_extending_adds_zeros(files: Any, client: Any, calm: Cancellation) -> None:
    files.put("key", b"abc")
    file = files.open("key")
    file.truncate(2, calm)
    file.truncate(5, calm)
    assert file.read(0, 99, calm) == b"ab\0\0\0"
    file.flush(calm)
    assert stored(client, files.bucket, "key") == b"ab\0\0\0"


def test_truncating_to_the_same_size_changes_nothing(files: Any, calm: Cancellation) -> None:
    files.put("key", b"abc")
    file = files.open("key")
    file.truncate(3, calm)
    assert (file.dirty, files.s3.requests) == (False, {})


def test_a_file_written_again_after_flush_is_not_fetched_again(
    files: Any, client: Any, calm: Cancellation
) -> None:
    file = files.create("key")
    for text in (b"one", b"two", b"three"):
        file.write(0, memoryview(text), calm)
        file.flush(calm)
        assert stored(client, files.bucket, "key") == text
    assert "GET" not in files.s3.requests


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_change_keeps_the_metadata_and_type_that_the_mirror_does_not_know(
    files: Any, client: Any, calm: Cancellation
) -> None:
    client.put_object(
        Bucket=files.bucket, Key="key", Body=b"abc", ContentType="a/b", Metadata={"mine": "1"}
    )
    head = client.head_object(Bucket=files.bucket, Key="key")
    entry = files.put("other", b"abc")._replace(key="key", etag=head["ETag"].strip('"'), meta=None)
    files.mimicdb.record(files.bucket, entry)
    file = files.open("key")
    file.write(3, memoryview(b"d"), calm)
    assert file.change_meta(lambda meta: {**meta, "uid": "7"}, mtime_ns=5_000_000_000)
    assert files.s3.requests["HEAD"] == 1
    file.flush(calm)
    found = client.get_object(Bucket=files.bucket, Key="key")
    assert (found["Body"].read(), found["ContentType"]) == (b"abcd", "a/b")
    assert found["Metadata"] == {"mine": "1", "uid": "7", "mtime": "5.000000000"}


def test_an_object_changed_elsewhere_is_not_mixed_with_a_write(
    files: Any, client: Any, calm: Cancellation
) -> None:
    files.put("key", b"old bytes")
    file = files.open("key")
    client.put_object(Bucket=files.bucket, Key="key", Body=b"new bytes")
    with pytest.raises(ObjectChanged):
        file.write(0, memoryview(b"X"), calm)
    assert (file.dirty, stored(client, files.bucket, "key")) == (False, b"new bytes")


def test_a_closed_file_is_no_longer_used(files: Any, calm: Cancellation) -> None:
    file = files.create("key")
    file.flush(calm)
    file.close()
    file.close()
    for use in (
        lambda: file.read(0, 1, calm),
        lambda: file.write(0, memoryview(b"x"), calm),
        lambda: file.truncate(0, calm),
    ):
        with pytest.raises(PosixError) as raised:
            use()
        assert raised.value.errno == 9  # EBADF
    assert kept(files) == []


# Multipart uploads


def test_a_large_file_is_uploaded_in_parts(files: Any, client: Any, calm: Cancellation) -> None:
    data = random.Random(3).randbytes(17 * MIB + 5)
    file = files.create("large")
    for at in range(0, len(data), MIB):
        file.write(at, memoryview(data)[at : at + MIB], calm)
    entry = file.flush(calm)
    assert entry.size == len(data)
    assert stored(client, files.bucket, "large") == data
    assert files.s3.requests == {"POST": 2, "PUT": 4, "HEAD": 1}  # of 5 MiB; what is there now


def test_every_size_up_to_5_tib_needs_at_most_10_000_parts() -> None:
    assert [part.end - part.start for part in parts_of(33 * MIB, 16 * MIB)] == [
        16 * MIB,
        16 * MIB,
        1 * MIB,
    ]
    parts = list(parts_of(5 << 40, 16 * MIB))
    assert (len(parts), parts[-1].end) == (8839, 5 << 40)
    assert all(one.end == two.start for one, two in itertools.pairwise(parts))


def test_more_than_5_tib_is_refused_at_once(files: Any, calm: Cancellation) -> None:
    file = files.create("key")
    for use in (
        lambda: file.truncate((5 << 40) + 1, calm),
        lambda: file.write(5 << 40, memoryview(b"x"), calm),
    ):
        with pytest.raises(PosixError) as raised:
            use()
        assert raised.value.errno == 27  # EFBIG
    assert file.size == 0


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_part_that_fails_aborts_the_upload_and_keeps_the_bytes(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation
) -> None:
    data = random.Random(4).randbytes(17 * MIB)
    file = files.create("large")
    file.write(0, memoryview(data), calm)
    with proxy.rule(Fail(lambda request: request.query.get("partNumber") == ["2"], 403, "Denied")):
        with pytest.raises(UploadFailed) as raised:
            file.flush(calm)
    assert Path(raised.value.kept_at).read_bytes() == data
    wait_until(lambda: "Uploads" not in client.list_multipart_uploads(Bucket=files.bucket))
    file.flush(calm)
    assert stored(client, files.bucket, "large") == data
    wait_until(lambda: "Uploads" not in client.list_multipart_uploads(Bucket=files.bucket))


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_an_upload_that_cannot_be_aborted_is_logged(
    files: Any, proxy: Proxy, calm: Cancellation, caplog: pytest.LogCaptureFixture
) -> None:
    file = files.create("large")
    file.truncate(17 * MIB, calm)
    refuse = Fail(lambda r: "partNumber" in r.query or r.kind == "DELETE", 403, "AccessDenied")
    with proxy.rule(refuse):
        with pytest.raises(UploadFailed) as raised:
            file.flush(calm)
        assert raised.value.errno == 13  # EACCES
        wait_until(lambda: "an unfinished upload stays in S3" in caplog.text)


# Uploads that fail, or are given up


def test_a_refused_upload_keeps_the_bytes_and_a_later_one_goes_on(
    files: Any, client: Any, calm: Cancellation
) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"precious"), calm)
    client.delete_bucket(Bucket=files.bucket)
    with pytest.raises(UploadFailed) as raised:
        file.flush(calm)
    assert raised.value.errno == errno.ENODEV  # the bucket
    assert Path(raised.value.kept_at).read_bytes() == b"precious"
    assert (file.dirty, file.read(0, 99, calm)) == (True, b"precious")
    client.create_bucket(Bucket=files.bucket)
    file.flush(calm)
    assert stored(client, files.bucket, "key") == b"precious"


def test_a_server_that_is_gone_keeps_the_bytes(
    files: Any, proxy: Proxy, calm: Cancellation
) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"precious"), calm)
    proxy.close()
    with pytest.raises(UploadFailed) as raised:
        file.flush(calm)
    assert raised.value.errno == 5  # EIO
    file.close()
    assert Path(raised.value.kept_at).read_bytes() == b"precious"
    [orphan] = files.journal.orphans()
    assert (orphan.bucket, orphan.key, orphan.size) == (files.bucket, "key", 8)


def test_an_interrupted_flush_returns_at_once_and_the_next_one_wins(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation, background: Background
) -> None:
    file, cancellation = files.create("key"), Cancellation()
    file.write(0, memoryview(b"first"), calm)
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        background(lambda: hold.reached.wait(60) and cancellation.cancel())
        with pytest.raises(Interrupted):
            file.flush(cancellation)
        file.write(0, memoryview(b"later"), calm)  # does not wait for the one on its way
    file.flush(calm)
    assert stored(client, files.bucket, "key") == b"later"
    assert files.mimicdb.entry(files.bucket, "key").etag == file.etag


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_an_interrupted_multipart_upload_is_aborted(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation, background: Background
) -> None:
    file, cancellation = files.create("large"), Cancellation()
    file.truncate(17 * MIB, calm)
    with proxy.rule(Hold(lambda request: "partNumber" in request.query)) as hold:
        background(lambda: hold.reached.wait(60) and cancellation.cancel())
        with pytest.raises(Interrupted):
            file.flush(cancellation)
    wait_until(lambda: "Uploads" not in client.list_multipart_uploads(Bucket=files.bucket))
    assert file.dirty


def test_an_upload_never_mixes_two_states_of_the_file(
    files: Any, client: Any, calm: Cancellation, background: Background
) -> None:
    file, done = files.create("key"), threading.Event()
    size = 6 * MIB

    def write() -> None:
        letter = 0
        while not done.is_set():
            letter = letter % 26 + 1
            file.write(0, memoryview(bytes([letter]) * size), calm)

    file.write(0, memoryview(bytes(size)), calm)
    background(write)
    try:
        for _ in range(5):
            file.flush(calm)
            assert len(set(stored(client, files.bucket, "key"))) == 1
    finally:
        done.set()


def test_reading_goes_on_during_an_upload(
    files: Any, proxy: Proxy, calm: Cancellation, background: Background
) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"bytes"), calm)
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        background(lambda: file.flush(calm))
        assert hold.reached.wait(60)
        assert file.read(0, 5, calm) == file.read_cached(0, 5) == b"bytes"


def test_an_interrupted_first_write_changes_nothing(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation, background: Background
) -> None:
    files.put("key", bytes(10 * MIB))
    file, cancellation = files.open("key"), Cancellation()
    with proxy.rule(Hold(lambda request: request.kind == "GET")) as hold:
        background(lambda: hold.reached.wait(60) and cancellation.cancel())
        with pytest.raises(Interrupted):
            file.write(0, memoryview(b"x"), cancellation)
    assert (file.dirty, kept(files)) == (False, [])
    file.write(0, memoryview(b"x"), calm)
    file.flush(calm)
    assert stored(client, files.bucket, "key") == b"x" + bytes(10 * MIB - 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory that 1 MiB fills."""
    with disks.small_disk(tmp_path / "disk", "1m") as disk:
        yield disk


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_full_disk_is_enospc_and_says_where(
    files: Any, calm: Cancellation, small_disk: Path
) -> None:
    files.journal = type(files.journal).open(small_disk)
    files.options = FileOptions(staging=small_disk)
    file = files.create("key")
    file.write(0, memoryview(b"kept"), calm)
    with pytest.raises(PosixError) as raised:
        file.write(4, memoryview(bytes(2 * MIB)), calm)
    assert raised.value.errno == 28  # ENOSPC
    assert str(small_disk) in str(raised.value)
    assert (file.size, file.read(0, 99, calm)) == (4, b"kept")


# What happens to the object meanwhile


def test_a_detached_file_lives_on_without_its_object(
    files: Any, client: Any, calm: Cancellation
) -> None:
    data = random.Random(5).randbytes(10 * MIB)
    files.put("key", data)
    file = files.open("key")
    file.detach(calm)
    client.delete_object(Bucket=files.bucket, Key="key")
    assert file.read(9 * MIB, 10, calm) == data[9 * MIB :][:10]
    file.write(0, memoryview(b"scratch"), calm)
    assert file.read(0, 7, calm) == b"scratch"
    assert file.flush(calm) is None
    assert "Contents" not in client.list_objects_v2(Bucket=files.bucket)
    file.close()
    assert kept(files) == []


@pytest.mark.parametrize("when", ["before", "while detached"])
def test_a_file_attached_again_uploads_what_was_written(
    files: Any, client: Any, calm: Cancellation, when: str
) -> None:
    files.put("key", b"old")
    file = files.open("key")
    if when == "before":
        file.write(0, memoryview(b"new"), calm)
    file.detach(calm)
    if when == "while detached":
        file.write(0, memoryview(b"new"), calm)
    file.attach()
    file.flush(calm)
    assert stored(client, files.bucket, "key") == b"new"


def test_a_file_attached_again_unchanged_is_clean(files: Any, calm: Cancellation) -> None:
    files.put("key", b"old")
    file = files.open("key")
    file.detach(calm)
    file.attach()
    assert (file.dirty, file.flush(calm)) == (False, None)


def test_a_dirty_file_that_is_renamed_is_uploaded_to_its_new_key(
    files: Any, client: Any, calm: Cancellation
) -> None:
    files.put("old", b"old bytes")
    file = files.open("old")
    file.write(0, memoryview(b"NEW"), calm)
    file.move(files.bucket, "new", files.put("new", b"old bytes"))
    assert (file.dirty, file.read(0, 99, calm)) == (True, b"NEW bytes")
    [record] = [json.loads(p.read_text()) for p in files.journal.directory.glob("*.json")]
    assert record["key"] == "new"
    file.flush(calm)
    assert stored(client, files.bucket, "new") == b"NEW bytes"
    assert stored(client, files.bucket, "old") == b"old bytes"


def test_a_copy_within_s3_becomes_the_content_of_a_new_file(files: Any, calm: Cancellation) -> None:
    file = files.create("key")
    copied = files.put("key", b"copied", Content("a/b", {"m": "1"}))
    file.adopt(copied, Content("a/b", {"m": "1"}), put=True)
    assert (file.dirty, file.size, file.read(0, 99, calm)) == (False, 6, b"copied")
    assert kept(files) == []


@pytest.mark.parametrize("written", [b"NEW", b""])
def test_new_metadata_of_the_object_does_not_undo_a_change_of_its_bytes(
    files: Any, client: Any, calm: Cancellation, written: bytes
) -> None:
    files.put("key", b"old")
    file = files.open("key")
    file.truncate(0, calm)
    file.write(0, memoryview(written), calm)
    file.adopt(files.put("key", b"old", Content("a/b", {"m": "2"})), Content("a/b", {"m": "2"}))
    assert (file.dirty, file.read(0, 99, calm)) == (True, written)
    file.flush(calm)
    assert stored(client, files.bucket, "key") == written
    assert files.mimicdb.entry(files.bucket, "key").meta["m"] == "2"


@pytest.mark.parametrize("how", ["adopt", "move"])
@pytest.mark.parametrize("append", [True, False])
def test_a_copy_of_what_others_have_put_there_does_not_let_a_change_replace_it(
    files: Any, client: Any, calm: Cancellation, how: str, append: bool
) -> None:
    """They did so unseen before the object was copied, and a page of a mapping is written."""
    files.put("key", b"old")
    file = files.open("key")
    file.append(memoryview(b"+"), calm) if append else file.write(0, memoryview(b"NEW"), calm)
    theirs = files.put("key", b"theirs")
    if how == "adopt":
        file.adopt(theirs, Content(), source=theirs.etag)
    else:
        file.move(files.bucket, "new", files.put("new", b"theirs"), None, theirs.etag)
    if append:
        file.flush(calm)
    else:
        with pytest.raises(UploadFailed):
            file.flush(calm)
    assert stored(client, files.bucket, file.key) == (b"theirs+" if append else b"theirs")


def test_readers_and_a_writer_at_once_see_whole_writes(
    files: Any, calm: Cancellation, background: Background
) -> None:
    """Each write is a page of one letter; a page of two letters was torn."""
    file, done, torn = files.create("key"), threading.Event(), []
    file.truncate(64 * 4096, calm)

    def read() -> None:
        places = random.Random(6)
        while not done.is_set():
            page = bytes(file.read(places.randrange(64) * 4096, 4096, Cancellation()))
            if len(page) != 4096 or len(set(page)) != 1:
                torn.append(page)

    for _ in range(4):
        background(read)
    try:
        for n in range(2000):
            file.write(n * 7 % 64 * 4096, memoryview(bytes([n % 256]) * 4096), calm)
            if n % 500 == 0:
                file.flush(calm)
    finally:
        done.set()
    assert torn == []


def test_many_failures_leave_no_descriptor_open(files: Any, calm: Cancellation) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    files.create("warm").write(0, memoryview(b"x"), calm)  # opens a segment
    files._open.pop().close()
    gc.collect()  # what tests before have left
    before = descriptors()
    for n in range(20):
        file = files.create(f"key{n}")
        file.write(0, memoryview(b"x"), calm)
        file.close()  # never flushed: kept for the next mount
        files._open.remove(file)
        del file
    assert descriptors() == before
    assert len(files.journal.orphans()) == 21


def test_an_error_is_one_of_ours(files: Any, proxy: Proxy, calm: Cancellation) -> None:
    file = files.create("key")
    with proxy.rule(Fail(lambda request: request.kind == "PUT", 500, "InternalError")):
        with pytest.raises(MimicError):
            file.flush(calm)


# Changes while an upload is on its way


def test_a_change_interrupts_an_upload_that_nobody_waits_for(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation, background: Any
) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"first"), calm)
    ended: list[BaseException | None] = []

    def upload() -> None:
        try:
            ended.append(file.flush(Behind()))
        except Interrupted as exc:
            ended.append(exc)

    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        background(upload)
        assert hold.reached.wait(60)
        file.write(0, memoryview(b"SECOND"), calm)  # does not wait for the upload
        wait_until(lambda: bool(ended))
        assert isinstance(ended[0], Interrupted)
    entry = file.flush(calm)  # also where S3 has taken the first one meanwhile
    assert (entry.size, file.dirty, file.lost) == (6, False, None)
    assert stored(client, files.bucket, "key") == b"SECOND"


def test_a_change_waits_for_an_upload_whose_bytes_have_waited_for_long(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation, background: Any
) -> None:
    file, killed = files.create("key"), Cancellation()
    file.write(0, memoryview(b"first"), calm)
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        background(lambda: file.flush(Behind(60.0)))
        assert hold.reached.wait(10)
        killed.cancel()
        with pytest.raises(Interrupted):
            file.write(0, memoryview(b"NEVER"), killed)
        write = background(lambda: file.write(0, memoryview(b"SECOND"), calm))
        write.join(0.05)
        assert write.is_alive()
        hold.release()
        write.join(20)
    assert stored(client, files.bucket, "key") == b"first"
    assert file.flush(calm).size == 6


def test_who_makes_a_file_safe_on_the_disk_waits_for_no_upload(
    files: Any, proxy: Proxy, calm: Cancellation, background: Any
) -> None:
    file, upload = files.create("key"), Behind(60.0)
    file.write(0, memoryview(b"first"), calm)

    def flush() -> None:
        with pytest.raises(Interrupted):
            file.flush(upload)

    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        uploads = background(flush)
        assert hold.reached.wait(60)
        secures = background(file.secure)
        secures.join(10)
        assert (secures.is_alive(), upload.cancelled) == (False, True)
        uploads.join(10)
    assert file.flush(calm).size == 5


def test_a_change_waits_no_longer_for_an_upload_than_that_has_patience(
    files: Any, proxy: Proxy, calm: Cancellation, background: Any
) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"first"), calm)
    upload = Behind(0.01)

    def flush() -> None:
        with pytest.raises(Interrupted):
            file.flush(upload)

    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        background(flush)
        assert hold.reached.wait(10)
        file.write(0, memoryview(b"SECOND"), calm)
        assert upload.cancelled
    assert file.flush(calm).size == 6


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_an_interrupted_upload_that_s3_has_taken_is_the_version_that_is_replaced(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation, background: Any
) -> None:
    files.put("key", b"old")
    files.know_conditions()
    file = files.open("key")
    file.write(0, memoryview(b"OLD"), calm)
    interrupted = Cancellation()

    def give_up() -> None:
        with pytest.raises(Interrupted):
            file.flush(interrupted)

    with proxy.rule(Hold(lambda request: request.kind == "PUT", answers=True)) as hold:
        thread = background(give_up)
        assert hold.reached.wait(60)  # S3 has it, we have no answer
        interrupted.cancel()
        thread.join(10)
        file.write(3, memoryview(b"er"), calm)
    file.flush(calm)
    assert file.lost is None
    assert stored(client, files.bucket, "key") == b"OLDer"


def test_an_upload_that_stops_behind_its_last_byte_waits_for_what_s3_says(files: Any) -> None:
    """A client reads once more behind the last byte: S3 may have the object by then."""
    file = files.create("key")
    file.write(0, memoryview(b"bytes"), NEVER)
    batch = RequestBatch(files.s3, 1, NEVER)
    body = Slice(batch, file._staging, 0, 5)
    half = Slice(batch, file._staging, 0, 5)
    assert (body.read(), half.read(3)) == (b"bytes", b"byt")
    batch.stop(lambda: None)
    assert body.read() == b""
    for on in (half.read, lambda: body.seek(0)):  # but nothing of it is sent again
        with pytest.raises(Interrupted, match="the upload was abandoned"):
            on()


@pytest.mark.parametrize("server", ["moto"], indirect=True)  # rclone keeps none
def test_metadata_that_changes_during_an_upload_is_stored_with_it(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation, background: Any
) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"bytes"), calm)
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as hold:
        uploading = background(lambda: file.flush(calm))
        assert hold.reached.wait(60)
        file.set_meta({"uid": "7"})
        hold.release()
        uploading.join(10)
    assert client.head_object(Bucket=files.bucket, Key="key")["Metadata"]["uid"] == "7"
    assert file.dirty is False


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_metadata_that_changes_twice_during_an_upload_in_parts_is_stored(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation, background: Any
) -> None:
    """Each copy is of the version that the one before has made. (S3 insists on that, moto does
    not look at the condition of a copy.)"""
    file = files.create("key")
    file.write(0, memoryview(bytes(11 * MIB)), calm)

    def copies(request: Any) -> bool:
        return request.kind == "COPY"

    with proxy.rule(Hold(lambda request: "uploadId" in request.query)) as parts:
        with proxy.rule(Hold(copies)) as copy:
            uploading = background(lambda: file.flush(calm))
            assert parts.reached.wait(60)
            file.set_meta({"uid": "7"})
            parts.release()
            assert copy.reached.wait(60)
            file.set_meta({"gid": "8"})
            copy.release()
            uploading.join(20)
    assert (file.dirty, file.lost) == (False, None)
    found = client.head_object(Bucket=files.bucket, Key="key")["Metadata"]
    assert (found["uid"], found["gid"]) == ("7", "8")
