"""Bytes that only the kernel has handed out count as read, and pages of one version are not taken
for those of the next."""

from __future__ import annotations

import errno
import os

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("server", ["moto"], indirect=True),
]


def put(client, bucket, body):
    client.put_object(Bucket=bucket, Key="f", Body=body)


def body(client, bucket):
    return client.get_object(Bucket=bucket, Key="f")["Body"].read()


_ATTRIBUTES = {
    "chmod": lambda path: path.chmod(0o640),
    "utime": lambda path: os.utime(path, (1, 1)),
    "setxattr": lambda path: os.setxattr(path, "user.a", b"b"),
}


@pytest.mark.parametrize("how", _ATTRIBUTES)
@pytest.mark.parametrize("theirs", [b"BBBB", b"BBBBBBBB", b"BB"])
def test_a_change_of_attributes_of_what_others_replaced_shows_their_bytes(
    mount, client, bucket, how, theirs
):
    put(client, bucket, b"AAAA")
    assert (mount / "f").read_bytes() == b"AAAA"
    put(client, bucket, theirs)
    _ATTRIBUTES[how](mount / "f")
    assert (mount / "f").read_bytes() == theirs


@pytest.mark.parametrize("size", [2, 6])
def test_truncate_of_what_others_replaced_cuts_their_bytes(mount, client, bucket, size):
    put(client, bucket, b"AAAA")
    assert (mount / "f").read_bytes() == b"AAAA"
    put(client, bucket, b"BBBB")
    os.truncate(mount / "f", size)
    assert (mount / "f").read_bytes() == b"BBBB\0\0"[:size] == body(client, bucket)


_PAGE = 4096  # what is written in whole pages the kernel hands out by itself


def _write(mount, fd):
    os.write(fd, b"A" * _PAGE)


def _copy(mount, fd):
    source = os.open(mount / "source", os.O_RDONLY)
    assert os.copy_file_range(source, fd, _PAGE) == _PAGE
    os.close(source)


@pytest.mark.parametrize("fill", [_write, _copy])
@pytest.mark.parametrize("changed", ["by chmod", "by nobody"])
@pytest.mark.parametrize("which", ["first", "second"])
def test_what_a_program_has_stored_is_what_it_goes_on_with_or_an_error(
    mount, client, bucket, fill, changed, which
):
    client.put_object(Bucket=bucket, Key="source", Body=b"A" * _PAGE)
    fd = os.open(mount / "f", os.O_CREAT | os.O_RDWR)
    fill(mount, fd)
    os.fsync(fd)
    if changed == "by chmod":
        os.fchmod(fd, 0o640)
    second = os.open(mount / "f", os.O_RDWR)
    if which == "second":
        assert os.pread(second, 4, 0) == b"AAAA"
    put(client, bucket, b"B" * 2 * _PAGE)
    (mount / ".sync").touch()
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        os.pwrite(second if which == "second" else fd, b"x", 1)
    os.close(fd)
    os.close(second)
    assert body(client, bucket) == b"B" * 2 * _PAGE
