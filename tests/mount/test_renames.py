"""Renames that are disturbed: by S3, by others who write, by kill -9. Nothing is lost, and it is
said what is where."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.clients import plain, without_acls
from support.mounts import Mount, called, costs, mounted, wait_until
from support.proxy import Drop, Fail, Hold, Proxy

pytestmark = pytest.mark.slow

COUNT = 24
OLD = [f"d/{n:02}" for n in range(COUNT)]
NEW = [f"e/{n:02}" for n in range(COUNT)]
_numbers = itertools.count(1)


@pytest.fixture
def server(moto: str) -> str:
    """rclone serve s3 ignores the conditions that this is about, and keeps markers as files."""
    return moto


class Place(NamedTuple):
    """A directory of a mount that many tests use, with its keys in S3."""

    path: Path
    client: Any
    bucket: str
    prefix: str
    proxy: Proxy
    log: Path
    staging: Path

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def fill(self) -> None:
        for key in OLD:
            self.put(key, key.encode())
        (self.path / ".sync").touch()

    def put(self, key: str, body: bytes) -> None:
        """Somebody else writes."""
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=body)

    def in_s3(self) -> list[str]:
        """What S3 has, but the marker of the directory itself."""
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix)
        keys = [item["Key"].removeprefix(self.prefix) for item in found.get("Contents", [])]
        return [key for key in keys if key]

    def body(self, key: str) -> bytes:
        found = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
        data: bytes = found["Body"].read()
        return data

    def copy_of(self, name: str) -> Any:
        key = self.prefix + name
        return lambda request: request.kind == "COPY" and request.key == key


@pytest.fixture(scope="module")
def ground(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("renames")
    client, proxy = plain(moto), Proxy(moto)
    client.create_bucket(Bucket="renames")
    without_acls(client, "renames")
    renames = base / "state/mimicfs/staging/renames"
    with mounted(base, proxy.url, "s3://renames") as mount:
        yield Place(mount.path, client, "renames", "", proxy, mount.log, renames)
    proxy.close()
    client.close()


@pytest.fixture
def place(ground: Place) -> Place:
    """A new directory, in which `d` is full and `e` does not exist."""
    name = f"t{next(_numbers)}"
    found = ground._replace(path=ground.path / name, prefix=f"{name}/")
    found.path.mkdir()
    found.fill()
    return found


def deletion(request: Any) -> bool:
    return request.kind in ("POST", "DELETE")


def learn_how_keys_are_deleted(path: Path) -> None:
    """Have the server tried: a kill while that is done leaves what it is tried with."""
    (path / "t").mkdir()
    (path / "t/a").touch()
    (path / "t").rename(path / "u")
    (path / "u/a").unlink()
    (path / "u").rmdir()


def renamed(path: Path) -> subprocess.Popen[bytes]:
    program = "import os, sys; os.rename(sys.argv[1], sys.argv[2])"
    words: list[str | Path] = ["python3", "-c", program, path / "d", path / "e"]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL)


def test_a_directory_costs_a_copy_for_each_object_and_a_look_at_both_ends(place: Place) -> None:
    (place.path / "d/00").rename(place.path / "d/x")  # it is known now that there are no ACLs
    (place.path / "d/x").rename(place.path / "d/00")
    place.proxy.counted()
    (place.path / "d").rename(place.path / "e")
    asked = place.proxy.counted()
    # A mount asks S3 about a key whose change takes over 2 s: on a busy machine, that may be any.
    # vfs/test_renames_beside.py counts the HEADs, too.
    del asked["HEAD"]
    assert asked == {"LIST": 2, "COPY": COUNT, "POST": 1, "DELETE": COUNT - 1}
    assert place.in_s3() == NEW
    assert os.listdir(place.path) == ["e"]


@pytest.mark.parametrize("when", ["copying", "deleting"])
def test_what_kill_9_ended_is_undone_or_finished_by_the_next_mount(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy, tmp_path: Path, when: str
) -> None:
    first: Mount = mount_at(f"s3://{bucket}")
    log = tmp_path / "mount.log"
    place = Place(first.path, client, bucket, "", proxy, log, tmp_path)
    learn_how_keys_are_deleted(place.path)
    place.fill()
    with proxy.rule(Drop(place.copy_of("e/20") if when == "copying" else deletion)) as held:
        mover = renamed(place.path)
        assert held.reached.wait(30)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(10)
        mover.kill()
        mover.wait(10)
    first.close()
    assert len(place.in_s3()) > COUNT
    mount_at(f"s3://{bucket}")
    if when == "copying":
        assert place.in_s3() == OLD
        assert f"is undone: s3://{bucket}/d/ to s3://{bucket}/e/" in log.read_text()
        (place.path / "d").rename(place.path / "e")
    else:
        assert f"is finished: s3://{bucket}/d/ to s3://{bucket}/e/" in log.read_text()
    assert place.in_s3() == NEW
    assert sorted(os.listdir(place.path / "e")) == [key[2:] for key in NEW]
    assert place.body("e/07") == b"d/07"


def test_a_file_whose_rename_kill_9_ended_is_at_one_place_for_the_next_mount(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    client.put_object(Bucket=bucket, Key="d", Body=b"moved")
    first: Mount = mount_at(f"s3://{bucket}")
    learn_how_keys_are_deleted(first.path)
    assert os.listdir(first.path) == ["d"]
    with proxy.rule(Hold(lambda request: request.kind == "DELETE", answers=True)) as held:
        mover = renamed(first.path)
        assert held.reached.wait(30)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(10)
        mover.kill()
        mover.wait(10)
    first.close()
    again: Mount = mount_at(f"s3://{bucket}")
    wait_until(lambda: os.listdir(again.path) == ["e"])
    assert (again.path / "e").read_bytes() == b"moved"
    assert not (again.path / "d").exists()


def test_a_rename_that_fails_leaves_nothing_at_the_new_place(place: Place) -> None:
    with place.proxy.rule(Fail(place.copy_of("e/21"), 403, "AccessDenied")):
        with pytest.raises(PermissionError):
            (place.path / "d").rename(place.path / "e")
    assert place.in_s3() == OLD
    assert os.listdir(place.path) == ["d"]
    assert list(place.staging.iterdir()) == []


@pytest.mark.usefixtures("metadata_never")
def test_what_a_rename_of_a_file_that_fails_has_made_is_shown(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy
) -> None:
    for key in ("f", "d/s/g"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    root = mount_at(f"s3://{bucket}").path
    assert (os.listdir(root / "d"), (root / "d/f").exists()) == (["s"], False)
    with proxy.rule(Fail(lambda request: request.kind == "DELETE", 403, "AccessDenied")):
        with pytest.raises(PermissionError):
            (root / "f").rename(root / "d/f")
    wait_until(lambda: (root / "d/f").exists() and sorted(os.listdir(root / "d")) == ["f", "s"])
    assert (root / "d/f").read_bytes() == b"f"


def test_what_a_rename_of_a_directory_that_fails_has_left_is_shown(place: Place) -> None:
    learn_how_keys_are_deleted(place.path)
    assert os.listdir(place.path) == ["d"]
    with (
        place.proxy.rule(Fail(place.copy_of("e/21"), 403, "AccessDenied")),
        place.proxy.rule(Fail(deletion, 403, "AccessDenied")),
        pytest.raises(PermissionError),
    ):
        (place.path / "d").rename(place.path / "e")
    assert "e/00" in place.in_s3()
    wait_until(lambda: (place.path / "e").exists() and "e" in os.listdir(place.path))
    assert (place.path / "e/00").read_bytes() == b"d/00"


def test_an_empty_directory_is_replaced_or_stays_and_whoever_has_files_open_goes_on(
    place: Place,
) -> None:
    (place.path / "e").mkdir(0o700)
    with open(place.path / "d/01", "r+b", buffering=0) as file:
        with place.proxy.rule(Fail(place.copy_of("e/21"), 403, "AccessDenied")):
            with pytest.raises(PermissionError):
                (place.path / "d").rename(place.path / "e")
        assert place.in_s3() == [*OLD, "e/"]
        assert os.listdir(place.path / "e") == []
        file.write(b"ONE")
        os.fsync(file.fileno())
        assert place.body("d/01") == b"ONE1"
        (place.path / "d").rename(place.path / "e")
        file.write(b"!")
    assert place.body("e/01") == b"ONE!"
    assert place.in_s3() == ["e/", *NEW]


def test_what_cannot_be_deleted_is_at_both_places_and_the_log_says_so(place: Place) -> None:
    assert not (place.path / "e").exists()
    with place.proxy.rule(Fail(deletion, 403, "AccessDenied")):
        with pytest.raises(OSError, match="Input/output error"):
            (place.path / "d").rename(place.path / "e")
        with pytest.raises(OSError, match="Directory not empty"):
            (place.path / "d").rename(place.path / "e")
    assert place.in_s3() == OLD + NEW
    said = f"all of {place.url}d/ is at {place.url}e/, and some of it is still at both places"
    assert said in place.log.read_text()
    wait_until((place.path / "e/07").exists)
    assert sorted(os.listdir(place.path)) == ["d", "e"]
    (place.path / "d/07").write_text("changed")
    os.mkdir(place.path / "f")
    os.rename(place.path / "f", place.path / "g")  # the next rename goes on with this one too
    assert place.in_s3() == ["d/07", *NEW, "g/"]
    wait_until(lambda: os.listdir(place.path / "d") == ["07"])


def test_what_is_open_goes_along_though_not_all_originals_can_be_deleted(place: Place) -> None:
    before = (place.path / "d").stat().st_ino
    with open(place.path / "d/07", "r+b", buffering=0) as file:
        with place.proxy.rule(Fail(deletion, 403, "AccessDenied")):
            with pytest.raises(OSError, match="Input/output error"):
                (place.path / "d").rename(place.path / "e")
        wait_until(lambda: (place.path / "d").stat().st_ino != before)
        assert (place.path / "e").stat().st_ino == before
        place.put("d/07", b"theirs")
        (place.path / ".sync").touch()
        file.write(b"D")
        assert (place.path / "d/07").read_bytes() == b"theirs"
        assert (place.path / "e/07").read_bytes() == b"D/07"
        assert os.stat(file.fileno()).st_ino == (place.path / "e/07").stat().st_ino
    assert (place.body("d/07"), place.body("e/07")) == (b"theirs", b"D/07")


def test_what_others_write_into_a_directory_meanwhile_goes_along(place: Place) -> None:
    with place.proxy.rule(Hold(place.copy_of("e/23"))) as held:
        mover = renamed(place.path)
        assert held.reached.wait(30)
        place.put("d/05", b"changed")
        place.put("d/new", b"new")
    assert mover.wait(30) == 0
    assert place.in_s3() == [*NEW, "e/new"]
    assert (place.body("e/05"), place.body("e/new")) == (b"changed", b"new")
    assert (place.path / "e/05").read_bytes() == b"changed"


def test_what_is_written_through_the_mount_meanwhile_goes_along(place: Place) -> None:
    with open(place.path / "d/01", "r+b", buffering=0) as early:
        with place.proxy.rule(Hold(place.copy_of("e/23"))) as held:
            mover = renamed(place.path)
            assert held.reached.wait(30)
            early.write(b"ONE")
            os.fsync(early.fileno())
        assert mover.wait(30) == 0
        early.write(b"!")
    with open(place.path / "e/01", "ab") as file:
        file.write(b"more")
    assert place.body("e/01") == b"ONE!more"
    assert place.in_s3() == NEW


def test_what_is_appended_through_the_mount_by_both_names_meanwhile_is_in_one_file(
    place: Place,
) -> None:
    def append() -> None:  # waits until the rename is over
        with open(place.path / "d/01", "ab", buffering=0) as late:
            late.write(b" two")

    def listing(request: Any) -> bool:  # of the old place, behind the copies
        known = request.query.get("prefix") == [f"{place.prefix}d/"]
        return request.kind == "LIST" and known and "e/23" in place.in_s3()

    with open(place.path / "d/01", "ab", buffering=0) as early:
        with place.proxy.rule(Hold(listing)) as held:
            mover = renamed(place.path)
            assert held.reached.wait(30)
            early.write(b" one")
            early.close()
            late = called(append)
        assert mover.wait(30) == 0
        late.join(30)
    assert place.body("e/01") == b"d/01 one two"
    assert place.in_s3() == NEW


def test_nobody_misses_a_name_while_the_originals_are_deleted(place: Place) -> None:
    found: dict[str, Any] = {}
    looks = {
        "stat": lambda: found.update(stat=os.stat(place.path / "d/05").st_size),
        "read": lambda: found.update(read=(place.path / "d/06").read_bytes()),
        "list": lambda: found.update(list=sorted(os.listdir(place.path / "d"))),
        "chmod": lambda: os.chmod(place.path / "d/07", 0o600),
        "unlink": lambda: os.unlink(place.path / "d/08"),
    }
    last = f"{place.prefix}d/10"
    held = Hold(lambda request: request.kind == "DELETE" and request.key == last)
    with place.proxy.rule(held):
        mover = renamed(place.path)
        assert held.reached.wait(30)
        wait_until(lambda: set(OLD).intersection(place.in_s3()) == {"d/10"})
        threads = [called(look) for look in looks.values()]
    assert mover.wait(30) == 0
    for thread in threads:
        thread.join(30)
    left = [key for key in NEW if key != "e/08"]
    assert place.in_s3() == left
    assert (found["stat"], found["read"]) == (4, b"d/06")
    names = [key.removeprefix("e/") for key in left]
    assert sorted(os.listdir(place.path / "e")) == names
    assert [(place.path / "e" / name).stat().st_size for name in names] == [4] * len(names)
    assert oct((place.path / "e/07").stat().st_mode) == "0o100600"


def test_what_is_written_by_one_inode_of_a_replaced_name_is_read_by_the_other(place: Place) -> None:
    old, new = place.path / "d/00", place.path / "d/01"
    opened: list[int] = []
    assert old.read_bytes() == b"d/00"
    with place.proxy.rule(Hold(place.copy_of("d/00"))) as held:
        mover = threading.Thread(target=lambda: new.rename(old))
        mover.start()
        assert held.reached.wait(30)
        # The kernel opens the inode that it knows, and the mount waits for the rename.
        opening = called(lambda: opened.append(os.open(old, os.O_RDWR)))
    mover.join(30)
    opening.join(30)
    [early] = opened
    with open(old, "r+b", buffering=0) as late:
        assert os.fstat(late.fileno()).st_ino != os.fstat(early).st_ino
        for one, other in ((early, late.fileno()), (late.fileno(), early)):
            assert os.pread(other, 9, 0) == os.pread(one, 9, 0)
            os.pwrite(one, b"D", 0)
            os.pwrite(one, b"longer", 4)
            assert (os.pread(other, 99, 0), os.fstat(other).st_size) == (b"D/01longer", 10)
            os.ftruncate(one, 4)
            assert (os.pread(other, 99, 0), os.fstat(other).st_size) == (b"D/01", 4)
            os.pwrite(one, b"d", 0)
        os.fchmod(early, 0o600)
        assert oct(os.fstat(late.fileno()).st_mode) == "0o100600"
    os.close(early)
    assert old.read_bytes() == place.body("d/00") == b"d/01"


def test_a_directory_that_others_have_filled_is_not_replaced(place: Place) -> None:
    place.put("e/00", b"somebody's")
    with pytest.raises(OSError, match="Directory not empty"):
        (place.path / "d").rename(place.path / "e")
    assert place.in_s3() == [*OLD, "e/00"]
    assert place.body("e/00") == b"somebody's"


def test_an_interrupted_rename_is_undone(place: Place) -> None:
    with place.proxy.rule(Hold(place.copy_of("e/18"))) as held:
        mover = renamed(place.path)
        assert held.reached.wait(30)
        mover.send_signal(signal.SIGINT)
    assert mover.wait(30) != 0
    assert place.in_s3() == OLD
    assert os.listdir(place.path) == ["d"]


def test_a_file_that_somebody_replaces_while_it_is_renamed_is_moved_as_it_is_then(
    place: Place,
) -> None:
    with place.proxy.rule(Hold(lambda request: request.kind == "DELETE")) as held:
        mover = threading.Thread(target=lambda: (place.path / "d/00").rename(place.path / "f"))
        mover.start()
        assert held.reached.wait(30)
        place.put("d/00", b"somebody's")
    mover.join(30)
    assert place.body("f") == b"somebody's"
    assert (place.path / "f").read_bytes() == b"somebody's"
    assert "d/00" not in place.in_s3()


def test_mv_n_replaces_nothing_that_the_mirror_does_not_know(place: Place) -> None:
    place.put("d/there", b"somebody's")
    subprocess.run(["mv", "-n", "00", "there"], cwd=place.path / "d", check=False, timeout=30)
    assert place.body("d/there") == b"somebody's"
    assert place.body("d/00") == b"d/00"


@pytest.mark.usefixtures("metadata_never")
def test_files_and_directories_are_renamed_across_buckets(
    mount_at: Any, client: Any, bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    root: Path = mount_at().path
    here = Place(root / bucket, client, bucket, "", proxy, tmp_path, tmp_path)
    there = here._replace(path=root / f"{bucket}-2", bucket=f"{bucket}-2")
    there.path.mkdir()
    here.fill()
    without_acls(client, bucket)
    # GET: whether there are ACLs. HEAD: nobody has seen yet whether a DELETE looks at If-Match.
    # LIST: that mkdir has succeeded does not say that the bucket is empty.
    with costs(proxy, COPY=1, DELETE=1, GET=1, HEAD=1, LIST=1):
        (here.path / "d/00").rename(there.path / "a")
    (here.path / "d").rename(there.path / "e")
    assert here.in_s3() == []
    assert there.in_s3() == ["a", *NEW[1:]]
    assert (there.path / "e/07").read_bytes() == b"d/07"
