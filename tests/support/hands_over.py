"""Mounts, and lets another process serve it:  hands_over.py DEVICE MOUNTPOINT COMMAND...

To be run in a user and mount namespace of its own. In COMMAND, `{}` stands for the descriptor.
Once the mount answers, uses it; then ends the server by SIGTERM, and prints what was seen.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    device, mountpoint, *command = sys.argv[1:]
    fd = os.open(device, os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"s3", mountpoint.encode(), b"fuse.mimicfs", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount(2)")
    words = [each.replace("{}", str(fd)) for each in command]
    # Without any capability: in the namespace, too, only who mounted has them.
    dropped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *words]
    with subprocess.Popen(dropped, pass_fds=[fd]) as server:
        os.close(fd)
        seen = used(Path(mountpoint))
        (opened := open(Path(mountpoint) / "open", "wb", 0)).write(b"still open")  # noqa: SIM115
        mapped = os.open(Path(mountpoint) / "a", os.O_RDWR)
        pages = mmap.mmap(mapped, 7)
        pages[:4] = b"FROM"
        status = [*command[:1], "status", "--json"]
        told = json.loads(subprocess.run(status, check=True, capture_output=True).stdout)
        server.terminate()
        seen["ended"] = server.wait(30)
        with suppress(OSError):  # nobody is there to be told
            opened.close()
        seen["served"] = [told[0]["mountpoint"], told[0]["error"]]
        seen["then"] = error_of(Path(mountpoint))
    print(json.dumps(seen))


def used(root: Path) -> dict[str, object]:
    (root / "new").write_text("written")
    return {"listed": sorted(os.listdir(root)), "read": (root / "a").read_text()}


def error_of(root: Path) -> str:
    try:
        return str(os.listdir(root))
    except OSError as exc:
        return exc.strerror or ""


if __name__ == "__main__":
    main()
