"""The properties that S3 keeps with an object are read and set as extended attributes
`user.mimicfs.*`."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.clients import plain
from support.mounts import costs, mounted
from support.proxy import Proxy

pytestmark = pytest.mark.slow

BUCKET = "attributes"
_numbers = itertools.count(1)


class Mounted(NamedTuple):
    path: Path
    client: Any
    proxy: Proxy


@pytest.fixture(scope="module")
def mount(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    client, proxy = plain(moto), Proxy(moto)
    client.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)
    base = tmp_path_factory.mktemp("attributes")
    with mounted(base, proxy.url, f"s3://{BUCKET}") as mount:
        yield Mounted(mount.path, client, proxy)
    proxy.close()
    client.close()


class Object:
    """An object, and the file that shows it."""

    def __init__(self, mount: Mounted, **stored: Any) -> None:
        self.key = f"o{next(_numbers)}"
        self.path = mount.path / self.key
        self._client, self._proxy = mount.client, mount.proxy
        mount.client.put_object(Bucket=BUCKET, Key=self.key, Body=b"12345", **stored)
        (mount.path / ".sync").touch()
        self.path.stat()  # what is stored with it is asked before it is shown

    def get(self, name: str) -> str:
        return os.getxattr(self.path, f"user.mimicfs.{name}").decode()

    def set(self, name: str, value: str, flags: int = 0) -> None:
        whole = os.fsencode(f"user.mimicfs.{name}")
        os.setxattr(self.path, whole, value.encode(), flags)

    def remove(self, name: str) -> None:
        os.removexattr(self.path, f"user.mimicfs.{name}")

    def head(self) -> Any:
        return self._client.head_object(Bucket=BUCKET, Key=self.key)

    def tags(self) -> dict[str, str]:
        found = self._client.get_object_tagging(Bucket=BUCKET, Key=self.key)["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in found}

    def costs(self, **requests: int) -> Any:
        return costs(self._proxy, **requests)


STORED = {
    "ContentType": "text/x-one",
    "CacheControl": "max-age=1",
    "ContentDisposition": "inline",
    "ContentEncoding": "identity",
    "ContentLanguage": "de",
    "Expires": "Thu, 01 Dec 2033 16:00:00 GMT",
    "Metadata": {"colour": "red", "shape": "round"},
    "Tagging": "team=a&cost=1",
}


@pytest.fixture
def stored(mount: Mounted) -> Object:
    return Object(mount, **STORED)


def refused(code: int) -> Any:
    return pytest.raises(OSError, match=re.escape(os.strerror(code)))


def test_each_is_read_and_not_listed(stored):
    read = {
        "content_type": "text/x-one",
        "cache_control": "max-age=1",
        "content_disposition": "inline",
        "content_encoding": "identity",
        "content_language": "de",
        "expires": "Thu, 01 Dec 2033 16:00:00 GMT",
        "meta.colour": "red",
        "tag.team": "a",
        "storage_class": "STANDARD",
        "restore": "not archived",
    }
    assert {name: stored.get(name) for name in read} == read
    assert stored.get("version") == stored.head()["VersionId"]
    assert json.loads(stored.get("acl"))["Grants"][0]["Permission"] == "FULL_CONTROL"
    assert os.listxattr(stored.path) == []
    for name in ("meta.never", "tag.never", "retention", "legal_hold", "never"):
        with refused(errno.ENODATA):
            stored.get(name)


def test_reading_one_costs_a_request_at_most(mount):
    for name, requests in {
        "content_type": {"HEAD": 1},
        "meta.colour": {"HEAD": 1},
        "tag.team": {"GET": 1},
        "acl": {"GET": 1},
        "storage_class": {},
        "url": {},
    }.items():
        fresh = Object(mount, **STORED)
        with fresh.costs(**requests):
            assert fresh.get(name)


def test_setting_one_keeps_all_others(stored):
    stored.get("content_type")
    for name, value in {
        "content_type": "text/x-two",
        "cache_control": "no-store",
        "content_disposition": "attachment",
        "content_language": "en",
        "expires": "2034-12-01T16:00:00Z",
        "meta.colour": "blue",
        "meta.new": "1",
        "tag.cost": "ä 2",
        "tag.new": "x",
        "storage_class": "STANDARD_IA",
    }.items():
        stored.set(name, value)
        if name != "expires":
            assert stored.get(name) == value
    stored.remove("meta.shape")
    stored.remove("tag.team")
    head = stored.head()
    assert {name: head[name] for name in STORED if name in head} == {
        "ContentType": "text/x-two",
        "CacheControl": "no-store",
        "ContentDisposition": "attachment",
        "ContentEncoding": "identity",
        "ContentLanguage": "en",
        "Expires": head["Expires"],
        "Metadata": {"colour": "blue", "new": "1"},
    }
    assert head["ExpiresString"] == "Fri, 01 Dec 2034 16:00:00 GMT"
    assert head["StorageClass"] == "STANDARD_IA"
    assert stored.tags() == {"cost": "ä 2", "new": "x"}
    assert stored.get("storage_class") == "STANDARD_IA"
    stored.set("storage_class", "STANDARD")
    assert "StorageClass" not in stored.head()
    stored.path.write_bytes(b"other bytes")
    assert stored.tags() == {"cost": "ä 2", "new": "x"}
    assert stored.head()["CacheControl"] == "no-store"


def test_a_tag_is_one_write(stored):
    with stored.costs(GET=1, PUT=1):
        stored.set("tag.team", "b")


def test_what_was_written_and_is_open_is_uploaded_first(stored):
    with open(stored.path, "r+b") as file:
        file.write(b"ABC")
        file.flush()
        stored.set("content_type", "text/x-two")
        assert stored.head()["ContentType"] == "text/x-two"
        file.seek(0)
        assert file.read() == b"ABC45"
    assert stored.head()["ContentType"] == "text/x-two"
    assert stored.path.read_bytes() == b"ABC45"


def test_a_tag_outlives_what_is_written_to_the_open_file_later(mount, stored):
    new = mount.path / "new and open"
    for path in (stored.path, new):
        with open(path, "wb") as file:
            file.write(b"1")
            os.setxattr(path, "user.mimicfs.tag.team", b"b")
            file.write(b"2")
    assert stored.tags() == {"team": "b", "cost": "1"}
    said = mount.client.get_object_tagging(Bucket=BUCKET, Key=new.name)["TagSet"]
    assert said == [{"Key": "team", "Value": "b"}]


def test_what_makes_no_sense_is_refused(stored):
    for name, value, code in (
        ("etag", "x", errno.EPERM),
        ("acl", "x", errno.EPERM),
        ("url", "x", errno.EPERM),
        ("meta.mode", "1", errno.EPERM),
        ("meta.xattr", "1", errno.EPERM),
        ("expires", "soon", errno.EINVAL),
        ("cache_control", "a\r\nx-amz-acl: public-read", errno.EINVAL),
        ("meta.a", "ä", errno.EINVAL),
        ("meta.a", "x" * 3000, errno.ENOSPC),
        ("expires", "0001-01-01T00:00:00+23:00", errno.EINVAL),
        ("expires", "1 Jan 99999999999 00:00:00 +0000", errno.EINVAL),
        ("expires", "1 Jan 99999999999999999999 00:00:00 +0000", errno.EINVAL),
        ("restore", "soon", errno.EINVAL),
        ("restore", "9" * 5000, errno.EINVAL),
        ("restore", "0", errno.EINVAL),
        ("restore", "1:Express", errno.EINVAL),
        ("restore", "2147483648", errno.EINVAL),
        ("storage_class", "NEVER_HEARD_OF", errno.EINVAL),
        ("storage_class", "", errno.EINVAL),
        ("cache_control", "", errno.EINVAL),
        ("content_type", "", errno.EINVAL),
        ("meta.a", " padded", errno.EINVAL),
        ("meta.a b", "1", errno.EINVAL),
        ("meta.a:b", "1", errno.EINVAL),
        ("meta.a\r\nx-amz-acl", "public-read", errno.EINVAL),
        ("meta.\x7f", "1", errno.EINVAL),
        ("meta.", "1", errno.EINVAL),
        ("tag.", "1", errno.EINVAL),
        ("tag.\x01", "1", errno.EINVAL),
        ("tag.\udcff", "1", errno.EINVAL),
        ("tag.<a>", "1", errno.EINVAL),
        ("tag.a", "$", errno.EINVAL),
        ("tag." + "a" * 129, "1", errno.EINVAL),
    ):
        with refused(code):
            stored.set(name, value)
    with refused(errno.EEXIST):
        stored.set("tag.team", "b", os.XATTR_CREATE)
    with refused(errno.EEXIST):
        stored.set("storage_class", "STANDARD_IA", os.XATTR_CREATE)
    for number in range(8):
        stored.set(f"tag.{number}", "")
    with refused(errno.ENOSPC):
        stored.set("tag.eleventh", "1")
    for number in range(8):
        stored.remove(f"tag.{number}")
    with refused(errno.ENODATA):
        stored.set("meta.never", "b", os.XATTR_REPLACE)
    with refused(errno.ENODATA):
        stored.remove("tag.never")
    with refused(errno.EPERM):
        stored.remove("acl")
    assert (stored.head()["Metadata"], stored.tags()) == (
        STORED["Metadata"],
        {"team": "a", "cost": "1"},
    )


def test_what_is_not_ascii_keeps_its_bytes_in_each_copy(mount):
    """Each copy would else take the UTF-8 of the copy before for Latin-1."""
    said = 'attachment; filename="ü.jpg"'

    def with_author(request: Any, **_: Any) -> None:  # boto3 would refuse it
        request.headers["x-amz-meta-author"] = "Jürgen"

    events = mount.client.meta.events
    events.register("before-sign.s3.PutObject", with_author)
    try:
        object_ = Object(mount, ContentDisposition=said)
    finally:
        events.unregister("before-sign.s3.PutObject", with_author)
    os.chmod(object_.path, 0o600)
    object_.set("content_type", "a/b")
    object_.path.write_text("written again")
    os.rename(object_.path, mount.path / "renamed.json")
    object_.path, object_.key = mount.path / "renamed.json", "renamed.json"
    assert (object_.get("content_disposition"), object_.get("meta.author")) == (said, "Jürgen")
    head = object_.head()
    stored = head["ContentDisposition"], head["Metadata"]["author"]
    assert [each.encode("latin-1") for each in stored] == [said.encode(), b"J\xc3\xbcrgen"]


def test_a_link_is_good_for_whoever_has_it(stored):
    with urllib.request.urlopen(stored.get("url"), timeout=20) as answer:
        assert answer.read() == b"12345"


def test_an_archived_object_is_restored(mount):
    cold = Object(mount, StorageClass="GLACIER")
    assert cold.get("restore") == "archived"
    cold.set("restore", "2:bulk")
    assert cold.get("restore").startswith("restored until ")


def test_what_is_locked_says_so(mount):
    held = Object(
        mount,
        ObjectLockMode="GOVERNANCE",
        ObjectLockRetainUntilDate="2033-12-01T16:00:00Z",
        ObjectLockLegalHoldStatus="ON",
    )
    assert held.get("retention") == "GOVERNANCE until 2033-12-01T16:00:00Z"
    assert held.get("legal_hold") == "ON"
