"""What the directories of pjdfstest ask of each call, made for each type of file by turns: which
errnos, who may, which times move. Cases of calls (syscalls.py), to be compared between two file
systems."""

from __future__ import annotations

import os
from typing import Any

Call = Any  # a list: a name, then what it is called with

USER, OTHER = 65534, 65533
NULL = os.makedev(1, 3)
DISK = os.makedev(7, 99)

# How a file of each type is made: the call, and what comes behind its path.
MAKE: dict[str, Call] = {
    "file": ["create"],
    "dir": ["mkdir"],
    "fifo": ["mkfifo"],
    "char": ["mknod", 0o020644, NULL],
    "block": ["mknod", 0o060644, DISK],
    "socket": ["bind"],
    "link": ["symlink"],
}


def make(kind: str, path: str, mode: int = 0o644) -> Call:
    """The call that makes *path* of type *kind*."""
    if kind == "link":
        return ["symlink", "target", path]
    name, *more = MAKE[kind]
    if kind == "socket":
        return [name, path]
    return [name, path, *(more or [mode])]


def as_user(*call: Any, groups: list[int] | None = None) -> Call:
    return ["as", USER, groups or [USER], list(call)]


def as_other(*call: Any) -> Call:
    return ["as", OTHER, [OTHER], list(call)]


def moving(path: str, *calls: Call, wait_s: float = 0.012) -> list[Call]:
    """The calls, and whether they moved the times of *path*."""
    return [["note", path, wait_s], *calls, ["moved", path]]


NOT_LINKS = [kind for kind in MAKE if kind != "link"]  # of a link nobody changes the mode


def chmod() -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for kind in NOT_LINKS:
        found[f"chmod: {kind}"] = [
            make(kind, "f"),
            *moving("f", ["chmod", "f", 0o111]),
            ["lstat", "f"],
            ["chown", "f", USER, USER],
            *moving("f", as_user("chmod", "f", 0o222)),
            ["lstat", "f"],
            *moving("f", as_other("chmod", "f", 0o333)),
            ["lstat", "f"],
        ]
    found["chmod: set-id bits and sticky"] = [
        ["create", "f"],
        ["mkdir", "d", 0o755],
        *[call for mode in (0o4755, 0o2755, 0o6755, 0o1755, 0o7777) for name in "fd"
          for call in (["chmod", name, mode], ["stat", name])],
    ]  # fmt: skip
    found["chmod: who is not in the group cannot set its bit"] = [
        ["create", "f"],
        ["chown", "f", USER, OTHER],
        as_user("chmod", "f", 0o2755),
        ["stat", "f"],
        as_user("chmod", "f", 0o2755, groups=[USER, OTHER]),
        ["stat", "f"],
    ]
    found["chmod: a write by others drops set-id bits"] = [
        ["create", "f", 0o777, "text"],
        ["chmod", "f", 0o6777],
        ["chown", "f", OTHER, OTHER],
        ["chmod", "f", 0o6777],
        as_user("open", "a", "f", ["O_WRONLY"]),
        as_user("write", "a", "x"),
        ["close", "a"],
        ["stat", "f"],
        ["chmod", "f", 0o6777],
        as_user("truncate", "f", 1),
        ["stat", "f"],
    ]
    return found


def chown() -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for kind in MAKE:
        found[f"chown: {kind}"] = [
            make(kind, "f"),
            *moving("f", ["lchown", "f", 123, 456]),
            ["lstat", "f"],
            ["lchown", "f", USER, USER],
            *moving("f", as_user("lchown", "f", -1, OTHER, groups=[USER, OTHER])),
            ["lstat", "f"],
            *moving("f", as_user("lchown", "f", OTHER, -1)),
            *moving("f", as_other("lchown", "f", OTHER, OTHER)),
            ["lstat", "f"],
            ["lchown", "f", -1, -1],
            ["lstat", "f"],
        ]
    found["chown: set-id bits are dropped"] = [
        ["create", "f", 0o755],
        ["chmod", "f", 0o6755],
        ["chown", "f", USER, OTHER],
        ["stat", "f"],
        ["chmod", "f", 0o6755],
        as_user("chown", "f", -1, OTHER, groups=[USER, OTHER]),
        ["stat", "f"],
        ["mkdir", "d", 0o755],
        ["chmod", "d", 0o6755],
        ["chown", "d", USER, OTHER],
        ["stat", "d"],
    ]
    return found


