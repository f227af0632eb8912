"""`mimicfs watch` on either store, without a mount. Nothing listens at the endpoint."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys

import pytest

from mimicfs.backends.redis import RedisBackend
from mimicfs.backends.sqlite import SQLite
from mimicfs.cli import main
from mimicfs.entry import Entry
from mimicfs.mimicdb import Mirror

ETAG = "e" * 32
ODD = "d/ü 'q\"\x1b[1m\nend"


@pytest.fixture(params=["sqlite", "redis"])
def store(request, state, tmp_path, monkeypatch):
    """The arguments that name a store, and a mirror on it: another program."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    name = f"watch-{tmp_path}" if request.param == "redis" else ""
    if request.param == "sqlite":
        url, backend = f"sqlite://{tmp_path}/store.db", SQLite(f"{tmp_path}/store.db")
    else:
        url = request.getfixturevalue("redis_url")
        backend = RedisBackend.from_url(url, name)
    mirror = Mirror(backend)
    mirror.record("b", Entry("before", 1, 10**18, ETAG))
    arguments = ["--endpoint-url", "http://127.0.0.1:9", "--store", url, "--namespace", name]
    yield arguments, mirror
    mirror.close()


@pytest.fixture
def watch(store, monkeypatch, capfd):
    """Run the command to its end; return its exit code, and what it printed."""
    monkeypatch.setattr("mimicfs.cli.leave", sys.exit)  # this process goes on

    def run(*more, url="s3://b"):
        monkeypatch.setattr(sys, "argv", ["mimicfs", "watch", *store[0], "--once", *more, url])
        code = 0
        try:
            main()
        except SystemExit as exc:
            code = exc.code
        return code, *capfd.readouterr()

    return run


def test_watch_tells_each_change_in_order_from_any_number_that_is_kept(store, state, watch):
    others = store[1]
    others.join("/mnt/photos")
    refused = (
        "mimicfs: s3://b/: 1 is beyond the last change: there are none yet; begin without --since"
    )
    code, _, err = watch()
    assert (code, "needs --since" in err) == (2, True)  # it would print nothing, always
    assert watch("--since", "0") == (0, "", "")
    assert watch("--since", "1") == (4, "", f"{refused}\n")
    others.repair("b", "found", Entry("found", 0, 10**18, ETAG))
    others.record("b", Entry(ODD, 5, 10**18, "a" * 32))
    others.forget("b", "before")
    others.record("b", Entry(ODD, 6, 10**18, "b" * 32))

    code, out, _ = watch("--json", "--since", "0")
    lines = [json.loads(line) for line in out.splitlines()]
    told = [(it["seq"], it["change"], it["key"], it["size"]) for it in lines]
    assert (code, told) == (
        0,
        [(1, "added", "found", 0), (2, "deleted", "before", 1), (3, "added", ODD, 6)],
    )
    assert lines[0]["by"] == "S3"
    assert lines[2]["by"].endswith(":/mnt/photos")
    _, out, _ = watch("--since", "2")  # for people: one line, that commands no terminal
    assert out.startswith("     3 20") and "\x1b" not in out and out.count("\n") == 1
    assert watch("--since", "3") == (0, "", "")
    made = [state.parent, *state.parent.rglob("*")]  # for us alone: else no mount would begin
    assert len(made) > 4 and not any(stat.S_IMODE(it.stat().st_mode) & 0o077 for it in made)
    code, _, err = watch("--since", "4")
    beyond = "4 is beyond the last change, which has the number 3; begin without --since"
    assert (code, err) == (4, f"mimicfs: s3://b/: {beyond}\n")


def test_a_command_that_fails_ends_the_watch_and_nothing_is_lost(store, watch, tmp_path):
    assert watch("--since", "0", url="s3://b/d")[0] == 0
    store[1].record("b", Entry("outside", 5, 10**18, ETAG))
    store[1].record("b", Entry(ODD, 5, 10**18, ETAG))
    for command, code, said in [
        ("", 2, "--exec: name a command"),
        ("  ", 2, "--exec: name a command"),
        ("'open", 2, "--exec 'open: no closing quotation"),
        ("/no/such", 1, "--exec /no/such: No such file or directory; continue with --since 0"),
        ("/tmp", 1, "--exec /tmp: Permission denied; continue with --since 0"),
        ("false", 1, "--exec false: it ended with 1; continue with --since 0"),
        ("sh -c 'kill -9 $$'", 1, "--exec sh: signal 9 ended it; continue with --since 0"),
    ]:
        found = watch("--since", "0", "--exec", command, url="s3://b/d")
        assert found == (code, "", f"mimicfs: {said}\n")
    script = tmp_path / "it's a $command"
    script.write_text("#!/bin/sh\ncat\n")
    script.chmod(0o700)
    code, out, _ = watch("--since", "0", "--exec", f'"{script}" "a b"', url="s3://b/d")
    assert (code, json.loads(out)["key"]) == (0, ODD)


def test_a_signal_during_a_command_names_the_place(store, watch, tmp_path, monkeypatch):
    assert watch("--since", "0")[0] == 0
    store[1].record("b", Entry(ODD, 5, 10**18, ETAG))
    try:
        found = watch("--since", "0", "--exec", "sh -c 'kill -TERM $PPID; exec sleep 60'")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert found == (143, "", "mimicfs: continue with --since 0\n")


def test_a_signal_kills_a_command_that_is_just_beginning(store, watch, monkeypatch):
    began = []

    class Beginning(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            began.append(self)
            signal.raise_signal(signal.SIGTERM)

    assert watch("--since", "0")[0] == 0
    store[1].record("b", Entry(ODD, 5, 10**18, ETAG))
    monkeypatch.setattr(subprocess, "Popen", Beginning)
    try:
        found = watch("--since", "0", "--exec", "sleep 60")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert found == (143, "", "mimicfs: continue with --since 0\n")
    assert [process.returncode for process in began] == [-signal.SIGKILL]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_watch_of_a_bucket_that_was_deleted_tells_what_is_gone_first(watch, store, server):
    where = ("--endpoint-url", server)
    assert watch("--since", "0", *where) == (0, "", "")
    store[1].drop_bucket("b")
    code, out, err = watch("--json", "--since", "0", *where)
    found = [(it["change"], it["key"]) for it in map(json.loads, out.splitlines())]
    assert (code, found) == (6, [("deleted", "before")])
    assert "s3://b" in err


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_watch_of_a_bucket_that_does_not_exist_is_refused(watch, server):
    code, out, err = watch("--since", "0", "--endpoint-url", server, url="s3://no-such-bucket")
    assert (code, out) == (6, "")
    assert "no-such-bucket" in err
