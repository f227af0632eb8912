"""The attributes that are stored with an object besides its bytes, as a file system changes them:
mode, owner, times, extended attributes, and the special files that are nothing else (links, pipes,
sockets, devices).

S3 changes metadata only by a copy of the object onto itself. That copy keeps the type, storage
class, encryption, tags and all other metadata. Where a file is open and changed, nothing is copied:
its next upload stores everything. Metadata that an S3 object cannot carry (over 2 KiB) is refused
before anything is sent: ENOSPC.

Threading: any thread; S3 is asked without a lock. If two threads change one object at the same
time, one may find that it was replaced (ESTALE).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

from mimicfs import metadata
from mimicfs.config.values import VFSOptions
from mimicfs.entry import KEPT, OBJECT, Entry
from mimicfs.errors import KeyNotFound, PosixError, Unlisted
from mimicfs.mimicdb import Mirror
from mimicfs.posix import Attr, NewAttr
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.requests.content import differ
from mimicfs.vfs.attributes import believed_kinds
from mimicfs.vfs.kernel import Kernel
from mimicfs.vfs.markers import DIRECTORY_TYPE, Markers
from mimicfs.vfs.nodes import Node
from mimicfs.vfs.rootattributes import RootAttributes

_LINK_TYPE = "application/octet-stream"  # of links, as s3fs writes them
_TARGET_MAX = 4095  # bytes of a link's target (PATH_MAX less the NUL)
_TARGETS = 1024  # targets of links that are remembered
_OURS = "user.mimicfs."
_NEW = Condition(absent=True)
_XATTR_NAME_MAX = 255  # bytes (xattr(7))

Meta = Mapping[str, str]


class StoredAttributes:
    """Changes what is stored with the objects behind nodes."""

    def __init__(
        self,
        mimicdb: Mirror,
        s3: S3,
        kernel: Kernel,
        roots: RootAttributes,
        options: VFSOptions,
    ) -> None:
        self._mimicdb = mimicdb
        self._roots = roots
        self.markers = Markers(mimicdb, s3, options)
        self._kernel = kernel
        self._s3 = s3
        self._options = options
        self._kinds = believed_kinds(options)
        self._lock = threading.Lock()  # protects the targets
        self._targets: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()

    # Attributes

    def set_attributes(self, node: Node, now: Attr, new: NewAttr) -> None:
        """Store mode, owner and times of *node*, which are *now* so far. Raises PosixError
        ENOSPC."""
        kept = self._options.buckets.of(node.bucket).keeps_metadata
        if kept:  # otherwise as on a disk without owners: cp -a and rsync -a go on
            self._change(
                node, lambda meta: {**meta, **self._said(node, meta, now, new)}, new.mtime_ns
            )
        if node.is_directory and new.mtime_ns is not None:
            node.mtime_ns = 0 if kept else new.mtime_ns  # 0: what is stored, also later by others
        if kept and node.parent is not None and not node.is_directory and not node.component:
            # those of a marker are those of its directory
            self._kernel.attributes_changed(node.parent)

    def _said(self, node: Node, meta: Meta, now: Attr, new: NewAttr) -> dict[str, str]:
        """Return what is to be stored for *new*, beside *meta*. Where that says nothing, what is
        shown *now* is stored, too. Raises PosixError ESTALE where it says that *node* is another
        type of file than is shown: nobody knew until now, and the kernel looks it up again."""
        stored = metadata.read(meta)
        kind = stat.S_IFMT(now.mode) if node.component else stat.S_IFDIR
        if kind != stat.S_IFDIR and stored.kind:
            if stored.kind in self._kinds and stored.kind != kind:
                raise PosixError(errno.ESTALE, f"s3://{node.bucket}/{node.key}: is no regular file")
            kind = stored.kind
        mode, uid, gid, mtime_ns = new.mode, new.uid, new.gid, new.mtime_ns
        if mode is None and stored.permissions is None:
            mode = now.mode
        if mtime_ns is None and (stored.mtime_ns is None or node.mtime_ns > stored.mtime_ns):
            mtime_ns = now.mtime_ns
        return metadata.written(
            None if mode is None else kind | stat.S_IMODE(mode),
            now.uid if uid is None and stored.uid is None else uid,
            now.gid if gid is None and stored.gid is None else gid,
            mtime_ns,
            new.atime_ns,
        )

    # Extended attributes

    def xattrs(self, node: Node) -> dict[str, bytes]:
        """Return the extended attributes of *node*, as far as the mirror knows them. Attributes of
        other classes (`security.`), or with our own names, are not believed if an object has them.
        """
        found = metadata.xattrs(self._meta(node))
        return {name: value for name, value in found.items() if _is_users(name)}

    def set_xattr(self, node: Node, name: bytes, value: bytes, flags: int) -> None:
        """Set one. Raises PosixError EEXIST or ENODATA as *flags* say, ENOSPC, ERANGE, EIO."""
        self._check_kept(node.bucket)
        text = _xattr_name(name)

        def change(meta: Meta) -> dict[str, str]:
            self._check_regular(node, meta)
            try:
                found = metadata.known_xattrs(meta)
            except ValueError as exc:
                raise PosixError(errno.EIO, f"s3://{node.bucket}/{node.key}: {exc}") from exc
            if flags & os.XATTR_CREATE and text in found:
                raise PosixError(errno.EEXIST, text)
            if flags & os.XATTR_REPLACE and text not in found:
                raise PosixError(errno.ENODATA, text)
            return metadata.with_xattrs(meta, {**found, text: value})

        self._change(node, change)

    def remove_xattr(self, node: Node, name: bytes) -> None:
        """Remove one. Raises PosixError ENODATA."""
        text = _xattr_name(name)

        def change(meta: Meta) -> dict[str, str]:
            self._check_regular(node, meta)
            found = metadata.xattrs(meta)
            if text not in found:
                raise PosixError(errno.ENODATA, text)
            del found[text]
            return metadata.with_xattrs(meta, found)

        self._change(node, change)

    def _check_regular(self, node: Node, meta: Meta) -> None:
        """Raise PosixError ESTALE if *meta* says that *node*, which is shown as a regular file, is
        none: a program means, say, what the link points to."""
        if node.is_directory or node.special:
            return
        if metadata.read(meta).kind in self._kinds:
            raise PosixError(errno.ESTALE, f"s3://{node.bucket}/{node.key}: is no regular file")

    def of_marker(self, bucket: str, key: str) -> Content:
        """Return what is stored with the marker object of a directory, if it has one."""
        try:
            return self._s3.kept.content_of(bucket, key)
        except KeyNotFound:
            return Content(DIRECTORY_TYPE)

    # Special files. An object that the mirror does not know may be there: it is not replaced.

    def make_special(self, bucket: str, key: str, meta: Meta) -> Entry:
        """Make an empty object that is a pipe, a socket or a device by its metadata. Raises
        PosixError EPERM if such files are not believed here."""
        self._check_kept(bucket)
        if metadata.read(meta).kind not in self._kinds:
            raise PosixError(errno.EPERM, f"s3://{bucket}/{key}: devices need -o dev")
        return self._s3.put(bucket, key, b"", 0, Content(_LINK_TYPE, meta), _NEW)

    def make_link(self, bucket: str, key: str, target: bytes, meta: Meta) -> Entry:
        """Make a symbolic link: an object whose bytes are its target."""
        self._check_kept(bucket)
        if not self._options.symlinks:
            raise PosixError(errno.EPERM, "symbolic links are switched off (-o nosymlinks)")
        if len(target) > _TARGET_MAX:
            raise PosixError(errno.ENAMETOOLONG, f"target of s3://{bucket}/{key}")
        entry = self._s3.put(bucket, key, target, len(target), Content(_LINK_TYPE, meta), _NEW)
        self._remember(bucket, entry, target)
        return entry

    def target(self, node: Node, entry: Entry) -> bytes:
        """Return where the link *node* points to. Raises PosixError EINVAL if it is no link."""
        if metadata.read(entry.meta or {}).kind != stat.S_IFLNK or not self._options.symlinks:
            raise PosixError(errno.EINVAL, f"s3://{node.bucket}/{entry.key}: not a symbolic link")
        with self._lock:
            known = self._targets.get((node.bucket, entry.key, entry.etag))
        if known is not None:
            return known
        if not 0 < entry.size <= _TARGET_MAX:
            raise PosixError(
                errno.EIO, f"s3://{node.bucket}/{entry.key}: not a valid target of a link"
            )
        target = bytearray(entry.size)
        self._s3.read_into(node.bucket, entry.key, entry.etag, 0, memoryview(target))
        if b"\0" in target:
            raise PosixError(
                errno.EIO, f"s3://{node.bucket}/{entry.key}: not a valid target of a link"
            )
        self._remember(node.bucket, entry, bytes(target))
        return bytes(target)

    def _remember(self, bucket: str, entry: Entry, target: bytes) -> None:
        if entry.etag:
            with self._lock:
                self._targets[bucket, entry.key, entry.etag] = target
                if len(self._targets) > _TARGETS:
                    self._targets.popitem(last=False)

    # What the above is made of

    def _check_kept(self, bucket: str) -> None:
        """Raise PosixError EOPNOTSUPP if this mount stores nothing with objects."""
        if not self._options.buckets.of(bucket).keeps_metadata:
            raise PosixError(errno.EOPNOTSUPP, f's3://{bucket}: metadata = "no" for this bucket')

    def _meta(self, node: Node) -> Meta:
        if not self._options.buckets.of(node.bucket).keeps_metadata:
            return {}
        file = node.file
        if file is not None and (file.dirty or file.apart):
            return file.content.meta
        entry = self._entry(node)
        return (entry.meta if entry is not None else None) or {}

    def _entry(self, node: Node) -> Entry | None:
        if node.is_nameless:
            return node.gone
        if not node.key and node.is_directory:
            return self._roots.entry(node.bucket)
        return self._mimicdb.entry(node.bucket, node.key) if node.key else None

    def _change(
        self,
        node: Node,
        change: Callable[[Meta], dict[str, str]],
        mtime_ns: int | None = None,
    ) -> None:
        """Store what *change* makes of the metadata of *node*. Raises PosixError ESTALE where the
        name stands for another node by now: then the kernel looks it up again."""
        stamp = metadata.written(ctime_ns=time.time_ns())
        file = node.file
        if file is not None and file.expired:
            raise PosixError(errno.ESTALE, f"s3://{file.bucket}/{file.key}")
        if file is not None and file.change_meta(
            lambda meta: checked({**change(meta), **stamp}, node), mtime_ns
        ):
            return
        key, entry = node.key, self._entry(node)
        self._check_there(node, entry)
        if not key and not node.is_directory:  # its object was found to be another version
            raise PosixError(errno.ESTALE, f"s3://{node.bucket}/{node.component}")
        if not key or (
            node.is_directory
            and not self.markers.are_kept
            and (entry is None or entry.kind != OBJECT)
        ):
            meta = (entry.meta if entry is not None else None) or {}
            self._noted(node, checked({**change(meta), **stamp}, node))
            return
        if entry is None or entry.kind != OBJECT:
            try:
                self.markers.make(node.bucket, key, checked({**change({}), **stamp}, node))
            except PosixError as exc:
                if exc.errno != errno.EEXIST:  # otherwise somebody has made one: change that
                    raise
            else:
                self._kernel.returned(node)
                return
        self._copied(
            node,
            lambda content: content._replace(meta=checked({**change(content.meta), **stamp}, node)),
        )

    def _check_there(self, node: Node, entry: Entry | None) -> None:
        """Raise PosixError ENOENT if others have deleted the directory *node*, which the mirror has
        as *entry*: a change of its attributes would make it again."""
        if entry is not None or node.parent is None or not node.is_directory or not node.key:
            return
        try:
            _, below = self._mimicdb.lookup(node.bucket, node.parent.key, node.component)
        except Unlisted:
            return  # nobody knows that it is gone
        if below is None:
            raise PosixError(errno.ENOENT, f"s3://{node.bucket}/{node.key}")

    def _noted(self, node: Node, meta: Meta) -> None:
        """Note *meta* of the directory *node*, which no object can hold: the mirror holds it, or
        the node itself once it is removed."""
        if node.is_nameless:
            node.gone = (node.gone or Entry("", kind=KEPT))._replace(meta=meta)
        elif node.key:
            self._mimicdb.keep(node.bucket, node.key, meta)
            self._kernel.returned(node)
        else:
            self._roots.set(node.bucket, meta)

    def change_content(self, node: Node, change: Callable[[Content], Content]) -> None:
        """Store what *change* makes of the content that is stored with the object *node*. Raises
        PosixError ESTALE where the name stands for another node by now."""
        file = node.file
        if not node.key or (file is not None and file.expired):
            raise PosixError(errno.ESTALE, f"s3://{node.bucket}/{node.component}")
        self._copied(node, change)

    def _copied(self, node: Node, change: Callable[[Content], Content]) -> None:
        file, key = node.file, node.key
        entry, content = self._s3.kept.of(node.bucket, key)
        content = change(content)
        new = self._s3.copy((node.bucket, entry), node.bucket, key, content)
        surely = self._s3.capabilities["copy-etags"] == "yes"
        self._kernel.copied(node, entry, new, surely=surely)
        if file is not None and (surely or _may_be_same(new, entry, content)):
            file.adopt(new, content, source=entry.etag)


def _may_be_same(copy: Entry, source: Entry, content: Content) -> bool:
    """Whether *copy*, stored with *content*, may have the bytes of *source*. Some servers copy
    whatever is there: others may have put it there a moment before."""
    encrypted = "ServerSideEncryption" in content.headers  # by KMS: the ETag says nothing
    return copy.size == source.size and (encrypted or not differ(copy.etag, source.etag))


def _is_users(name: str) -> bool:
    """Whether the kernel takes *name*: otherwise `cp -a` would see it, and fail to read it."""
    if not name.startswith("user.") or name.startswith(_OURS) or "\0" in name:
        return False
    try:
        return len("user.") < len(name.encode()) <= _XATTR_NAME_MAX
    except UnicodeEncodeError:  # half a surrogate pair
        return False


def checked(meta: dict[str, str], node: Node) -> dict[str, str]:
    """Return *meta*. Raises PosixError ENOSPC if S3 would not take it."""
    size = metadata.size(meta)
    if size > metadata.SIZE_MAX:
        about = f"s3://{node.bucket}/{node.key}: {size} bytes of metadata"
        raise PosixError(errno.ENOSPC, f"{about}; S3 takes {metadata.SIZE_MAX}")
    return meta


def _xattr_name(name: bytes) -> str:
    if len(name) > _XATTR_NAME_MAX:
        raise PosixError(errno.ERANGE, f"name of {len(name)} bytes")
    if name == b"user.":
        raise PosixError(errno.EINVAL, "an attribute without a name")
    try:
        return name.decode()
    except UnicodeDecodeError as exc:
        raise PosixError(errno.EINVAL, f"{name!r}: not UTF-8") from exc
