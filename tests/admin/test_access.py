"""The access log where it cannot be written, and after its end. Requests are made up."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from mimicfs.admin import watchedlog
from mimicfs.admin.access import AccessLog, observing
from mimicfs.errors import ConfigError
from mimicfs.fuse.observing import AccessRecord

pytestmark = pytest.mark.slow

READ = AccessRecord(10**18, 0.5, os.getpid(), 7, "read", 1, b"a", 10, 0)


class Server:
    def observe(self, recorders):
        self.recorders = tuple(recorders)


def test_a_full_disk_is_told_once_a_minute_and_without_a_traceback(caplog, capsys):
    server = Server()
    with observing(server, lambda ino: "s3://b/", Path("/dev/full")):
        for _ in range(3):
            server.recorders[0](READ)
    text = "/dev/full: the access log is not written: [Errno 28] No space left on device"
    assert [each.getMessage() for each in caplog.records] == [text]
    assert capsys.readouterr() == ("", "")


def test_the_end_comes_before_the_file_is_closed_and_opens_it_no_more(tmp_path):
    path, server = tmp_path / "access.log", Server()
    with observing(server, lambda ino: "s3://b/", path):
        (record,) = server.recorders
        record(READ)
    assert server.recorders == ()
    path.unlink()
    record(READ)  # of a request that was answered meanwhile
    assert not path.exists()


def test_an_access_log_follows_no_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(ConfigError, match="Too many levels of symbolic links"):
        AccessLog(link, lambda ino: "")
    assert not target.exists()


def test_a_log_file_may_be_a_link_as_dev_stderr_is(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    with closing(watchedlog.WatchedLog(link)) as log:
        assert log.stream.name == str(link)
