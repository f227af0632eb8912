"""Whether a call is one of s3transfer's: of `download_file`, `copy` and all that is built on them.

A transfer first asks how large an object is. What is large it takes in parts, under the condition
that the object is still the same: with the size and the ETag of a mirror that is behind S3, it
would fail where that of a plain client does not. What is small it takes as it is.

Any thread may call.
"""

from __future__ import annotations

import sys

_FRAMES = 12  # between a call and s3transfer are few, and those of what traces programs


def parts_from() -> int | None:
    """Return the size, in bytes, from which on the transfer that has made this call takes an object
    in parts; 0 if it does not say so; None: no transfer has made it.

    Its threads are not those of its callers, and it says what it is to newer versions of botocore
    only: its frame is looked at."""
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame.f_globals.get("__name__", "").partition(".")[0] == "s3transfer":
            return int(getattr(frame.f_locals.get("config"), "multipart_threshold", 0))
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None
