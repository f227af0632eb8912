"""Holes cost nothing; what S3 does not take is said at once; an upload that was aborted begins
anew, and one that is done is done (F17, and the smaller points of multipart uploads)."""

from __future__ import annotations

import errno
import hashlib
import random
from concurrent.futures import wait
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import pytest
from support.proxy import Fail, Hold, Lose
from support.standins import NoTagsOfUploads, Refusal, StandIn

from mimicfs.errors import Interrupted, PosixError, UploadFailed
from mimicfs.files.recovery import recover
from mimicfs.files.transfer import RequestBatch
from mimicfs.files.zeros import Zeros
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import Content

MIB = 1 << 20
pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def digest(client, bucket, key="key"):
    body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return hashlib.sha256(body).hexdigest()


def written(files, size, calm):
    data = random.Random(size).randbytes(size)
    file = files.create("key")
    for start in range(0, size, MIB):
        file.write(start, memoryview(data)[start : start + MIB], calm)
    return file, hashlib.sha256(data).hexdigest()


def test_holes_are_copied_from_one_object_of_zeros_which_goes_then(files, client, proxy, calm):
    file = files.create("a/key")
    file.write(0, memoryview(b"begin"), calm)
    file.truncate(30 * MIB, calm)
    proxy.counted()
    file.flush(calm)
    counts = proxy.counted()
    assert (counts["COPY"], counts["PUT"], counts["DELETE"]) == (5, 2, 1)
    data = b"begin" + bytes(30 * MIB - 5)
    assert digest(client, files.bucket, "a/key") == hashlib.sha256(data).hexdigest()
    [only] = client.list_objects_v2(Bucket=files.bucket)["Contents"]
    assert only["Key"] == "a/key"


def test_gaps_between_holes_are_fetched_in_runs(files, client, proxy, calm):
    data = bytearray(random.Random(1).randbytes(12 * MIB))
    files.put("key", bytes(data))
    file = files.open("key")
    for place in range(0, len(data), 65536):
        file.zero(place, place + 4096, calm)
        data[place : place + 4096] = bytes(4096)
    proxy.counted()
    file.flush(calm)
    assert proxy.counted()["GET"] <= 4
    assert digest(client, files.bucket) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("part", "size"), [(5 * MIB, 5 << 40), (1 << 16, 402_000 << 16)])
def test_what_s3_does_not_take_is_efbig_at_once(files, calm, part, size):
    files.options = replace(files.options, part_size=part)
    file = files.create("key")
    most = min(size, 402_000 * part)
    with pytest.raises(PosixError) as raised:
        file.truncate(most + 1, calm)
    assert (raised.value.errno, file.size) == (errno.EFBIG, 0)


@pytest.mark.parametrize("noticed", ["PUT", "POST"])  # by a part, and by Complete
def test_an_upload_that_a_lifecycle_rule_aborted_is_begun_anew(files, client, proxy, calm, noticed):
    file, wanted = written(files, 11 * MIB, calm)
    file._upload._multipart._collect_all(calm)
    [upload] = client.list_multipart_uploads(Bucket=files.bucket)["Uploads"]
    gone = upload["UploadId"]
    with proxy.rule(
        Fail(lambda r: r.kind == noticed and [gone] == r.query.get("uploadId"), 404, "NoSuchUpload")
    ):
        assert file.flush(calm).size == 11 * MIB
    assert digest(client, files.bucket) == wanted


@pytest.mark.parametrize("times", [1, 3])  # the second says that there is no such upload
def test_a_complete_whose_answer_is_lost_is_no_error_where_s3_has_the_object(
    files, client, proxy, calm, times
):
    file, wanted = written(files, 11 * MIB, calm)
    with proxy.rule(Lose(lambda r: r.kind == "POST" and "uploadId" in r.query, times)):
        file.flush(calm)
    assert proxy.counted()["PUT"] == 3
    assert digest(client, files.bucket) == wanted


