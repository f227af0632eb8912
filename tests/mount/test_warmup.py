"""`mimicfs warmup`: what was brought before costs no request in a mount."""

import json
import os
import random
import stat
from contextlib import closing

import pytest
from support.mounts import costs, run, succeed, wait_until

from mimicfs.entry import Entry
from mimicfs.errors import Interrupted
from mimicfs.files.cache import BlockCache
from mimicfs.files.warming import Warming
from mimicfs.posix import Cancellation

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

FILM = random.Random(1).randbytes((1 << 20) + 7)


def test_what_was_warmed_up_costs_no_request_in_a_mount(
    mount_at, client, bucket, proxy, store, metadata_never, tmp_path
):
    bodies = {"d/film": FILM, "d/small": b"x" * 100, "d/empty": b"", "other": b"o"}
    for key, body in bodies.items():
        client.put_object(Bucket=bucket, Key=key, Body=body)
    common = ["--json", "--endpoint-url", proxy.url, "--store", store]
    with costs(proxy, LIST=1, GET=2):
        said = succeed("warmup", *common, "--pin", f"s3://{bucket}/d/").splitlines()
    url = f"s3://{bucket}/d/"
    assert [json.loads(line) for line in said] == [
        {"url": url, "listed": 3},
        {"url": url, "objects": 3, "already": 1, "bytes": len(FILM) + 100, "refused": [],
         "full": False},
    ]  # fmt: skip
    nothing_more = succeed("warmup", *common[1:], "--limit", "0", url).splitlines()
    assert nothing_more[1] == f"{url}: 3 objects here, 3 of them before; 0 B fetched"
    mount = mount_at(f"s3://{bucket}").path
    proxy.counted()
    with costs(proxy):
        assert {key: (mount / key).read_bytes() for key in bodies if key != "other"} == {
            key: body for key, body in bodies.items() if key != "other"
        }
    # A path in the mount stands for what it shows; by a list, and with what is here left alone.
    listed = f"# what the next job reads\n{mount}/d/film\n{mount}/other\n"
    with costs(proxy, LIST=1, GET=1, HEAD=2):  # LIST: nobody had visited the root
        result = run("warmup", "--from", "-", input=listed)
    assert (result.returncode, result.stdout) == (
        0,
        (
            f"s3://{bucket}/d/film: 1 object here, 1 of them before; 0 B fetched\n"
            f"s3://{bucket}/other: 1 object here, 0 of them before; 1 B fetched\n"
        ),
    )
    result = run("warmup", tmp_path)
    assert (result.returncode, result.stderr) == (
        3, f"mimicfs: {tmp_path}: neither an s3:// URL nor in one of your mounts of mimicfs\n",
    )  # fmt: skip
    unpinned = succeed("warmup", *common[1:], "--unpin", "s3://")
    assert unpinned == "s3://: 2 objects unpinned\n"


def test_an_interrupted_one_is_gone_on_with_and_a_limit_holds(
    tmp_path, client, bucket, s3, proxy, monkeypatch
):
    entries, sent, submit = [], [], s3.wide.submit

    def noted(*call):
        sent.append(submit(*call))
        return sent[-1]

    monkeypatch.setattr(s3.wide, "submit", noted)
    for number in range(40):
        answer = client.put_object(Bucket=bucket, Key=f"{number:02}", Body=b"12345")
        entries.append(Entry(f"{number:02}", 5, etag=answer["ETag"].strip('"')))
    token = Cancellation()
    cache = BlockCache(tmp_path / "blocks", s3.origin())
    warming = Warming(s3, cache, bucket, token, lambda so_far: token.cancel())
    with pytest.raises(Interrupted):
        warming.run(entries)
    done = warming.warmed.objects
    assert 0 < done < 40

    def again(limit):
        return Warming(s3, cache, bucket, Cancellation(), lambda _: None, limit=limit).run(entries)

    # Objects that were under way when it was interrupted may be here, too.
    wait_until(lambda: all(each.done() for each in sent))
    first = again(limit=99)
    assert first.here >= done
    assert (first.bytes <= 99, first.full) == (True, first.objects < 40)
    last = again(limit=None)
    assert (last.here, last.objects, last.full) == (first.objects, 40, False)
    with costs(proxy):
        assert again(limit=0).here == 40
    cache.close()


def test_what_s3_does_not_give_is_told_and_the_others_come(tmp_path, client, bucket, s3):
    etag = client.put_object(Bucket=bucket, Key="a", Body=b"12345")["ETag"].strip('"')
    replaced, there = Entry("a", 5, etag="older"), Entry("a", 5, etag=etag)
    cache = BlockCache(tmp_path / "blocks", s3.origin())
    for entry, count in ((replaced, 0), (there, 1)):
        warmed = Warming(s3, cache, bucket, Cancellation(), lambda _: None).run([entry])
        assert (warmed.objects, list(warmed.refused)) == (count, [] if count else ["a"])
    cache.close()


