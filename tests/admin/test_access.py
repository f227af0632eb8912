"""The access log where it cannot be written, and after its end. Requests are made up."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest

from mimicfs.admin import access, watchedlog
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


def test_top_counts_as_errors_what_status_does():
    """Not that a name is missing, nor that `ls -l` asks for an attribute that is not kept."""
    sums = {}
    for operation, code in [
        ("lookup", errno.ENOENT), ("getxattr", errno.EOPNOTSUPP), ("getxattr", errno.ENODATA),
        ("read", 0), ("read", errno.EIO), ("lookup", errno.EIO),
    ]:  # fmt: skip
        access._add(sums, AccessRecord(0, 0.1, 1, 0, operation, 1, b"", 0, code))
    assert (sums["requests"], sums["errors"]) == (6, 2)


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
