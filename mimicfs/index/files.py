"""Index files: their names select the format and whether they are compressed; they are written
whole or not at all.

*.jsonl, .ndjson and .json are lines of JSON, with .gz behind compressed; .parquet is Parquet;
"-" is standard output or input, in lines of JSON.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, cast

from mimicfs.errors import ConfigError, MimicError
from mimicfs.index.jsonlines import JsonLinesSink, JsonLinesSource
from mimicfs.index.records import Header, IndexSource, Sink

_LINES = (".jsonl", ".ndjson", ".json")
_ENDINGS = ".jsonl, .jsonl.gz (also .ndjson, .json) or .parquet"
_GZIP_LEVEL = 6
_GZIP_MAGIC = b"\x1f\x8b"
_BUFFER = 1 << 20


def check_name(name: str) -> None:
    """Raise ConfigError if *name* is not that of an index file, or if the library for its format is
    not installed."""
    if _is_parquet(name):
        from mimicfs.index.parquet import check_installed

        check_installed(name)


def _is_parquet(name: str) -> bool:
    """Whether *name* is that of a Parquet file. Raises ConfigError if it belongs to no format."""
    if name == "-":
        return False
    suffixes = Path(name).suffixes[-2:]
    if suffixes[-1:] == [".parquet"]:
        return True
    if (suffixes[:-1] if suffixes[-1:] == [".gz"] else suffixes)[-1:] in [[end] for end in _LINES]:
        return False
    raise ConfigError(f"{name}: the name must end in {_ENDINGS}")


@contextmanager
def sink(name: str, header: Header, stdout: IO[bytes]) -> Iterator[Sink]:
    """Write the index file *name*. It is there, whole, when the block ends; if the block raises,
    the file that was there before is untouched."""
    parquet = _is_parquet(name)
    with ExitStack() as stack:
        made = _standard_output(stdout) if name == "-" else _created(Path(name))
        raw = stack.enter_context(made)
        if parquet:
            from mimicfs.index.parquet import ParquetSink

            yield stack.enter_context(ParquetSink(raw, header))
        elif name.endswith(".gz"):
            packed = gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, 0)
            stream = cast("IO[bytes]", stack.enter_context(packed))
            yield JsonLinesSink(stream, header)
        else:
            yield JsonLinesSink(raw, header)


@contextmanager
def source(name: str, stdin: IO[bytes]) -> Iterator[IndexSource]:
    """Read the index file *name*. Raises MalformedIndex, ConfigError."""
    parquet = _is_parquet(name)
    with ExitStack() as stack:
        if name == "-":
            raw: IO[bytes] = stdin
        else:
            try:
                raw = stack.enter_context(open(name, "rb", buffering=_BUFFER))
            except OSError as exc:
                raise ConfigError(f"{name}: {exc.strerror}") from exc
        if parquet:
            from mimicfs.index.parquet import ParquetSource

            yield ParquetSource(raw, name)
            return
        buffered = cast("io.BufferedReader", raw)
        if buffered.peek(2)[:2] == _GZIP_MAGIC:
            raw = cast("IO[bytes]", io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER))
        yield JsonLinesSource(raw, name)


def place_of_spool(name: str) -> str | None:
    """Return the directory for data that will go into *name*; None: the usual one."""
    return None if name == "-" or _is_special(Path(name)) else str(Path(name).resolve().parent)


@contextmanager
def _standard_output(stdout: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        yield stdout
        stdout.flush()
    except BrokenPipeError:
        raise  # the program that reads our output has seen enough
    except OSError as exc:
        raise MimicError(f"standard output: {exc.strerror}") from exc


@contextmanager
def _created(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that takes the place of *path* when it is whole."""
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                yield file
            return
        path = path.resolve()  # a symlink stays, and its target is replaced
        fd, temporary = tempfile.mkstemp(prefix=".mimicfs-", dir=path.parent)
    except OSError as exc:
        raise _io_error(path, exc) from exc
    try:
        with os.fdopen(fd, "wb", buffering=_BUFFER) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as exc:
        raise _io_error(path, exc) from exc
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _io_error(path: Path, exc: OSError) -> MimicError:
    return MimicError(f"{path}: {exc.strerror or exc}; nothing was written")


def _is_special(path: Path) -> bool:
    """Whether *path* exists and is a pipe or a device: there is nothing to replace."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
