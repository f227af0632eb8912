"""Whether a call comes from s3transfer: from `download_file`, `copy` and everything that is built
on them.

A transfer first asks how large an object is. It takes a large one in parts, under the condition
that the object is still the same: with the size and the ETag of a mirror that is behind S3, it
would fail where that of a plain client does not. It takes a small object as it is.

Any thread may call.
"""

from __future__ import annotations

import sys

_FRAMES = 12  # few frames lie between a call and s3transfer, besides those of tracers


def parts_from() -> int | None:
    """Return the size, in bytes, from which on the transfer that has made this call takes an object
    in parts; 0 if it does not say so; None: no transfer has made it.

    A transfer has threads of its own, and tells only newer versions of botocore what it is: so this
    looks at its frame."""
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame.f_globals.get("__name__", "").partition(".")[0] == "s3transfer":
            return int(getattr(frame.f_locals.get("config"), "multipart_threshold", 0))
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None
