"""POSIX attributes in user metadata."""

import pytest

from mimicfs import metadata
from mimicfs.metadata import StoredMetadata


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
    assert metadata.read(meta) == StoredMetadata(
        0o640, 1000, 100, 1_600_000_000_500_000_000, 0o100000
    )


def test_a_short_fraction_of_rclone_is_a_fraction():
    assert metadata.read({"mtime": "1600000000.5"}).mtime_ns == 1_600_000_000_500_000_000


@pytest.mark.parametrize("text", ["", "x", "-1", "1e3", "٣", "99999999999"])
def test_a_number_that_makes_no_sense_is_none(text):
    assert metadata.read({"uid": text, "mode": text}) == StoredMetadata()


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1600000000.", "9999999999999999"])
def test_a_time_that_makes_no_sense_is_none(text):
    assert metadata.read({"mtime": text}) == StoredMetadata()


@pytest.mark.parametrize(
    "meta",
    [
        {"mode": "33184", "uid": "7", "gid": "8", "mtime": "1600000000.250000000"},
        {"mode": "0100640", "uid": "7", "gid": "8", "mtime": "1600000000.25"},
        {"mode": "100640", "uid": "7", "gid": "8", "mtime": "1600000000.25"},  # rclone copy -M
        {
            "file-permissions": "0100640",
            "file-owner": "7",
            "file-group": "8",
            "file-mtime": "1600000000250000000ns",
        },
        {
            "file-permissions": "0100640",
            "file-owner": "7",
            "file-group": "8",
            "file-mtime": "1600000000250",
        },
        {
            "goog-reserved-posix-mode": "100640",
            "goog-reserved-posix-uid": "7",
            "goog-reserved-posix-gid": "8",
            "gcsfuse_mtime": "2020-09-13T12:26:40.25Z",
        },
        {"s3cmd-attrs": "uid:7/gname:x/uname:x/gid:8/mode:33184/mtime:1600000000.25/md5:0"},
    ],
)
def test_the_forms_of_other_programs_are_read(meta):
    assert metadata.read(meta) == StoredMetadata(0o640, 7, 8, 1_600_000_000_250_000_000, 0o100000)


def test_what_s3fs_wrote_comes_before_what_others_did():
    assert metadata.read({"uid": "1", "file-owner": "2"}).uid == 1


def test_a_time_of_gcsfuse_before_1970_is_that_time():
    meta = {"gcsfuse_mtime": "1969-12-31T23:59:59.25Z"}
    assert metadata.read(meta).mtime_ns == -750_000_000


def test_links_of_gcsfuse_are_links():
    assert metadata.read({"goog-reserved-file-is-symlink": "true"}).kind == 0o120000


@pytest.mark.parametrize("mode", ["100999", "177777", "39321", "777777", "4294967295"])
def test_a_mode_that_is_none_in_any_form_allows_nobody_anything(mode):
    assert metadata.read({"mode": mode}) == StoredMetadata()


@pytest.mark.parametrize("mode", ["0", "4095"])
def test_a_type_that_there_is_not_is_none(mode):
    assert metadata.read({"mode": mode}).kind == 0


def test_extended_attributes_are_in_the_form_of_s3fs():
    meta = metadata.with_xattrs({"uid": "1"}, {"user.k": b"v"})
    assert meta == {"uid": "1", "xattr": "%7B%22user.k%22%3A%22dg%3D%3D%22%7D"}
    assert metadata.xattrs(meta) == {"user.k": b"v"}
    assert metadata.with_xattrs(meta, {}) == {"uid": "1"}


@pytest.mark.parametrize("text", ["", "x", "%7B%7D", "[]", "%7B%22a%22%3A1%7D", "%FF", "%22x%22"])
def test_extended_attributes_that_make_no_sense_are_none(text):
    assert metadata.xattrs({"xattr": text}) == {}


def test_the_ctime_is_written_and_read_and_is_never_before_the_bytes():
    meta = metadata.written(0o100644, ctime_ns=5_000_000_007)
    assert meta == {"mode": "33188", "ctime": "5.000000007"}
    assert metadata.read(meta).ctime_ns == 5_000_000_007
    assert metadata.of_new_bytes(meta, 9) == {"mtime": "0.000000009", "ctime": "5.000000007"}
    assert metadata.of_new_bytes(meta, 6 * 10**9) == {
        "mtime": "6.000000000",
        "ctime": "6.000000000",
    }
    assert metadata.of_new_bytes({}, 9) == {"mtime": "0.000000009"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("README", "binary/octet-stream"),
        ("a.txt", "text/plain"),
        ("A.B.TXT", "text/plain"),
        (".txt", "binary/octet-stream"),
        ("..txt", "binary/octet-stream"),
        (".a.txt", "text/plain"),
        ("v1.2.tar.gz", "application/gzip"),
        (".tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.svgz", "application/gzip"),
        ("x.unknown", "binary/octet-stream"),
        ("x.json.unknown", "binary/octet-stream"),
        ("data:text.html", "text/html"),
        ("a.", "binary/octet-stream"),
    ],
)
def test_a_content_type_is_that_of_the_ending(name, said):
    assert metadata.content_type(name) == said
