"""The promises of docs/security.md."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support import servers
from support.mounts import Mount, let_others_in, mount_lines, run, succeed, wait_until
from support.proxy import Fail, Proxy

from mimicfs.backends.sqlite import SQLite
from mimicfs.errors import StoreUnavailable

pytestmark = pytest.mark.slow

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "Kq7-secret-key",
    "AWS_SESSION_TOKEN": "Wz8-session-token",
    "MIMICFS_STORE_PASSWORD": "Ep9-redis-password",
    "endpoint": "Rt5-endpoint-password",
}
moto = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def secretive(state, server, tmp_path, monkeypatch):
    """A mount for which every kind of secret is needed; what it says is collected."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MIMICFS_STORE_PASSWORD"):
        monkeypatch.setenv(name, SECRETS[name])
    proxy = Proxy(server)
    address = proxy.url.removeprefix("http://")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRETS['endpoint']}@{address}")
    with contextlib.ExitStack() as stack:
        password = ("--requirepass", SECRETS["MIMICFS_STORE_PASSWORD"])
        port = stack.enter_context(servers.redis(tmp_path, *password))
        monkeypatch.setenv("MIMICFS_STORE", f"redis://127.0.0.1:{port}/0")
        source = f"redis://:{SECRETS['MIMICFS_STORE_PASSWORD']}@127.0.0.1:{port}/0#told"
        monkeypatch.setenv("MIMICFS_EVENTS", source)
        words = ["--log-level", "debug", "--slow-request", "0.0001"]
        words += ["--metrics", f"unix:{tmp_path}/metrics.sock"]
        mount = Mount(tmp_path / "mnt", words, tmp_path / "mount.log")
        stack.callback(mount.close)
        yield mount, proxy, port
    with contextlib.suppress(OSError):
        proxy.close()


@moto
def test_no_secret_is_in_anything_that_a_mount_shows(
    secretive, bucket, client, tmp_path, state, monkeypatch
):
    mount, proxy, port = secretive
    for key in ("d/a", "e/not-read"):
        client.put_object(Bucket=bucket, Key=key, Body=b"hello" * 100_000)
    (mount.path / ".sync").touch()
    path = mount.path / bucket / "d/a"
    said = [path.read_text(), (mount.path / ".sync").read_text()]
    (mount.path / bucket / "d/b").write_text("new")
    open_file = os.open(mount.path / bucket / "d/c", os.O_CREAT | os.O_WRONLY)
    os.write(open_file, b"x")  # so that there is a record in the journal
    for where in (mount.path, path.parent, path):
        for name in ("bucket", "key", "synced", "etag", "restore", "storage_class", "endpoint"):
            with contextlib.suppress(OSError):
                said.append(os.getxattr(where, f"user.mimicfs.{name}").decode())
    said += [Path(f"/proc/{mount.process.pid}/cmdline").read_text(), mounted_line(mount.path)]
    said += [succeed("status"), succeed("status", "--json"), scraped(tmp_path / "metrics.sock")]
    said += [succeed("status", "--all", "--json"), succeed("config", "show")]
    assert "key told" in said[-4] and "#told" in said[-2]
    said += files_below(tmp_path, mount.path)
    said += everything_of(run("doctor", "--write", f"s3://{bucket}"))
    said += everything_of(run("ls", "-l", "--log-level", "debug", f"s3://{bucket}"))
    with proxy.rule(Fail(lambda _: True, 403, "AccessDenied")):
        with pytest.raises(PermissionError):
            (mount.path / bucket / "e/not-read").read_bytes()
        os.write(open_file, b"more")  # (what was written before is saved: run() has forked)
        with pytest.raises(PermissionError):
            os.fsync(open_file)
        with contextlib.suppress(OSError):
            os.close(open_file)
        said += everything_of(run("sync", "--log-level", "debug", f"s3://{bucket}"))
    proxy.close()
    said += everything_of(run("ls", "s3://other", "--log-level", "debug"))
    monkeypatch.setenv("MIMICFS_STORE", f"redis://:{SECRETS['endpoint']}@127.0.0.1:{port}/0")
    said += everything_of(run("ls"))
    monkeypatch.setenv("MIMICFS_STORE", f"redis://:{SECRETS['endpoint']}/@127.0.0.1:{port}/0")
    said += everything_of(run("ls"))
    mount.close()
    said += files_below(tmp_path, mount.path)
    shown = "\n".join(said)
    assert "DEBUG" in shown and "slow: " in shown and bucket in shown
    assert [name for name, secret in SECRETS.items() if secret in shown] == []


