"""Small files read one after the other are fetched ahead, each once; and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.mounts import costs, succeed, wait_until
from support.proxy import Hold, Proxy

pytestmark = pytest.mark.slow

COUNT = 40
Asked = Callable[[], dict[str, int]]
ORDERS: list[Callable[[Path], Any]] = [lambda path: path.name, lambda path: path.stat().st_ino]


def behind(path: Path, files: list[Path]) -> set[Path]:
    """Return the next four of *files* behind *path* in each order."""
    found: set[Path] = set()
    for by in ORDERS:
        order = sorted(files, key=by)
        at = order.index(path) + 1
        found.update(order[at : at + 4])
    return found


@pytest.fixture
def photos(mount: Path, client: Any, bucket: str, proxy: Proxy) -> Path:
    """A directory of 40 files, known to the mirror."""
    for number in range(COUNT):
        client.put_object(Bucket=bucket, Key=f"photos/{number:02}", Body=b"%02d" % number)
    (mount / ".sync").touch()
    proxy.counted()
    return mount / "photos"


@pytest.mark.usefixtures("metadata_never")
def test_files_read_in_the_order_of_their_names_are_fetched_once_each(
    photos: Path, proxy: Proxy
) -> None:
    with costs(proxy, GET=COUNT):
        assert [path.read_bytes() for path in sorted(photos.iterdir())] == [
            b"%02d" % number for number in range(COUNT)
        ]
    with costs(proxy):  # the kernel has their pages
        for path in sorted(photos.iterdir()):
            path.read_bytes()


@pytest.mark.usefixtures("metadata_never")
def test_files_read_in_the_order_of_their_inode_numbers_are_fetched_once_each(
    photos: Path, proxy: Proxy, tmp_path: Path
) -> None:
    with costs(proxy, GET=COUNT):
        subprocess.run(["cp", "-r", photos, tmp_path / "copy"], check=True, timeout=60)
    assert [path.read_bytes() for path in sorted((tmp_path / "copy").iterdir())] == [
        b"%02d" % number for number in range(COUNT)
    ]


@pytest.mark.parametrize("by", ORDERS)
def test_the_next_files_are_asked_for_before_anybody_opens_them(
    photos: Path, asked: Asked, by: Callable[[Path], Any]
) -> None:
    first, second, *others = sorted(photos.iterdir(), key=by)
    first.read_bytes()
    second.read_bytes()
    fetched: list[int] = [0]

    def more() -> bool:
        fetched[0] += asked().get("GET", 0)
        return fetched[0] >= 6

    wait_until(more)
    for path in others[:2]:
        assert path.read_bytes() == path.name.encode()


def test_the_next_files_by_number_are_asked_for_though_the_kernel_holds_none_of_them(
    photos: Path, asked: Asked
) -> None:
    with os.scandir(photos) as found:
        numbers = {entry.name: entry.inode() for entry in found}
    assert asked() == {}  # and it holds no names: what is stored with them was not asked yet
    first, second, *others = sorted(numbers, key=lambda name: numbers[name])
    (photos / first).read_bytes()
    (photos / second).read_bytes()
    fetched: list[int] = [0]

    def more() -> bool:
        fetched[0] += asked().get("GET", 0)
        return fetched[0] >= 6

    wait_until(more)
    for name in others[:2]:
        assert (photos / name).read_bytes() == name.encode()


@pytest.mark.usefixtures("metadata_never")
def test_files_read_in_no_order_are_fetched_as_they_are_opened(photos: Path, proxy: Proxy) -> None:
    with costs(proxy, GET=6):
        # In the order of inode numbers, too, none comes shortly behind the one before.
        for number in (17, 35, 10, 24, 37, 19):
            assert (photos / f"{number:02}").read_bytes() == b"%02d" % number


@pytest.mark.usefixtures("metadata_never")
def test_who_reads_a_file_that_is_on_its_way_waits_for_it_and_can_be_ended(
    photos: Path, proxy: Proxy
) -> None:
    with proxy.rule(Hold(lambda request: request.key == "photos/02")) as hold:
        for name in ("00", "01"):
            (photos / name).read_bytes()
        assert hold.reached.wait(60)
        cat = ["cat", str(photos / "02")]
        with (
            # The first open of a version has the kernel drop its pages, and waits for their READs.
            (photos / "02").open("rb"),
            subprocess.Popen(cat) as ended,
            subprocess.Popen(cat, stdout=subprocess.PIPE) as waits,
        ):
            assert (photos / "03").read_bytes() == b"03"
            ended.send_signal(signal.SIGTERM)
            assert ended.wait(20) == -signal.SIGTERM
            hold.release()
            assert waits.communicate(timeout=20)[0] == b"02"


def test_a_file_that_was_replaced_after_it_was_fetched_is_read_as_it_is_now(
    photos: Path, client: Any, bucket: str, asked: Asked
) -> None:
    names = sorted(os.listdir(photos))
    for name in names[:2]:
        (photos / name).read_bytes()
    wait_until(lambda: asked() == {})
    client.put_object(Bucket=bucket, Key=f"photos/{names[2]}", Body=b"new")
    (photos / ".sync").touch()
    assert (photos / names[2]).read_bytes() == b"new"


@pytest.mark.parametrize("by", ORDERS)
@pytest.mark.usefixtures("metadata_never")
def test_after_one_directory_the_next_is_fetched_from_its_first_file_on_until_that_is_wrong(
    photos: Path, client: Any, bucket: str, asked: Asked, by: Callable[[Path], Any]
) -> None:
    for directory, count in (("b", 8), ("c", 30), ("d", 8)):
        for number in range(count):
            client.put_object(Bucket=bucket, Key=f"{directory}/{number}", Body=b"%d" % number)
    (photos.parent / ".sync").touch()
    asked()
    others = {d: sorted((photos.parent / d).iterdir(), key=by) for d in ("b", "c", "d")}
    for path in sorted(photos.iterdir(), key=by):
        path.read_bytes()
    assert asked() == {"GET": COUNT}
    others["b"][0].read_bytes()
    fetched: list[int] = [0]

    def more(count: int) -> bool:
        fetched[0] += asked().get("GET", 0)
        return fetched[0] >= count

    wait_until(lambda: more(8))  # all of it, though only one was opened
    others["c"][0].read_bytes()
    wait_until(lambda: more(8 + 1 + 16))
    # What was fetched may be followed by one in the other order, too, by chance.
    near = behind(others["c"][16], others["c"])
    far = next(path for path in others["c"][17:] if path not in near)
    for path in far, others["d"][0]:  # 16 were fetched for nothing: once
        path.read_bytes()
    assert others["b"][1].read_bytes() == others["b"][1].name.encode()
    assert fetched[0] + asked().get("GET", 0) == 8 + 1 + 16 + 2


def test_the_next_directory_is_fetched_while_s3_is_asked_what_is_stored_with_its_first_file(
    photos: Path, client: Any, bucket: str, asked: Asked
) -> None:
    for directory in ("b", "c", "d"):
        for number in range(8):
            client.put_object(Bucket=bucket, Key=f"{directory}/{number}", Body=b"%d" % number)
    (photos.parent / ".sync").touch()
    for path in sorted(photos.iterdir()):
        path.read_bytes()
    asked()
    fetched: list[int] = [0]

    def all_of_b() -> bool:
        fetched[0] += asked().get("GET", 0)
        return fetched[0] >= 8

    (photos.parent / "b/0").stat()
    wait_until(all_of_b)
    (photos.parent / "c/0").stat()  # nobody has opened what was fetched of b
    (photos.parent / "d/0").stat()
    assert (photos.parent / "b/3").read_bytes() == b"3"
    assert fetched[0] + asked().get("GET", 0) == 8


@pytest.mark.usefixtures("metadata_never")
@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_small_files_of_a_listed_directory_are_here_before_they_are_opened(
    mount_at: Any, bucket: str, client: Any, proxy: Proxy, tmp_path: Path
) -> None:
    sizes = {f"d/{number:02}": 1000 + number for number in range(COUNT)}
    for key, size in {**sizes, "d/large": 200_000, "e/other": 10}.items():
        client.put_object(Bucket=bucket, Key=key, Body=b"x" * size)
    words = ["--cache-dir", str(tmp_path / "cache"), "-o", "small_files=128K"]
    mount = mount_at(f"s3://{bucket}", *words)
    (mount.path / ".sync").touch()
    proxy.counted()
    names = os.listdir(mount.path / "d")
    gets = [0]

    def all_asked() -> bool:
        gets[0] += proxy.counted().get("GET", 0)
        return gets[0] >= COUNT

    wait_until(all_asked)
    assert (len(names), gets[0]) == (COUNT + 1, COUNT)
    with costs(proxy):
        for number in range(0, 17 * COUNT, 17):  # in no order, so that nothing else is foreseen
            key = f"d/{number % COUNT:02}"
            assert len((mount.path / key).read_bytes()) == sizes[key]
    with costs(proxy, GET=2):
        assert len((mount.path / "d/large").read_bytes()) == 200_000
        assert (mount.path / "e/other").read_bytes() == b"x" * 10
    told = succeed("status", mount.path)
    assert "ahead    40 small files fetched, 39.8 KiB; directories listed: 1" in told
