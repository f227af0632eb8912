"""The file system of one of several mounts that share a store, without a kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import BucketOptions, Buckets, FileOptions, S3Options, Target, VFSOptions
from mimicfs.errors import Interrupted, MimicError
from mimicfs.files.journal import Journal
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.filesystem import VFS
from support.kernels import Kernel


class Sharing:
    """A mount's file system, without a kernel."""

    def __init__(self, store: Path, staging: Path, bucket: str, url: str, stack: ExitStack) -> None:
        self.mimicdb = stack.enter_context(closing(Mirror(SQLite(str(store)))))
        self.mimicdb.join(staging.name)
        s3 = stack.enter_context(closing(S3(S3Options(endpoint_url=url), self.mimicdb)))
        parts = (self.mimicdb, s3, Syncer(self.mimicdb, s3), Journal.open(staging), Kernel())
        options = VFSOptions(Target(bucket), buckets=Buckets(BucketOptions(metadata="never")))
        self.fs = stack.enter_context(closing(VFS(*parts, options, FileOptions(staging))))
        self.caller = Caller(os.getuid(), os.getgid(), 0, Cancellation())

    def rename(self, old: str, new: str) -> str:
        """Rename a directory; return what came of it."""
        try:
            self.fs.rename(self.caller, *self._place(old), *self._place(new), 0)
        except Interrupted:
            return "interrupted"
        except MimicError as exc:
            return errno.errorcode[exc.errno]
        return "done"

    def call(self, words: str) -> str:
        """Make, remove or rename one name; return what came of it."""
        what, path, *new = words.split()
        calls: dict[str, Callable[..., object]] = {
            "mkdir": lambda ino, name: self.fs.mkdir(self.caller, ino, name, 0o700),
            "symlink": lambda ino, name: self.fs.symlink(self.caller, ino, name, b"target"),
            "unlink": lambda *place: self.fs.unlink(self.caller, *place),
            "rmdir": lambda *place: self.fs.rmdir(self.caller, *place),
            "rename": lambda ino, name: self.fs.rename(
                self.caller, ino, name, *self._place(new[0]), 0
            ),
        }
        try:
            calls[what](*self._place(path))
        except Interrupted:
            return "interrupted"
        except MimicError as exc:
            return errno.errorcode[exc.errno]
        return "done"

    def created(self, path: str, text: bytes) -> Callable[[], None]:
        """Make a file and write *text*; return what closes it."""
        _, opened = self.fs.create(self.caller, *self._place(path), 0o600, os.O_WRONLY)
        self.fs.write(self.caller, opened.handle, 0, memoryview(text), append=False)

        def close() -> None:
            self.fs.flush(self.caller, opened.handle)
            self.fs.release(opened.handle)

        return close

    def _place(self, path: str) -> tuple[int, bytes]:
        *above, name = path.split("/")
        ino = ROOT_INO
        for each in above:
            ino = self.fs.lookup(self.caller, ino, each.encode()).ino
        return ino, name.encode()

    def claims(self, bucket: str) -> str | None:
        """Return what is noted of renames that are under way."""
        return self.mimicdb.note(bucket, "renames")
