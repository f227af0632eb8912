"""The things that an object cannot be: refused, with the errno that POSIX or Linux has for it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.posix import fallocate

pytestmark = pytest.mark.slow

COLLAPSE_RANGE, INSERT_RANGE = 0x08, 0x20  # linux/falloc.h
GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS, what lsattr asks

REFUSED: dict[str, tuple[Callable[[Path, int], object], int]] = {
    "a hard link": (lambda path, _: os.link(path, path.with_name("b")), errno.EPERM),
    "a file without a name": (
        lambda path, _: os.open(path.parent, os.O_TMPFILE | os.O_RDWR),
        errno.EOPNOTSUPP,
    ),
    "an attribute that is not the user's": (
        lambda path, _: os.setxattr(path, "trusted.a", b"1"),
        errno.EOPNOTSUPP,
    ),
    "one of ours": (lambda path, _: os.setxattr(path, "user.mimicfs.key", b"x"), errno.EPERM),
    "removing one of ours": (lambda path, _: os.removexattr(path, "user.mimicfs.key"), errno.EPERM),
    "taking bytes out": (
        lambda _, file: fallocate(file, COLLAPSE_RANGE, 0, 4096),
        errno.EOPNOTSUPP,
    ),
    "putting bytes in": (lambda _, file: fallocate(file, INSERT_RANGE, 0, 4096), errno.EOPNOTSUPP),
    "flags of ext4": (lambda _, file: fcntl.ioctl(file, GET_FLAGS, bytes(8)), errno.ENOTTY),
    "a bucket's directory as a file": (
        lambda path, _: os.truncate(path.parent, 0),
        errno.EISDIR,
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_and_nothing_happens(here: Path, what: str) -> None:
    call, code = REFUSED[what]
    path = here / "a"
    path.write_bytes(bytes(8192))
    file = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(OSError, match=re.escape(os.strerror(code))):
            call(path, file)
    finally:
        os.close(file)
    assert os.listdir(here) == ["a"]
    assert path.read_bytes() == bytes(8192)


def test_the_time_of_birth_is_not_known_and_the_mask_says_so(here: Path) -> None:
    (here / "a").write_bytes(b"x")
    asked = ["stat", "--format=%w %W %s", str(here / "a")]
    told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout
    assert told == "- 0 1\n"
