"""Large files: parts go to S3 while the file is written, and what has not changed stays there."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.proxy import Fail, Hold, Proxy
from support.standins import EqualParts, StandIn

from mimicfs.errors import Interrupted, UploadFailed
from mimicfs.files.recovery import recover
from mimicfs.posix import Cancellation

pytestmark = pytest.mark.slow

MIB = 1 << 20
KIB = 1 << 10
moto_only = pytest.mark.parametrize("server", ["moto"], indirect=True)
rclone_only = pytest.mark.parametrize("server", ["rclone"], indirect=True)


def is_part(request: Any) -> bool:
    return request.kind == "PUT" and "partNumber" in request.query


def digest(client: Any, bucket: str) -> str:
    body = client.get_object(Bucket=bucket, Key="key")["Body"].read()
    return hashlib.sha256(body).hexdigest()


def uploads(client: Any, bucket: str) -> list[str]:
    return [each["Key"] for each in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@pytest.fixture
def small(files: Any) -> Any:
    """Files whose parts are small: rclone takes any."""
    files.options = replace(files.options, part_size=64 * KIB)
    return files


# Where all parts must be of one size


@moto_only
@pytest.mark.parametrize(("middle", "refused"), [(True, {"InvalidPart": 1}), (False, {})])
def test_a_server_that_wants_equal_parts_gets_them_once_it_has_said_so(
    files: Any,
    client: Any,
    proxy: Proxy,
    calm: Cancellation,
    middle: bool,
    refused: dict[str, int],
) -> None:
    data = bytearray(random.Random(1).randbytes(16 * MIB + 9))
    files.know_conditions()
    client.put_object(Bucket=files.bucket, Key="key", Body=bytes(data))
    files.s3.head(files.bucket, "key")
    stand_in = StandIn(EqualParts())
    with proxy.rule(stand_in):
        for number in range(2):
            at = 7 * MIB + number if middle else len(data)
            data[at : at + 1] = b"!"
            file = files.open("key")
            file.write(at, memoryview(b"!"), calm)
            file.flush(calm)
            file.close()
            assert digest(client, files.bucket) == hashlib.sha256(data).hexdigest()
    assert stand_in.refused == refused
    assert files.s3.capabilities["equal-parts"] == ("yes" if refused else "no")
    assert uploads(client, files.bucket) == []


# While it is written


@rclone_only
def test_parts_are_in_s3_before_the_file_is_closed(
    small: Any, client: Any, proxy: Proxy, calm: Cancellation
) -> None:
    data = random.Random(1).randbytes(40 * 64 * KIB + 5)
    file = small.create("key")
    proxy.counted()
    for start in range(0, len(data), 64 * KIB):
        file.write(start, memoryview(data)[start : start + 64 * KIB], calm)
    assert small.s3.requests["PUT"] >= 40 - 8
    file.flush(calm)
    assert digest(client, small.bucket) == hashlib.sha256(data).hexdigest()
    assert proxy.counted() == {"POST": 2, "PUT": 41, "HEAD": 1}


@rclone_only
def test_who_is_interrupted_while_parts_are_sent_has_appended_once(
    small: Any, proxy: Proxy, background: Any
) -> None:
    """A program appends again what was answered EINTR."""
    file, interrupt, done = small.create("key"), Cancellation(), []

    def append() -> None:
        for _ in range(30):
            try:
                done.append(file.append(memoryview(bytes(64 * KIB)), interrupt))
            except Interrupted:
                return

    with proxy.rule(Hold(is_part)) as hold:
        appending = background(append)
        assert hold.reached.wait(10)
        interrupt.cancel()
        appending.join(20)
        assert file.size == 64 * KIB * len(done) > 0


@rclone_only
def test_a_slow_s3_slows_the_writer_down(
    small: Any, proxy: Proxy, calm: Cancellation, background: Any
) -> None:
    file, written = small.create("key"), threading.Event()

    def write() -> None:
        for start in range(0, 100 * 64 * KIB, 64 * KIB):
            file.write(start, memoryview(bytes(64 * KIB)), calm)
        written.set()

    with proxy.rule(Hold(is_part)) as hold:
        background(write)
        assert hold.reached.wait(60)
        assert not written.wait(0.5)
        at_most = 64 * KIB * (small.options.requests_per_file + 3)
        assert file.size <= at_most  # what is on its way, and what it was noticed at
        hold.release()
        assert written.wait(30)
    file.flush(calm)


@rclone_only
def test_what_was_sent_and_then_changed_is_sent_again(
    small: Any, client: Any, calm: Cancellation
) -> None:
    data = bytearray(random.Random(2).randbytes(10 * 64 * KIB))
    file = small.create("key")
    for start in range(0, len(data), 64 * KIB):
        file.write(start, memoryview(data)[start : start + 64 * KIB], calm)
    data[70_000:70_004] = b"new!"
    file.write(70_000, memoryview(b"new!"), calm)
    del data[500_000:]
    file.truncate(500_000, calm)
    file.flush(calm)
    assert digest(client, small.bucket) == hashlib.sha256(data).hexdigest()


@moto_only
def test_a_file_that_is_cut_to_nothing_after_all_leaves_no_upload(
    files: Any, client: Any, calm: Cancellation
) -> None:
    file = files.create("key")
    for start in range(0, 15 * MIB, MIB):
        file.write(start, memoryview(bytes(MIB)), calm)
    file.truncate(0, calm)
    assert file.flush(calm).size == 0
    assert uploads(client, files.bucket) == []


@moto_only
def test_a_failed_upload_is_aborted_and_tried_again_whole(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation
) -> None:
    data = random.Random(3).randbytes(15 * MIB)
    file = files.create("key")
    with proxy.rule(Fail(is_part, 403, "AccessDenied")):
        for start in range(0, len(data), MIB):
            file.write(start, memoryview(data)[start : start + MIB], calm)
        with pytest.raises(UploadFailed, match="AccessDenied"):
            file.flush(calm)
    file.flush(calm)
    assert digest(client, files.bucket) == hashlib.sha256(data).hexdigest()
    assert uploads(client, files.bucket) == []


@moto_only
def test_an_upload_that_a_dead_mount_has_begun_is_aborted_and_its_bytes_are_uploaded(
    files: Any, client: Any, calm: Cancellation, caplog: pytest.LogCaptureFixture
) -> None:
    data = random.Random(4).randbytes(12 * MIB)
    file = files.create("key")
    for start in range(0, len(data), MIB):
        file.write(start, memoryview(data)[start : start + MIB], calm)
    file._upload._multipart._collect_all(calm)
    file._upload._multipart = None  # as if the process were gone
    file.close()
    assert uploads(client, files.bucket) == ["key"]
    assert recover(files.s3, files.journal, files.options) == 0
    assert uploads(client, files.bucket) == []
    assert digest(client, files.bucket) == hashlib.sha256(data).hexdigest()
    assert "uploaded what a dead mount had written of" in caplog.text


def as_a_former_version(data: Path) -> None:
    """Write what is beside *data* as versions did whose checksums did not cover its name."""
    record, ranges = data.with_suffix(".json"), data.with_suffix(".ranges")
    said = json.loads(record.read_text())
    del said["record_checksum"], said["format"]
    said["record_checksum"] = zlib.crc32(json.dumps(said, sort_keys=True).encode())
    record.write_text(json.dumps(said))
    lines, total = b"", 0
    for start, end, _, _ in struct.iter_unpack("<QQQQ", ranges.read_bytes()):
        total = zlib.crc32(struct.pack("<QQ", start, end), total)
        lines += struct.pack("<QQQQ", start, end, 0, total)
    ranges.write_bytes(lines)


@moto_only
def test_what_a_mount_of_a_former_version_has_left_is_uploaded(
    files: Any, client: Any, calm: Cancellation, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(random.Random(5).randbytes(40 * MIB))
    files.put("key", bytes(data))
    file = files.open("key")
    file.write(20 * MIB, memoryview(b"changed"), calm)
    data[20 * MIB : 20 * MIB + 7] = b"changed"
    file.close()
    [path] = files.journal.directory.glob("*.data")
    as_a_former_version(path)
    assert recover(files.s3, files.journal, files.options) == 0
    assert digest(client, files.bucket) == hashlib.sha256(data).hexdigest()
    assert list(files.journal.directory.iterdir()) == []
    assert "uploaded what a dead mount had written of" in caplog.text


@moto_only
def test_what_the_day_has_no_request_for_is_uploaded_the_next_day(
    files: Any, client: Any, calm: Cancellation, caplog: pytest.LogCaptureFixture
) -> None:
    file = files.create("key")
    file.write(0, memoryview(b"kept"), calm)
    file.close()
    files.s3.head_bucket(files.bucket)  # the first and last of the day
    files.s3.limits.set("max-requests-per-day", "1")
    assert recover(files.s3, files.journal, files.options) == 1
    files.s3.limits.set("max-requests-per-day", "off")
    assert recover(files.s3, files.journal, files.options) == 0
    assert client.get_object(Bucket=files.bucket, Key="key")["Body"].read() == b"kept"


# What is there already


@moto_only
def test_appending_to_a_large_object_sends_only_what_is_new(
    files: Any, client: Any, proxy: Proxy, calm: Cancellation
) -> None:
    old = random.Random(5).randbytes(24 * MIB)
    files.put("key", old)
    file = files.open("key")
    proxy.counted()
    file.write(len(old), memoryview(b"the end"), calm)
    file.flush(calm)
    assert files.s3.fetched == 0
    assert digest(client, files.bucket) == hashlib.sha256(old + b"the end").hexdigest()
    assert proxy.counted()["COPY"] == 1


@moto_only
def test_extending_a_large_object_fetches_nothing(
    files: Any, client: Any, calm: Cancellation
) -> None:
    old = random.Random(6).randbytes(12 * MIB)
    files.put("key", old)
    file = files.open("key")
    file.truncate(13 * MIB, calm)
    assert (file.size, files.s3.fetched) == (13 * MIB, 0)
    assert file.read(12 * MIB - 2, 4, calm) == old[-2:] + b"\0\0"
    file.flush(calm)
    assert digest(client, files.bucket) == hashlib.sha256(old + bytes(MIB)).hexdigest()


@moto_only
def test_a_large_object_that_somebody_else_has_replaced_is_not_mixed_into_an_upload(
    files: Any, client: Any, calm: Cancellation
) -> None:
    files.put("key", bytes(12 * MIB))
    file = files.open("key")
    file.write(6 * MIB, memoryview(b"ours"), calm)
    client.put_object(Bucket=files.bucket, Key="key", Body=b"theirs")
    with pytest.raises(UploadFailed, match="only the bytes that were written"):
        file.flush(calm)
    assert client.get_object(Bucket=files.bucket, Key="key")["Body"].read() == b"theirs"
    assert uploads(client, files.bucket) == []


@moto_only
def test_reading_a_large_file_that_was_changed_gives_both_what_is_new_and_what_is_old(
    files: Any, calm: Cancellation
) -> None:
    old = bytearray(random.Random(7).randbytes(12 * MIB))
    files.put("key", bytes(old))
    file = files.open("key")
    for place in (0, 5 * MIB - 3, 11 * MIB):
        old[place : place + 7] = b"changed"
        file.write(place, memoryview(b"changed"), calm)
    for start in (0, 3, 5 * MIB - 100, 11 * MIB - 1):
        assert file.read(start, 200, calm) == old[start : start + 200]
    assert hashlib.sha256(file.read(0, 12 * MIB, calm)).digest() == hashlib.sha256(old).digest()
