"""A mount over an S3 that is down, or that fails now and then: with the mirror and its limits."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from support.faults import Refuse, Reset
from support.mounts import costs

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def test_what_is_known_is_shown_while_s3_is_down(mount, client, bucket, proxy):
    for key in ("a", "d/b", "d/e/f"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode() * 100)
    (mount / ".sync").touch()
    subprocess.run(["ls", "-lR", mount], check=True, stdout=subprocess.DEVNULL)
    (mount / "a").read_bytes()
    with ExitStack() as until_closed, proxy.rule(Reset(lambda request: True, None, times=-1)):
        with costs(proxy):
            found = subprocess.run(
                ["find", mount, "-type", "f", "-printf", "%P %s\n"],
                capture_output=True, text=True, check=True, timeout=20,
            ).stdout  # fmt: skip
            assert sorted(found.splitlines()) == ["a 100", "d/b 300", "d/e/f 500"]
            assert os.listdir(mount / "d") == ["b", "e"]
            assert not (mount / "missing").exists()
        assert (mount / "a").read_bytes() == b"a" * 100  # the kernel has it
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (mount / "d/b").read_bytes()
        file = until_closed.enter_context(open(mount / "new", "wb", buffering=0))
        file.write(b"precious")
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            os.fsync(file.fileno())
    # It was closed when S3 was there again.
    assert client.get_object(Bucket=bucket, Key="new")["Body"].read() == b"precious"
    assert (mount / "d/b").read_bytes() == b"d/b" * 100


def test_what_was_closed_is_there_after_a_bad_day(mount, client, bucket, proxy):
    """A fifth of the requests fail; each program sees its bytes, or an error."""
    faults = [
        Refuse(lambda request: True, 503, "SlowDown", times=-1, chance=0.1, seed=1),
        Reset(lambda request: True, None, times=-1, chance=0.05, seed=2),
        Reset(lambda request: request.kind == "GET", 7000, times=-1, chance=0.2, seed=3),
    ]
    bodies = {f"{n:02}": random.Random(n).randbytes(1 + n * 9973) for n in range(24)}

    def write(name: str) -> bool:
        try:
            (mount / name).write_bytes(bodies[name])
        except OSError:
            return False
        return True

    with proxy.rule(faults[0]), proxy.rule(faults[1]), proxy.rule(faults[2]):
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(write, bodies))
            written = [name for name, whole in zip(bodies, done, strict=True) if whole]
            for name in written:  # for the kernel to have nothing of it
                client.copy_object(Bucket=bucket, Key=f"c{name}", CopySource=f"{bucket}/{name}")
            (mount / ".sync").touch()
            copies = [pool.submit((mount / f"c{name}").read_bytes) for name in written]
    assert len(written) >= 20
    for name, copy in zip(written, copies, strict=True):
        assert client.get_object(Bucket=bucket, Key=name)["Body"].read() == bodies[name]
        assert copy.result() == bodies[name]
