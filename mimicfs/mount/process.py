"""The process that serves a mount, as such: its limits, its modules, its memory.

Threading: `set_up` is called in the main thread, before the parts are built; `settle` in any, once
the mount answers; `give_back` in any.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from importlib import import_module
from pkgutil import iter_modules

_USED_LATE = (
    "mimicfs.files",
    "mimicfs.fuse",
    "mimicfs.s3.requests",
    "mimicfs.s3.transport",
    "mimicfs.sync",
    "mimicfs.vfs",
)


def set_up() -> None:
    """Set the process up, before anything is opened or begun."""
    # until everything is imported: the collector would look through it several times, 50 of 420 ms
    gc.disable()
    # A thread that computes must not hold up one that answers `ls` for the usual 5 ms. Shorter
    # costs more than it gives: at 0.1 ms, threads that wait for the interpreter's lock took half
    # of the CPU of 8 writers of small files (10.2 s of CPU for 2,000 files; 5.9 at 0.5 ms).
    sys.setswitchinterval(5e-4)
    os.umask(0o077)  # files that are made here are for us alone
    # There are secrets in our memory. A limit of 0 keeps it from a file; of 1, also from the
    # program that is named in core_pattern (core(5); do_coredump in fs/coredump.c).
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except ValueError:  # the hard limit is 0, and not ours to raise
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _allow_many_files()


def _import_rest() -> None:
    """Import what is otherwise imported when it is first used: an upgrade may replace our files
    while the mount runs."""
    for room in _USED_LATE:
        package = import_module(room)
        for each in iter_modules(package.__path__, f"{room}."):
            import_module(each.name)


def _allow_many_files() -> None:
    """Raise the limit of open files to the hard limit: an open file may have a staging file and one
    in the cache on disk, and the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def give_back() -> None:
    """Give the kernel what malloc holds and nobody uses: after many names were forgotten that is a
    part of the memory that they took. (Python's own pools give back what is wholly free.)"""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def settle() -> None:
    """Load everything that is needed from now on, and keep it out of garbage collection. The mount
    answers already: an upgrade comes later than this."""
    _import_rest()
    _set_up_collector()


def _set_up_collector() -> None:
    # The objects that exist by now live as long as we do, and those that a large `ls -l` makes live
    # long: looking through both again and again took a quarter of its time.
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 50)