def made() -> dict[str, list[Call]]:
    """mkdir, mkfifo, mknod, symlink, open with O_CREAT: owner, mode, times of the directory, what
    is in the way, who may."""
    found: dict[str, list[Call]] = {}
    for kind in MAKE:
        found[f"making: {kind}"] = [
            *moving(".", make(kind, "f")),
            ["lstat", "f"],
            *[["umask", 0o77], make(kind, "g", 0o777), ["umask", 0o22], ["lstat", "g"]],
            *moving(".", make(kind, "f")),
            *[call for other in MAKE for call in (make(other, other), make(kind, other))],
            ["chmod", ".", 0o755],
            as_user(*make(kind, "u")),
            ["chmod", ".", 0o777],
            as_user(*make(kind, "u")),
            ["lstat", "u"],
            ["listdir", "."],
            make(kind, "file/x"),
            make(kind, "no/x"),
            make(kind, "k" * 1100),
        ]
    found["making: in a directory with the set-group-id bit"] = [
        ["chown", ".", 0, OTHER],
        ["chmod", ".", 0o2777],
        as_user("create", "f"),
        as_user("mkdir", "d", 0o755),
        as_user("symlink", "x", "l"),
        *[["lstat", name] for name in "fdl"],
    ]
    return found


def removed() -> dict[str, list[Call]]:
    """unlink, rmdir and rename: times, the sticky bit, who may."""
    found: dict[str, list[Call]] = {}
    for kind in MAKE:
        remove = "rmdir" if kind == "dir" else "unlink"
        wrong = "unlink" if kind == "dir" else "rmdir"
        found[f"removing: {kind}"] = [
            make(kind, "f"),
            [wrong, "f"],
            *moving(".", [remove, "f"]),
            ["lstat", "f"],
            [remove, "f"],
            make(kind, "f"),
            ["chmod", ".", 0o755],
            as_user(remove, "f"),
            ["chmod", ".", 0o1777],
            as_user(remove, "f"),
            ["lchown", "f", USER, USER],
            as_user(remove, "f"),
            make(kind, "f"),
            ["chown", ".", USER, USER],
            as_user(remove, "f"),
            ["listdir", "."],
        ]
        found[f"renaming: {kind}"] = [
            make(kind, "f"),
            ["mkdir", "d", 0o755],
            *moving("f", ["chmod", ".", 0o755]),
            *moving(".", ["rename", "f", "g"]),
            ["lstat", "g"],
            *moving("d", ["rename", "g", "d/f"]),
            *moving("d", ["rename", "d/f", "g"]),
            *[["rename", "g", path] for path in ("no/x", "d/" + "k" * 1100)],
            as_user("rename", "g", "h"),
            ["chmod", ".", 0o1777],
            as_user("rename", "g", "h"),
            ["lchown", "g", USER, USER],
            as_user("rename", "g", "h"),
            ["create", "mine"],
            as_user("rename", "h", "mine"),
            ["chmod", "d", 0o1777],
            as_user("rename", "h", "d/h"),
            as_other("rename", "d/h", "h"),
            ["listdir", "."],
            ["listdir", "d"],
        ]
        found[f"renaming over a {kind}"] = [
            *[call for other in MAKE
              for call in (make(other, "f"), make(kind, "g"), ["rename", "f", "g"], ["lstat", "f"],
                           ["lstat", "g"], ["unlink", "f"], ["rmdir", "f"], ["unlink", "g"],
                           ["rmdir", "g"])],
        ]  # fmt: skip
    return found


def opened() -> dict[str, list[Call]]:
    return {
        "open: times": [
            *moving(".", ["open", "a", "f", ["O_CREAT", "O_WRONLY"]], ["close", "a"]),
            *moving(".", ["open", "a", "f", ["O_CREAT", "O_WRONLY"]], ["close", "a"]),
            *moving("f", ["open", "a", "f", ["O_RDONLY"]], ["close", "a"]),
            ["open", "a", "f", ["O_WRONLY"]],
            ["write", "a", "text"],
            ["close", "a"],
            *moving("f", ["open", "a", "f", ["O_WRONLY", "O_TRUNC"]], ["close", "a"]),
            *moving("f", ["truncate", "f", 100]),
            *moving("f", ["open", "a", "f", ["O_RDWR"]], ["use", "a", "ftruncate", 50]),
            *moving("f", ["use", "a", "posix_fallocate", 0, 200]),
            *moving("f", ["setxattr", "f", "user.a", "1"]),
            *moving("f", ["utime", "f", 1, 2]),
        ],
        "open: who may": [
            ["chmod", ".", 0o777],
            *[call for mode in (0o600, 0o400, 0o200, 0o100, 0o060, 0o006, 0o000)
              for call in (
                  ["create", "f", mode], ["chmod", "f", mode], ["chown", "f", USER, OTHER],
                  *[by("open", "a", "f", flags) for by in (as_user, as_other)
                    for flags in (["O_RDONLY"], ["O_WRONLY"], ["O_RDWR"], ["O_RDONLY", "O_TRUNC"],
                                  ["O_WRONLY", "O_TRUNC"], ["O_WRONLY", "O_APPEND"])],
                  ["unlink", "f"])],
        ],
        "open: of what is no file": [
            *[make(kind, kind) for kind in MAKE if kind != "file"],
            ["open", "a", "fifo", ["O_WRONLY", "O_NONBLOCK"]],
            ["open", "a", "fifo", ["O_RDONLY", "O_NONBLOCK"]],
            ["open", "a", "socket", ["O_RDONLY"]],
            ["open", "a", "block", ["O_RDONLY"]],
            ["open", "a", "char", ["O_RDWR"]],
            *[["open", "a", "dir", flags] for flags in (["O_RDONLY"], ["O_WRONLY"], ["O_RDWR"],
              ["O_CREAT"], ["O_RDONLY", "O_DIRECTORY"])],
            *[["open", "a", kind, ["O_CREAT", "O_EXCL"]] for kind in MAKE if kind != "file"],
        ],
        "open: a program that runs": [
            ["copy", "/bin/sleep", "program"],
            ["chmod", "program", 0o755],
            ["start", "program", "60"],
            ["open", "a", "program", ["O_WRONLY"]],
            ["open", "a", "program", ["O_RDWR", "O_TRUNC"]],
            ["truncate", "program", 0],
            ["stop"],
            ["truncate", "program", 5],
            ["stat", "program"],
        ],
    }  # fmt: skip


