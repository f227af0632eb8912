"""POSIX attributes in user metadata."""

import pytest

from mimicfs import metadata
from mimicfs.metadata import Stored


def test_what_is_written_is_the_form_of_s3fs():
    written = metadata.written(0o100640, 1000, 100, 1_600_000_000_500_000_000)
    assert written == {
        "mode": "33184",
        "uid": "1000",
        "gid": "100",
        "mtime": "1600000000.500000000",
    }


def test_only_what_is_given_is_written():
    assert metadata.written(mtime_ns=5) == {"mtime": "0.000000005"}


def test_what_was_written_is_read():
    meta = metadata.written(0o100640, 1000, 100, 1_600_000_000_500_000_000)
    assert metadata.read(meta) == Stored(0o640, 1000, 100, 1_600_000_000_500_000_000)


def test_a_short_fraction_of_rclone_is_a_fraction():
    assert metadata.read({"mtime": "1600000000.5"}).mtime_ns == 1_600_000_000_500_000_000


def test_setuid_and_setgid_from_a_bucket_are_dropped():
    assert metadata.read({"mode": str(0o106755)}).permissions == 0o755


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "٣", "99999999999"])
def test_a_number_that_makes_no_sense_is_none(text):
    assert metadata.read({"uid": text, "mode": text}) == Stored()


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1600000000.", "9999999999999999"])
def test_a_time_that_makes_no_sense_is_none(text):
    assert metadata.read({"mtime": text}) == Stored()