def tags_of(client, bucket):
    found = client.get_object_tagging(Bucket=bucket, Key="key")["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


@pytest.mark.usefixtures("caplog")  # the first attempt is warned of
@pytest.mark.parametrize("seen", [True, False])  # at once, or by the next attempt
def test_an_upload_whose_answer_is_lost_has_the_tags_that_its_server_left_out(
    files, client, proxy, calm, seen
):
    content = Content(meta={"mtime": "1600000000.123456789"}).tagged({"x": "1"})
    file = files.create("key", content, absent=True)
    files.know_conditions()
    lost = Lose(lambda r: r.kind == "POST" and "uploadId" in r.query)
    again = Fail(lambda r: lost.seen > 0 and lost.matches(r), 404, "NoSuchUpload")
    blind = Fail(lambda r: lost.seen > 0 and r.kind == "HEAD" and not seen, 403, "AccessDenied")
    rules = (again, blind, lost, StandIn(NoTagsOfUploads()))
    with ExitStack() as stack:
        for rule in rules:
            stack.enter_context(proxy.rule(rule))
        file.write(0, memoryview(bytes(11 * MIB)), calm)
        with nullcontext() if seen else pytest.raises(UploadFailed):
            file.flush(calm)
    file.flush(calm)
    assert tags_of(client, files.bucket) == {"x": "1"}


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (403, "AccessDenied")])
@pytest.mark.usefixtures("caplog")
def test_a_large_file_is_sent_once_though_its_tags_are_refused(
    files, client, proxy, calm, status, code
):
    files.put("key", bytes(12 * MIB), Content().tagged({"x": "1"}))
    files.know_conditions()
    file = files.open("key")
    file.write(12 * MIB, memoryview(b"more"), calm)

    class Refuses(NoTagsOfUploads):
        def refused(self, request, method):
            asked = "tagging" in request.query
            return Refusal(status, code) if asked else super().refused(request, method)

    with proxy.rule(StandIn(Refuses())):
        proxy.counted()
        assert file.flush(calm).size == 12 * MIB + 4
    counts = proxy.counted()
    assert (counts["POST"], counts["COPY"]) == (2, 1)
    assert client.head_object(Bucket=files.bucket, Key="key")["ContentLength"] == 12 * MIB + 4
    assert files.s3.capabilities.known()["copy-parts"] == ("yes", "usual")
    assert not file.dirty


def test_a_late_answer_of_an_interrupted_fetch_changes_nothing(
    files, client, proxy, calm, background, monkeypatch
):
    files.put("key", bytes(12 * MIB))
    file = files.open("key")
    file.write(0, memoryview(b"new"), calm)  # its part lacks 5 MiB of the old version
    running, submit = [], files.s3.pool.submit

    def noted(*work):
        running.append(submit(*work))
        return running[-1]

    monkeypatch.setattr(files.s3.pool, "submit", noted)
    impatient, ended = Cancellation(), []
    with proxy.rule(Hold(lambda r: r.kind == "GET", answers=True)) as held:
        thread = background(lambda: ended.append(interrupted(file, impatient)))
        assert held.reached.wait(30)
        impatient.cancel()
        thread.join(30)
        file.write(MIB, memoryview(b"newer"), calm)
        held.release()
        wait(running, timeout=30)
    file.flush(calm)
    assert ended == [True]
    body = client.get_object(Bucket=files.bucket, Key="key")["Body"].read()
    assert (body[:4], body[MIB - 1 : MIB + 6]) == (b"new\0", b"\0newer\0")


def interrupted(file, cancellation):
    try:
        file.flush(cancellation)
    except Interrupted:
        return True
    return False


def test_a_file_with_holes_whose_upload_was_interrupted_is_uploaded_the_next_time(
    files, client, proxy, calm, background
):
    file = files.create("a/key", absent=True)
    file.write(0, memoryview(b"begin"), calm)
    file.truncate(30 * MIB, calm)
    impatient, ended = Cancellation(), []
    with proxy.rule(Hold(lambda r: r.kind == "COPY", answers=True)) as held:
        thread = background(lambda: ended.append(interrupted(file, impatient)))
        assert held.reached.wait(30)
        impatient.cancel()
        thread.join(30)
    assert ended == [True]
    assert file.flush(calm).key == "a/key"
    data = b"begin" + bytes(30 * MIB - 5)
    assert digest(client, files.bucket, "a/key") == hashlib.sha256(data).hexdigest()
    assert file.read(0, 5, calm) == b"begin"
    [only] = client.list_objects_v2(Bucket=files.bucket)["Contents"]
    assert only["Key"] == "a/key"


def test_kill_9_leaves_no_object_of_zeros(files, client, calm, caplog):
    file = files.create("a/key")
    file.write(0, memoryview(b"bytes"), calm)
    zeros = Zeros(files.s3, RequestBatch(files.s3, 1, calm), files.bucket, "a/key", 5, 5)
    file._staging.note_zeros(zeros.key)
    zeros.make()
    file.close()  # as if the process were gone
    assert recover(files.s3, files.journal, files.options) == 0
    [only] = client.list_objects_v2(Bucket=files.bucket)["Contents"]
    assert only["Key"] == "a/key"
    assert "uploaded what a dead mount had written of" in caplog.text
