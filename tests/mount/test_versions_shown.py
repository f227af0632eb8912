"""-o versions: `.versions/NAME/` has the versions of NAME as files."""

from __future__ import annotations

import errno
import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.clients import plain
from support.mounts import mounted
from support.proxy import Proxy, Rule

pytestmark = pytest.mark.slow

FILE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\.\S+")
BUCKET = "versions-shown"
_numbers = itertools.count(1)


class Here(NamedTuple):
    """A directory of the mount, for one test."""

    path: Path
    client: Any
    proxy: Proxy

    def put(self, name: str, body: bytes) -> str:
        """Somebody else writes *name*. Return the version id."""
        answer = self.client.put_object(Bucket=BUCKET, Key=self.key(name), Body=body)
        version: str = answer["VersionId"]
        return version

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=self.key(name))

    def key(self, name: str) -> str:
        return f"{self.path.name}/{name}"


@pytest.fixture(scope="module")
def mount(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    client, proxy = plain(moto), Proxy(moto)
    client.create_bucket(Bucket=BUCKET)
    enabled = {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration=enabled)
    base = tmp_path_factory.mktemp("versions")
    with mounted(base, proxy.url, f"s3://{BUCKET}", "-o", "versions") as mount:
        yield Here(mount.path, client, proxy)
    proxy.close()
    client.close()


@pytest.fixture
def here(mount: Here) -> Here:
    path = mount.path / f"t{next(_numbers)}"
    path.mkdir()
    return mount._replace(path=path)


def refused(code: int) -> Any:
    return pytest.raises(OSError, match=re.escape(os.strerror(code)))


def test_each_version_is_a_file_with_its_own_size_time_and_bytes(here):
    ids = [here.put("a", b"1"), here.put("a", b"second"), here.put("a", b"33")]
    here.put("ab", b"another")
    here.delete("a")
    past = here.path / ".versions/a"
    names = os.listdir(past)
    assert sorted(name.partition(".")[2] for name in names) == sorted(ids)
    assert all(FILE.fullmatch(name) for name in names)
    files = {name.partition(".")[2]: (past / name) for name in names}
    assert [files[each].read_bytes() for each in ids] == [b"1", b"second", b"33"]
    assert [files[each].stat().st_size for each in ids] == [1, 6, 2]
    said = here.client.list_object_versions(Bucket=BUCKET, Prefix=here.key("a"))["Versions"]
    times = {each["VersionId"]: each["LastModified"].timestamp() for each in said}
    for each in ids:
        assert files[each].stat().st_mtime == times[each]
        assert os.getxattr(files[each], "user.mimicfs.version") == each.encode()
    assert os.getxattr(files[ids[1]], "user.mimicfs.key") == here.key("a").encode()
    assert os.getxattr(files[ids[1]], "user.mimicfs.content_type") == b"binary/octet-stream"


def test_it_is_not_listed_and_lists_deleted_names_too(here):
    here.put("a", b"1")
    here.put("gone", b"1")
    here.put("e/below", b"1")
    here.put(f".mimicfs-{'0' * 32}", b"of mimicfs itself")
    here.delete(f".mimicfs-{'0' * 32}")
    here.delete("gone")
    (here.path / ".sync").touch()
    assert sorted(os.listdir(here.path)) == ["a", "e"]
    assert sorted(os.listdir(here.path / ".versions")) == ["a", "gone"]
    assert os.listdir(here.path / "e/.versions") == ["below"]
    assert not (here.path / ".versions/never").exists()
    assert not (here.path / ".versions/a/2026-01-01T00:00:00Z.never").exists()


def test_what_is_written_is_a_version_at_once(here):
    path, past = here.path / "new", here.path / ".versions/new"
    assert not past.exists()
    for number in range(1, 4):
        path.write_text("x" * number)
        assert len(os.listdir(past)) == number
        assert os.listdir(here.path / ".versions") == ["new"]
    path.unlink()
    newest = max(past.iterdir(), key=lambda each: each.stat().st_size)
    assert newest.read_text() == "xxx"


def test_nothing_can_be_changed_in_it(here):
    here.put("a", b"1")
    past = here.path / ".versions/a"
    [version] = past.iterdir()
    assert version.stat().st_mode & 0o222 == 0
    with refused(errno.EROFS):
        version.write_bytes(b"x")
    with refused(errno.EROFS):
        version.unlink()
    with refused(errno.EROFS):
        (past / "new").write_bytes(b"x")
    with refused(errno.EROFS):
        (here.path / ".versions/new").mkdir()
    with refused(errno.EROFS):
        os.setxattr(version, "user.x", b"1")
    with refused(errno.EROFS):
        version.rename(here.path / "moved")
    with refused(errno.EROFS):
        version.chmod(0o600)
    with refused(errno.EPERM):
        (here.path / ".versions").rename(here.path / "moved")
    with refused(errno.EEXIST):
        (here.path / ".versions").mkdir()
    assert version.read_bytes() == b"1"


def test_a_version_is_brought_back_by_a_copy(here):
    here.put("a", b"first")
    here.put("a", b"other")
    (here.path / ".sync").touch()
    past = here.path / ".versions/a"
    first = next(each for each in past.iterdir() if each.read_bytes() == b"first")
    with open(first, "rb") as source, open(here.path / "a", "wb") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 100) == 5
    assert (here.path / "a").read_bytes() == b"first"
    assert sorted(each.read_bytes() for each in past.iterdir()) == [b"first", b"first", b"other"]


def test_a_real_key_of_that_name_has_an_escape(here):
    here.put(".versions", b"22")
    here.put("d/.versions/a", b"1")
    (here.path / ".sync").touch()
    assert sorted(os.listdir(here.path)) == [".versions%name", "d"]
    assert (here.path / ".versions%name").read_bytes() == b"22"
    assert (here.path / "d/.versions%name/a").read_bytes() == b"1"
    assert os.listdir(here.path / ".versions") == [".versions%name"]
    assert len(os.listdir(here.path / ".versions/.versions%name")) == 1
    (here.path / ".versions%name").write_bytes(b"333")
    said = here.client.get_object(Bucket=BUCKET, Key=here.key(".versions"))
    assert said["Body"].read() == b"333"


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_without_the_option_it_is_a_name_like_others(mount_at, client, bucket):
    client.put_object(Bucket=bucket, Key=".versions/a", Body=b"1")
    plain = mount_at(f"s3://{bucket}").path
    assert os.listdir(plain) == [".versions"]
    assert (plain / ".versions/a").read_bytes() == b"1"


class Slow(Rule):
    """An answer takes longer than it would be good for."""

    def before(self, handler: Any) -> bool:
        time.sleep(1.1)
        return False


def test_a_listing_goes_on_in_the_answer_that_it_began_with_however_long_that_took(here):
    for _ in range(60):  # more than the kernel asks for at once
        here.put("a", b"1")
    with here.proxy.rule(Slow(lambda it: "versions" in it.query)) as slow:
        found = os.listdir(here.path / ".versions/a")
        assert len(found) == 60
        assert os.listdir(here.path / ".versions") == ["a"]
    assert slow.seen == 2


def test_looking_costs_one_listing(here):
    for number in range(5):
        here.put("a", b"x" * number)
    here.proxy.counted()
    with os.scandir(here.path / ".versions/a") as entries:
        assert sorted(entry.stat().st_size for entry in entries) == [0, 1, 2, 3, 4]
    counted = here.proxy.counted()
    assert counted.keys() == {"LIST"}
    assert counted["LIST"] <= 2  # an answer is as good as new for a second
