"""Whether a call is one of s3transfer's: of `download_file`, `copy` and all that is built on them.

A transfer first asks how large an object is, and then for its parts under the condition that it is
still the same. Answered from a mirror that is behind S3, it would fail where that of a plain client
does not.

Any thread may call.
"""

from __future__ import annotations

import sys

_FRAMES = 12  # between a call and s3transfer are few, and those of what traces programs


def is_of_transfer() -> bool:
    """Whether s3transfer has made the call in which this is called. Its threads are not those of
    its callers, and it says what it is only to newer versions of botocore."""
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame.f_globals.get("__name__", "").startswith("s3transfer."):
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False
