"""More entries than memory holds, put in the order of their keys.

Sorted runs go to temporary files that have no name, and are merged. Of one key the newest
entry stays. Memory: one run, or a piece of each of up to 64 runs a level. Not thread-safe.
"""

from __future__ import annotations

import heapq
import marshal
import struct
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import IO, Any

from mimicfs.entry import Entry
from mimicfs.errors import MimicError
from mimicfs.index.records import BATCH

_RUN = 100_000  # entries; about 50 MB
_PIECE = 250  # entries of a run that are read at a time
_RUNS_MAX = 64  # of one level; then they are merged to one of the next

_LENGTH = struct.Struct("=I")  # before each piece: marshal reads a file byte by byte
_Fields = tuple[Any, ...]  # the fields of an entry
_key, _mtime_ns = itemgetter(0), itemgetter(2)


def in_order(batches: Iterable[list[Entry]], run: int = _RUN) -> Iterator[list[Entry]]:
    """Yield the entries of *batches* in order, in batches; *run* of them are held in memory.
    Raises MimicError when there is no room for temporary files."""
    try:
        with _Runs() as runs:
            for rows in _runs(batches, run):
                runs.add(rows)
            entries = (tuple.__new__(Entry, row) for row in _newest(runs.merged()))
            while batch := list(islice(entries, BATCH)):
                yield batch
    except OSError as exc:
        text = f"sorting: {exc.strerror}; set TMPDIR to a directory with more room"
        raise MimicError(text) from exc


def _runs(batches: Iterable[list[Entry]], size: int) -> Iterator[list[_Fields]]:
    rows: list[_Fields] = []
    for batch in batches:
        rows += [tuple(entry) for entry in batch]
        if len(rows) >= size:
            yield sorted(rows, key=_key)
            rows = []
    yield sorted(rows, key=_key)


def _newest(rows: Iterable[_Fields]) -> Iterator[_Fields]:
    """Yield one row a key: that with the latest time."""
    last: _Fields | None = None
    for row in rows:
        if last is not None and _key(row) == _key(last):
            last = max(last, row, key=_mtime_ns)
            continue
        if last is not None:
            yield last
        last = row
    if last is not None:
        yield last


class _Runs:
    """Sorted runs in files. A level's runs are about equally long, each level's 64 times as
    long as those of the one before: no row is written more often than there are levels."""

    def __init__(self) -> None:
        self._levels: list[list[IO[bytes]]] = [[]]

    def __enter__(self) -> _Runs:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files():
            file.close()

    def _files(self) -> list[IO[bytes]]:
        return [file for files in self._levels for file in files]

    def add(self, rows: Iterable[_Fields], level: int = 0) -> None:
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(self._written(rows))
        full = self._levels[level]
        if len(full) == _RUNS_MAX:
            self.add(_merged(full), level + 1)
            self._levels[level] = []
            for file in full:
                file.close()

    def _written(self, rows: Iterable[_Fields]) -> IO[bytes]:
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        coming = iter(rows)
        while piece := list(islice(coming, _PIECE)):
            data = marshal.dumps(piece)
            file.write(_LENGTH.pack(len(data)))
            file.write(data)
        return file

    def merged(self) -> Iterator[_Fields]:
        return _merged(self._files())


def _merged(files: list[IO[bytes]]) -> Iterator[_Fields]:
    return heapq.merge(*map(_read, files), key=_key)


def _read(file: IO[bytes]) -> Iterator[_Fields]:
    file.seek(0)
    while length := file.read(_LENGTH.size):
        yield from marshal.loads(file.read(*_LENGTH.unpack(length)))
