"""Lets go of processes that were killed while they wait for an answer.

The kernel says once that a process has a signal (INTERRUPT), whichever signal, and then lets a
killed process wait for its answer all the same. So we ask /proc, at once and as long as the process
waits, whether SIGKILL is pending for it: every signal that ends a process becomes that, but for
those that also leave a core, which stay what they are until the process has its answer. A signal
that the process handles gives no EINTR here: mkdir(2) and its like do not restart.

A process that waits is in /proc. If we do not see it there, its number belongs to another PID
namespace (that of the process that mounted, with /dev/fd/N), or hidepid hides it. Then we know
nothing of it, and it waits for its answer.

The kernel closes the files of a killed process when the process is past all signals, and waits for
each FLUSH. It says nothing then; /proc knows why the process ends. To ask takes 40 us, and most are
answered soon: so we ask about those that wait for long.

Threading: any thread calls `watch`, `closes` and `answered`. A thread of its own looks, once
something is watched, and sleeps while nothing is.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from mimicfs.fuse.processes import status

log = logging.getLogger(__name__)

_LOOK_S = 0.2  # between two looks
_SIGKILL = 1 << (signal.SIGKILL - 1)  # in the masks of /proc/PID/status
_CORE = "QUIT ILL TRAP ABRT BUS FPE SEGV XCPU XFSZ SYS"  # signal(7): those whose action is "Core"
_LEAVES_CORE = sum(1 << (signal.Signals[f"SIG{name}"] - 1) for name in _CORE.split())
_MASKS = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
_PF_EXITING = 0x4  # in the flags of /proc/PID/stat; linux/sched.h
_FLAGS, _EXIT_CODE = 6, -1  # fields of /proc/PID/stat behind the name
_SIGNAL = 0x7F  # in an exit code


class Killed:
    """Calls *let_go* with the number of each watched request whose process was killed."""

    def __init__(self, let_go: Callable[[int], bool]) -> None:
        self._let_go = let_go
        # By FLUSH: the thread that waits. Each use is one atomic step.
        self._closing: dict[int, int] = {}
        self._lock = threading.Condition()  # protects all below
        self._watched: dict[int, int] = {}  # by request: the thread that waits for it
        self._gone: set[int] = set()  # requests of killed processes that are still worked on
        self._sleeps = True  # until something is watched
        self._started = False

    def watch(self, unique: int, thread: int) -> None:
        """Watch thread *thread*, which waits for *unique* and has a signal."""
        with self._lock:
            self._watched[unique] = thread
            self._wake()

    def closes(self, unique: int, thread: int) -> None:
        """Watch thread *thread*, which waits for the FLUSH *unique*: a signal may have ended it,
        of which the kernel does not tell."""
        self._closing[unique] = thread
        if self._sleeps:
            with self._lock:
                self._wake()

    def _wake(self) -> None:
        self._lock.notify()
        if not self._started:
            thread = threading.Thread(target=self._run, name="fuse-killed", daemon=True)
            try:
                thread.start()
                self._started = True
            except RuntimeError as exc:  # no more threads can start: the next request tries again
                log.debug("killed processes are not looked for: %s", exc)

    def has_gone(self, unique: int) -> bool:
        """Whether nobody waits for *unique* any more."""
        return unique in self._gone

    def answered(self, unique: int) -> bool:
        """Note that the work on *unique* has ended; return whether nobody waited for it any
        more."""
        self._closing.pop(unique, None)
        if not (self._watched or self._gone):
            return False
        with self._lock:
            self._watched.pop(unique, None)
            gone = unique in self._gone
            self._gone.discard(unique)
        return gone

    def _run(self) -> None:
        before: set[int] = set()  # the FLUSHes of the last look
        while True:
            with self._lock:
                self._sleeps = True
                while not (self._watched or self._closing):
                    self._lock.wait()
                self._sleeps = False
                killed = [each for each, thread in self._watched.items() if _is_killed(thread)]
                self._gone.update(killed)  # before the next line: `answered` looks at both
                for unique in killed:
                    del self._watched[unique]
            closing = dict(self._closing)
            killed += [each for each in before & closing.keys() if _is_ended(closing[each])]
            for unique in killed:
                self._closing.pop(unique, None)
                self._let_go(unique)
            before = set(closing)
            with self._lock:
                self._lock.wait(_LOOK_S)


def _is_killed(thread: int) -> bool:
    """Whether *thread* was killed; False if that cannot be seen."""
    fields = status(thread)
    if not fields:
        return False
    masks = {name: int(fields[name], 16) for name in _MASKS}
    ends = _SIGKILL
    if fields["TracerPid"] == "0":  # otherwise a debugger says what becomes of the signal
        ends |= _LEAVES_CORE & ~(masks["SigBlk"] | masks["SigIgn"] | masks["SigCgt"])
    return bool((masks["SigPnd"] | masks["ShdPnd"]) & ends)


def _is_ended(thread: int) -> bool:
    """Whether a signal has ended *thread*, which closes its files; False if that cannot be seen."""
    try:
        stat = Path(f"/proc/{thread}/stat").read_bytes()
    except OSError:
        return False
    fields = stat.rpartition(b") ")[2].split()
    exits = int(fields[_FLAGS]) & _PF_EXITING
    return bool(exits and int(fields[_EXIT_CODE]) & _SIGNAL)
