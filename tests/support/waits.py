"""Calls that wait for S3, one of each kind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from support.proxy import Request


class Call(NamedTuple):
    waits: str  # for S3
    before: str = ""  # what its process has done before S3 falls silent


WRITTEN = "f = os.open('known/a', os.O_WRONLY); os.write(f, b'T')"
CALLS = {
    "stat": Call("os.stat('unlisted/a')"),
    "ls": Call("os.listdir('unlisted')"),
    "mkdir": Call("os.mkdir('known/new')"),
    "rmdir": Call("os.rmdir('known/empty')"),
    "rm": Call("os.unlink('known/a')"),
    "mv": Call("os.rename('known/a', 'known/b')"),
    "mv of a directory": Call("os.rename('known', 'moved')"),
    "chmod": Call("os.chmod('known/a', 0o600)"),
    "chown": Call("os.chown('known/a', os.getuid(), os.getgid())"),
    "utime": Call("os.utime('known/a', (1, 1))"),
    "ln -s": Call("os.symlink('a', 'known/l')"),
    "mkfifo": Call("os.mkfifo('known/p')"),
    "getxattr": Call("os.getxattr('known/a', 'user.mimicfs.acl')"),
    "setxattr": Call("os.setxattr('known/a', 'user.a', b'1')"),
    "removexattr": Call(
        "os.removexattr('known/a', 'user.a')", "os.setxattr('known/a', 'user.a', b'1')"
    ),
    "readlink": Call("os.readlink('known/link')"),
    "open": Call("open('known/a')"),
    "read": Call("os.read(f, 9)", "f = os.open('known/a', os.O_RDONLY)"),
    "write": Call("os.pwrite(f, b'T', 0)", "f = os.open('known/a', os.O_RDWR)"),
    "creat": Call("os.open('known/a', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)"),
    "append": Call(
        "os.close(f)", "f = os.open('known/a', os.O_APPEND | os.O_WRONLY); os.write(f, b'x')"
    ),
    "truncate": Call("os.truncate('known/a', 1)"),
    "fallocate": Call("os.posix_fallocate(f, 0, 99)", "f = os.open('known/a', os.O_RDWR)"),
    "copy_file_range": Call(
        "os.copy_file_range(f, t, 4)",
        "f = os.open('known/a', 0); t = os.open('known/t', os.O_WRONLY | os.O_CREAT)",
    ),
    "page fault": Call("m[0]", "import mmap; m = mmap.mmap(os.open('known/a', os.O_RDWR), 4)"),
    "msync": Call(
        "m.flush()", "import mmap; m = mmap.mmap(os.open('known/a', os.O_RDWR), 4); m[0] = 84"
    ),
    "touch .sync": Call("os.utime('.sync')"),
    "close": Call("os.close(f)", WRITTEN),
    "fsync": Call("os.fsync(f)", WRITTEN),
    "the end with open files": Call("os.kill(os.getpid(), SIGNAL)", WRITTEN),
}
KEYS = {"known/a": b"text", "known/link": b"a", "known/empty/": b"", "unlisted/a": b"text"}


def made(mount_at: Any, client: Any, bucket: str, calls: dict[str, Call] = CALLS) -> Path:
    """Return a mount in which the directory N is ready for the call with the number N."""
    for number, call in enumerate(calls.values()):
        for key, body in KEYS.items():
            if Path(key).parts[0] in call.waits or key in ("known/a", "known/link"):
                mode = {"mode": "41471"} if key == "known/link" else {}
                client.put_object(Bucket=bucket, Key=f"{number}/{key}", Body=body, Metadata=mode)
    here: Path = mount_at(f"s3://{bucket}", "-o", "consistency=open").path
    (here / "tried").mkdir()  # whether the server looks at conditions is known from now on
    for number in range(len(calls)):
        os.lstat(here / str(number) / "known/link")
    return here


def noted(numbers: set[int], request: Request) -> bool:
    """Note to which call *request* belongs."""
    key = request.key or request.query.get("prefix", [""])[0]
    if key:  # otherwise it names many keys, in its body
        numbers.add(int(key.partition("/")[0]))
    return True
