"""Processes and the machine: time limits, CPU seconds, peak memory, caches of the kernel.

Needs root for `drop_caches` only; without it, the rows that need it say so.
"""

from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

UNSTICK_AFTER_S = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Finished(NamedTuple):
    """How a command went. *wall_s* None: it was still running at its time limit."""

    wall_s: float | None
    status: int
    cpu_s: float  # of the command and what it waited for
    rss_mib: float  # of the largest of them


def run(
    command: Sequence[str],
    limit_s: float,
    stdout: Path,
    environment: Mapping[str, str] | None = None,
    unstick: Callable[[], None] = lambda: None,
) -> Finished:
    """Run *command* with its standard output in a file; kill it at *limit_s*.

    *unstick* is called when even that does not end it: a process that waits for a FUSE daemon
    that has read its request cannot be killed, so the daemon must go first.
    """
    with stdout.open("wb") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            env=environment,
            start_new_session=True,
        )
        in_time = _wait(process.pid, limit_s)
        wall_s = time.perf_counter() - begun
    if not in_time:
        os.killpg(process.pid, signal.SIGKILL)
        if not _wait(process.pid, UNSTICK_AFTER_S):
            unstick()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu_s = usage.ru_utime + usage.ru_stime
    return Finished(wall_s if in_time else None, process.returncode, cpu_s, usage.ru_maxrss / 1024)


def unwind_at_sigterm() -> None:
    """Have SIGTERM end this process as an error does: what it has begun is ended, mounts and
    servers. A second one changes nothing."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(143)

    signal.signal(signal.SIGTERM, end)


def run_to_its_end(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Return the status of *command*. If we are to end before it, it is asked to, and waited
    for."""
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def _wait(pid: int, limit_s: float) -> bool:
    """Return whether the process *pid* ended within *limit_s*; it is not reaped."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(limit_s * 1000))
    finally:
        os.close(descriptor)


def family(pid: int) -> list[int]:
    """Return *pid* and its living descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # that thread has ended meanwhile
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of *pid*, its descendants, and those that it has waited for."""
    ticks = 0
    for member in family(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile; its parent's fields count it once reaped
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_PER_S


def reset_peak(pid: int) -> None:
    """Begin the measurement of `peak_mib` anew."""
    for member in family(pid):
        try:
            Path(f"/proc/{member}/clear_refs").write_text("5")
        except OSError:
            continue


def peak_mib(pid: int) -> float:
    """Return the peak resident memory of the largest of *pid* and its descendants, and what the
    others have now that nobody shares (a forked child shares what neither has written since), in
    MiB."""
    peaks = {member: _memory_mib([member], "status", "VmHWM:") for member in family(pid)}
    largest = max(peaks, key=lambda member: peaks[member])
    others = [member for member in peaks if member != largest]
    return peaks[largest] + _memory_mib(others, "smaps_rollup", "Private_")


def held_mib(pid: int) -> float:
    """Return the memory of its own (not of files) that *pid* and its descendants hold, in MiB."""
    return _memory_mib(family(pid), "status", "RssAnon:")


def _memory_mib(pids: Iterable[int], file: str, field: str) -> float:
    """Return the sum of the lines that begin with *field* in the *file*s of /proc/PID."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(field))
    return total / 1024


def settle(pid: int, limit_s: float = 15.0) -> None:
    """Wait until *pid* has used no CPU for 0.2 s (it may still be forgetting dropped names)."""
    deadline = time.monotonic() + limit_s
    before = -1.0
    while time.monotonic() < deadline and (now := cpu_s(pid)) != before:
        before = now
        time.sleep(0.2)


def drop_caches(level: int) -> None:
    """Drop the kernel's clean pages (1), dentries and inodes (2), or both (3)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(str(level))


def description(directory: Path) -> str:
    """Return one line about this machine and the file system that holds *directory*."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory_gib:.0f} GiB, kernel {platform.release()}, "
        f"Python {platform.python_version()}, local file system {_file_system(directory)}"
    )


def _file_system(directory: Path) -> str:
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text(errors="surrogateescape").splitlines():
        _, point, this_kind, *_ = line.split()
        below = point == "/" or f"{directory}/".startswith(f"{point}/")
        if below and len(point) >= len(best):
            best, kind = point, this_kind
    return kind


def proactive_reclaim() -> bool:
    """Return whether the kernel takes pages away that were not used for a while (DAMON)."""
    states = Path("/sys/kernel/mm/damon/admin/kdamonds").glob("*/state")
    return any(state.read_text().strip() == "on" for state in states)


def load_average() -> float:
    """Return the load of the last minute: above about 1 the machine is not ours alone."""
    return os.getloadavg()[0]
