"""Ends the waiting of those who have a signal, where that is right.

The kernel says once that a process has a signal (INTERRUPT), whichever signal, and then has it wait
for its answer all the same. On a local disk, too, a call goes on until its process is killed, and
programs that have timers or children take EINTR for an error. So here is what a signal does:

    SETLKW (fcntl, flock)     any signal cancels it: alarm(2) limits the wait. The kernel calls it
                              again where the handler says so (SA_RESTART).
    UNLOCK, FLUSH, RELEASE    no signal cancels it: what was written goes to S3 before others have
                              the lock, or the file is closed.
    all others                SIGINT cancels it, although it is handled: Ctrl-C reaches a program
                              that waits for a silent S3. Work that has changed something already
                              does not look at that.
    each but RELEASE          A killed process has EINTR at once, whatever becomes of the work.

(docs/decisions/fuse.md, "What a signal does to a call".) Which signal it is we ask /proc, at once
and as long as the process waits. Every signal that ends a process is SIGKILL there, but for those
that also leave a core, which stay what they are until the process has its answer. So do all of them
if the process is traced (strace), and those that it ignores are there as well.

A process that waits is in /proc. If we do not see it there, its number belongs to another PID
namespace (that of the process that mounted, with /dev/fd/N), or hidepid hides it. Then nothing is
known of its signal, and what would take long even so is cancelled.

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
import time
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from mimicfs.fuse.abi import Opcode
from mimicfs.fuse.processes import status
from mimicfs.posix import Cancellation

log = logging.getLogger(__name__)

_LOOK_S = 0.2  # between two looks
_UNSEEN_S = 30.0  # a connection that says nothing for so long has stalled, too
# In the masks of /proc/PID/status:
_SIGKILL, _SIGINT = 1 << (signal.SIGKILL - 1), 1 << (signal.SIGINT - 1)
_CORE = "QUIT ILL TRAP ABRT BUS FPE SEGV XCPU XFSZ SYS"  # signal(7): those whose action is "Core"
_LEAVES_CORE = sum(1 << (signal.Signals[f"SIG{name}"] - 1) for name in _CORE.split())
_NO_END = "CHLD CONT STOP TSTP TTIN TTOU URG WINCH"  # those whose action is another than to end
_ENDS_NOBODY = sum(1 << (signal.Signals[f"SIG{name}"] - 1) for name in _NO_END.split())
_MASKS = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
_KEEP_BYTES = (Opcode.FLUSH, Opcode.RELEASE)
_PF_EXITING = 0x4  # in the flags of /proc/PID/stat; linux/sched.h
_FLAGS, _EXIT_CODE = 6, -1  # fields of /proc/PID/stat behind the name
_SIGNAL = 0x7F  # in an exit code


class WaitingCall(NamedTuple):
    """What *thread* waits for; *unlocks*: it gives up a lock."""

    opcode: int
    thread: int
    unlocks: bool = False


class Signal(Enum):
    """The signal of a thread that waits."""

    KILLS = auto()
    CTRL_C = auto()  # SIGINT, which the process handles; or what ends it unless its tracer objects
    OTHER = auto()  # one that it handles, or none
    UNSEEN = auto()


class _Watched(NamedTuple):
    asked: WaitingCall
    cancellation: Cancellation
    since_s: float


def cancels(found: Signal, asked: WaitingCall, waited_s: float) -> bool:
    """Whether a signal cancels the call that *asked*, *waited_s* after the kernel told of it."""
    if asked.unlocks or asked.opcode in _KEEP_BYTES:
        return False
    if asked.opcode == Opcode.SETLKW or found in (Signal.KILLS, Signal.CTRL_C):
        return True
    return found is Signal.UNSEEN and waited_s > _UNSEEN_S


class Killed:
    """Cancels watched requests, as said above, and calls *let_go* with the number of each whose
    process was killed."""

    def __init__(self, let_go: Callable[[int], bool]) -> None:
        self._let_go = let_go
        # By FLUSH: the thread that waits. Each use is one atomic step.
        self._closing: dict[int, int] = {}
        self._lock = threading.Condition()  # protects all below
        self._watched: dict[int, _Watched] = {}  # by request
        self._gone: set[int] = set()  # requests of killed processes that are still worked on
        self._sleeps = True  # until something is watched
        self._started = False

    def watch(self, unique: int, asked: WaitingCall, cancellation: Cancellation) -> None:
        """Watch the thread that waits for *unique* and has a signal."""
        if asked.opcode == Opcode.RELEASE:  # nobody waits for it
            return
        with self._lock:
            self._watched[unique] = _Watched(asked, cancellation, time.monotonic())
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
                now_s = time.monotonic()
                found = {one: _signal(each.asked.thread) for one, each in self._watched.items()}
                cancelled = [
                    each.cancellation
                    for one, each in self._watched.items()
                    if cancels(found[one], each.asked, now_s - each.since_s)
                ]
                killed = [one for one, each in found.items() if each is Signal.KILLS]
                self._gone.update(killed)  # before the next line: `answered` looks at both
                for unique in killed:
                    del self._watched[unique]
            for cancellation in cancelled:
                cancellation.cancel()
            closing = dict(self._closing)
            killed += [each for each in before & closing.keys() if _is_ended(closing[each])]
            for unique in killed:
                self._closing.pop(unique, None)
                self._let_go(unique)
            before = set(closing)
            with self._lock:
                self._lock.wait(_LOOK_S)


def _signal(thread: int) -> Signal:
    """Return what *thread* has."""
    fields = status(thread)
    if not fields:
        return Signal.UNSEEN
    masks = {name: int(fields[name], 16) for name in _MASKS}
    pending = masks["SigPnd"] | masks["ShdPnd"]
    heard = pending & ~(masks["SigBlk"] | masks["SigIgn"])
    ends = heard & ~masks["SigCgt"] & ~_ENDS_NOBODY
    traced = fields["TracerPid"] != "0"  # then a debugger says what becomes of the signal
    if pending & _SIGKILL or (ends & _LEAVES_CORE and not traced):
        return Signal.KILLS
    return Signal.CTRL_C if heard & _SIGINT or (ends and traced) else Signal.OTHER


def _is_ended(thread: int) -> bool:
    """Whether a signal has ended *thread*, which closes its files; False if that cannot be seen."""
    try:
        stat = Path(f"/proc/{thread}/stat").read_bytes()
    except OSError:
        return False
    fields = stat.rpartition(b") ")[2].split()
    exits = int(fields[_FLAGS]) & _PF_EXITING
    return bool(exits and int(fields[_EXIT_CODE]) & _SIGNAL)
