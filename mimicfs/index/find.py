"""The answers of `mimicfs find` and `du`, from the store and without a request: every entry below a
directory with the directories that it implies, the tests that choose among them, and totals.

Both refuse to answer if the mirror does not know everything: an answer with gaps looks like one
without. Pure but for the reads of the store; any thread may call it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mimicfs.backends import Backend
from mimicfs.config.values import Target
from mimicfs.entry import LISTED, NS, OBJECT, PERIODS_S, Entry, Total, is_file, name_of, pages
from mimicfs.errors import ConfigError, KeyNotFound, NotSynced, Unlisted
from mimicfs.mimicdb import Mirror

_PAGE = 2000  # entries read from the store at a time
_UNITS = {"": 1, "c": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


class Start(NamedTuple):
    """The start of a search: a directory, or only *entry*, the object that was named."""

    bucket: str
    prefix: str
    entry: Entry | None = None

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def starts(mimicdb: Mirror, target: Target, url: str, *, partial: bool = False) -> list[Start]:
    """Return the starts that *url*, parsed as *target*, names: each bucket for "s3://". With
    *partial*, partial knowledge is enough. Raises NotSynced, KeyNotFound."""
    if not target.bucket:
        try:
            buckets = mimicdb.buckets()
        except Unlisted as exc:
            raise NotSynced("the buckets were never listed; `mimicfs sync` lists them") from exc
        found = [Start(bucket.name, "") for bucket in buckets]
    else:
        found = [_start(mimicdb, target, url)]
    for start in found:
        if start.entry is None and not partial:
            check_known(mimicdb, start.bucket, start.prefix)
    return [start for start in found if start.entry or _is_there(mimicdb, start)]


def check_known(mimicdb: Mirror, bucket: str, directory: str) -> None:
    """Raise NotSynced unless the mirror knows every key below *directory*."""
    if not mimicdb.covered(bucket, directory, deep=True):
        url = f"s3://{bucket}/{directory}".removesuffix("/")
        raise NotSynced(
            f"{url}: the mirror does not know all of it; `mimicfs sync '{url}'` lists it,"
            " --partial answers from what is known"
        )


def _start(mimicdb: Mirror, target: Target, url: str) -> Start:
    if target.prefix and not url.endswith("/"):
        entry = mimicdb.entry(target.bucket, target.prefix[:-1])
        alone = not mimicdb.has_below(target.bucket, target.prefix)
        if entry is not None and entry.kind == OBJECT and alone:
            return Start(target.bucket, entry.key, entry)
    return Start(target.bucket, target.prefix)


def _is_there(mimicdb: Mirror, start: Start) -> bool:
    if start.prefix and not mimicdb.has_below(start.bucket, start.prefix):
        raise KeyNotFound(f"{start}: no such object or directory")
    return True


def walk(mimicdb: Mirror, start: Start) -> Iterator[Entry]:
    """Yield *start* and everything below it in S3's order: objects, and directories before their
    contents. A marker with content is a directory, and then a file whose key ends in "/"."""
    if start.entry is not None:
        yield start.entry
        return
    yield Entry(start.prefix, kind=LISTED)
    above = [start.prefix]  # the directories above the last key, outermost first
    for entry in _entries(mimicdb, start):
        key = entry.key
        while not key.startswith(above[-1]):
            above.pop()
        while (slash := key.find("/", len(above[-1]))) >= 0:
            above.append(key[: slash + 1])
            yield Entry(above[-1], kind=LISTED)
        if is_file(entry):
            yield entry


def _entries(mimicdb: Mirror, start: Start) -> Iterator[Entry]:
    scan = mimicdb.scan
    for page in pages(lambda at: scan(start.bucket, start.prefix, at, _PAGE), size=_PAGE):
        yield from page


# Totals


class DirectoryUsage(NamedTuple):
    """The usage below *directory*, which is *depth* levels below the place where `usage` began."""

    directory: str
    depth: int
    total: Total


def usage(mimicdb: Mirror, start: Start, depth: int) -> Iterator[DirectoryUsage]:
    """Yield the totals of each directory down to *depth* levels (-1: all). A directory comes behind
    those in it; the last one is *start*."""
    if start.entry is not None:
        yield DirectoryUsage(start.prefix, 0, Total(1, start.entry.size))
    else:
        yield from _usage(mimicdb.backend, start.bucket, start.prefix, 0, depth)


def _usage(
    backend: Backend, bucket: str, directory: str, level: int, depth: int
) -> Iterator[DirectoryUsage]:
    if level == depth:
        yield DirectoryUsage(directory, level, backend.total(bucket, directory))
        return
    own = backend.get(bucket, directory) if directory else None
    files, size = (1, own.size) if own is not None and is_file(own) else (0, 0)
    for page in pages(lambda after: backend.children(bucket, directory, after)):
        for child in page:
            if not child.key.endswith("/"):
                files, size = files + 1, size + child.size
                continue
            for below in _usage(backend, bucket, child.key, level + 1, depth):
                yield below
            files, size = files + below.total.files, size + below.total.bytes
    yield DirectoryUsage(directory, level, Total(files, size))


# The tests


class Interval(NamedTuple):
    """The values from *least* to *most*, both included; None: there is no end."""

    least: int | None = None
    most: int | None = None

    def has(self, value: int) -> bool:
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


def size_range(text: str) -> Interval:
    """Return the sizes that +N, -N or N bytes mean (more, less, exactly so many), with a unit k, M,
    G, T or P of 1024. Raises ConfigError."""
    found = re.fullmatch(r"(?P<sign>[+-]?)(?P<number>\d+)(?P<unit>[ckmgtp]?)(?:i?b)?", text.lower())
    if found is None:
        raise ConfigError(f"--size {text}: write [+-]N[k|M|G|T|P], as +100M for more than 100 MiB")
    number = int(found["number"]) * _UNITS[found["unit"]]
    if found["sign"]:
        return Interval(least=number + 1) if found["sign"] == "+" else Interval(most=number - 1)
    return Interval(number, number)


def age_range(text: str, now_ns: int) -> Interval:
    """Return the times that are older than N units (+N), younger (-N), or as old (N, rounded down).
    The units are s, m, h, d and w; without one, N is in days. Raises ConfigError."""
    found = re.fullmatch(r"(?P<sign>[+-]?)(?P<number>\d+)(?P<unit>[smhdw]?)", text)
    if found is None:
        raise ConfigError(f"--mtime {text}: write [+-]N[s|m|h|d|w], as +30d for older than that")
    unit_ns = PERIODS_S[found["unit"] or "d"] * NS
    then_ns = now_ns - int(found["number"]) * unit_ns
    if found["sign"]:
        return Interval(most=then_ns - 1) if found["sign"] == "+" else Interval(least=then_ns + 1)
    return Interval(then_ns - unit_ns + 1, then_ns)


@dataclass(frozen=True)
class Wanted:
    """The wanted entries: those that pass all tests. Of several values of one test, one is enough.

    Sizes, times, storage classes and etags are those of objects: a directory passes none.
    """

    names: tuple[str, ...] = ()  # globs of the last component
    inames: tuple[str, ...] = ()  # in any case
    paths: tuple[str, ...] = ()  # globs of the whole key
    sizes: tuple[Interval, ...] = ()  # here all of them must hold
    times_ns: tuple[Interval, ...] = ()  # here, too
    storage_classes: frozenset[str] = frozenset()
    etags: frozenset[str] = frozenset()
    kind: str = ""  # "f" or "d"; "": both
    depth: int = -1  # levels below the start; -1: all

    def passed(self, entry: Entry, start: Start) -> bool:
        """Whether *entry*, found from *start*, passes all tests."""
        file = is_file(entry)
        if self.kind and (self.kind == "f") != file:
            return False
        if not file and self._of_objects:
            return False
        if self._globs is not None and not self._named(entry.key):
            return False
        return self._object_passed(entry) and (
            self.depth < 0 or _depth(entry.key, start) <= self.depth
        )

    @cached_property
    def _of_objects(self) -> bool:
        return bool(self.sizes or self.times_ns or self.storage_classes or self.etags)

    def _object_passed(self, entry: Entry) -> bool:
        if not self._of_objects:
            return True
        return (
            all(sizes.has(entry.size) for sizes in self.sizes)
            and all(times.has(entry.mtime_ns) for times in self.times_ns)
            and (
                not self.storage_classes
                or (entry.storage_class or "STANDARD") in self.storage_classes
            )
            and (not self.etags or entry.etag in self.etags)
        )

    @cached_property
    def _globs(self) -> tuple[re.Pattern[str] | None, ...] | None:
        """The globs as expressions: of names, of names in any case, of paths."""
        if not (self.names or self.inames or self.paths):
            return None
        return _any(self.names), _any(self.inames, re.IGNORECASE), _any(self.paths)

    def _named(self, key: str) -> bool:
        assert self._globs is not None
        name, iname, path = self._globs
        last = name_of(key.removesuffix("/"))
        return (
            (name is None or name.match(last) is not None)
            and (iname is None or iname.match(last) is not None)
            and (path is None or path.match(key) is not None)
        )


def _any(globs: tuple[str, ...], flags: int = 0) -> re.Pattern[str] | None:
    if not globs:
        return None
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs), flags)


def _depth(key: str, start: Start) -> int:
    """Return how many levels *key* is below *start*."""
    below = key[len(start.prefix) :].removesuffix("/")
    return below.count("/") + 1 if below else 0
