"""The mimicfs command, in a fork of a process that has imported it already.

An interpreter that starts mimicfs spends 0.4 s of CPU on imports and on the models of botocore,
and the tests start it hundreds of times. Here a process that has done all that (preloading.py)
forks for each command. The fork is a child of the process of the tests: it is waited for,
signalled and killed like any other, and has the descriptors, directory, environment, umask and
arguments that it was given.

What a fork does not show is what happens before `main`, and after threads and `atexit` have ended:
that the console script is there, what is imported when and in which order; how long a start takes,
and how much memory a process has; what the interpreter reads at its start, and frees at its end.
Tests of these start MIMICFS by `subprocess`, or take the fixture `really_started`, as those of a
mount's life do; START_REALLY=1 in the environment is for all. A command is started also where it is
to have what a fork has not: another user, a session of its own, other variables that the
interpreter reads, limits or a priority that the tests have changed.
"""

from __future__ import annotations

import atexit
import inspect
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

MIMICFS = Path(sys.executable).parent / "mimicfs"
_ROOM = "-" * 4000  # for the arguments of commands, as /proc shows them
# What the interpreter, the C library and botocore read at their start.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "BOTO")
_PLAIN = {"preexec_fn": None, "close_fds": True, "shell": False, "restore_signals": True,
          "gid": None, "gids": None, "uid": None, "start_new_session": False,
          "process_group": -1}  # fmt: skip
_LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
_IGNORED = {signal.SIGPIPE, signal.SIGXFSZ}  # by every interpreter, and given back to children


class Popen(subprocess.Popen[Any]):
    """As `subprocess.Popen`, for the mimicfs command."""

    def _execute_child(self, *given: Any) -> None:
        start = super()._execute_child  # type: ignore[misc]
        asked = inspect.signature(start).bind(*given).arguments
        if not (_can_be_a_fork(asked) and self._forked(asked)):
            start(*given)

    def _forked(self, asked: dict[str, Any]) -> bool:
        ends = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
        fds = {number: number if end < 0 else end for number, end in enumerate(ends)}
        fds |= {fd: fd for fd in asked["pass_fds"]}
        environ = asked["env"] if asked["env"] is not None else os.environ
        message = {
            "words": [str(word) for word in asked["args"]],
            "cwd": str(asked["cwd"] or os.getcwd()),
            "environ": dict(environ),
            "umask": asked["umask"] if asked["umask"] >= 0 else _umask(),
            "descriptors": list(fds),
        }
        pid = _preloaded().fork(json.dumps(message).encode(), list(fds.values()))
        if pid <= 0:
            return False
        self.pid = pid
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[pipe] for pipe in pipes))  # type: ignore[attr-defined]
        return True


def _can_be_a_fork(asked: dict[str, Any]) -> bool:
    environ = asked["env"] if asked["env"] is not None else os.environ
    return (
        "START_REALLY" not in os.environ
        and str(asked["args"][0]) == str(MIMICFS)
        and all(asked[name] == usual for name, usual in _PLAIN.items())
        and _read_at_start(environ) == _preloaded().read_at_start
        and _inherited() == _preloaded().inherited
        and os.getpid() == _preloaded().owner
        and not signal.pthread_sigmask(signal.SIG_BLOCK, [])
        and not [each for each in set(signal.Signals) - _IGNORED if _is_ignored(each)]
    )


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def _read_at_start(environ: Any) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if isinstance(name, str) and name.startswith(_READ_AT_START)
    }


def _inherited() -> dict[str, Any]:
    """Return what a command inherits from the thread that starts it, and a fork from elsewhere."""
    return {
        **{name: resource.getrlimit(number) for name, number in _LIMITS.items()},
        "users": (os.getresuid(), os.getresgid(), os.getgroups()),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "scheduling": (os.sched_getscheduler(0), os.sched_getaffinity(0)),
        "control group": Path("/proc/thread-self/cgroup").read_text(),
    }


def _umask() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("Umask:")[2].split()[0], 8)


class _Preloaded:
    """The process that forks. It ends with this one, which has the other end of its socket."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.read_at_start = _read_at_start(os.environ)
        self.inherited = _inherited()
        self._lock = threading.Lock()
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = Path(__file__).with_name("preloading.py")
        words = [sys.executable, "-P", str(program), str(theirs.fileno()), _ROOM]
        with theirs:
            # Nothing of a test's own is in its environment, which botocore reads here and there.
            environ = {**self.read_at_start, "PATH": os.environ["PATH"]}
            self._process = subprocess.Popen(
                words, pass_fds=[theirs.fileno()], cwd="/", env=environ
            )

    def fork(self, message: bytes, fds: list[int]) -> int:
        """Return the process id of a command; 0 or less: none could be made."""
        with self._lock:
            try:
                return self._answer(message, fds)
            except BaseException:  # the next command would get this answer: no more are forked
                self._door.close()
                raise

    def _answer(self, message: bytes, fds: list[int]) -> int:
        try:
            socket.send_fds(self._door, [message], fds)
        except OSError:  # a message that is too long, a descriptor that is closed, or the door
            return 0
        return int(self._door.recv(32) or 0)

    def close(self) -> None:
        if os.getpid() == self.owner:
            self._door.close()
            self._process.wait(20)


_starting = threading.Lock()


def _preloaded() -> _Preloaded:
    with _starting:
        return _started()


@cache
def _started() -> _Preloaded:
    made = _Preloaded()
    atexit.register(made.close)
    return made
