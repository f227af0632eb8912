"""How often a mount asks a Redis that is far away in each call: once before its request to S3, and
once after it. docs/sharing.md has the table."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from redis.connection import AbstractConnection
from support.proxy import Proxy, Rule

from mimicfs.backends.lease import Lease
from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.redis.transactions import Transactions
from mimicfs.backends.replica import Replica
from mimicfs.backends.sqlite import SQLite
from mimicfs.config.values import BucketOptions, Buckets, FileOptions, S3Options, Target, VFSOptions
from mimicfs.files.journal import Journal
from mimicfs.following import Follower
from mimicfs.mimicdb import Mirror
from mimicfs.posix import ROOT_INO, Caller, Cancellation, NewAttr
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.vfs.filesystem import VFS

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

_BEHIND = {"member", "follow", "lease", "replica", "intents"}  # threads that nobody waits for


class _Kernel:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: True


class _Noting(Rule):
    """Notes in *trace* what S3 is asked."""

    def __init__(self, trace: list[str]) -> None:
        super().__init__(lambda request: self._note(request.kind))
        self._trace = trace

    def _note(self, kind: str) -> bool:
        self._trace.append(kind)
        return False


class _Calls:
    """Calls of a mount of *bucket* whose copy of the store is all at hand. `trace` has, in their
    order, "." for each round trip to Redis for which somebody waits, and the kinds of the requests
    to S3."""

    def __init__(
        self, store: RedisBackend, proxy: Proxy, bucket: str, staging: Path, stack: ExitStack
    ) -> None:
        self.trace: list[str] = []
        self._replica = Replica(store, SQLite(), Lease(lambda: 0.0))
        mimicdb = stack.enter_context(closing(Mirror(self._replica)))
        s3 = stack.enter_context(closing(S3(S3Options(endpoint_url=proxy.url), mimicdb)))
        syncer = Syncer(mimicdb, s3)
        parts = (mimicdb, s3, syncer, Journal.open(staging), _Kernel())
        options = VFSOptions(Target(bucket), buckets=Buckets(BucketOptions(metadata="never")))
        self._fs = stack.enter_context(closing(VFS(*parts, options, FileOptions(staging))))
        self._caller = Caller(os.getuid(), os.getgid(), 0, Cancellation())
        follower = Follower(mimicdb, bucket, lease=self._replica.lease)
        follower.begin()
        syncer.sync(bucket)
        mimicdb.join("/mnt")
        stack.enter_context(proxy.rule(_Noting(self.trace)))

    def sent(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def note(*asked: Any, **how: Any) -> Any:
            if threading.current_thread().name not in _BEHIND:
                self.trace.append(".")
            return send(*asked, **how)

        return note

    def of(self, call: Callable[[str], object], path: str) -> str:
        """Return the trace of *call* of *path*."""
        for directory in ("", "l/", "m/", "m/sub/", "n/", "n/sub/"):
            self._replica.bring(self._fs._options.target.bucket, directory)
        self._place(path)
        self.trace.clear()
        call(path)
        return " ".join(self.trace)

    def _place(self, path: str) -> tuple[int, bytes]:
        above, _, name = path.rpartition("/")
        ino = self._fs.lookup(self._caller, ROOT_INO, above.encode()).ino if above else ROOT_INO
        return ino, name.encode()

    def _ino(self, path: str) -> int:
        return self._fs.lookup(self._caller, *self._place(path)).ino

    def create(self, path: str) -> None:
        _, opened = self._fs.create(self._caller, *self._place(path), 0o600, os.O_WRONLY)
        self._written(opened.handle, 0, append=False)

    def overwrite(self, path: str) -> None:
        opened = self._fs.open(self._caller, self._ino(path), os.O_WRONLY | os.O_TRUNC)
        self._fs.setattr(self._caller, self._ino(path), NewAttr(size=0), opened.handle)
        self._written(opened.handle, 0, append=False)

    def append(self, path: str) -> None:
        opened = self._fs.open(self._caller, self._ino(path), os.O_WRONLY | os.O_APPEND)
        self._written(opened.handle, 3, append=True)

    def _written(self, handle: int, offset: int, *, append: bool) -> None:
        self._fs.write(self._caller, handle, offset, memoryview(b"new"), append=append)
        self._fs.flush(self._caller, handle)
        self._fs.release(handle)

    def chmod(self, path: str) -> None:
        self._fs.setattr(self._caller, self._ino(path), NewAttr(mode=0o640), None)

    def unlink(self, path: str) -> None:
        self._fs.unlink(self._caller, *self._place(path))

    def mkdir(self, path: str) -> None:
        self._fs.mkdir(self._caller, *self._place(path), 0o700)

    def rmdir(self, path: str) -> None:
        self._fs.rmdir(self._caller, *self._place(path))

    def rename(self, path: str) -> None:
        place = self._place(path)
        self._fs.rename(self._caller, *place, place[0], place[1] + b" renamed", 0)


@pytest.fixture(params=["scripts"])
def calls(
    request: pytest.FixtureRequest,
    redis_url: str,
    proxy: Proxy,
    bucket: str,
    client: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[_Calls]:
    client.put_object(Bucket=bucket, Key="m/")
    for key in ("l/last", *(f"{d}/{n}" for d in "mn" for n in ("1", "2", "3"))):
        client.put_object(Bucket=bucket, Key=key, Body=b"old")
    with ExitStack() as stack:
        store = RedisBackend.from_url(redis_url, os.urandom(8).hex())
        if request.param == "transactions":
            store._steps = Transactions(store.client)
        calls = _Calls(store, proxy, bucket, tmp_path, stack)
        calls.mkdir("warm")  # Redis is given the scripts, and what the server can do is found out
        for each in (calls.create, calls.chmod, calls.append, calls.rename):
            each("warm/x")
        calls.unlink("warm/x renamed")
        calls.rmdir("warm")
        _have_connections(store.client)  # to greet Redis on a new one takes four packets
        send = AbstractConnection.send_packed_command
        monkeypatch.setattr(AbstractConnection, "send_packed_command", calls.sent(send))
        yield calls


def _have_connections(client: Any) -> None:
    """See to it that nobody makes one who finds that threads in the background have the others."""
    pool = client.connection_pool
    for each in [pool.get_connection() for _ in range(6)]:
        pool.release(each)


def _traces(calls: _Calls, directory: str) -> dict[str, str]:
    new = f"{directory}/new"
    return {
        "create": calls.of(calls.create, new),
        "overwrite": calls.of(calls.overwrite, new),
        "append": calls.of(calls.append, new),
        "chmod": calls.of(calls.chmod, new),
        "unlink": calls.of(calls.unlink, f"{directory}/3"),
        "mkdir": calls.of(calls.mkdir, f"{directory}/sub"),
        "rmdir": calls.of(calls.rmdir, f"{directory}/sub"),
        "rename": calls.of(calls.rename, new),
    }


@pytest.mark.parametrize("directory", ["m", "n"])
def test_each_call_asks_redis_once_before_a_request_to_s3_and_once_after_it(
    calls: _Calls, directory: str
) -> None:
    """In a directory with a marker, and in one that is there only because of its names."""
    assert _traces(calls, directory) == {
        "create": ". PUT .",
        "overwrite": ". PUT .",
        "append": ". HEAD . GET . PUT .",  # a read is learned, or known already
        "chmod": ". HEAD . COPY .",
        "unlink": ". DELETE .",
        "mkdir": ". . PUT .",  # that nothing is in it is noted first
        "rmdir": ". DELETE .",
        "rename": ". COPY . . DELETE .",
    }


@pytest.mark.parametrize("calls", ["transactions"], indirect=True)
@pytest.mark.parametrize("directory", ["m", "n"])
def test_where_scripts_are_denied_each_step_is_a_look_and_a_change(
    calls: _Calls, directory: str
) -> None:
    assert _traces(calls, directory) == {
        "create": ". . PUT . .",
        "overwrite": ". . PUT . .",
        "append": ". HEAD . GET . . PUT . .",
        "chmod": ". HEAD . . COPY . .",
        "unlink": ". . DELETE . .",
        "mkdir": ". . . PUT . .",
        "rmdir": ". . DELETE . .",
        "rename": ". . COPY . . . . DELETE . .",
    }


def test_the_last_name_of_a_directory_without_a_marker_costs_two_more(calls: _Calls) -> None:
    """That the directory stays is said before the name goes, and then whether that was there."""
    assert calls.of(calls.unlink, "l/last") == ". . . DELETE ."