def test_what_was_read_before_makes_room_and_what_cannot_be_pinned_is_told(
    tmp_path, client, bucket, s3
):
    entries = []
    for name in ("old", "new", "next"):
        answer = client.put_object(Bucket=bucket, Key=name, Body=FILM)
        entries.append(Entry(name, len(FILM), etag=answer["ETag"].strip('"')))
    cache = BlockCache(tmp_path / "blocks", s3.origin(), 3 * len(FILM) // 2)

    def warm(*wanted, pin=False):
        warming = Warming(s3, cache, bucket, Cancellation(), lambda _: None, pin=pin)
        warmed = warming.run(wanted)
        return warmed.objects, warmed.full, list(warmed.refused.values())

    assert warm(entries[0]) == (1, False, [])
    for path in (tmp_path / "blocks").glob("??/*"):
        os.utime(path, (0, 0))
    (tmp_path / "blocks/pins").write_text("in the way")
    said = "not pinned: [Errno 20] Not a directory: 'pins/"
    [objects, full, [refused]] = warm(*entries[1:], pin=True)
    assert (objects, full, refused[: len(said)]) == (0, True, said)
    (tmp_path / "blocks/pins").unlink()
    assert warm(entries[1], pin=True) == (1, False, [])
    cache.close()


def put(client, bucket, **bodies):
    entries = []
    for key, body in bodies.items():
        answer = client.put_object(Bucket=bucket, Key=key, Body=body)
        entries.append(Entry(key, len(body), etag=answer["ETag"].strip('"')))
    return entries


def kept(cache, bucket, entry, body):
    """Keep *body* as a mount does that has read it."""
    assert cache.make_room(len(body), lambda: None)  # what is written while it counts, counts twice
    with closing(cache.object(bucket, entry)) as made:
        made.write(0, memoryview(body))


def test_small_objects_that_a_mount_has_read_are_here_and_are_pinned_without_a_request(
    tmp_path, client, bucket, s3, proxy
):
    blocks, bodies = tmp_path / "blocks", {"a": b"x", "b": b"y" * 4096, "c": b"z" * 16384}
    entries = put(client, bucket, **bodies)
    cache = BlockCache(blocks, s3.origin(), 100 << 20)
    for entry in entries:
        kept(cache, bucket, entry, bodies[entry.key])
    for pin, own in (False, []), (True, [0o1600] * 3), (True, [0o1600] * 3):
        with costs(proxy):
            warming = Warming(s3, cache, bucket, Cancellation(), lambda _: None, limit=0, pin=pin)
            warmed = warming.run(entries)
        assert (warmed.objects, warmed.here, warmed.bytes, warmed.full) == (3, 3, 0, False)
        assert [stat.S_IMODE(path.stat().st_mode) for path in blocks.glob("??/*")] == own
    for shelf in (blocks / "small").iterdir():
        shelf.unlink()
    for entry in entries:
        with closing(cache.object(bucket, entry)) as made:
            assert made.read(0, entry.size, wait=True) == bodies[entry.key]
    assert cache.unpin_all() == 3
    cache.close()


def test_a_small_object_that_is_damaged_is_fetched_to_be_pinned(
    tmp_path, client, bucket, s3, proxy
):
    [entry] = put(client, bucket, a=b"right")
    cache = BlockCache(tmp_path / "blocks", s3.origin(), 100 << 20)
    kept(cache, bucket, entry, b"right")
    [shelf] = (tmp_path / "blocks/small").iterdir()
    shelf.write_bytes(shelf.read_bytes().replace(b"right", b"wrong"))
    with costs(proxy, GET=1):
        warming = Warming(s3, cache, bucket, Cancellation(), lambda _: None, pin=True)
        warmed = warming.run([entry])
    assert (warmed.objects, warmed.here, warmed.bytes, warmed.full) == (1, 0, 5, False)
    with closing(cache.object(bucket, entry)) as made:
        assert made.read(0, 5, wait=True) == b"right"
    cache.close()


@pytest.mark.parametrize("pin", [False, True])
def test_small_objects_that_are_found_stay_while_older_ones_make_room(
    tmp_path, client, bucket, s3, proxy, pin
):
    blocks = tmp_path / "blocks"
    old, small, new = put(client, bucket, old=FILM + FILM, small=b"12345", new=FILM)
    before = BlockCache(blocks, s3.origin(), 3 << 20)
    kept(before, bucket, old, FILM + FILM)
    kept(before, bucket, small, b"12345")
    before.close()
    for path in blocks.glob("*/*"):
        os.utime(path, (0, 0))
    cache = BlockCache(blocks, s3.origin(), 2 * len(FILM) + (80 << 10))
    with costs(proxy, GET=1):
        warming = Warming(s3, cache, bucket, Cancellation(), lambda _: None, pin=pin)
        warmed = warming.run([small, new])
    assert (warmed.objects, warmed.here, warmed.full) == (2, 1, False)
    with costs(proxy):
        warming = Warming(s3, cache, bucket, Cancellation(), lambda _: None)
        assert warming.run([small, new]).here == 2
    cache.close()
