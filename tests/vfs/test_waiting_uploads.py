"""The queue of closed files, where a mount ends (--write-back)."""

from __future__ import annotations

import threading

from mimicfs.errors import UploadFailed
from mimicfs.vfs.writeback import WriteBack


class File:
    dirty, lost, bucket, key, size = True, None, "b", "x", 1


def test_a_mount_that_ends_does_not_wait_for_the_next_try_of_what_s3_has_by_then(
    monkeypatch, caplog
):
    monkeypatch.setattr("mimicfs.vfs.writeback._DELAY_S", 0.0)
    monkeypatch.setattr("mimicfs.vfs.writeback._AGAIN_S", (1.0, 1.0))
    file = File()
    asleep, waits = threading.Event(), []

    def upload(file, _):
        if not asleep.is_set():
            raise UploadFailed("refused", errno=5, kept_at="here")
        file.dirty = False

    behind = WriteBack(upload, 1)
    wait = behind._changed.wait

    def seen(timeout):
        if behind._closing:
            waits.append(timeout)
        asleep.set()
        return wait(timeout)

    monkeypatch.setattr(behind._changed, "wait", seen)
    behind.add(file, lambda: lambda: None)
    assert asleep.wait(10)
    assert behind.close() == []
    assert (file.dirty, waits) == (False, [])