def timed() -> dict[str, list[Call]]:
    """utimensat."""
    return {
        "utimensat: now, and as it is": [
            ["create", "f"],
            ["utime", "f", 1_000_000_000, 2_000_000_000],
            ["now_or_omit", "f", "omit", "omit"],
            ["times_of", "f"],
            *moving("f", ["now_or_omit", "f", "omit", "now"]),
            *moving("f", ["now_or_omit", "f", "now", "omit"]),
        ],
        "utimensat: far from now": [
            ["create", "f"],
            *[call for at in (-(10**9) * 86400 * 365, -1, 0, 2**31 * 10**9, 2**33 * 10**9 + 7)
              for call in (["utime", "f", at, at], ["times_of", "f"])],
        ],
        "utimensat: who may": [
            ["create", "f", 0o644],
            as_user("utime", "f", 1, 1), as_user("touch", "f"),
            as_user("now_or_omit", "f", "omit", "omit"), as_user("now_or_omit", "f", "now", "omit"),
            ["chmod", "f", 0o666],
            as_user("utime", "f", 1, 1), as_user("touch", "f"),
            as_user("now_or_omit", "f", "now", "omit"),
            ["chown", "f", USER, USER], ["chmod", "f", 0o444],
            as_user("utime", "f", 1, 1), as_user("touch", "f"),
        ],
        **{f"utimensat: {kind}": [
            make(kind, "f"), *moving("f", ["utime", "f", 3, 4]), ["times_of", "f"],
            ["lchown", "f", USER, USER], as_user("utime", "f", 5, 6), ["times_of", "f"],
        ] for kind in MAKE},
    }  # fmt: skip


def through() -> dict[str, list[Call]]:
    """Paths that lead through what they cannot: each call, each type."""
    cases: dict[str, list[Call]] = {}
    for kind in MAKE:
        if kind == "dir":
            continue
        calls = [
            ["lstat", "f/x"], ["chmod", "f/x", 0o600], ["lchown", "f/x", 1, 1],
            ["truncate", "f/x", 5], ["unlink", "f/x"], ["rmdir", "f/x"], ["rename", "f/x", "y"],
            ["rename", "g", "f/x"], ["open", "a", "f/x", ["O_CREAT"]], ["utime", "f/x", 1, 1],
            *[make(other, "f/x") for other in MAKE],
        ]  # fmt: skip
        cases[f"a path through a {kind}"] = [make(kind, "f"), ["create", "g"], *calls]
    deep = "/".join(["d" * 50] * 18)
    cases["truncate and friends of what is wrong"] = [
        ["create", "f", 0o644, "text"], ["truncate", "f", -1], ["truncate", ".", 0],
        ["truncate", "k" * 1100, 0], ["open", "a", "f", ["O_RDONLY"]],
        ["use", "a", "ftruncate", 1], ["use", "a", "posix_fallocate", 0, 10],
        ["mkfifo", "p", 0o644], ["truncate", "p", 0], ["rmdir", "."], ["rmdir", ".."],
        ["unlink", "."], ["rename", ".", "x"], ["rename", "f", "."], ["mkdir", ".", 0o755],
        ["mkdir", "..", 0o755], ["symlink", "x", "."], ["mkdirs", deep], ["listdir", deep],
    ]  # fmt: skip
    return cases


def unlinked() -> dict[str, list[Call]]:
    return {
        "a directory that is removed while it is open": [
            ["mkdir", "d", 0o755],
            ["open", "a", "d", ["O_RDONLY"]],
            ["rmdir", "d"],
            ["use", "a", "listdir"],
            ["lstat", "d"],
        ],
        "renaming moves the ctime of what is renamed": [
            ["create", "f"],
            ["note", "f", 1.1],  # S3 knows whole seconds
            ["rename", "f", "g"],
            ["moved", "f", "g"],
        ],
    }


MORE: dict[str, list[Call]] = {
    **chmod(),
    **chown(),
    **made(),
    **removed(),
    **opened(),
    **timed(),
    **through(),
    **unlinked(),
}
