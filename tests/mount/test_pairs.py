"""Two mounts that do two things to one name at the same time, over a slow S3, both show what S3
has in the end. `--pairs 1000 --timeout 0` tries so many a store, which takes three minutes each."""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.meeting import Late

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]

_LATE_S = 0.2
_AT_ONCE = 8  # names on which two mounts meet
_PATIENCE_S = 10.0  # docs/sharing.md promises that much after a fault; here there was none
_OLD = "old" * 10


def _write(path, text, flags):
    fd = os.open(path, os.O_WRONLY | flags, 0o600)
    try:
        if text:
            os.write(fd, text.encode())
    finally:
        os.close(fd)


# By name: what is done to a path, with a text that nobody else writes.
OPERATIONS = {
    "write": lambda path, text: _write(path, text, os.O_CREAT | os.O_TRUNC),
    "create": lambda path, text: _write(path, text, os.O_CREAT | os.O_EXCL),
    "append": lambda path, text: _write(path, text, os.O_APPEND),
    "overwrite": lambda path, text: _write(path, text, 0),
    "truncate": lambda path, _: os.truncate(path, 5),
    "unlink": lambda path, _: os.unlink(path),
    "rename": lambda path, _: os.rename(path, f"{path}.to"),
    "rename over": lambda path, _: os.rename(f"{path}.from", path),
    "chmod": lambda path, _: os.chmod(path, 0o640),
    "utime": lambda path, _: os.utime(path, (1, 1)),
    "mkdir": lambda path, _: os.mkdir(path),
    "rmdir": lambda path, _: os.rmdir(path),
    "symlink": lambda path, _: os.symlink("to", path),
}
_WRITES = {"write", "create", "append", "overwrite"}
_REPLACES_NOTHING = {"append", "chmod", "utime"}
# The answers that an operation may give that met another one, or came after it.
_MAY_SAY = {"done", "ENOENT", "EEXIST", "ENOTDIR", "EISDIR", "ESTALE", "ENOTEMPTY"}


def _done(mountpoint, operation, name, text):
    """Return what the operation said."""
    try:
        OPERATIONS[operation](str(mountpoint / name), text)
    except OSError as exc:
        return errno.errorcode[exc.errno]
    return "done"


def _meet(two, pair, name, chance_s):
    """Do the two operations of *pair* to *name*, one in each mount. Return what they said."""
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(_done, two[0], pair[0], name, f"first {name}")
        time.sleep(chance_s)
        second = pool.submit(_done, two[1], pair[1], name, f"second {name}")
        return first.result(60), second.result(60)


def _as_s3_is(client, bucket):
    """Return what a mount of *bucket* is to show: sizes by name, -1 for a directory."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    sizes = {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}
    found = {}
    for key, size in sizes.items():
        if key.endswith("/"):
            found[key[:-1]] = -1
        else:
            found[f"{key}%file" if f"{key}/" in sizes else key] = size
    return found


def _shown(mountpoint):
    """Return what ls shows, each with what stat says of it."""
    return {name: _size(mountpoint / name) for name in os.listdir(mountpoint)}


def _size(path):
    try:
        said = os.lstat(path)
    except FileNotFoundError:
        return None
    return -1 if os.path.isdir(path) else said.st_size


def test_two_operations_on_one_name_leave_both_mounts_as_s3_is(two, bucket, client, proxy, request):
    count = request.config.getoption("--pairs")
    chance = random.Random(count)
    pairs = list(itertools.product(OPERATIONS, repeat=2))
    chance.shuffle(pairs)
    wanted = list(itertools.islice(itertools.cycle(pairs), count))
    names = {f"{n:05}-{'+'.join(pair)}".replace(" ", "_"): pair for n, pair in enumerate(wanted)}
    for name, pair in names.items():
        _prepare(client, bucket, name, pair)
    for each in two:
        os.listdir(each)
    with proxy.rule(Late(random.Random(count + 1), _LATE_S)), ThreadPoolExecutor(_AT_ONCE) as pool:
        meetings = [
            pool.submit(_meet, two, pair, name, chance.uniform(0, _LATE_S))
            for name, pair in names.items()
        ]
        said = {name: it.result(120) for name, it in zip(names, meetings, strict=True)}
    assert {name: words for name, words in said.items() if not _MAY_SAY.issuperset(words)} == {}
    creates = {
        (n, op, w) for n, words in said.items() for op, w in zip(names[n], words, strict=True)
    }
    assert [it for it in creates if it[1] in ("write", "create") and it[2] == "ENOENT"] == []
    deadline = time.monotonic() + _PATIENCE_S
    while wrong := _wrong(two, bucket, client, names):
        assert time.monotonic() < deadline, [(name, said, look) for name, look in wrong.items()]
    bodies = {name: _body(client, bucket, name) for name in names}
    lost = [name for name, pair in names.items() if _lost(pair, said[name], name, bodies[name])]
    assert lost == []
    files = [name for name, body in bodies.items() if body is not None]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        read = [list(pool.map(lambda name, at=each: _read(at / name), files)) for each in two]
    assert read == [[bodies[name] for name in files]] * 2


def _lost(pair, said, name, body):
    """Whether what one wrote is not there although the other has replaced nothing."""
    texts = (f"first {name}", f"second {name}")
    return any(
        mine in _WRITES and words == "done" and other in _REPLACES_NOTHING and text not in str(body)
        for mine, other, words, text in zip(pair, pair[::-1], said, texts, strict=True)
    )


def _body(client, bucket, name):
    """Return what S3 has of the file *name*, None if it is none."""
    pages = client.list_objects_v2(Bucket=bucket, Prefix=f"{name}")
    keys = {item["Key"] for item in pages.get("Contents", ())}
    if name not in keys or f"{name}/" in keys:
        return None
    said = client.get_object(Bucket=bucket, Key=name)
    mode = int(said["Metadata"].get("mode", 0))
    return None if mode and not stat.S_ISREG(mode) else said["Body"].read()


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def _prepare(client, bucket, name, pair):
    """Have S3 what the operations need: a file, or a directory, or nothing."""
    if "create" in pair or "mkdir" in pair or "symlink" in pair:
        pass
    elif "rmdir" in pair:
        client.put_object(Bucket=bucket, Key=f"{name}/", Body=b"")
    else:
        client.put_object(Bucket=bucket, Key=name, Body=_OLD.encode())
    if "rename over" in pair:
        client.put_object(Bucket=bucket, Key=f"{name}.from", Body=b"the other")


def _wrong(two, bucket, client, names):
    """Return where a mount shows something else than S3 has: by name, S3's and each mount's."""
    wanted = _as_s3_is(client, bucket)
    shown = [_shown(each) for each in two]
    every = {f"{name}{end}" for name in names for end in ("", ".to", ".from")}
    looks = {
        name: [wanted.get(name), *(it.get(name) for it in shown), *(_size(m / name) for m in two)]
        for name in every | wanted.keys() | shown[0].keys() | shown[1].keys()
    }
    return {name: look for name, look in looks.items() if len(set(look)) > 1}
