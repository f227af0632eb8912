"""`.versions` (-o versions): a directory in every directory. It has a directory for each name that
an object has or had there, and in that a file for each version, named by its time and version id.

`.versions` is found by name and never listed. Nothing in it can be changed. While this mount knows
of no change, an answer of S3 is good for a second, or for as long as it took to come. A process
that lists a directory goes on in the answer with which it began. The kernel keeps none of it.

Threading: any thread. `_lock` protects what is known; S3 is asked without it.
"""

from __future__ import annotations

import errno
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import groupby, takewhile
from operator import attrgetter
from typing import NamedTuple
from urllib.parse import quote

from mimicfs.config.values import VFSOptions
from mimicfs.entry import NS, Entry
from mimicfs.errors import PassingAbsence, PosixError, Unversioned
from mimicfs.mimicdb import Mirror
from mimicfs.posix import DirEntry, PassingAttr
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.ownkeys import is_own
from mimicfs.s3.requests.past import versions_below, versions_in
from mimicfs.s3.requests.versions import Version
from mimicfs.vfs import names
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.nodes import VERSIONS_SLOT, Node, NodeKind, VersionNode, slot_of

_GOOD_S = 1.0  # an answer of S3 is as good as new for at least so long
_KNOWN_MAX = 4096  # keys whose versions are remembered
_LISTED_MAX = 16  # directories whose names are remembered
_DIRECTORY = stat.S_IFDIR | 0o500
_FILE = stat.S_IFREG | 0o400
_PLAIN = "+=~"  # kept as they are in a version id, besides letters, digits and "_.-"

_Stamp = tuple[str, int, int]  # ETag, size and time of an object
# those of one key, by file name, the oldest first; no delete markers
Versions = dict[bytes, Version]


class _KnownVersions(NamedTuple):
    """The versions of a key, while the mirror has *stamp* of it."""

    versions: Versions
    stamp: _Stamp | None
    until_s: float  # S3 need not be asked again before then


class _ListedVersions(NamedTuple):
    """The components of a directory, as S3 told *thread*, when the mirror was at *generation*."""

    components: Mapping[str, None]  # in order
    generation: int
    until_s: float
    thread: int


