"""A mount that is killed while S3 does what it was asked leaves nothing wrong in another."""

import contextlib
import os
import subprocess
import sys
from contextlib import closing

import pytest
from support.mounts import wait_until
from support.proxy import Drop, Hold

from mimicfs.backends.open import open_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("server", ["moto"], indirect=True),
]
_WRITE = "import sys; open(sys.argv[1], 'w').write('after')"
_REMOVE = "import os, sys; os.unlink(sys.argv[1])"


def test_what_a_killed_mount_began_is_asked_of_s3_by_another(
    mount_at, bucket, client, proxy, redis_url, tmp_path
):
    for name in ("unasked", "done", "gone", "late"):
        client.put_object(Bucket=bucket, Key=name, Body=b"old")
    one, two = (
        mount_at(
            f"s3://{bucket}",
            "--cache-dir",
            str(tmp_path / f"cache-{name}"),
            name=name,
            store=redis_url,
        )
        for name in ("one", "two")
    )
    assert [sorted(os.listdir(each.path)) for each in (one, two)] == [
        ["done", "gone", "late", "unasked"]
    ] * 2
    # The kernel looks a name up under its directory's lock, which an unlink holds as long as S3
    # does not answer: each name is looked up before.
    assert set(_sizes(one.path).values()) == {3}
    rules = [
        Drop(lambda request: request.kind == "PUT" and request.key == "unasked"),
        Hold(lambda request: request.kind == "PUT" and request.key == "done", answers=True),
        Hold(lambda request: request.kind == "DELETE" and request.key == "gone", answers=True),
    ]
    late = Hold(lambda request: request.kind == "PUT" and request.key == "late")
    programs = [(_WRITE, "unasked"), (_WRITE, "done"), (_REMOVE, "gone"), (_WRITE, "late")]
    with proxy.rule(late), closing(open_store(redis_url)) as store:
        with proxy.rule(rules[0]), proxy.rule(rules[1]), proxy.rule(rules[2]):
            callers = [
                subprocess.Popen([sys.executable, "-c", code, str(one.path / name)], stderr=-3)
                for code, name in programs
            ]
            for rule in (*rules, late):
                assert rule.reached.wait(30)
            one.process.kill()
            one.process.wait(20)
        for caller in callers:
            caller.wait(20)

        wait_until(lambda: _sizes(two.path) == {"unasked": 3, "done": 5, "late": 3})
        assert (two.path / "done").read_text() == "after"
        wait_until(lambda: store.unsettled(bucket) == [])
    wait_until(lambda: _sizes(two.path) == {"unasked": 3, "done": 5, "late": 5})


def _sizes(path):
    found = {}
    for entry in os.scandir(path):
        with contextlib.suppress(FileNotFoundError):  # it went between the listing and the look
            found[entry.name] = entry.stat().st_size
    return found
