"""The checksums that S3 sends are those of the bytes, or the bytes are not believed."""

import sys
from types import ModuleType

import pytest
from support.proxy import Spoil

from mimicfs.errors import S3Unavailable
from mimicfs.s3.requests import checksums
from mimicfs.s3.requests.checksums import missed

DATA = memoryview(b"123456789")
# Of that string: the check value of the CRC catalogue, and the digests of coreutils.
SAID = {
    "crc32": "y/Q5Jg==",
    "sha1": "98O8HYCOBHMq32eZZczDTKeuNEE=",
    "sha256": "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=",
    "md5": "JfnnlDI7RTiF9RgfG2JNCw==",
    "crc32c": "4waSgw==",
    "crc64nvme": "rosUhgp5mIg=",
}


@pytest.mark.parametrize("name", SAID)
def test_each_checksum_is_looked_at(name):
    headers = {f"x-amz-checksum-{name}": SAID[name], "etag": '"e"'}
    assert missed(headers, DATA) == ""
    assert missed(headers, memoryview(b"123456780")) == name


class Old(ModuleType):
    """awscrt before it had CRC-64/NVME."""

    checksums = ModuleType("awscrt.checksums")


class Broken(ModuleType):
    """awscrt while it is being replaced: its parts do not fit."""

    def __getattr__(self, name):
        if name == "checksums":
            raise TypeError(name)
        raise AttributeError(name)


def _forget(request):
    for function in (checksums._function, checksums.crc32c, checksums._awscrt):
        function.cache_clear()
        request.addfinalizer(function.cache_clear)


def test_awscrt_is_loaded_for_its_own_checksums_only(monkeypatch, request, caplog):
    _forget(request)
    monkeypatch.setitem(sys.modules, "awscrt", Broken("awscrt"))
    headers = {f"x-amz-checksum-{name}": SAID[name] for name in ("crc32", "sha256")}
    assert missed(headers, DATA) == ""
    assert caplog.records == []


@pytest.mark.parametrize("awscrt", [Old("awscrt"), Broken("awscrt")])
def test_nothing_that_awscrt_lacks_is_looked_at(awscrt, monkeypatch, request, caplog):
    _forget(request)
    monkeypatch.setitem(sys.modules, "awscrt", awscrt)
    headers = {f"x-amz-checksum-{name}": SAID[name] for name in ("crc32c", "crc64nvme")}
    assert missed({**headers, "etag": '"e"'}, DATA) == ""
    assert checksums.crc32c() is None
    assert checksums.verified() == ["crc32", "md5", "sha1", "sha256"]
    assert [it.levelname for it in caplog.records] == ["WARNING"] * isinstance(awscrt, Broken)


@pytest.mark.parametrize(
    "more",
    [
        {"x-amz-checksum-type": "COMPOSITE"},
        {"x-amz-checksum-crc32": "y/Q5Jg==-2"},
        {"etag": '"0123-2"'},  # S3 leaves the -2 out where a range was asked for
    ],
)
def test_a_checksum_of_checksums_says_nothing(more):
    headers = {"x-amz-checksum-crc32": "AAAAAA==", "etag": '"e"', **more}
    assert missed(headers, DATA) == ""


def test_of_an_object_in_parts_a_full_one_is_looked_at():
    headers = {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-type": "FULL_OBJECT"}
    assert missed({**headers, "etag": '"0123-2"'}, DATA) == "crc32"


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_bytes_without_their_checksum_are_asked_for_again_and_then_an_error(
    s3, client, bucket, proxy
):
    client.put_object(Bucket=bucket, Key="a", Body=bytes(DATA), ChecksumAlgorithm="SHA256")
    entry, _ = s3.head(bucket, "a")
    buffer = bytearray(9)
    s3.read_into(bucket, "a", entry.etag, 0, memoryview(buffer))
    assert buffer == DATA
    spoilt = Spoil(lambda request: request.kind == "GET")
    with proxy.rule(spoilt):
        with pytest.raises(S3Unavailable, match=r"checksum \(sha256\).*in every attempt"):
            s3.read_into(bucket, "a", entry.etag, 0, memoryview(buffer))
    assert spoilt.seen == 3


def test_a_part_of_an_object_is_read_without(s3, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=bytes(DATA), ChecksumAlgorithm="SHA256")
    entry, _ = s3.head(bucket, "a")
    buffer = bytearray(4)
    s3.read_into(bucket, "a", entry.etag, 2, memoryview(buffer))
    assert buffer == b"3456"
