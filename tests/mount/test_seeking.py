"""Places in a directory, as getdents(2) hands them out and lseek(2) takes them."""

from __future__ import annotations

import ctypes
import os
import platform
import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounts import let_others_in

_GETDENTS64 = {"x86_64": 217, "aarch64": 61}[platform.machine()]
_HEAD = struct.Struct("=QqHB")


def names_at(fd: int, size: int = 400) -> list[tuple[str, int]]:
    """Return the next names, and the place behind each; [] at the end."""
    room = ctypes.create_string_buffer(size)
    count = ctypes.CDLL(None, use_errno=True).syscall(_GETDENTS64, fd, room, size)
    assert count >= 0, os.strerror(ctypes.get_errno())
    found, at = [], 0
    while at < count:
        _, place, length, _ = _HEAD.unpack_from(room, at)
        name = ctypes.string_at(ctypes.byref(room, at + _HEAD.size)).decode()
        found.append((name, place))
        at += length
    return found


def all_from(fd: int) -> list[str]:
    found = []
    while more := names_at(fd):
        found += [name for name, _ in more]
    return found


@pytest.fixture
def directory(mount: Path) -> Iterator[int]:
    (mount / "d").mkdir()
    for number in range(40):
        (mount / f"d/f{number:02}").touch()
    fd = os.open(mount / "d", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_place_is_where_it_was_however_often_it_is_gone_to(directory: int) -> None:
    places, place = [], 0
    while more := names_at(directory, 64):
        places.append((place, more[0][0]))
        place = more[0][1]
        os.lseek(directory, place, os.SEEK_SET)
    assert len(places) == 42
    random.Random(1).shuffle(places)
    for place, name in places:
        os.lseek(directory, place, os.SEEK_SET)
        assert names_at(directory, 64)[0][0] == name


def test_a_place_that_nobody_handed_out_is_one_of_the_directory_before_its_end(
    directory: int,
) -> None:
    places = []
    while more := names_at(directory):
        places += [place for _, place in more]
    last = places[-2]  # behind it there is one name more
    chosen = random.Random(1)
    for _ in range(50):
        os.lseek(directory, chosen.randrange(last), os.SEEK_SET)
        assert names_at(directory) != []


def test_a_place_that_somebody_made_up_shows_no_name_of_another_directory(
    mount: Path, directory: int
) -> None:
    (mount / "mine").mkdir()
    names_at(directory)
    own = os.open(mount / "mine", os.O_RDONLY | os.O_DIRECTORY)
    shown = set()
    for number in range(64):
        for place in (number + 2, number << 32, (number << 32) + 2, 1 << 30 | number):
            os.lseek(own, place, os.SEEK_SET)
            shown |= {name for name, _ in names_at(own)}
    os.close(own)
    assert shown <= {".", ".."}


def test_what_stays_while_others_go_between_two_reads_is_shown_once(
    mount: Path, directory: int
) -> None:
    shown = [name for name, _ in names_at(directory)]
    for number in range(0, 40, 2):
        os.remove(mount / f"d/f{number:02}")
    (mount / "d/f99").touch()
    shown += all_from(directory)
    stayed = [name for name in shown if name.startswith("f") and int(name[1:]) % 2]
    assert stayed == [*(f"f{number:02}" for number in range(1, 40, 2)), "f99"]
    assert len(shown) == len(set(shown))


# What another user does: goes back to places of its own, while its owner lists the directory, too.
READER = """
import ctypes, os, random, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.readdir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
libc.telldir.restype = ctypes.c_long
directory = libc.opendir(sys.argv[1].encode())
def name():
    entry = libc.readdir(directory)
    return ctypes.string_at(entry + 19).decode() if entry else None
places, place = [], libc.telldir(directory)
while (found := name()) is not None:
    places.append((place, found))
    place = libc.telldir(directory)
random.Random(1).shuffle(places)
wrong = []
for place, wanted in places:
    libc.seekdir(directory, place)
    if (found := name()) != wanted:
        wrong.append((wanted, found))
print(len(places), wrong, os.getuid())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run a program as another user")
def test_another_user_goes_back_to_the_places_that_it_got(mount_at, bucket: str) -> None:
    path = mount_at(f"s3://{bucket}", "-o", "allow_other").path
    (path / "d").mkdir(mode=0o755)
    for number in range(300):
        (path / f"d/f{number:03}").touch()
    let_others_in(path.parent)
    words = ["/usr/bin/python3", "-c", READER, str(path / "d")]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words]
    with subprocess.Popen(nobody, stdout=subprocess.PIPE, text=True, cwd="/") as reader:
        assert sorted(os.listdir(path / "d")) == [f"f{number:03}" for number in range(300)]
        said, _ = reader.communicate(timeout=60)
    assert said == "302 [] 65534\n"
