"""Nobody waits who wants to go: a killed caller ends within a second (F13)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.mounts import wait_until
from support.proxy import Drop, Proxy

from mimicfs.fuse.killed import _is_killed

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

WRITE = "f = os.open('known/a', os.O_WRONLY); os.write(f, b'T')"
CALLS = {
    "mkdir": "os.mkdir('known/new')",
    "rmdir": "os.rmdir('known/empty')",
    "rm": "os.unlink('known/a')",
    "mv": "os.rename('known/a', 'known/b')",
    "mv of a directory": "os.rename('known', 'moved')",
    "chmod": "os.chmod('known/a', 0o600)",
    "utime": "os.utime('known/a', (1, 1))",
    "ln -s": "os.symlink('a', 'known/l')",
    "mkfifo": "os.mkfifo('known/p')",
    "setxattr": "os.setxattr('known/a', 'user.a', b'1')",
    "readlink": "os.readlink('known/link')",
    "read": "open('known/a').read()",
    "append": "open('known/a', 'a').write('x')",
    "truncate": "os.truncate('known/a', 1)",
    "touch .sync": "os.utime('.sync')",
    "close": f"{WRITE}; os.close(f)",
    "fsync": f"{WRITE}; os.fsync(f)",
    "the end with open files": f"{WRITE}; os.kill(os.getpid(), 9)",
}


def test_a_killed_caller_ends_within_a_second(
    mount: Path, client: Any, bucket: str, proxy: Proxy
) -> None:
    slow = []
    for number, (name, call) in enumerate(CALLS.items()):
        for key in ("known/a", "known/empty/", "unlisted/a"):
            body = b"" if key.endswith("/") else b"text"
            client.put_object(Bucket=bucket, Key=f"{number}/{key}", Body=body)
        link = {"mode": "41471"}
        client.put_object(Bucket=bucket, Key=f"{number}/known/link", Body=b"a", Metadata=link)
        (mount / ".sync").touch()
        here = mount / str(number)
        client.put_object(Bucket=bucket, Key=f"{number}/unlisted/late", Body=b"")
        os.lstat(here / "known/link")
        os.stat(here / "known/a")
        if took_s(here, call, proxy) >= 1:
            slow.append(name)
        if call.startswith(WRITE):  # what it had written is not lost
            wait_until(partial(is_text, client, bucket, f"{number}/known/a"))
    assert slow == []


def test_a_caller_that_is_not_seen_in_proc_was_not_killed(server: str) -> None:
    """It is hidden from us (hidepid), or its number is of another PID namespace."""
    beyond = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    assert [_is_killed(beyond), _is_killed(os.getpid())] == [False, False]


def is_text(client: Any, bucket: str, key: str) -> bool:
    body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body == b"Text"


def took_s(here: Path, call: str, proxy: Proxy) -> float:
    """Return how long a caller lives on that is killed while S3 is silent."""
    late = call.startswith(WRITE)  # the write is over before S3 falls silent
    with proxy.rule(Drop(lambda request: not late or request.kind == "PUT")) as silent:
        program = f"import os; os.chdir({str(here)!r}); {call}"
        caller = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
        assert silent.reached.wait(10), call
        killed = time.monotonic()
        caller.kill()
        caller.wait(20)
        return time.monotonic() - killed
