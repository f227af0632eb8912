"""The queue of closed files, where a mount ends (--write-back)."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from support.mounts import wait_until

from mimicfs.errors import S3Unavailable, UploadFailed
from mimicfs.files.turn import Turn
from mimicfs.files.upload import BegunPut
from mimicfs.vfs.writeback import Flight, WriteBack


class File:
    dirty, lost, bucket, key, size = True, None, "b", "x", 1


def test_a_mount_that_ends_does_not_wait_for_the_next_try_of_what_s3_has_by_then(
    monkeypatch, caplog
):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 0.0)
    monkeypatch.setattr("mimicfs.vfs.writeback._AGAIN_S", (1.0, 1.0))
    file = File()
    asleep, waits = threading.Event(), []

    class Uploads:
        def begin(self, file, handle, cancellation):
            return None

        def upload(self, file, handle, cancellation, flight):
            if not asleep.is_set():
                raise UploadFailed("refused", errno=5, kept_at="here")
            file.dirty = False

        def let_go_at_once(self, handle):
            return True

    behind = WriteBack(Uploads(), 1)
    wait = behind._changed.wait

    def seen(timeout):
        if behind._closing:
            waits.append(timeout)
        asleep.set()
        return wait(timeout)

    monkeypatch.setattr(behind._changed, "wait", seen)
    behind.add(file, lambda: 1)
    assert asleep.wait(10)
    assert behind.close() == []
    assert (file.dirty, waits) == (False, [])


def test_a_file_for_which_no_thread_can_be_started_is_uploaded_with_the_next_one(
    monkeypatch, caplog
):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 0.0)
    first, second = File(), File()

    class Uploads:
        def begin(self, file, handle, cancellation):
            return None

        def upload(self, file, handle, cancellation, flight):
            file.dirty = False

        def let_go_at_once(self, handle):
            return True

    def full(thread):
        raise RuntimeError("can't start new thread")

    behind = WriteBack(Uploads(), 1)
    with monkeypatch.context() as crowded:
        crowded.setattr(threading.Thread, "start", full)
        behind.add(first, lambda: 1)
    assert "no thread to upload closed files: can't start new thread" in caplog.text
    behind.add(second, lambda: 2)
    assert behind.close() == []
    assert (first.dirty, second.dirty) == (False, False)


def test_a_file_that_is_closed_again_while_it_is_let_go_is_held_until_it_is_uploaded(monkeypatch):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 0.0)
    file, handles, uploaded, gone = File(), iter([1, 2]), [], []

    class Uploads:
        def begin(self, file, handle, cancellation):
            return None

        def upload(self, file, handle, cancellation, flight):
            uploaded.append(handle)
            file.dirty = False

        def let_go_at_once(self, handle):
            if not gone:
                file.dirty = True
                behind.add(file, lambda: next(handles))
            gone.append(handle)
            return True

    behind = WriteBack(Uploads(), 1)
    behind.add(file, lambda: next(handles))
    wait_until(lambda: gone == [1, 2])
    assert uploaded == [1, 2]
    assert behind.close() == []


class Whole:
    """Uploads at once, and says which."""

    def __init__(self):
        self.uploaded = []

    def begin(self, file, handle, cancellation):
        return None

    def upload(self, file, handle, cancellation, flight):
        self.uploaded.append(handle)
        file.dirty = False

    def let_go_at_once(self, handle):
        return True


def test_what_waits_while_others_are_closed_is_uploaded_when_the_mount_ends(monkeypatch):
    monkeypatch.setattr("mimicfs.vfs.writeback._BURST_S", 60.0)
    monkeypatch.setattr("mimicfs.vfs.writeback._BURST_MAX_S", 60.0)
    uploads = Whole()
    behind = WriteBack(uploads, 1)
    behind.add(File(), lambda: 1)
    behind.add(File(), lambda: 2)
    assert behind.close() == []
    assert sorted(uploads.uploaded) == [1, 2]


def test_no_upload_waits_for_long_because_others_are_closed(monkeypatch):
    monkeypatch.setattr("mimicfs.vfs.writeback._BURST_S", 60.0)
    monkeypatch.setattr("mimicfs.vfs.writeback._BURST_MAX_S", 0.1)
    uploads = Whole()
    behind = WriteBack(uploads, 1)
    behind.add(File(), lambda: 1)
    wait_until(lambda: uploads.uploaded == [1])
    assert behind.close() == []


def test_a_file_that_is_closed_again_and_again_is_uploaded_and_changes_of_it_wait_a_moment(
    monkeypatch,
):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 60.0)
    monkeypatch.setattr("mimicfs.vfs.writeback._PATIENT_S", 0.1)
    waited = []

    class Uploads(Whole):
        def upload(self, file, handle, cancellation, flight):
            waited.append(cancellation._patience_s)
            super().upload(file, handle, cancellation, flight)

    behind = WriteBack(Uploads(), 1)
    behind.add(File(), lambda: 1)
    wait_until(lambda: len(waited) == 1)
    assert 0.1 / 8 <= waited[0] <= 10
    assert behind.close() == []


def test_a_file_that_has_left_the_queue_is_not_taken_from_it_when_it_is_closed_again(monkeypatch):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 0.0)
    file, handles, gone = File(), iter([1, 2]), []

    class Uploads(Whole):
        def upload(self, file, handle, cancellation, flight):
            if handle == 1:  # another descriptor is closed meanwhile
                behind.add(file, lambda: next(handles))
            super().upload(file, handle, cancellation, flight)

        def let_go_at_once(self, handle):
            if not gone:
                file.dirty = True
                behind.add(file, lambda: next(handles))
            gone.append(handle)
            return True

    uploads = Uploads()
    behind = WriteBack(uploads, 1)
    behind.add(file, lambda: next(handles))
    wait_until(lambda: len(gone) == 2)
    assert behind.close() == []
    assert (uploads.uploaded, gone) == ([1, 2], [1, 2])


def test_an_upload_ends_where_no_thread_can_be_had_for_that(monkeypatch):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 0.0)
    start, future = threading.Thread.start, Future()

    def refuses(thread):
        if thread.name == "write-back-aside":
            raise RuntimeError("can't start new thread")
        start(thread)

    class Late(File):
        def is_plain(self, put):
            return False

    class Flying(Whole):
        def begin(self, file, handle, cancellation):
            return Flight(BegunPut(None, None, future), Turn(), lambda: None)

    monkeypatch.setattr(threading.Thread, "start", refuses)
    uploads = Flying()
    behind = WriteBack(uploads, 1)
    behind.add(Late(), lambda: 1)
    wait_until(lambda: behind._flying == 1)
    future.set_result(None)
    assert behind.close() == []
    assert uploads.uploaded == [1]


def test_a_mount_that_ends_sends_nothing_more_to_a_server_that_is_not_there(monkeypatch, caplog):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 0.0)

    class Small(File):
        def __init__(self):
            self.future = Future()

        def is_plain(self, put):
            return False

    abandoned = []

    class Uploads(Whole):
        def begin(self, file, handle, cancellation):
            return Flight(BegunPut(None, None, file.future), Turn(), lambda: None)

        def upload(self, file, handle, cancellation, flight):
            failed = UploadFailed("no answer", errno=5, kept_at="here")
            raise failed from S3Unavailable("no answer")

        def abandon(self, file, flight):
            abandoned.append(file)

    sent, unsent, uploads = Small(), Small(), Uploads()
    behind = WriteBack(uploads, 1)
    for file in (sent, unsent):
        behind.add(file, lambda: 1)
    wait_until(lambda: behind._flying == 2)
    sent.future.set_running_or_notify_cancel()
    end = threading.Thread(target=behind.close, daemon=True)
    end.start()
    wait_until(lambda: behind._closing)
    sent.future.set_result(None)
    end.join(20)
    assert not end.is_alive()
    assert (abandoned, [each.key for each in behind.pending()]) == ([unsent], ["x", "x"])
