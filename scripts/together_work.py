"""What works on the mounts of scripts/together, and what must be true in the end."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from together_parts import Mount

MOUNTS = 4
WORKERS = 2  # a mount
FILES = 12  # of each worker's own
SHARED = 6  # names that all change
BUCKET = "together"
MANY = "many"  # a directory that is too large to be read again and again
GONE = b""  # stands for a file that is not there
DOES = ("write", "write", "append", "delete", "rename", "move", "read")


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Known:
    """What was confirmed of each file of the workers' own: what S3 may have of it. One content
    where the last call said that it was done; several where one said that it was not.

    `tried`: all that was ever written. What a close could not bring to S3 is uploaded by the next
    mount, if S3 then has what it had at that time: also if there was something else in between."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.may_be: dict[str, set[bytes]] = {}
        self.tried: dict[str, set[bytes]] = {}

    def begin(self, name: str, content: bytes) -> None:
        with self._lock:
            self.may_be.setdefault(name, {GONE}).add(content)
            self.tried.setdefault(name, set()).add(content)

    def confirmed(self, name: str, content: bytes) -> None:
        with self._lock:
            self.may_be[name] = {content}

    def moving(self, old: str, new: str) -> set[bytes]:
        """Note that *old* is about to become *new*; return what it may be."""
        with self._lock:
            found = set(self.may_be.get(old, {GONE}))
        for content in found:
            self.begin(new, content)
            self.begin(old, GONE)
        return found

    def moved(self, old: str, new: str, found: set[bytes]) -> None:
        with self._lock:
            self.may_be[old], self.may_be[new] = {GONE}, found

    def sure(self, name: str) -> bytes | None:
        with self._lock:
            found = self.may_be.get(name, {GONE})
            return next(iter(found)) if len(found) == 1 else None


class Worker(threading.Thread):
    """Does one thing after the other in *mount*, and rests for *rest_s* in between."""

    def __init__(
        self,
        number: int,
        mount: Mount,
        known: Known,
        over: threading.Event,
        seed: int,
        rest_s: float = 0.0,
    ) -> None:
        super().__init__(daemon=True)
        self._rest_s = rest_s
        self._chance = random.Random(seed * 1000 + number)
        self._number, self._mount, self._known, self._over = number, mount, known, over
        self.did: Counter[str] = Counter()
        self.longest_s, self.longest = 0.0, ""  # a single call of the system, and when it ended
        self._began_s = 0.0

    def run(self) -> None:
        sys.setprofile(self._timed)
        while not self._over.is_set():
            what = self._chance.choice(DOES)
            try:
                getattr(self, f"do_{what}" if self._chance.random() < 0.7 else "do_collide")()
                self.did["done"] += 1
            except OSError as exc:
                self.did[f"{what}: {os.strerror(exc.errno or 0)}"] += 1
                self._over.wait(0.05)
            self._over.wait(self._rest_s)

    def _timed(self, _: FrameType | None, event: str, call: Any) -> None:
        """Time the functions that are written in C, except waits."""
        if event == "c_call":
            self._began_s = time.monotonic()
        elif event in ("c_return", "c_exception") and call.__name__ != "acquire":
            took_s = time.monotonic() - self._began_s
            if took_s > self.longest_s:
                ended = time.strftime("%H:%M:%S")
                self.longest_s, self.longest = took_s, f"{call.__name__}, {ended}"

    def _one(self) -> str:
        return f"w{self._number}/f{self._chance.randrange(FILES)}"

    def _text(self) -> bytes:
        return self._chance.randbytes(self._chance.choice([10, 500, 5000])).hex().encode()

    def do_write(self) -> None:
        name, text = self._one(), self._text()
        (self._mount.path / name).parent.mkdir(exist_ok=True)
        self._known.begin(name, text)
        (self._mount.path / name).write_bytes(text)
        self._known.confirmed(name, text)

    def do_append(self) -> None:
        name = self._one()
        before = self._known.sure(name)
        if before is None or before == GONE:
            return
        text = self._text()
        self._known.begin(name, before + text)
        with open(self._mount.path / name, "ab") as file:
            file.write(text)
        self._known.confirmed(name, before + text)

    def do_delete(self) -> None:
        name = self._one()
        self._known.begin(name, GONE)
        (self._mount.path / name).unlink(missing_ok=self._known.sure(name) == GONE)
        self._known.confirmed(name, GONE)

    def do_rename(self) -> None:
        old, new = self._one(), self._one()
        content = self._known.sure(old)
        if content is None or content == GONE or old == new:
            return
        self._known.begin(old, GONE)
        self._known.begin(new, content)
        (self._mount.path / old).rename(self._mount.path / new)
        self._known.confirmed(old, GONE)
        self._known.confirmed(new, content)

    def do_move(self) -> None:
        """Rename a directory of three files, or make it."""
        top = f"t{self._number}"
        olds, news = ([f"{top}/{side}/g{n}" for n in range(3)] for side in "ab")
        if not (self._mount.path / top / "a").exists():
            olds, news = news, olds
        old, new = ((self._mount.path / each[0]).parent for each in (olds, news))
        if not old.exists():
            old.mkdir(parents=True)
        if new.exists():  # a rename was interrupted
            for name in news:
                self._known.begin(name, GONE)
                (self._mount.path / name).unlink(missing_ok=True)
                self._known.confirmed(name, GONE)
            new.rmdir()
        text = self._text()
        self._known.begin(olds[0], text)
        (self._mount.path / olds[0]).write_bytes(text)
        self._known.confirmed(olds[0], text)
        found = [self._known.moving(*pair) for pair in zip(olds, news, strict=True)]
        old.rename(new)
        for one, two, contents in zip(olds, news, found, strict=True):
            self._known.moved(one, two, contents)

    def do_read(self) -> None:
        """Read a file that somebody else, or this one, has written."""
        name = f"w{self._chance.randrange(MOUNTS * WORKERS)}/f{self._chance.randrange(FILES)}"
        (self._mount.path / name).read_bytes()

    def do_collide(self) -> None:
        path = self._mount.path / "all" / f"f{self._chance.randrange(SHARED)}"
        path.parent.mkdir(exist_ok=True)
        what = self._chance.randrange(5)
        if what == 0:
            path.unlink()
        elif what == 1:
            path.rename(f"{path}.to")
        elif what == 2:
            path.chmod(0o640)
        elif what == 3:
            with open(path, "ab") as file:
                file.write(b"more")
        else:
            path.write_bytes(self._text())


