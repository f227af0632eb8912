"""Serves a MemFS with one file, as another user:  serve_as_user.py UID MOUNTPOINT [OPTION...]

Prints "ready", or the MountError. SIGTERM ends it. Options: allow_other, no_fusermount.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path


def main() -> int:
    # All is imported before the change of user, who may not read where Python is.
    from memfs import MemFS

    from mimicfs.errors import MountError
    from mimicfs.fuse.mounting import MountOptions
    from mimicfs.fuse.server import Server
    from mimicfs.fuse.session import Session, SessionOptions

    uid, path, *words = sys.argv[1:]
    if int(uid) != os.getuid():
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    fs = MemFS()
    fs.make("file", b"content")
    options = SessionOptions(MountOptions(allow_other="allow_other" in words))
    try:
        session = Session.mount(Path(path), options)
    except MountError as exc:
        print(exc, flush=True)
        return 1
    server = Server(fs, session)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
    print("ready", flush=True)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
