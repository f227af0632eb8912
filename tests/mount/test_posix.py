"""The effects of POSIX calls: the same on a mount as on tmpfs, call by call, for root and for
others.

Along what the directories of pjdfstest name. A case is a list of calls (support/syscalls.py),
run in an empty directory of each file system; every result must be equal: errnos, types, modes,
owners, sizes, targets, names, and whether a time moved.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import disks
from support.posix_cases import MORE

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[1] / "support" / "syscalls.py"
USER, OTHER = 65534, 65533
Call = list[Any]


def by(uid: int, *call: Any, groups: list[int] | None = None) -> Call:
    return ["as", uid, groups or [uid], list(call)]


def in_modes(*modes: int) -> list[Call]:
    return [call for mode in modes for call in (["chmod", "f", mode], ["stat", "f"])]


def everything_on(path: str) -> list[Call]:
    """Every call that takes a path, where it must fail."""
    return [
        ["lstat", path],
        ["chmod", path, 0o600],
        ["chown", path, 1, 1],
        ["lchown", path, 1, 1],
        ["truncate", path, 5],
        ["unlink", path],
        ["rmdir", path],
        ["mkdir", path, 0o755],
        ["mkfifo", path, 0o644],
        ["mknod", path, 0o100644],
        ["symlink", "x", path],
        ["readlink", path],
        ["rename", path, "elsewhere"],
        ["rename", "f", path],
        ["open", "a", path, ["O_RDONLY"]],
        ["open", "a", path, ["O_CREAT", "O_WRONLY"]],
        ["utime", path, 1, 1],
        ["listdir", path],
        ["getxattr", path, "user.a"],
    ]


TYPES: list[Call] = [
    ["create", "file"],
    ["mkdir", "dir", 0o755],
    ["mkfifo", "fifo", 0o644],
    ["bind", "socket"],
    ["symlink", "file", "link"],
    ["symlink", "nothing", "dangling"],
]
NAMES = ["file", "dir", "fifo", "socket", "link", "dangling"]

CASES: dict[str, list[Call]] = {
    "chmod": [["create", "f"], *in_modes(0, 0o777, 0o644, 0o1644, 0o111, 0o70, 0o7)],
    "chmod of a directory": [
        ["mkdir", "d", 0o755],
        *[call for mode in (0, 0o777, 0o1777, 0o700) for call in
          (["chmod", "d", mode], ["stat", "d"])],
    ],
    "chmod follows a link": [
        ["create", "f"], ["symlink", "f", "l"], ["chmod", "l", 0o600], ["stat", "f"],
        ["lstat", "l"],
    ],
    "chmod by its owner and by others": [
        ["chmod", ".", 0o777],
        by(USER, "create", "f"),
        by(USER, "chmod", "f", 0o600), by(OTHER, "chmod", "f", 0o644), ["stat", "f"],
        ["chown", "f", OTHER, OTHER], by(USER, "chmod", "f", 0o644), ["stat", "f"],
    ],
    "chmod of an open file": [
        ["open", "a", "f", ["O_CREAT", "O_WRONLY"]], ["write", "a", "12"],
        ["use", "a", "fchmod", 0o600], ["use", "a", "fstat"], ["close", "a"], ["stat", "f"],
    ],
    "chown": [
        ["create", "f"], ["chown", "f", 5, 6], ["stat", "f"], ["chown", "f", -1, 7], ["stat", "f"],
        ["chown", "f", 8, -1], ["stat", "f"], ["mkdir", "d", 0o755], ["chown", "d", 5, 6],
        ["stat", "d"], ["symlink", "f", "l"], ["lchown", "l", 1, 2], ["lstat", "l"], ["stat", "f"],
        ["chown", "l", 3, 4], ["lstat", "l"], ["stat", "f"],
    ],
    "chown by others": [
        ["chmod", ".", 0o777], by(USER, "create", "f"), by(USER, "chown", "f", OTHER, -1),
        by(USER, "chown", "f", -1, OTHER), by(USER, "chown", "f", -1, OTHER, groups=[USER, OTHER]),
        ["stat", "f"], by(OTHER, "chown", "f", OTHER, OTHER), ["stat", "f"],
    ],
    "who makes a file owns it": [
        ["chmod", ".", 0o777], by(USER, "create", "f"), by(USER, "mkdir", "d", 0o755),
        by(USER, "symlink", "f", "l"), by(USER, "mkfifo", "p", 0o644),
        *[["lstat", name] for name in "fdlp"],
    ],
    "umask": [
        ["umask", 0o77], ["create", "f", 0o777], ["mkdir", "d", 0o777], ["mkfifo", "p", 0o666],
        *[["stat", name] for name in "fdp"], ["umask", 0o22],
    ],
    "mkdir": [
        ["mkdir", "d", 0o755], ["mkdir", "d", 0o755], ["mkdir", "d/e", 0o700], ["stat", "d/e"],
        ["create", "f"], ["mkdir", "f", 0o755], ["mkdir", "f/x", 0o755], ["mkdir", "no/x", 0o755],
        ["symlink", "no", "l"], ["mkdir", "l", 0o755], ["listdir", "."],
    ],
    "rmdir": [
        ["mkdir", "d", 0o755], ["mkdir", "d/e", 0o755], ["rmdir", "d"], ["create", "d/e/f"],
        ["rmdir", "d/e"], ["unlink", "d/e/f"], ["rmdir", "d/e"], ["rmdir", "d"], ["rmdir", "d"],
        ["create", "f"], ["rmdir", "f"], ["mkfifo", "p", 0o644], ["rmdir", "p"],
        ["symlink", "f", "l"], ["rmdir", "l"], ["mkdir", "g", 0o755], ["rmdir", "g/."],
        ["rmdir", "g/.."], ["listdir", "."],
    ],
    "unlink": [
        *TYPES, *[["unlink", name] for name in NAMES], ["listdir", "."], ["unlink", "file"],
    ],
    "mkfifo": [
        ["mkfifo", "p", 0o640], ["stat", "p"], ["mkfifo", "p", 0o640], ["create", "f"],
        ["mkfifo", "f", 0o644], ["mkdir", "d", 0o755], ["mkfifo", "d", 0o644],
        ["chmod", "p", 0o600], ["chown", "p", 5, 6], ["stat", "p"], ["rename", "p", "q"],
        ["stat", "q"],
    ],
    "mknod of a file": [
        ["mknod", "f", 0o100640], ["stat", "f"], ["mknod", "f", 0o100640], ["read", "f"],
    ],
    "types are kept": [*TYPES, *[["lstat", name] for name in NAMES], ["listdir", "."]],
    "symlink": [
        ["symlink", "target", "l"], ["readlink", "l"], ["lstat", "l"], ["stat", "l"],
        ["symlink", "x", "l"], ["create", "target", 0o644, "text"], ["read", "l"], ["stat", "l"],
        ["open", "a", "l", ["O_WRONLY", "O_TRUNC"]], ["close", "a"], ["stat", "target"],
        ["open", "a", "l", ["O_RDONLY", "O_NOFOLLOW"]], ["readlink", "target"],
        ["symlink", "../" * 20 + "x", "far"], ["readlink", "far"], ["symlink", "", "empty"],
        ["rename", "l", "m"], ["readlink", "m"], ["unlink", "m"], ["stat", "target"],
        ["symlink", "t" * 4095, "long"], ["readlink", "long"], ["symlink", "t" * 4096, "longer"],
    ],
    "links to directories": [
        ["mkdir", "d", 0o755], ["symlink", "d", "l"], ["create", "l/f"], ["listdir", "d"],
        ["listdir", "l"], ["stat", "l"], ["lstat", "l"], ["rename", "l/f", "g"], ["listdir", "d"],
    ],
    "links in a circle": [
        ["symlink", "b", "a"], ["symlink", "a", "b"], ["stat", "a"], ["lstat", "a"],
        ["chmod", "a", 0o600], ["open", "x", "a", ["O_RDONLY"]], ["mkdir", "a/x", 0o755],
        ["create", "a/f"], ["truncate", "a", 1], ["unlink", "a/b"], ["unlink", "a"],
    ],
    "open": [
        ["open", "a", "f", ["O_RDONLY"]],
        ["open", "a", "f", ["O_CREAT", "O_EXCL", "O_RDWR"], 0o640],
        ["write", "a", "text"], ["close", "a"], ["stat", "f"], ["read", "f"],
        ["open", "a", "f", ["O_CREAT", "O_EXCL", "O_RDWR"]],
        ["open", "a", "f", ["O_WRONLY", "O_TRUNC"]],
        ["close", "a"], ["stat", "f"], ["mkdir", "d", 0o755], ["open", "a", "d", ["O_WRONLY"]],
        ["open", "a", "d", ["O_RDONLY", "O_TRUNC"]],
        ["open", "a", "f", ["O_RDONLY", "O_DIRECTORY"]],
        ["open", "a", "f/x", ["O_RDONLY"]], ["symlink", "no", "l"],
        ["open", "a", "l", ["O_CREAT", "O_EXCL", "O_WRONLY"]],
        ["open", "a", "l", ["O_CREAT", "O_WRONLY"]], ["close", "a"], ["stat", "no"],
    ],
    "a file without permissions can be written by who made it": [
        ["chmod", ".", 0o777],
        by(USER, "open", "a", "f", ["O_CREAT", "O_EXCL", "O_RDWR"], 0), ["write", "a", "text"],
        ["close", "a"], ["stat", "f"], by(USER, "open", "a", "f", ["O_RDONLY"]),
    ],
    "append": [
        ["create", "f", 0o644, "one"], ["open", "a", "f", ["O_WRONLY", "O_APPEND"]],
        ["open", "b", "f", ["O_WRONLY", "O_APPEND"]], ["write", "a", "two"],
        ["write", "b", "three"], ["write", "a", "four"], ["close", "a"], ["close", "b"],
        ["read", "f"], ["stat", "f"],
    ],
    "permissions of a file": [
        ["chmod", ".", 0o777], ["create", "f", 0o644, "x"], ["chown", "f", USER, USER],
        *[call for mode in (0o600, 0o060, 0o006, 0o400, 0o200, 0o000)
          for call in [["chmod", "f", mode],
                       *[by(uid, "open", "a", "f", flags) for uid in (USER, OTHER)
                         for flags in (["O_RDONLY"], ["O_WRONLY"], ["O_RDWR"])]]],
    ],
    "permissions of a directory": [
        ["mkdir", "d", 0o755], ["create", "d/f", 0o666], ["chown", "d", USER, USER],
        *[call for mode in (0o700, 0o500, 0o300, 0o100, 0o000)
          for call in [["chmod", "d", mode], by(USER, "listdir", "d"), by(USER, "stat", "d/f"),
                       by(USER, "create", "d/g"), by(USER, "unlink", "d/g"),
                       by(OTHER, "listdir", "d"), by(OTHER, "stat", "d/f")]],
    ],
    "the sticky bit": [
        ["chmod", ".", 0o1777], by(USER, "create", "f"), by(OTHER, "unlink", "f"),
        by(OTHER, "rename", "f", "g"), by(OTHER, "create", "h"), by(OTHER, "rename", "h", "f"),
        by(USER, "unlink", "f"), by(OTHER, "unlink", "h"), ["listdir", "."],
    ],
    "truncate": [
        ["create", "f", 0o644, "0123456789"], ["truncate", "f", 4], ["read", "f"],
        ["truncate", "f", 6], ["read", "f"], ["stat", "f"], ["truncate", "f", 0], ["stat", "f"],
        ["truncate", "f", -1], ["mkdir", "d", 0o755], ["truncate", "d", 0], ["truncate", "no", 0],
        ["chmod", ".", 0o777], ["chmod", "f", 0o644], by(USER, "truncate", "f", 1),
        ["symlink", "f", "l"], ["truncate", "l", 3], ["stat", "f"],
    ],
    "ftruncate": [
        ["open", "a", "f", ["O_CREAT", "O_RDWR"]], ["write", "a", "0123456789"],
        ["use", "a", "ftruncate", 4], ["use", "a", "fstat"], ["use", "a", "ftruncate", 8],
        ["close", "a"], ["read", "f"], ["open", "a", "f", ["O_RDONLY"]],
        ["use", "a", "ftruncate", 1], ["close", "a"],
    ],
    "posix_fallocate": [
        ["open", "a", "f", ["O_CREAT", "O_RDWR"]], ["use", "a", "posix_fallocate", 0, 100],
        ["use", "a", "fstat"], ["use", "a", "posix_fallocate", 50, 10], ["use", "a", "fstat"],
        ["use", "a", "posix_fallocate", 0, 0], ["close", "a"], ["stat", "f"],
    ],
    "rename of files": [
        ["create", "a", 0o640, "a"], ["rename", "a", "b"], ["lstat", "a"], ["stat", "b"],
        ["create", "c", 0o600, "cc"], ["rename", "b", "c"], ["read", "c"], ["stat", "c"],
        ["mkdir", "d", 0o755], ["rename", "c", "d"], ["rename", "c", "d/c"], ["listdir", "d"],
        ["rename", "d", "f"], ["listdir", "f"], ["create", "g"], ["rename", "f", "g"],
        ["rename", "no", "x"], ["rename", "g", "no/x"], ["rename", "g", "g/x"],
        ["rename", "g", "g"], ["listdir", "."],
    ],
    "rename of directories": [
        ["mkdir", "a", 0o750], ["mkdir", "a/b", 0o755], ["create", "a/b/f", 0o644, "text"],
        ["rename", "a", "a/b/c"], ["rename", "a", "a"], ["mkdir", "empty", 0o755],
        ["rename", "a", "empty"], ["stat", "empty"], ["read", "empty/b/f"],
        ["mkdir", "full", 0o755], ["create", "full/x"], ["rename", "empty", "full"],
        ["rename", "full", "empty/b"], ["rename", "empty/.", "x"], ["rename", "full/..", "x"],
        ["listdir", "."],
    ],
    "rename of other types": [
        *TYPES, *[["rename", name, f"{name}2"] for name in NAMES],
        *[["lstat", f"{name}2"] for name in NAMES], ["readlink", "link2"],
        ["rename", "fifo2", "file2"], ["lstat", "file2"], ["rename", "link2", "socket2"],
        ["lstat", "socket2"], ["listdir", "."],
    ],
    "rename that must not replace": [
        ["create", "a"], ["create", "b"], ["rename2", "a", "b", 1], ["rename2", "a", "c", 1],
        ["listdir", "."],
    ],
    "utimensat": [
        ["create", "f"], ["utime", "f", 1_500_000_000_123_456_789, 1_600_000_000_987_654_321],
        ["times_of", "f"], ["chmod", "f", 0o600], ["times_of", "f"], ["mkdir", "d", 0o755],
        ["utime", "d", 1, 5_000_000_000], ["times_of", "d"], ["symlink", "f", "l"],
        ["utime", "l", 7, 8], ["times_of", "l"], ["times_of", "f"], ["rename", "f", "g"],
        ["times_of", "g"], ["utime", "no", 1, 1], ["chmod", ".", 0o777],
        by(USER, "utime", "g", 1, 1), by(USER, "touch", "g"), ["chmod", "g", 0o666],
        by(USER, "utime", "g", 1, 1), by(USER, "touch", "g"),
    ],
    "times before 1970": [["create", "f"], ["utime", "f", -5, -6], ["times_of", "f"]],
    "times move": [
        ["create", "f"], ["note", "."], ["create", "g"], ["moved", "."], ["note", "."],
        ["mkdir", "d", 0o755], ["moved", "."], ["note", "."], ["unlink", "g"], ["moved", "."],
        ["note", "."], ["rename", "f", "h"], ["moved", "."], ["note", "."], ["rmdir", "d"],
        ["moved", "."], ["note", "."], ["symlink", "x", "l"], ["moved", "."], ["note", "."],
        ["mkfifo", "p", 0o644], ["moved", "."], ["note", "h"], ["truncate", "h", 3], ["moved", "h"],
        ["note", "h"], ["chmod", "h", 0o600], ["moved", "h"], ["note", "."], ["chmod", "h", 0o644],
        ["moved", "."], ["note", "h"], ["open", "a", "h", ["O_WRONLY"]], ["write", "a", "x"],
        ["close", "a"], ["moved", "h"],
    ],
    "extended attributes": [
        ["create", "f"], ["listxattr", "f"], ["getxattr", "f", "user.a"],
        ["setxattr", "f", "user.a", "1"], ["getxattr", "f", "user.a"], ["listxattr", "f"],
        ["setxattr", "f", "user.", "1"],
        ["setxattr", "f", "user.a", "2", 1], ["setxattr", "f", "user.b", "2", 2],
        ["setxattr", "f", "user.a", "22", 2], ["getxattr", "f", "user.a"],
        ["setxattr", "f", "user.b", "", 1], ["getxattr", "f", "user.b"],
        ["chmod", "f", 0o600], ["rename", "f", "g"], ["getxattr", "g", "user.a"],
        ["removexattr", "g", "user.a"], ["removexattr", "g", "user.a"], ["listxattr", "g"],
        ["mkdir", "d", 0o755], ["setxattr", "d", "user.a", "dir"], ["getxattr", "d", "user.a"],
        ["setxattr", "no", "user.a", "1"],
    ],
    "extended attributes of an open file": [
        ["open", "a", "f", ["O_CREAT", "O_WRONLY"]], ["write", "a", "12"],
        ["setxattr", "f", "user.a", "1"], ["getxattr", "f", "user.a"], ["close", "a"],
        ["getxattr", "f", "user.a"], ["read", "f"],
    ],
    "what is unlinked while it is open": [
        ["open", "a", "f", ["O_CREAT", "O_RDWR"]], ["write", "a", "text"], ["unlink", "f"],
        ["lstat", "f"], ["use", "a", "fstat"], ["write", "a", "more"], ["use", "a", "fstat"],
        ["create", "f", 0o600, "new"], ["use", "a", "fstat"], ["close", "a"], ["read", "f"],
    ],
    "a directory that is removed while it is open": [
        ["mkdir", "d", 0o750], ["open", "a", "d", ["O_RDONLY", "O_DIRECTORY"]], ["rmdir", "d"],
        ["use", "a", "fstat"], ["use", "a", "fchmod", 0o711], ["use", "a", "fchown", 7, 8],
        ["use", "a", "fstat"], ["use", "a", "listdir"], ["mkdir", "d", 0o755], ["stat", "d"],
        ["use", "a", "fstat"], ["close", "a"], ["stat", "."],
    ],
    "a directory that is replaced while it is open": [
        ["mkdir", "d", 0o750], ["mkdir", "e", 0o700], ["open", "a", "d", ["O_RDONLY"]],
        ["rename", "e", "d"], ["use", "a", "fchmod", 0o711], ["use", "a", "fstat"], ["stat", "d"],
        ["close", "a"],
    ],
    "an owner that stays": [
        ["create", "f", 0o755], ["stat", "f"], ["chmod", ".", 0o777],
        by(USER, "chown", "f", -1, -1), ["stat", "f"], ["mkdir", "d", 0o6755],
        by(USER, "chown", "d", -1, -1), ["stat", "d"],
    ],
    "a path through a file": [["create", "f"], *everything_on("f/x")],
    "a path through nothing": [["create", "f"], *everything_on("no/x")],
    "nothing": [["create", "f"], *[
        call for call in everything_on("no")
        if call[0] in ("lstat", "chmod", "chown", "lchown", "truncate", "unlink", "rmdir",
                       "readlink", "utime", "listdir", "getxattr")
    ]],
    "a path through a circle of links": [
        ["create", "f"], ["symlink", "y", "x"], ["symlink", "x", "y"], *everything_on("x/z"),
    ],
    "a path longer than PATH_MAX": [["create", "f"], *everything_on("a/" * 2048 + "b")],
    "a directory that others may not search": [
        ["chmod", ".", 0o755], ["mkdir", "d", 0o700], ["create", "d/f"], ["create", "f"],
        *[by(USER, *call) for call in everything_on("d/f")], ["listdir", "."], ["listdir", "d"],
    ],
    "a directory that others may not write": [
        ["chmod", ".", 0o755], ["mkdir", "d", 0o755], ["create", "d/f", 0o666], ["create", "f"],
        *[by(USER, *call) for call in everything_on("d/f") if call[0] != "listdir"],
        ["listdir", "."], ["listdir", "d"],
    ],
}  # fmt: skip


@pytest.fixture(scope="module", params=["moto"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def shared(mount_at: Any, bucket: str) -> Path:
    """A mount that others may use, too."""
    path: Path = mount_at(f"s3://{bucket}", "-o", "allow_other,suid,dev").path
    (path / ".sync").touch()
    return path


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs that has extended attributes."""
    with disks.small_disk(tmp_path / "tmpfs", "8m", mode="1777") as path:
        yield path


def results(directory: Path, cases: list[list[Call]]) -> list[list[Any]]:
    words = [sys.executable, str(PROGRAM), str(directory)]
    done = subprocess.run(
        words, input=json.dumps(cases), capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    found: list[list[Any]] = json.loads(done.stdout)
    return found


def test_calls_do_what_they_do_on_tmpfs(shared: Path, memory: Path) -> None:
    for path in (shared, memory):
        for above in path.parents:
            if above.owner() == "root" and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
        path.chmod(0o755) if path is memory else None
    differ: list[str] = []
    every = CASES | MORE
    cases = list(every.values())
    with ThreadPoolExecutor() as pool:  # each sleeps now and then
        both = pool.map(lambda path: results(path, cases), (memory, shared))
    for (name, calls), want, found in zip(every.items(), *both, strict=True):
        differ += [
            f"{name}: {call}: {there} on tmpfs, {here} here"
            for call, there, here in zip(calls, want, found, strict=True)
            if there != here
        ]
    assert "\n".join(differ) == ""