class Witness(threading.Thread):
    """Reads, in one mount, files that nobody changes. They must be there, unless the mount is dead;
    while the store is away, it may say EIO."""

    def __init__(self, mount: Mount, there: dict[str, bytes], over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._mount, self._there, self._over = mount, there, over
        self.said: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest_s = 0.0

    def run(self) -> None:
        while not self._over.is_set():
            for name, text in self._there.items():
                lives, began = self._life(), time.monotonic()
                try:
                    found: bytes | None = (self._mount.path / name).read_bytes()
                except OSError as exc:
                    self.said[errno.errorcode[exc.errno or 0]] += 1
                    found = text if exc.errno != errno.ENOENT else None
                if lives and self._life() == lives:
                    if found != text:
                        where = f"{time.strftime('%H:%M:%S')} {self._mount.path.parent.name}"
                        self.wrong.append(f"{where}: {name}: {_short(found)} is read")
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                self._over.wait(0.05)

    def _life(self) -> int:
        """Return the number of the life of the mount; 0: it is dead, or is not mounted yet."""
        there = self._mount.alive() and os.path.ismount(self._mount.path)
        return self._mount.lives if there else 0


class Messenger(threading.Thread):
    """Writes new files in one mount, and waits until another shows them, whose kernel holds the
    listing without them."""

    def __init__(self, name: str, writes: Mount, reads: Mount, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._name, self._writes, self._reads, self._over = name, writes, reads, over
        self.late_s: list[float] = []  # from close to the sight of it

    def run(self) -> None:
        with suppress(OSError):
            (self._writes.path / "news").mkdir(exist_ok=True)
        n = 0
        while not self._over.is_set():
            n += 1
            name = f"news/{self._name}-{n}"
            with suppress(OSError):
                os.listdir(self._reads.path / "news")
                (self._reads.path / name).exists()
            try:
                (self._writes.path / name).write_bytes(b"news")
            except OSError:
                self._over.wait(0.1)
                continue
            began = time.monotonic()
            while not self._shows(name) and time.monotonic() - began < 60:
                self._over.wait(0.005)
            self.late_s.append(time.monotonic() - began)
            self._over.wait(0.3)

    def _shows(self, name: str) -> bool:
        try:
            return (self._reads.path / name).read_bytes() == b"news"
        except OSError:
            return False


# What must be true in the end


def in_s3(client: Any) -> dict[str, bytes]:
    """Return the files, and the directories: their keys end in a slash."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    found = (item["Key"] for page in pages for item in page.get("Contents", ()))
    # What a killed mount was trying a server with (`is_own`) is shown nowhere.
    keys = [key for key in found if not key.startswith(f"{MANY}/") and "/.mimicfs-" not in key]
    above = {key[: n + 1] for key in keys for n, letter in enumerate(key) if letter == "/"}
    return {
        **dict.fromkeys(above, b""),
        **{
            key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            for key in keys
            if not key.endswith("/")
        },
    }


def shown(mount: Mount) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    tops = [path for path in mount.path.iterdir() if path.name != MANY]
    for path in sorted(each for top in tops for each in (top, *top.rglob("*"))):
        name = str(path.relative_to(mount.path))
        if path.is_dir():
            found[f"{name}/"] = b""
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def difference(one: dict[str, bytes], two: dict[str, bytes]) -> list[str]:
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    return [f"{key}: {_short(one.get(key))}, {_short(two.get(key))}" for key in sorted(keys)]


def _short(content: bytes | None) -> str:
    digest = hashlib.sha256(content or b"").hexdigest()[:8]
    return "absent" if content is None else f"{len(content)} bytes {digest}"


def wrong(client: Any, mounts: Sequence[Mount], names: Collection[str] = ()) -> list[str]:
    """Return where a mount shows something else than S3 has (S3's first), or a name of *names* that
    S3 does not have."""
    found: list[str] = []
    there = in_s3(client)  # nobody writes any more
    gone = [name for name in names if name not in there and f"{name}/" not in there]
    for mount in mounts:
        try:
            said = shown(mount)
            ghosts = [name for name in gone if os.path.lexists(mount.path / name)]
        except OSError as exc:
            found.append(f"{mount.path.parent.name}: {exc!r}")
        else:
            found += [f"{mount.path.parent.name}: {it}" for it in difference(there, said)]
            found += [f"{mount.path.parent.name}: {it} is a ghost" for it in ghosts]
    return found


def lost(client: Any, known: Known) -> list[str]:
    """Return the files of which S3 has something else than what was confirmed."""
    there, found = in_s3(client), list[str]()
    for name, may_be in sorted(known.may_be.items()):
        now = there.get(name, GONE)
        if now in may_be:
            continue
        text = f"{name}: S3 has {_short(now)}, confirmed was {[_short(it) for it in may_be]}"
        if may_be <= {GONE, *known.tried[name]} and GONE in may_be and now in known.tried[name]:
            say(f"  CAME BACK {text}")
        else:
            found.append(text)
    return found