class VersionsTree:
    """Shows the versions of the keys behind *inodes*, as *options* say."""

    def __init__(
        self, mimicdb: Mirror, s3: S3, inodes: Inodes, kernel: Kernel, options: VFSOptions
    ) -> None:
        self._mimicdb = mimicdb
        self._s3 = s3
        self._inodes = inodes
        self._kernel = kernel
        self._options = options
        self._reserved = names.WITH_VERSIONS if options.versions else names.RESERVED
        self._started_ns = time.time_ns()
        self._lock = threading.Lock()  # protects the two below
        self._known: OrderedDict[tuple[str, str], _KnownVersions] = (
            OrderedDict()
        )  # by bucket and key
        self._listed: OrderedDict[tuple[str, str], _ListedVersions] = (
            OrderedDict()
        )  # bucket, directory

    # What is seen

    def lookup(self, directory: Node, name: bytes) -> PassingAttr:
        """Return the attributes of *name*, held once more. Raises PosixError ENOENT."""
        if directory.kind == NodeKind.HISTORY:
            return self.attr(self._version_node(directory, name, hold=True))
        if directory.kind == NodeKind.VERSIONS:
            component = self._component(name)
            self._check_had(_real(directory), component, name)
            slot = slot_of(component, directory=True)
            return self.attr(self._inodes.child(directory, slot, NodeKind.HISTORY, hold=True))
        if directory.kind == NodeKind.ACCOUNT:
            raise PassingAbsence(name)
        return self.attr(self._inodes.child(directory, VERSIONS_SLOT, NodeKind.VERSIONS, hold=True))

    def attr(self, node: Node) -> PassingAttr:
        options = self._options
        if isinstance(node, VersionNode):
            size, mtime_ns = node.version.size, node.version.mtime_ns
            return PassingAttr(node.ino, _FILE, size, mtime_ns, options.uid, options.gid)
        mtime_ns = node.mtime_ns or self._started_ns
        return PassingAttr(node.ino, _DIRECTORY, 0, mtime_ns, options.uid, options.gid)

    def readdir(
        self, directory: Node, cookie: int, room: tuple[int, int], hold: bool
    ) -> list[DirEntry]:
        """Answer posix.FileSystem.readdir, for *room*, which is (size, overhead)."""
        size, overhead = room
        found: list[DirEntry] = []
        rows = self._rows(directory, begun=cookie > 0)
        for place, (name, slot) in enumerate(rows[cookie:], start=cookie + 1):
            size -= (overhead + len(name) + 7) & ~7
            if size < 0:
                break
            if directory.kind == NodeKind.HISTORY:
                node: Node = self._version_node(directory, name, hold)
            else:
                node = self._inodes.child(directory, slot, NodeKind.HISTORY, hold)
            found.append(DirEntry(name, self.attr(node), place))
        if not found:
            self._kernel.passing(directory)
        return found

    def _rows(self, directory: Node, *, begun: bool) -> list[tuple[bytes, str]]:
        """Return the names in *directory*, and their slots. *begun*: the reader goes on in the
        answer that it began with."""
        real = _real(directory)
        if directory.kind == NodeKind.HISTORY:
            return [(name, "") for name in self._versions(real, directory.component, begun=begun)]
        shown = [
            (names.file_name(each, reserved=self._reserved), slot_of(each, directory=True))
            for each in self._components(real, begun=begun)
        ]
        return [(name, slot) for name, slot in shown if len(name) <= names.NAME_MAX]

    def _version_node(self, directory: Node, name: bytes, hold: bool) -> VersionNode:
        versions = self._versions(_real(directory), directory.component)
        version = versions.get(name)
        if version is None:
            raise PassingAbsence(name)
        directory.mtime_ns = versions[next(reversed(versions))].mtime_ns
        node = self._inodes.child(directory, name.decode(), NodeKind.VERSION, hold)
        assert isinstance(node, VersionNode)
        node.version = version
        return node

    def _component(self, name: bytes) -> str:
        try:
            return names.component(name, self._reserved).text
        except PosixError as exc:  # no key has that name
            raise PassingAbsence(name) from exc

    def _check_had(self, directory: Node, component: str, name: bytes) -> None:
        """Raise PassingAbsence where *directory* never had an object *component*. Raises
        Unversioned."""
        listed = self._fresh(directory.bucket, directory.key)
        if listed is not None and component in listed.components:
            return
        if not self._versions(directory, component):
            raise PassingAbsence(name)

    # What S3 has said

    def learn(self, missing: Unversioned) -> None:
        """Ask S3 for versions that were not known. Raises S3Error."""
        bucket, asked = missing.bucket, missing.key
        if missing.of_directory:
            self._learn_directory(bucket, asked)
            return
        asked_s, stamp = time.monotonic(), _stamp(self._mimicdb.entry(bucket, asked))
        below = versions_below(self._s3, bucket, asked)
        versions = _shown(takewhile(lambda each: each.key == asked, below))
        self._remember(bucket, {asked: _KnownVersions(versions, stamp, _good_until(asked_s))})

    def _learn_directory(self, bucket: str, directory: str) -> None:
        """Ask for the versions of all objects in *directory*, but not of those further below."""
        asked_s, generation = time.monotonic(), self._mimicdb.generation
        found: dict[str, tuple[Versions, _Stamp | None]] = {}
        for key, of_key in groupby(versions_in(self._s3, bucket, directory), attrgetter("key")):
            versions = _shown(of_key)
            if versions and key != directory and not is_own(key):
                found[key] = versions, _stamp(self._mimicdb.entry(bucket, key))
        soon_s = time.monotonic() + _GOOD_S
        self._remember(bucket, {key: _KnownVersions(*said, soon_s) for key, said in found.items()})
        components = dict.fromkeys(key.removeprefix(directory) for key in found)
        listed = _ListedVersions(
            components, generation, _good_until(asked_s), threading.get_ident()
        )
        with self._lock:
            self._listed[bucket, directory] = listed
            self._listed.move_to_end((bucket, directory))
            while len(self._listed) > _LISTED_MAX:
                self._listed.popitem(last=False)

    def _remember(self, bucket: str, known: Mapping[str, _KnownVersions]) -> None:
        with self._lock:
            for key, each in known.items():
                self._known[bucket, key] = each
                self._known.move_to_end((bucket, key))
            while len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)

    def _versions(self, directory: Node, component: str, *, begun: bool = False) -> Versions:
        """Return the versions of the object *component* of *directory*; if a listing of them has
        *begun*, the ones that were known last. Raises Unversioned."""
        bucket, key = directory.bucket, directory.key + component
        with self._lock:
            known = self._known.get((bucket, key))
        if known is None or (time.monotonic() > known.until_s and not begun):
            raise Unversioned(bucket, key, directory=False)
        if known.stamp != _stamp(self._mimicdb.entry(bucket, key)):
            raise Unversioned(bucket, key, directory=False)
        return known.versions

    def _components(self, directory: Node, *, begun: bool) -> Mapping[str, None]:
        """Return the names that objects in *directory* have or had; if a listing of them has
        *begun*, the ones that were known last. Raises Unversioned."""
        bucket, key = directory.bucket, directory.key
        with self._lock:
            listed = self._listed.get((bucket, key)) if begun else None
        listed = listed or self._fresh(bucket, key)
        if listed is None:
            raise Unversioned(bucket, key, directory=True)
        return listed.components

    def _fresh(self, bucket: str, directory: str) -> _ListedVersions | None:
        """Return the answer of S3 about *directory*, if it is as good as new."""
        with self._lock:
            listed = self._listed.get((bucket, directory))
        if listed is None or time.monotonic() > listed.until_s:
            return None
        own = listed.thread == threading.get_ident()  # however often the mirror changes
        return listed if own or listed.generation == self._mimicdb.generation else None


def _good_until(asked_s: float) -> float:
    """Return the time until which an answer that comes now is good. An answer that takes long, as
    with many versions, is good for long: otherwise nobody could ever use it."""
    now_s = time.monotonic()
    return now_s + max(_GOOD_S, now_s - asked_s)


def _stamp(entry: Entry | None) -> _Stamp | None:
    return None if entry is None else (entry.etag, entry.size, entry.mtime_ns)


def _shown(versions: Iterable[Version]) -> Versions:
    shown = [(_file_name(each), each) for each in versions if not each.deleted]
    return {name: each for name, each in reversed(shown) if len(name) <= names.NAME_MAX}


def _file_name(version: Version) -> bytes:
    at = datetime.fromtimestamp(version.mtime_ns // NS, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%SZ}.{quote(version.version, safe=_PLAIN)}".encode()


def _real(node: Node) -> Node:
    """Return the directory whose `.versions` the directory *node* is, or is in. Raises PosixError
    ESTALE once that directory is unlinked."""
    above = node.parent
    if node.kind == NodeKind.HISTORY and above is not None:
        above = above.parent
    if above is None:
        raise PosixError(errno.ESTALE, f"inode {node.ino}")
    return above
