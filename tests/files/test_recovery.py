"""What the next mount makes of what a dead one has left: what S3 has is known, what it lacks is
brought, and what somebody else has is left alone."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack

import pytest
from support.mounts import wait_until
from support.proxy import Fail, Hold

from mimicfs.config.values import FileOptions
from mimicfs.errors import Interrupted, PosixError, UploadFailed
from mimicfs.files import journal as journal_module
from mimicfs.files import multipart, recovery
from mimicfs.files.behind import Behind
from mimicfs.files.journal import Journal
from mimicfs.files.recovery import recover
from mimicfs.files.staging import Staging
from mimicfs.posix import Cancellation
from mimicfs.s3.requests.client import Content

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]

MIB = 1 << 20
FILE, PROGRAM = {"mode": "33188"}, {"mode": "33261"}  # rw-r--r--, rwxr-xr-x


def is_put(request):
    return request.kind == "PUT" and request.key.startswith("key")


def is_completion(request):
    return request.kind == "POST" and "uploadId" in request.query


def stored(client, bucket, key="key"):
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def left(files, tmp_path):
    """Returns the journal that the next mount finds if this one is killed now."""

    def kill():
        copied = shutil.copytree(files.journal.directory, tmp_path / "left", symlinks=True)
        return Journal.open(copied)  # nobody has a lock there

    return kill


def recovered(journal):
    return {
        path.name.partition(".")[0]: path.read_bytes()
        for path in (journal.directory / "recovered").glob("*")
        if path.suffix != ".json"
    }


def next_mount(files, journal):
    """Have the next mount deal with *journal*; return how many files it must try again."""
    return recover(files.s3, journal, files.options)


def upload_behind(file):
    """Upload *file*; say whether somebody has changed it meanwhile."""
    try:
        file.flush(Behind())
    except Interrupted:
        return True
    return False


class HoldFirst(Hold):
    def applies(self, request):
        return self.matches(request) and self.seen == 0


@pytest.fixture
def held(proxy, background):
    """Returns when S3 has what *file* uploads, and nobody has the answer."""
    with ExitStack() as stack:

        def hold(file, matches=is_put):
            rule = stack.enter_context(proxy.rule(HoldFirst(matches, answers=True)))
            background(lambda: upload_behind(file))
            assert rule.reached.wait(30)

        yield hold


# What S3 has of it


def test_a_mode_that_is_set_while_the_bytes_are_sent_outlives_kill_9(
    files, client, held, caplog, left
):
    file = files.create("key", Content("text/plain", FILE))
    file.write(0, memoryview(b"bytes"), Cancellation())
    file.secure()
    held(file)
    assert file.change_meta(lambda meta: {**meta, **PROGRAM})
    journal = left()
    assert client.head_object(Bucket=files.bucket, Key="key")["Metadata"]["mode"] == "33188"
    assert next_mount(files, journal) == 0
    assert client.head_object(Bucket=files.bucket, Key="key")["Metadata"]["mode"] == "33261"
    assert stored(client, files.bucket) == b"bytes"
    assert os.listdir(journal.directory) == []
    assert "uploaded what a dead mount had written" in caplog.text


def test_the_attributes_of_a_file_that_was_written_again_as_it_was_outlive_kill_9(
    files, client, calm, caplog, left
):
    files.put("key", b"same", Content("text/plain", {**FILE, "mtime": "5.000000000"}))
    file = files.open("key")
    file.truncate(0, calm)
    file.write(0, memoryview(b"same"), calm)
    file.change_meta(lambda meta: {**meta, **PROGRAM}, 7_000_000_000)
    file.secure()
    journal = left()
    assert next_mount(files, journal) == 0
    found = client.head_object(Bucket=files.bucket, Key="key")["Metadata"]
    assert (found["mode"], found["mtime"]) == ("33261", "7.000000000")
    assert "uploaded what a dead mount had written" in caplog.text


@pytest.mark.parametrize("change", ["none", "written", "added to", "cut", "mode"])
@pytest.mark.parametrize("base", [0, 40 * MIB])
def test_of_an_upload_in_parts_whose_answer_nobody_got_the_next_mount_knows_that_it_is_its_own(
    files, client, proxy, held, background, calm, base, change, caplog, left
):
    data = bytearray(random.Random(base).randbytes(max(base, 12 * MIB)))
    if base:
        files.put("key", bytes(data))
        file = files.open("key")
        file.write(20 * MIB, memoryview(b"changed"), calm)
        data[20 * MIB : 20 * MIB + 7] = b"changed"
    else:
        file = files.create("key", Content("text/plain", FILE))
        for start in range(0, len(data), MIB):
            file.write(start, memoryview(bytes(data[start : start + MIB])), calm)
    file.secure()
    held(file, is_completion)
    if change == "written":
        file.write(9 * MIB, memoryview(b"again"), calm)
        data[9 * MIB : 9 * MIB + 5] = b"again"
    elif change == "added to":
        data += b"more"
        # Without a base, parts are sent ahead once nothing of the upload before is on its way:
        # this mount is killed while a write waits for that.
        background(lambda: file.write(len(data) - 4, memoryview(b"more"), calm))
        wait_until(lambda: file.size == len(data))
    elif change == "cut":
        file.truncate(11 * MIB, calm)
        del data[11 * MIB :]
    elif change == "mode":
        assert file.change_meta(lambda meta: {**meta, **PROGRAM})
    else:
        file.interrupt()
    if base or change != "added to":
        file.secure()
    journal = left()
    proxy.counted()
    assert next_mount(files, journal) == 0
    assert digest(stored(client, files.bucket)) == digest(data)
    assert recovered(journal) == {}
    mode = client.head_object(Bucket=files.bucket, Key="key")["Metadata"].get("mode")
    assert mode == ("33261" if change == "mode" else None if base else "33188")
    assert list(journal.directory.glob("*.*")) == []
    assert ("uploaded what a dead mount" in caplog.text) == ("POST" in proxy.counted())


def test_an_upload_in_parts_that_was_killed_before_its_answer_came_is_not_sent_again(
    files, client, proxy, held, calm, background, left
):
    data = random.Random(3).randbytes(12 * MIB)
    file = files.create("key", Content("text/plain", FILE))
    for start in range(0, len(data), MIB):
        file.write(start, memoryview(data)[start : start + MIB], calm)
    held(file, is_completion)
    journal = left()
    proxy.counted()
    assert next_mount(files, journal) == 0
    counts = proxy.counted()
    assert (counts.get("PUT", 0), counts.get("GET", 0)) == (0, 0)
    assert digest(stored(client, files.bucket)) == digest(data)
    assert os.listdir(journal.directory) == []


def test_a_large_file_that_was_cut_and_killed_before_the_answer_came_is_known(
    files, client, held, calm, caplog, left
):
    data = random.Random(4).randbytes(40 * MIB)
    files.put("key", data)
    file = files.open("key")
    file.write(MIB, memoryview(b"changed"), calm)
    file.truncate(2 * MIB, calm)
    held(file)
    journal = left()
    assert next_mount(files, journal) == 0
    wanted = data[:MIB] + b"changed" + data[MIB + 7 : 2 * MIB]
    assert digest(stored(client, files.bucket)) == digest(wanted)
    assert os.listdir(journal.directory) == []
    assert caplog.text == ""


def put_with_another_etag(client, bucket, data, meta=None):
    """Store *data* so that its ETag is not its MD5, as with SSE-KMS."""
    begun = client.create_multipart_upload(Bucket=bucket, Key="key", Metadata=meta or {})
    part = {"Bucket": bucket, "Key": "key", "UploadId": begun["UploadId"]}
    etag = client.upload_part(**part, PartNumber=1, Body=data)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    client.complete_multipart_upload(**part, MultipartUpload=parts)


@pytest.mark.parametrize("first", [b"first", b"FIRST"])
def test_what_was_sent_is_known_by_its_bytes_where_its_etag_is_no_md5(
    files, client, calm, caplog, first, left
):
    file = files.create("key")
    file.write(0, memoryview(b"first"), calm)
    md5 = hashlib.md5(b"first", usedforsecurity=False).hexdigest()
    file._staging.note_sent(md5, 5, unchanged=False)
    file.write(5, memoryview(b" and second"), calm)
    file.secure()
    journal = left()
    put_with_another_etag(client, files.bucket, first)
    assert next_mount(files, journal) == 0
    ours = first == b"first"  # else they are somebody else's
    assert stored(client, files.bucket) == (b"first and second" if ours else first)
    assert recovered(journal) == ({} if ours else {"key": b"first and second"})
    assert ("somebody else" in caplog.text) == (not ours)


@pytest.mark.parametrize("theirs", [b"bytes", b"BYTES"])
def test_what_s3_has_already_is_known_by_its_bytes_where_its_etag_is_no_md5(
    files, client, calm, caplog, theirs, left
):
    file = files.create("key")
    file.write(0, memoryview(b"bytes"), calm)
    file.secure()
    journal = left()
    put_with_another_etag(client, files.bucket, theirs)
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == theirs
    assert recovered(journal) == ({} if theirs == b"bytes" else {"key": b"bytes"})
    assert ("somebody else" in caplog.text) == (theirs != b"bytes")


def test_what_was_sent_is_in_the_segment_before_bytes_follow(
    files, client, held, calm, caplog, left
):
    file = files.create("key")
    file.write(0, memoryview(b"first"), calm)
    held(file)
    file.write(5, memoryview(b" and second"), calm)
    journal = left()
    assert [path.suffix for path in journal.directory.iterdir()] == [".segment"]
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"first and second"
    assert "uploaded what a dead mount" in caplog.text


# What is in its way


def test_of_two_that_were_left_of_one_name_the_newer_is_in_its_place(
    files, client, calm, caplog, left
):
    for number in range(8):
        for body in (b"refused", b"promised"):  # S3 had refused the first, and a new one was made
            file = files.create(f"key{number}")
            file.write(0, memoryview(body), calm)
            file.secure()
    journal = left()
    assert next_mount(files, journal) == 0
    for number in range(8):
        assert stored(client, files.bucket, f"key{number}") == b"promised"
    assert recovered(journal) == {f"key{number}": b"refused" for number in range(8)}
    assert "somebody else has changed" in caplog.text


def write_twice(files, calm):
    """Write two files of one name, the one that S3 is to have last."""
    for body in (b"refused", b"promised"):
        file = files.create("key")
        file.write(0, memoryview(body), calm)
        file.secure()


def test_of_two_that_were_left_of_one_name_the_older_waits_for_the_newer(
    files, client, proxy, calm, caplog, left
):
    write_twice(files, calm)
    journal = left()
    with proxy.rule(Fail(is_put, 403, "AccessDenied")):
        assert next_mount(files, journal) == 2
    assert caplog.text.count("AccessDenied") == 1
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"promised"


@pytest.mark.parametrize("size", [7, 100_000], ids=["in a segment", "a file of its own"])
def test_of_two_that_were_left_of_one_name_the_one_that_got_it_later_is_in_its_place(
    files, client, calm, caplog, left, size
):
    older, newer = files.create("key"), files.create("key")
    for file, body in ((older, b"o"), (newer, b"n"), (older, b"O")):
        file.write(0, memoryview(body * size), calm)
        file.secure()
    journal = left()
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"n" * size
    assert recovered(journal) == {"key": b"O" * size}
    assert "somebody else has changed" in caplog.text


def test_two_mounts_that_recover_at_once_put_the_newer_of_one_name_in_its_place(
    files, client, proxy, calm, caplog, left
):
    write_twice(files, calm)
    journal = left()
    sending = HoldFirst(is_put)
    with proxy.rule(sending), ThreadPoolExecutor(2) as pool:
        first = pool.submit(next_mount, files, journal)
        assert sending.reached.wait(30)
        second = pool.submit(next_mount, files, Journal.open(journal.directory))
        wait([second], 0.3)
        sending.release()
        assert (first.result(), second.result()) == (0, 0)
    assert stored(client, files.bucket) == b"promised"
    assert recovered(journal) == {"key": b"refused"}
    assert "somebody else has changed" in caplog.text


def test_a_recovery_that_waits_for_another_ends_when_it_is_stopped(files, calm, left):
    file = files.create("key")
    file.write(0, memoryview(b"promised"), calm)
    file.secure()
    journal, stopped = left(), threading.Event()
    with journal.recovering(files.s3.endpoint, stopped) as ours, ThreadPoolExecutor(1) as pool:
        assert ours
        other = (files.s3, Journal.open(journal.directory), files.options, stopped)
        waiting = pool.submit(recover, *other)
        stopped.set()
        assert waiting.result(10) == 0
    assert len(journal.orphans()) == 1


def test_a_recovery_whose_lock_cannot_be_removed_keeps_nobody_out(files, left, caplog):
    journal, stopped = left(), threading.Event()
    with journal.recovering(files.s3.endpoint, stopped) as ours:
        assert ours
        [lock] = journal.directory.glob("recovery-*.lock")
        lock.rename(journal.directory / "aside")
        lock.mkdir()
    assert "not removed" in caplog.text
    lock.rmdir()
    (journal.directory / "aside").rename(lock)
    timer = threading.Timer(10, stopped.set)
    timer.start()
    with journal.recovering(files.s3.endpoint, stopped) as ours:
        assert ours
    timer.cancel()


def test_a_recovery_that_waits_for_another_says_so_once(files, left, caplog, monkeypatch):
    monkeypatch.setattr(journal_module, "_PATIENCE_S", 0.05)
    journal, stopped = left(), threading.Event()
    with journal.recovering(files.s3.endpoint, stopped), ThreadPoolExecutor(1) as pool:
        other = (files.s3, Journal.open(journal.directory), files.options, stopped)
        waiting = pool.submit(recover, *other)
        wait([waiting], 0.5)
        stopped.set()
        waiting.result(10)
    assert caplog.text.count("another mount is still recovering") == 1


def test_what_another_recovery_has_noted_is_read_before_a_file_is_taken(files, calm, left):
    file = files.create("key")
    file.write(0, memoryview(b"promised"), calm)
    file.secure()
    journal = left()
    [orphan] = journal.orphans()
    other = Journal.open(journal.directory).resume(orphan)
    other.note_sent("0" * 32, 8, unchanged=False)
    other.keep()
    assert journal.resume(orphan).record.sent == "0" * 32


def test_bytes_of_a_write_that_a_full_disk_took_in_part_are_not_in_s3_after_kill_9(
    files, client, calm, caplog, left, monkeypatch
):
    file = files.create("key")
    file.write(0, memoryview(bytes(70_000)), calm)
    pwrite = os.pwrite

    def full(fd, data, place):
        if len(data) <= 10:
            raise OSError(28, os.strerror(28))
        return pwrite(fd, bytes(data)[: len(data) - 10], place)

    with monkeypatch.context() as disk:
        disk.setattr("mimicfs.files.staging.os.pwrite", full)
        with pytest.raises(PosixError, match="No space left"):
            file.write(70_000, memoryview(b"b" * 100), calm)
    file.secure()
    journal = left()
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == bytes(70_000)
    assert "uploaded what a dead mount" in caplog.text


def test_a_recovery_whose_disk_refuses_one_file_goes_on_with_the_others(
    files, client, calm, caplog, left
):
    for key in ("key", "other"):
        file = files.create(key)
        file.write(0, memoryview(b"ours"), calm)
        file.secure()
    journal = left()
    client.put_object(Bucket=files.bucket, Key="key", Body=b"theirs")
    way = journal.directory / "recovered"
    way.write_bytes(b"a file where a directory is to be")
    assert next_mount(files, journal) == 1
    assert stored(client, files.bucket, "other") == b"ours"
    assert stored(client, files.bucket, "key") == b"theirs"
    way.unlink()
    assert next_mount(files, journal) == 0
    assert recovered(journal) == {"key": b"ours"}
    assert "not dealt with yet" in caplog.text


@pytest.mark.parametrize("name", ["{0}.data", "{0}.unborn", "{0}.segment", "{0}.json", "{0}.new"])
def test_a_directory_with_a_name_of_the_journal_ends_no_recovery(
    files, client, calm, caplog, name, left
):
    file = files.create("key")
    file.write(0, memoryview(b"ours"), calm)
    journal = left()
    way = journal.directory / name.format("0" * 32)
    way.mkdir()
    (way / "mine").write_bytes(b"somebody's")
    os.utime(way, (0, 0))
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"ours"
    assert (way / "mine").read_bytes() == b"somebody's"
    caplog.clear()


@pytest.mark.parametrize("suffix", [".new", ".ranges"])
def test_what_cannot_be_removed_beside_a_copy_ends_no_recovery(
    files, client, calm, caplog, suffix, left
):
    copy = files.journal.stage()
    copy.write(0, b"S3 has it")
    copy.path.with_suffix(suffix).mkdir()
    copy.keep()
    file = files.create("key")
    file.write(0, memoryview(b"ours"), calm)
    journal = left()
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"ours"
    assert "not removed" in caplog.text
    caplog.clear()


def test_bytes_that_are_the_same_in_s3_are_compared_piece_by_piece(
    files, client, calm, caplog, left
):
    data = random.Random(9).randbytes(9 * MIB)
    file = files.create("key")
    for start in range(0, len(data), MIB):
        file.write(start, memoryview(data)[start : start + MIB], calm)
    journal = left()
    client.upload_fileobj(io.BytesIO(data), files.bucket, "key")
    assert next_mount(files, journal) == 0
    assert recovered(journal) == {}
    assert caplog.text == ""


def test_the_record_of_what_is_recovered_is_whole_whatever_the_disk_takes(
    files, client, calm, monkeypatch, caplog, left
):
    files.put("key", bytes(40 * MIB))
    file = files.open("key")
    file.write(MIB, memoryview(b"ours"), calm)
    file.secure()
    journal = left()
    client.put_object(Bucket=files.bucket, Key="key", Body=b"theirs")
    write = os.write

    def full(fd, data):
        write(fd, data[:10])
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as disk:
        disk.setattr("mimicfs.files.disk.os.write", full)
        assert next_mount(files, journal) == 1
    assert next_mount(files, journal) == 0
    [told] = (journal.directory / "recovered").glob("*.json")
    assert '"key": "key"' in told.read_text()
    assert f'"written": [[{MIB}, {MIB + 4}]]' in told.read_text()
    assert "damaged" not in told.read_text()
    assert "not dealt with yet" in caplog.text


def test_a_move_to_recovered_that_was_killed_between_its_steps_keeps_the_ranges(
    files, client, calm, left
):
    files.put("key", bytes(40 * MIB))
    file = files.open("key")
    file.write(MIB, memoryview(b"ours"), calm)
    journal = left()
    [data] = journal.directory.glob("*.data")
    target = journal.directory / "recovered" / f"key.{data.stem}"
    target.parent.mkdir()
    data.rename(target)
    assert journal.orphans() == []
    names = sorted(path.name for path in target.parent.iterdir())
    assert names == [target.name, f"{target.name}.json", f"{target.name}.ranges"]
    assert os.listdir(journal.directory) == ["recovered"]


def test_recovery_goes_on_after_an_error_that_nobody_has_foreseen(
    s3, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(recovery, "_AGAIN_S", 0.01)
    journal, again = Journal.open(tmp_path), threading.Event()
    tries = iter([RuntimeError("odd"), None])

    def orphans():
        if error := next(tries, None):
            raise error
        again.set()
        return []

    monkeypatch.setattr(journal, "orphans", orphans)
    recovering = recovery.Recovery(s3, journal, FileOptions(tmp_path))
    recovering.start(20)
    assert again.wait(20)
    recovering.close()
    assert "is not uploaded yet; mimicfs tries again" in caplog.text


# What was only appended to, and replaced since


def test_what_was_only_appended_goes_behind_what_others_have_put_there(files, client, left, caplog):
    files.put("key", b"old\n")
    file = files.open("key")
    file.append(memoryview(b"mine\n"), Cancellation())
    file.secure()
    stood = {"mode": "33152", "own": "theirs"}
    client.put_object(
        Bucket=files.bucket, Key="key", Body=b"theirs, longer\n", Metadata=stood, Tagging="a=b"
    )
    journal = left()
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"theirs, longer\nmine\n"
    head = client.head_object(Bucket=files.bucket, Key="key")
    assert {name: head["Metadata"][name] for name in stood} == stood
    assert head["TagCount"] == 1
    assert (recovered(journal), next_mount(files, journal)) == ({}, 0)
    assert stored(client, files.bucket) == b"theirs, longer\nmine\n"


@pytest.mark.parametrize("change", ["write", "truncate", "zero"])
@pytest.mark.parametrize("first", ["append", "change"])
def test_what_was_changed_otherwise_does_not(files, client, left, caplog, change, first):
    files.put("key", b"old\n")
    file = files.open("key")
    appends = lambda: file.append(memoryview(b"mine\n"), Cancellation())  # noqa: E731
    changes = {
        "write": lambda: file.write(0, memoryview(b"O"), Cancellation()),
        "truncate": lambda: file.truncate(2, Cancellation()),
        "zero": lambda: file.zero(0, 2, Cancellation()),
    }[change]
    for do in (appends, changes) if first == "append" else (changes, appends):
        do()
        file.secure()
    client.put_object(Bucket=files.bucket, Key="key", Body=b"theirs")
    journal = left()
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"theirs"
    assert list(recovered(journal)) == ["key"]


def test_what_was_appended_to_what_others_have_deleted_is_kept(files, client, left, caplog):
    files.put("key", b"old\n")
    file = files.open("key")
    file.append(memoryview(b"mine\n"), Cancellation())
    client.delete_object(Bucket=files.bucket, Key="key")
    journal = left()
    assert next_mount(files, journal) == 0
    assert recovered(journal) == {"key": b"old\nmine\n"}


def test_what_was_appended_is_there_once_if_the_mount_is_killed_while_it_goes_behind_others(
    files, client, left, caplog, monkeypatch
):
    files.put("key", b"old\n")
    file = files.open("key")
    file.append(memoryview(b"mine\n"), Cancellation())
    client.put_object(Bucket=files.bucket, Key="key", Body=b"theirs, longer\n")
    journals, remove = [], Staging.remove

    def killed(staging):
        journals.append(left())
        remove(staging)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "remove", killed)
        file._rebased(file._staging, Cancellation())
    [journal] = journals
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"theirs, longer\nmine\n"
    assert list(recovered(journal)) == ["key"]


def test_what_was_appended_goes_not_behind_what_replaced_the_file_in_the_same_mount(
    files, client, left, caplog
):
    files.put("key", b"old\n")
    file = files.open("key")
    file.append(memoryview(b"mine\n"), Cancellation())
    file.detach(Cancellation())  # another file is renamed over it
    files.put("key", b"renamed")
    journal = left()
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"renamed"
    assert recovered(journal) == {"key": b"old\nmine\n"}


def test_what_was_appended_goes_behind_others_though_it_was_not_unlinked_after_all(
    files, client, left, caplog
):
    files.put("key", b"old\n")
    file = files.open("key")
    file.append(memoryview(b"mine\n"), Cancellation())
    file.detach(Cancellation())
    file.attach()
    client.put_object(Bucket=files.bucket, Key="key", Body=b"theirs\n")
    assert next_mount(files, left()) == 0
    assert stored(client, files.bucket) == b"theirs\nmine\n"


def test_what_s3_has_refused_goes_not_behind_what_was_written_later(
    files, client, left, proxy, caplog
):
    files.put("key", b"old\n")
    file = files.open("key")
    file.append(memoryview(b"mine\n"), Cancellation())
    with proxy.rule(Fail(is_put, 403, code="AccessDenied")), pytest.raises(UploadFailed):
        file.flush(Cancellation())
    file.close()
    files.put("key", b"new\n")
    journal = left()
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"new\n"
    assert list(recovered(journal)) == ["key"]


@pytest.mark.parametrize("killed", [False, True])
def test_what_was_appended_goes_not_behind_what_was_written_over_it_later(
    files, client, left, caplog, killed, monkeypatch
):
    files.put("key", b"old\n")
    for change in (
        lambda file: file.append(memoryview(b"mine\n"), Cancellation()),
        lambda file: file.truncate(0, Cancellation()),
    ):
        file = files.open("key")
        change(file)
        file.secure()
    file.write(0, memoryview(b"new\n"), Cancellation())
    journal = left()
    if killed:  # between the two
        settled, seen = recovery._settled, []

        def settle_one(tools, orphan, staging):
            seen.append(orphan)
            if len(seen) == 1:
                return settled(tools, orphan, staging)
            staging.keep()
            return False

        with monkeypatch.context() as patch:
            patch.setattr(recovery, "_settled", settle_one)
            assert next_mount(files, journal) == 1
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == b"new\n"
    assert list(recovered(journal)) == ["key"]


def test_a_large_append_that_s3_has_is_there_once_though_its_etag_was_not_known(
    files, client, held, left, caplog, monkeypatch
):
    monkeypatch.setattr(multipart, "etag_of", lambda parts: "")  # as with SSE-KMS
    large = bytes(10 * MIB + 1)
    files.put("key", large)
    file = files.open("key")
    file.append(memoryview(b"mine\n"), Cancellation())
    file.secure()
    held(file, is_completion)
    journal = left()
    assert next_mount(files, journal) == 0
    assert stored(client, files.bucket) == large + b"mine\n"
    assert (recovered(journal), os.listdir(journal.directory)) == ({}, [])


def test_a_new_file_goes_not_behind_one_that_others_make_while_it_is_recovered(
    files, client, proxy, left, caplog
):
    file = files.create("key", Content("text/plain", FILE), absent=True)
    file.write(0, memoryview(b"mine"), Cancellation())
    file.secure()
    journal = left()
    with proxy.rule(Hold(is_put)) as hold, ThreadPoolExecutor(1) as pool:
        done = pool.submit(next_mount, files, journal)
        assert hold.reached.wait(30)
        client.put_object(Bucket=files.bucket, Key="key", Body=b"theirs")
        hold.release()
        assert done.result(30) == 0
    assert stored(client, files.bucket) == b"theirs"
    assert recovered(journal) == {"key": b"mine"}
