"""Two mounts that do two or three things to a tree of directories at the same time, over a slow S3:
both show all that S3 has, and no directory that no order of these things leaves.
`--trees 1000 --timeout 0` tries so many a store."""

from __future__ import annotations

import errno
import itertools
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.meeting import Late

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]

_LATE_S = 0.05
_AT_ONCE = 8
_PATIENCE_S = 10.0


def _create(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


# By name: what is done in a tree. Each of them has d/s/g, and something beside.
STEPS = {
    "mkdir d/s/n": lambda top: os.mkdir(top / "d/s/n"),
    "mkdir d/n": lambda top: os.mkdir(top / "d/n"),
    "mkdir d": lambda top: os.mkdir(top / "d"),
    "create d/s/n": lambda top: _create(top / "d/s/n"),
    "create d/n": lambda top: _create(top / "d/n"),
    "unlink d/s/g": lambda top: os.unlink(top / "d/s/g"),
    "rmdir d/s": lambda top: os.rmdir(top / "d/s"),
    "rmdir d": lambda top: os.rmdir(top / "d"),
    "rename d/s/g to g": lambda top: os.rename(top / "d/s/g", top / "g"),
    "rename d/s to s": lambda top: os.rename(top / "d/s", top / "s"),
    "rename d/s to d/t": lambda top: os.rename(top / "d/s", top / "d/t"),
    "rename d to e": lambda top: os.rename(top / "d", top / "e"),
    "rename f to d/s/g": lambda top: os.rename(top / "f", top / "d/s/g"),
    "rename f to d/f": lambda top: os.rename(top / "f", top / "d/f"),
}
# The keys of a tree: with markers, without, and where it is empty below.
TREES = {
    "implied": ("f", "d/s/g"),
    "markers": ("f", "d/", "d/s/", "d/s/g"),
    "empty": ("f", "d/s/"),
    "half": ("f", "d/", "d/s/g"),
}

_NAMES = {"d", "d/s", "d/s/g", "d/s/n", "d/n", "d/t", "d/f", "e", "e/s", "s", "g", "f"}


def _said(step, top):
    try:
        STEPS[step](top)
    except OSError as exc:
        return errno.errorcode[exc.errno]
    return "done"


def _walked(top):
    """Return all that is below *top*; directories end in "/"."""
    found = set()
    for directory, subdirectories, files in os.walk(top, onerror=_raise):
        at = os.path.relpath(directory, top)
        prefix = "" if at == "." else f"{at}/"
        found |= {f"{prefix}{name}/" for name in subdirectories} | {prefix + name for name in files}
    return frozenset(found)


def _named(top):
    """Return what stat(2) finds below *top*, of all that the steps name."""
    return {name for name in _NAMES if os.path.lexists(top / name)}


def _raise(exc):
    if exc.errno != errno.ENOENT:
        raise exc


def _orders(tree, steps, base):
    """Return what any order of *steps* leaves of *tree*, on a local disk."""
    left = set()
    for n, order in enumerate(itertools.permutations(range(len(steps)))):
        top = base / str(n)
        top.mkdir(parents=True)
        for key in TREES[tree]:
            path = top / key
            (path if key.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not key.endswith("/"):
                path.touch()
        for each in order:
            _said(steps[each], top)
        left |= _walked(top)
    return left


def _meet(two, name, steps, chance_s):
    with ThreadPoolExecutor(len(steps)) as pool:
        running = []
        for n, step in enumerate(steps):
            running.append(pool.submit(_said, step, two[n % 2] / name))
            time.sleep(chance_s)
        return [each.result(60) for each in running]


def _keys(client, bucket):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"] for page in pages for item in page.get("Contents", ())}


def _wrong(name, keys, walks, may_be):
    """Return what is missing in a mount, and what is there although it is nowhere."""
    own = {key[len(name) + 1 :] for key in keys if key.startswith(f"{name}/")} - {""}
    parents = {key[: n + 1] for key in own for n, letter in enumerate(key) if letter == "/"}
    both = {key for key in own if f"{key}/" in parents}
    there = (own - both) | {f"{key}%file" for key in both} | parents
    return [
        (sorted(there - walk), sorted(walk - there - {each for each in may_be if each[-1] == "/"}))
        for walk in walks
    ]


def _agree(two, name, walks):
    """Whether both mounts show the same, and stat(2) finds what they list."""
    listed = [{each.rstrip("/") for each in walk} for walk in walks]
    found = [_named(each / name) for each in two]
    return walks[0] == walks[1] and all(
        names == shown & _NAMES for names, shown in zip(found, listed, strict=True)
    )


def test_what_is_done_to_trees_leaves_no_directory_that_is_nowhere(
    two, bucket, client, proxy, request, tmp_path
):
    count = request.config.getoption("--trees")
    chance = random.Random(count)
    wanted = {}
    for n in range(count):
        steps = chance.choices(list(STEPS), k=chance.choice([2, 2, 3]))
        tree = chance.choice(list(TREES))
        wanted[f"{n:05}"] = tree, steps, chance.uniform(0, _LATE_S)
        for key in TREES[tree]:
            client.put_object(Bucket=bucket, Key=f"{n:05}/{key}", Body=b"")
    for each in two:
        _walked(each)
    with proxy.rule(Late(random.Random(count + 1), _LATE_S)), ThreadPoolExecutor(_AT_ONCE) as pool:
        meetings = [pool.submit(_meet, two, name, w[1], w[2]) for name, w in wanted.items()]
        said = [it.result(200) for it in meetings]
    may_be = {
        name: _orders(tree, steps, tmp_path / "o" / name)
        for name, (tree, steps, _) in wanted.items()
    }
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        keys = _keys(client, bucket)
        walks = {name: [_walked(each / name) for each in two] for name in wanted}
        looks = {name: _wrong(name, keys, walks[name], may_be[name]) for name in wanted}
        bad = {
            name: look
            for name, look in looks.items()
            if look != [([], [])] * 2 or not _agree(two, name, walks[name])
        }
        if not bad:
            break
        words = dict(zip(wanted, said, strict=True))
        about = [(wanted[name][:2], words[name], look, walks[name]) for name, look in bad.items()]
        assert time.monotonic() < deadline, f"{len(bad)} of {count}: {about}"
        time.sleep(0.2)
