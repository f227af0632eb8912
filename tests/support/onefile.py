"""The invariant of vfs/table.py, looked at from outside."""

from __future__ import annotations

from collections import Counter

from mimicfs.files.states import State

_MAY_UPLOAD = (State.CLEAN, State.DIRTY)


def check_one_file_of_each_key(fs):
    """Fail if two open Files may upload to one key."""
    files = list(fs._handles._users)
    keys = Counter((each.bucket, each.key) for each in files if each.state in _MAY_UPLOAD)
    assert [key for key, count in keys.items() if count > 1] == []
