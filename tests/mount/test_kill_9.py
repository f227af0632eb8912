"""kill -9 at any moment of a writing load: what fsync or close has confirmed is there.

`--crashes N` (scripts/test --crashes 50) makes it N kills instead of a few.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.mounts import unmounted

pytestmark = [
    pytest.mark.parametrize("server", ["moto"], indirect=True),
    pytest.mark.usefixtures("really_started"),
]

# Writes files of all kinds until the mount dies, and says after each what was confirmed: its
# name and SHA-256, once close, fsync or msync has returned without an error; and what stat shows,
# once chmod, utimens, chown or setxattr has. With --write-back, the file is being uploaded then.
WRITER = """
import hashlib, json, mmap, os, random, sys
root, name, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
letters = random.Random(seed)
MIB = 1 << 20
big = bytearray(letters.randbytes(11 * MIB))
log = bytearray()
mapped = bytearray(300_000)
def confirmed(path, data, shown={}):
    print(json.dumps([path, hashlib.sha256(data).hexdigest(), shown]), flush=True)
def changed(path, data):
    shown, whole = {}, f"{root}/{path}"
    mode, at = letters.randrange(0o600, 0o777), letters.randrange(10**18)
    value = letters.randbytes(9)
    changes = [
        ("mode", mode, lambda: os.chmod(whole, mode)),
        ("mtime", at, lambda: os.utime(whole, ns=(at, at))),
        ("xattr", value.hex(), lambda: os.setxattr(whole, "user.x", value)),
        ("uid", 7, lambda: os.chown(whole, 7, -1)),
    ]
    for what, new, change in letters.sample(changes if os.geteuid() == 0 else changes[:3], 3):
        print(json.dumps([path, ""]), flush=True)
        change()
        shown[what] = new
        confirmed(path, data, shown)
try:
    for number in range(10_000):
        kind = letters.randrange(8)
        path = f"{name}-{number}"
        print(json.dumps([path, ""]), flush=True)  # begun
        if kind == 3:  # a large one is made once, and then changed in place and synced
            path = f"{name}-big"
            print(json.dumps([path, ""]), flush=True)
            made = os.path.exists(f"{root}/{path}")
            with open(f"{root}/{path}", "r+b" if made else "wb") as file:
                at, new = letters.randrange(10 * MIB), letters.randbytes(5000)
                big[at : at + 5000] = new
                if made:
                    file.seek(at)
                    file.write(new)
                else:
                    file.write(big)
                file.flush()
                os.fsync(file.fileno())
                confirmed(path, big)
            continue
        if kind == 6:  # one that is written through a mapping and synced
            path = f"{name}-map"
            print(json.dumps([path, ""]), flush=True)
            with open(f"{root}/{path}", "r+b" if any(mapped) else "w+b") as file:
                file.truncate(len(mapped))
                with mmap.mmap(file.fileno(), 0) as memory:
                    for at in letters.sample(range(len(mapped) - 5000), 3):
                        memory[at : at + 5000] = mapped[at : at + 5000] = letters.randbytes(5000)
                    memory.flush()
                    confirmed(path, mapped)
            confirmed(path, mapped)
            continue
        if 3 < kind < 6:  # one that is appended to, and cut now and then
            path = f"{name}-log"
            print(json.dumps([path, ""]), flush=True)
            new = letters.randbytes(letters.choice([7, 5000, 200_000]))
            with open(f"{root}/{path}", "ab") as file:
                if letters.randrange(3) == 0:
                    del log[len(log) // 2 :]
                    os.truncate(file.fileno() if kind == 4 else file.name, len(log))
                log += new
                file.write(new)
            confirmed(path, log)
            continue
        sizes = [0, 10, 5000, 300_000, 3 * MIB, 6 * MIB][: 6 if kind == 7 else 5]
        data = letters.randbytes(letters.choice(sizes))
        with open(f"{root}/{path}", "wb") as file:
            file.write(data)
            if kind == 0:
                file.flush()
                os.fsync(file.fileno())
                confirmed(path, data)
        confirmed(path, data)
        if kind == 1:
            os.rename(f"{root}/{path}", f"{root}/{path}.moved")
            print(json.dumps([path, None]), flush=True)
            confirmed(path + ".moved", data)
        if kind == 7:
            changed(path, data)
except OSError:
    pass
"""


class Said:
    """The words of a writer: the last word on each path."""

    def __init__(self, output: str) -> None:
        self.begun: set[str] = set()
        self.confirmed: dict[str, str] = {}
        self.shown: dict[str, dict[str, int | str]] = {}  # what stat and getxattr showed last
        self.unsure: set[str] = set()
        for line in output.splitlines():
            path, digest, *more = json.loads(line)
            if digest == "":  # the next word may be lost
                self.begun.add(path)
                self.unsure.add(path)
            else:
                self.unsure.discard(path)
                if digest is None:
                    self.confirmed.pop(path, None)
                else:
                    self.confirmed[path] = digest
                    self.shown[path] = more[0]


# Parts of 5 MiB: of the file of 11 MiB some are sent while it is written, and others are copied.
@pytest.mark.parametrize(
    "words",
    [("--part-size", "5M"), ("--part-size", "5M", "--write-back")],
    ids=["through", "write-back"],
)
@pytest.mark.timeout(3600)
def test_what_was_confirmed_before_kill_9_is_there_after_the_next_mount(
    mount_at, client, bucket, words, tmp_path, request
):
    times = request.config.getoption("crashes")
    seed = random.SystemRandom().randrange(1 << 30) if times > 5 else 7
    chance = random.Random(seed)
    for round_ in range(times):
        mount = mount_at(f"s3://{bucket}", *words, name=f"mnt{round_}")
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(mount.path), f"{round_}-{n}", str(seed + n)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(3)
        ]
        time.sleep(chance.uniform(0.05, 2.0))  # the point of this test
        mount.process.kill()
        said = [Said(writer.communicate(timeout=60)[0]) for writer in writers]
        mount.process.wait()
        subprocess.run(["fusermount3", "-u", "-z", str(mount.path)], check=False, timeout=10)
        assert unmounted(mount.path)
        again = mount_at(f"s3://{bucket}", *words, name=f"again{round_}")
        for each in said:
            check(again.path, each, f"seed {seed}, round {round_}")
        assert again.end(60) == 0
        staging = tmp_path / "state/mimicfs/staging"
        assert not list(staging.glob("*.data"))
        assert not list(staging.glob("recovered/*")), f"seed {seed}, round {round_}: nobody's"
        for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
            which = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            # One whose beginning S3 had not answered at the kill is nobody's: it has no part.
            assert not client.list_parts(**which).get("Parts"), f"left behind: {upload['Key']}"
            client.abort_multipart_upload(**which)


def check(root: Path, said: Said, about: str) -> None:
    for path, digest in said.confirmed.items():
        if path in said.unsure:
            continue  # it was being changed again
        try:
            data = (root / path).read_bytes()
        except FileNotFoundError:  # it was just being renamed, and S3 ends that meanwhile
            data = (root / f"{path}.moved").read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest, f"{about}: {path}, {len(data)} bytes"
        if said.shown[path]:
            assert shown(root / path, said.shown[path].keys()) == said.shown[path], about


def shown(path: Path, names: Iterable[str]) -> dict[str, int | str]:
    found = path.stat()
    every = {"mode": found.st_mode & 0o7777, "mtime": found.st_mtime_ns, "uid": found.st_uid}
    return {n: os.getxattr(path, "user.x").hex() if n == "xattr" else every[n] for n in names}
