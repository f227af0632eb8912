"""Which keys are mimicfs's own, and not its users'."""

import pytest

from mimicfs.s3.requests.ownkeys import is_own, is_zeros, needed_s, own_name

HEX = "0123456789abcdef"


@pytest.mark.parametrize(
    "key",
    [
        f"d/.mimicfs-{HEX}{HEX}",
        f".mimicfs-check-{HEX}",
        f"d/.mimicfs-zeros-{HEX}",
        *(
            f".mimicfs-doctor-{HEX}{suffix}"
            for suffix in (
                "",
                "-sum",
                "-many-1",
                "-copy",
                "-parts",
                "-small",
                "-sizes",
                "-d/",
                "-odd-\x01 +",
            )
        ),
    ],
)
def test_what_mimicfs_makes_is_its_own(key):
    assert is_own(key)
    assert is_zeros(key) == ("zeros" in key)


@pytest.mark.parametrize(
    "key",
    [
        ".mimicfs-notes",
        "d/.mimicfs-check",
        f".mimicfs-check-{HEX}.bak",
        f".mimicfs-{HEX}",
        f".mimicfs-zeros-{HEX}0",
        f".mimicfs-doctor-{HEX}/report.txt",
        f".mimicfs-doctor-{HEX}.bak",
        f"x.mimicfs-check-{HEX}",
        "",
    ],
)
def test_what_only_begins_so_is_a_users(key):
    assert not is_own(key)
    assert not is_zeros(key)


@pytest.mark.parametrize("kind", ["", "check", "doctor", "zeros"])
def test_each_new_name_is_its_own_and_another_one(kind):
    names = {own_name(kind) for _ in range(3)}
    assert len(names) == 3
    assert all(is_own(name) for name in names)


@pytest.mark.parametrize(
    ("key", "needed"),
    [
        (f"d/.mimicfs-zeros-{HEX}", 86_400),
        (f"d/.mimicfs-{HEX}{HEX}", 3600),
        (f"d/.mimicfs-{HEX}{HEX}/", 3600),
        (f".mimicfs-{HEX}{HEX}/a", 3600),
        (f".mimicfs-check-{HEX}", 0),
        (f"d/.mimicfs-doctor-{HEX}-many-2", 0),
        (f"d/.mimicfs-doctor-{HEX}-d/", 0),
        (f"d/.mimicfs-doctor-{HEX}-d/x", 0),
        (f"d/.mimicfs-{HEX}{HEX}/b", None),
        (f"d/.mimicfs-{HEX}{HEX}/a/a", None),
        (f"d/.mimicfs-check-{HEX}/", None),
        (f"d/.mimicfs-doctor-{HEX}-d/y", None),
        (f"d/.mimicfs-doctor-{HEX}-mine", None),
        (".mimicfs-notes", None),
        ("d/", None),
        ("", None),
    ],
)
def test_only_what_mimicfs_has_certainly_made_may_be_deleted_some_time_after(key, needed):
    assert needed_s(key) == needed
