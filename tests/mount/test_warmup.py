"""`mimicfs warmup`: what was brought before costs no request in a mount."""

import json
import os
import random

import pytest
from support.mounts import costs, run, succeed

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


def test_an_interrupted_one_is_gone_on_with_and_a_limit_holds(tmp_path, client, bucket, s3, proxy):
    entries = []
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
    first = again(limit=99)
    assert first.here >= done
    assert (first.bytes <= 99, first.full) == (True, first.objects < 40)
    last = again(limit=None)
    assert (last.here, last.objects, last.full) == (first.objects, 40, False)
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
