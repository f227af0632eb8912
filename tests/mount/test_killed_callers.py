"""Nobody waits who wants to go: a killed caller ends within a second (F13)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.mounts import wait_until
from support.proxy import Drop, Proxy, Request

from mimicfs.fuse.killed import _is_killed

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


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
# Starts a process for each call, lets them call when it is told to, kills them when it is told to,
# and prints whose are still there a second later.
PROGRAM = """
import json, os, resource, sys, time
root, SIGNAL, calls = json.loads(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
begin, told = os.pipe()
ready, done = os.pipe()
names = {}
for number, (name, waits, before) in enumerate(calls):
    process = os.fork()
    if not process:
        os.close(told)
        os.chdir(f"{root}/{number}")
        exec(before)
        os.write(done, b".")
        os.read(begin, 1)
        exec(waits)
        os._exit(0)
    names[process] = name
for _ in names:
    os.read(ready, 1)
print(flush=True)
sys.stdin.readline()
os.close(told)
sys.stdin.readline()
deadline = time.monotonic() + 1
for process in names:
    os.kill(process, SIGNAL)
while names and time.monotonic() < deadline:
    if ended := os.waitpid(-1, os.WNOHANG)[0]:
        del names[ended]
    else:
        time.sleep(0.01)
print(list(names.values()), flush=True)
"""


# A process that waits for a page hears only SIGKILL, and one that waits until the kernel has
# written pages hears nothing: no request says which process that is.
@pytest.mark.parametrize(
    ("ending", "stay"),
    [(signal.SIGKILL, ["msync"]), (signal.SIGQUIT, ["read", "page fault", "msync"])],
)
def test_a_killed_caller_ends_within_a_second(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy, ending: int, stay: list[str]
) -> None:
    for number, call in enumerate(CALLS.values()):
        for key, body in KEYS.items():
            if Path(key).parts[0] in call.waits or key in ("known/a", "known/link"):
                mode = {"mode": "41471"} if key == "known/link" else {}
                client.put_object(Bucket=bucket, Key=f"{number}/{key}", Body=body, Metadata=mode)
    here = mount_at(f"s3://{bucket}", "-o", "consistency=open").path
    (here / "tried").mkdir()  # whether the server looks at conditions is known from now on
    for number in range(len(CALLS)):
        os.lstat(here / str(number) / "known/link")
    calls = [(name, *call) for name, call in CALLS.items()]
    words = [sys.executable, "-c", PROGRAM, json.dumps([str(here), ending, calls])]
    pipes = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with pipes(words) as callers:
        assert callers.stdin and callers.stdout
        assert callers.stdout.readline() == "\n"
        reached: set[int] = set()
        with proxy.rule(Drop(partial(noted, reached))):
            print(file=callers.stdin, flush=True)
            wait_until(lambda: len(reached) == len(CALLS))
            print(file=callers.stdin, flush=True)
            assert callers.stdout.readline() == f"{stay}\n"
    for number, call in enumerate(CALLS.values()):
        if call.before == WRITTEN:  # what it had written is not lost
            wait_until(partial(is_text, client, bucket, f"{number}/known/a"))


def noted(numbers: set[int], request: Request) -> bool:
    """Note to which call *request* belongs."""
    key = request.key or request.query.get("prefix", [""])[0]
    numbers.add(int(key.partition("/")[0]))
    return True


def test_a_caller_that_is_not_seen_in_proc_was_not_killed(server: str) -> None:
    """It is hidden from us (hidepid), or its number is of another PID namespace."""
    beyond = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
    assert [_is_killed(beyond), _is_killed(os.getpid())] == [False, False]


def test_a_signal_that_the_process_keeps_back_did_not_kill_it(server: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGQUIT])
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGQUIT)
        assert not _is_killed(threading.get_native_id())
        signal.sigwait([signal.SIGQUIT])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGQUIT])


def is_text(client: Any, bucket: str, key: str) -> bool:
    body: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body == b"Text"
