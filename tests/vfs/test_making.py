"""A directory that is made while S3 tells of what others put into it."""

from types import SimpleNamespace

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.config.values import VFSOptions
from mimicfs.entry import Scope
from mimicfs.errors import S3Unavailable
from mimicfs.mimicdb import Mirror
from mimicfs.vfs.claims import RenameClaims
from mimicfs.vfs.inodes import Inodes
from mimicfs.vfs.making import Making


def test_a_new_directory_counts_as_listed_before_its_key_is_known_and_not_if_that_fails():
    mimicdb, parent = Mirror(Memory()), Inodes("bucket").root
    mimicdb.complete("bucket", Scope("", False, 1))
    known = []

    def make(bucket, key, _meta):
        known.append((key, mimicdb.covered(bucket, key, deep=True)))
        if key == "fails/":
            raise S3Unavailable("S3 is away")

    nobody = SimpleNamespace(inherited_group=lambda *_: None, of_new=lambda *_: (0, 0))
    stored = SimpleNamespace(markers=SimpleNamespace(make=make, are_kept=True))
    claims = RenameClaims(mimicdb)
    making = Making(mimicdb, *[None] * 3, stored, None, nobody, claims, VFSOptions(), None)
    making._make_directory(None, parent, "d/", 0o755)
    with pytest.raises(S3Unavailable):
        making._make_directory(None, parent, "fails/", 0o755)
    assert known == [("d/", True), ("fails/", True)]
    covered = [mimicdb.covered("bucket", key, deep=True) for key in ("d/", "fails/")]
    assert covered == [True, False]