def everything_of(result):
    return [result.stdout, result.stderr]


def mounted_line(path):
    (line,) = [line for line in mount_lines() if f" {path} " in line]
    return line


def files_below(directory, but):
    """What is in every file, but for those of servers and those in the mount."""
    found = []
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if Path(parent, name) != but]
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not name.startswith(("redis-", "dump")):
                found.append(path.read_bytes().decode("latin-1"))
    return found


def scraped(path):
    connection = http.client.HTTPConnection("localhost", timeout=10)
    with contextlib.closing(connection):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


@pytest.mark.parametrize(
    "words",
    [
        ["ls", "--store", "redis://:secret-word@127.0.0.1:1/0"],
        ["ls", "--store", "redis://127.0.0.1:1/0?password=secret-word"],
        ["ls", "--endpoint-url", "http://me:secret-word@127.0.0.1:1"],
        ["events", "run", "--events", "redis://:secret-word@127.0.0.1:1/0#key"],
        ["mount", "/", "-o", "events=redis://127.0.0.1:1/0?password=secret-word#key"],
    ],
)
def test_a_password_on_the_command_line_is_refused(state, words):
    result = run(*words)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "every user can see a password there (ps)" in result.stderr
    assert "secret-word" not in result.stderr


def test_fusermount3_gets_no_secret_of_our_environment(state, tmp_path, monkeypatch):
    seen, helper = tmp_path / "seen", tmp_path / "fusermount3"
    helper.write_text(f'#!/bin/sh\nenv >>{seen}\nexec {shutil.which("fusermount3")} "$@"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["AWS_SECRET_ACCESS_KEY"])
    succeed("--version")
    run("doctor", "--endpoint-url", "http://127.0.0.1:9")
    said = seen.read_text()
    assert said.count("LC_ALL=C\n") == 4  # two ask for its version, one mounts, one unmounts
    assert SECRETS["AWS_SECRET_ACCESS_KEY"] not in said


@moto
def test_credentials_that_others_can_read_are_warned_of(state, proxy, store, tmp_path, monkeypatch):
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = A\naws_secret_access_key = hush\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    point = tmp_path / "mnt"
    point.mkdir()
    words = ["--endpoint-url", proxy.url, "--store", store, "s3://no-such-bucket", point]
    for mode, warned in ((0o644, True), (0o600, False)):
        path.chmod(mode)
        said = run("mount", "-f", *words).stderr
        assert (f"{path}: other users can read the credentials in it" in said) is warned
        assert "hush" not in said


@moto
def test_every_file_that_is_made_is_for_us_alone(mount_at, bucket, client, state, tmp_path):
    before = os.umask(0)
    try:
        sock = f"unix:{tmp_path}/metrics.sock"
        log, cache = tmp_path / "own.log", tmp_path / "cache"
        words = ["--log-file", str(log), "--cache-dir", str(cache), "--metrics", sock]
        mount = mount_at(f"s3://{bucket}", *words)
    finally:
        os.umask(before)
    client.put_object(Bucket=bucket, Key="a", Body=b"x" * 3_000_000)
    (mount.path / ".sync").touch()
    assert len((mount.path / "a").read_bytes()) == 3_000_000
    with open(mount.path / "open", "wb", buffering=0) as file:
        file.write(b"y")
        first = shown_to_others(tmp_path, mount.path)
        mount.process.kill()
        mount.process.wait()
        with contextlib.suppress(OSError):
            file.close()
    again = mount_at(f"s3://{bucket}", *words)
    (again.path / "b").write_text("z")
    assert (first, shown_to_others(tmp_path, mount.path)) == ([], [])
    assert {".db", ".sock", ".json", ".log"} <= made(tmp_path, mount.path)


def made(directory, but):
    return {path.suffix for path in below(directory, but)}


def below(directory, but):
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if Path(parent, name) != but]
        for name in [*directories, *names]:
            yield Path(parent, name)


def shown_to_others(directory, but):
    """What others could open; but for the log of the test itself."""
    return [
        str(path)
        for path in below(directory, but)
        if path.name != "mount.log" and stat.S_IMODE(path.lstat().st_mode) & 0o077
    ]


def test_a_store_that_is_a_link_or_that_others_can_read_is_refused(state, tmp_path):
    SQLite(str(tmp_path / "real.db")).close()
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    with pytest.raises(StoreUnavailable, match="a symbolic link; name another file"):
        SQLite(str(tmp_path / "link.db"))
    (tmp_path / "real.db").chmod(0o640)
    with pytest.raises(StoreUnavailable, match="others can read or write it; chmod 600"):
        SQLite(str(tmp_path / "real.db"))


def test_a_store_where_anybody_can_write_is_refused(state, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    result = run("ls", "--endpoint-url", "http://127.0.0.1:9", "--store",
                 f"sqlite://{tmp_path}/shared/x.db")  # fmt: skip
    assert result.returncode == 2
    assert "shared: anybody can write in it; name a file in a directory of yours" in result.stderr
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_state_directory_that_is_a_link_or_open_to_others_is_refused(state, tmp_path):
    state.parent.mkdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    state.symlink_to(tmp_path / "theirs")
    words = ["ls", "--endpoint-url", "http://127.0.0.1:9"]
    assert "mimicfs: a symbolic link" in run(*words).stderr
    state.unlink()
    state.mkdir()
    state.chmod(0o755)
    assert f"others can enter it; chmod 700 {state}" in run(*words).stderr
    assert list((tmp_path / "theirs").iterdir()) == []


@moto
def test_control_characters_reach_neither_the_terminal_nor_the_log(
    state, proxy, bucket, store, client, tmp_path
):
    client.put_object(Bucket=bucket, Key="a\x1b[2Jb", Body=b"x")
    common = ["--endpoint-url", proxy.url, "--store", store, "--log-level", "debug"]
    said = [
        run("ls", "-R", *common, f"s3://{bucket}"),
        run("ls", *common, f"s3://{bucket}/\x1b[2J"),
    ]
    with proxy.rule(Fail(lambda request: request.kind == "LIST", 403, "&#155;2J")):
        said.append(run("sync", *common))
    log = tmp_path / "own.log"
    run("sync", *common, "--log-file", log, f"s3://{bucket}/\x1b[2J")
    assert [result.returncode for result in said] == [0, 6, 1]
    shown = "".join(result.stdout + result.stderr for result in said) + log.read_text()
    assert "\x1b" not in shown and "\x9b" not in shown
    assert shown.count("\\x1b[2J") >= 3


@moto
def test_a_mount_is_nosuid_and_nodev_and_for_one_user(mount_at, bucket):
    options = mounted_line(mount_at(f"s3://{bucket}").path)
    assert {"nosuid", "nodev"} <= set(options.split()[5].split(","))
    assert "allow_other" not in options


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@moto
@pytest.mark.usefixtures("metadata_never")
def test_refreshes_are_for_the_user_who_mounted_and_root(mount_at, bucket, client, proxy, tmp_path):
    client.put_object(Bucket=bucket, Key="a", Body=b"x", StorageClass="GLACIER")
    let_others_in(tmp_path)
    mount = mount_at(f"s3://{bucket}", "-o", "allow_other")
    assert os.listdir(mount.path) == ["a"]
    proxy.counted()
    attempts = {
        "os.utime('.sync')": "PermissionError",
        "open('.sync', 'w').write('x')": "PermissionError",
        "os.setxattr('.', 'user.mimicfs.sync', b'1')": "PermissionError",
        "os.setxattr('a', 'user.mimicfs.sync', b'1')": "PermissionError",
        "os.getxattr('a', 'user.mimicfs.restore')": "PermissionError",
        "os.getxattr('a', 'user.mimicfs.key')": "",
    }
    program = (
        "import os, sys\nos.chdir(sys.argv[1]); os.setuid(65534)\n"
        "for line in sys.argv[2:]:\n"
        "    try: eval(line); print()\n"
        "    except Exception as exc: print(type(exc).__name__)\n"
    )
    words = [sys.executable, "-c", program, str(mount.path), *attempts]
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout
    assert dict(zip(attempts, said.splitlines(), strict=True)) == attempts
    assert proxy.counted() == {}


@moto
def test_a_loop_of_refreshes_is_slowed_down_and_then_refused(mount_at, bucket, client, proxy):
    for n in range(40):
        client.put_object(Bucket=bucket, Key=f"d{n}/a", Body=b"x")
    mount = mount_at(f"s3://{bucket}", "-o", "sync_rate=1")
    proxy.counted()
    for _ in range(100):
        (mount.path / ".sync").touch()
    scopes = [mount.path / f"d{n}/.sync" for n in range(40)]
    assert refused_of(scopes) == "Resource temporarily unavailable"
    assert 100 <= proxy.counted()["LIST"] <= 125
    assert "earlier ones have cost too many LIST requests" in mount.log.read_text()
    words = ["--endpoint-url", proxy.url, "--store", f"sqlite://{mount.path.parent}/store.db"]
    assert "40 keys" in succeed("sync", *words, f"s3://{bucket}")


def refused_of(paths):
    """What the first of those who touch *paths* at once and are refused is told."""
    touching = [
        subprocess.Popen(["touch", path], stderr=subprocess.PIPE, text=True, env={"LC_ALL": "C"})
        for path in paths
    ]
    try:
        wait_until(lambda: any(each.poll() for each in touching))
        (refused, *_) = [each for each in touching if each.poll()]
        return refused.stderr.read().strip().rpartition(": ")[2]
    finally:
        for each in touching:
            each.kill()
            each.communicate()


@moto
def test_without_a_limit_every_refresh_is_made(mount_at, bucket, proxy):
    mount = mount_at(f"s3://{bucket}", "-o", "sync_rate=0")
    proxy.counted()
    for _ in range(150):
        (mount.path / ".sync").touch()
    assert proxy.counted() == {"LIST": 150}


@pytest.fixture
def https(tmp_path):
    """The URL of an https server whose certificate nobody vouches for; and its bundle."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = HTTPServer(("127.0.0.1", 0), _Empty)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.handle_error = lambda *_: None
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server, certificate
    server.shutdown()
    server.server_close()
    thread.join()


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self.path)
        body = b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_certificate_that_nobody_vouches_for_is_refused(state, store, https, monkeypatch):
    server, certificate = https
    words = ["--endpoint-url", f"https://127.0.0.1:{server.server_port}", "--store", store]
    result = run("doctor", "--json", *words)
    found = {item["name"]: item for item in json.loads(result.stdout)}
    assert found["list buckets"]["result"] == "fail"
    assert "certificate verify failed" in found["list buckets"]["found"].lower()
    assert server.seen == []
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    assert succeed("ls", *words) == ""
    assert len(server.seen) == 1


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "minio.example"])
def test_http_without_tls_is_never_a_guess(state, store, endpoint):
    result = run("ls", "--endpoint-url", endpoint, "--store", store)
    assert result.returncode == 2
    assert "write https://HOST or http://HOST:PORT" in result.stderr
