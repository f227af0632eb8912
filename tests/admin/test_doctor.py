"""`mimicfs doctor` finds what is wrong, says what to do, and leaves nothing behind."""

import io
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import threading
from base64 import b64encode
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from support import servers
from support.mounts import MIMICFS, run
from support.proxy import Fail, Replace, Rule
from support.standins import BareConditions, EqualParts, NoChecksums, NoDeleteObjects, StandIn

from mimicfs.admin.doctor import _exposed, machine
from mimicfs.backends.examine import examine_store
from mimicfs.backends.sqlite import SQLite
from mimicfs.finding import FAIL, Finding

pytestmark = pytest.mark.slow  # each command is a process

IGNORED = "ignored by the server, or not known to it"


def examined(*words):
    """The findings, by name: (result, found, advice)."""
    result = run("doctor", "--json", *words)
    found = {item["name"]: item for item in json.loads(result.stdout)}
    failed = any(item["result"] == "fail" for item in found.values())
    assert (result.returncode, result.stderr) == (int(failed), "")
    return {name: (it["result"], it["found"], it["advice"]) for name, it in found.items()}


def results(found):
    return {name: result for name, (result, *_) in found.items()}


@pytest.fixture
def common(state, proxy, store):
    return ["--endpoint-url", proxy.url, "--store", store]


@pytest.fixture
def filled(client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"hello")
    return bucket


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_all_is_well_where_it_is_and_nothing_is_written_unasked(common, filled, proxy):
    found = examined(*common, f"s3://{filled}")
    assert {result for name, (result, *_) in found.items() if name != "kernel features"} == {"ok"}
    assert {
        *("/dev/fuse", "fusermount3", "mounting", "kernel", "store", "encryption"),
        *("credentials", "list buckets", "list", "encoding-type", "head", "get"),
        *("conditional reads", "clock"),
    } <= found.keys()
    assert "FUSE 7." in found["kernel"][1]
    assert proxy.counted().keys() == {"LIST_BUCKETS", "LIST", "HEAD", "GET"}


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_with_leave_to_write_it_is_found_what_a_server_can_do(common, filled, client):
    found = examined(*common, "--write", f"s3://{filled}/some/where")
    assert {name: result for name, result in results(found).items() if result != "ok"} == {}
    assert {
        *("put", "metadata", "etag", "conditional writes (If-None-Match)", "checksums", "copy"),
        *("conditional writes (If-Match)", "copies of parts", "multipart minimum", "delete"),
        *("directory markers", "conditional deletions", "many deletions", "parts of any size"),
    } <= found.keys()
    text = "CRC-32 is accepted, and kept, and neither it nor Content-MD5 is checked"  # moto
    assert found["checksums"][1] == text
    assert found["downloads"][1] == "compared with crc32, crc32c, crc64nvme, md5, sha1, sha256"
    assert found["multipart minimum"][1] == "5 MiB, as S3"
    assert found["etag"][1].startswith("the MD5, as S3's: ")
    assert [item["Key"] for item in client.list_objects_v2(Bucket=filled)["Contents"]] == ["a"]
    assert client.list_multipart_uploads(Bucket=filled).get("Uploads", []) == []


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_is_found_of_a_server_is_told_and_remembered(common, filled, proxy):
    """A server as B2, without DeleteObjects, and with Ceph's conditions."""
    quirks = (NoChecksums(), NoDeleteObjects(), BareConditions())
    with proxy.rule(StandIn(*quirks)):
        found = examined(*common, "--write", f"s3://{filled}")
    said = {name: found for name, (_, found, _) in found.items()}
    assert said["checksums"] == (
        "CRC-32 is refused (InvalidArgument), Content-MD5 is taken, and sent instead"
    )
    assert said["many deletions"] == (
        "the server has no DeleteObjects: keys are deleted one by one"
    )
    assert said["conditional writes (If-Match)"] == "honoured, without quotes"
    assert found["conditional deletions"][:2] == ("warn", IGNORED)
    learned = "checksum=md5 (learned), delete-many=no (learned), delete-etags=no (learned)"
    assert said["server"] == learned


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_that_wants_equal_parts_gets_them_from_then_on(common, filled, proxy):
    """It is remembered in the store, if there is one, until the server does otherwise."""
    assert run("ls", *common, f"s3://{filled}").returncode == 0
    with proxy.rule(StandIn(EqualParts())):
        found = examined(*common, "--write", f"s3://{filled}")
    assert found["parts of any size"][:2] == ("ok", "parts must be of one size, and are")
    assert "equal-parts=yes (learned)" in examined(*common)["server"][1].split(", ")
    found = examined(*common, "--write", f"s3://{filled}")
    assert found["parts of any size"][:2] == ("ok", "parts of different sizes make one object")
    assert "equal-parts=no (learned)" in found["server"][1].split(", ")


class LeavesDirectories(Rule):
    """DeleteObjects says that it has deleted markers, and has not: JuiceFS 1.4, tried."""

    def __init__(self):
        super().__init__(lambda request: request.kind == "POST" and "delete" in request.query)

    def before(self, handler):
        said = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        said = re.sub(r"<Object><Key>[^<]*/</Key></Object>", "", said).encode()
        del handler.headers["Content-Length"]
        handler.headers["Content-Length"] = str(len(said))
        handler.rfile = io.BytesIO(said)
        return False


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_that_leaves_directories_behind_is_asked_for_each_key(common, filled, proxy):
    assert run("ls", *common, f"s3://{filled}").returncode == 0
    with proxy.rule(LeavesDirectories()):
        found = examined(*common, "--write", f"s3://{filled}")
    said = "DeleteObjects leaves `d/` behind: keys are deleted one by one"
    assert found["directory markers"][:2] == ("ok", said)
    assert "delete-many=no (learned)" in examined(*common)["server"][1].split(", ")


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_is_said_of_a_bucket_goes_along_as_in_a_mount(common, filled, proxy, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(
        f'expected-bucket-owner = "123456789012"\n[buckets.{filled}]\nrequester-pays = true\n'
        f'acl = "bucket-owner-full-control"\nsse-c-key-file = "{tmp_path}/key"\n'
    )
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "key").chmod(0o600)
    customer = "x-amz-server-side-encryption-customer-key"

    def lacks(request):
        """Whether the bucket of somebody else, for whom others pay, would refuse *request*."""
        said = request.headers
        if not request.bucket or "versioning" in request.query:
            return False
        if said["x-amz-request-payer"] != "requester":
            return True
        if said["x-amz-expected-bucket-owner"] != "123456789012":
            return True
        makes = request.kind in ("PUT", "COPY") and "uploadId" not in request.query
        reads = request.kind in ("HEAD", "GET") and request.key
        if makes and said["x-amz-acl"] != "bucket-owner-full-control":
            return True
        return (makes or reads) and customer not in said

    with proxy.rule(Fail(lacks, 403, "AccessDenied")) as rule:
        found = examined(*common, "--config", config, "--write", f"s3://{filled}")
    assert {name: result for name, result in results(found).items() if result != "ok"} == {}
    assert rule.seen == 0


@pytest.mark.parametrize("server", ["rclone"], indirect=True)
def test_the_quirks_of_a_server_are_told_with_what_to_do(common, filled, client):
    found = examined(*common, "--write", f"s3://{filled}")
    assert found["conditional writes (If-None-Match)"][:2] == ("warn", IGNORED)
    assert found["conditional reads"][:2] == ("warn", "the server ignores If-Match of a GET")
    assert [name for name, (result, *_) in found.items() if result == "fail"] == []
    assert found["head"][1] == "a: its ETag is the same as in the listing"  # there without quotes
    assert found["metadata"][0] == "ok"  # there in names like `Mode`
    assert found["copies of parts"][2] == "changed files are sent as a whole"
    assert "copy-parts=no (learned)" in found["server"][1]
    text = (
        "CRC-32 is accepted, and kept, and not checked; Content-MD5 is: --server-can checksum=md5"
    )
    assert found["checksums"][1] == text
    assert found["odd names"][0] == "warn"
    advice = "the mirror alone remembers directories"
    assert found["directory markers"] == ("warn", "`d/` is a file `d`", advice)
    assert "markers=no (learned)" in found["server"][1].split(", ")
    assert found["delete"][0] == "ok"
    assert [item["Key"] for item in client.list_objects_v2(Bucket=filled)["Contents"]] == ["a"]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_without_etags_is_not_to_be_used(common, filled, proxy):
    page = b"<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"
    with proxy.rule(Replace(lambda request: request.kind == "LIST", page)):
        found = examined(*common, f"s3://{filled}")
    advice = "versions cannot be distinguished; use another server"
    assert found["etag"] == ("fail", "objects have no ETag", advice)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_is_not_allowed_is_named_with_the_action_to_allow(common, filled, proxy):
    denied = Fail(lambda request: request.kind in ("GET", "LIST_BUCKETS"), 403, "AccessDenied")
    with proxy.rule(denied):
        found = examined(*common, f"s3://{filled}")
    assert found["get"][0] == "fail"
    assert found["get"][2] == "allow s3:GetObject in the policy of the user or bucket"
    assert found["list buckets"][0] == "warn"
    with proxy.rule(Fail(lambda request: request.kind == "LIST", 403, "AccessDenied")):
        found = examined(*common, "--write", f"s3://{filled}")
    assert found["list"][2] == "allow s3:ListBucket in the policy of the user or bucket"
    assert "put" not in found


def test_a_damaged_store_and_one_that_others_can_read(tmp_path):
    path = tmp_path / "store.db"
    url = f"sqlite://{path}"
    assert examine_store(url) == [
        Finding("store", "ok", f"{path} will be made when it is needed"),
    ]
    SQLite(str(path)).close()
    assert "is whole: schema" in examine_store(url)[0].found
    path.chmod(0o644)
    (found,) = examine_store(url)
    assert (found.result, found.advice) == ("fail", f"chmod 600 {path}")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:5000] + b"\xff" * 20_000)
    (found,) = examine_store(url)
    assert found.result == "fail"
    assert found.advice == "move the file away and sync again; S3 has everything"


def test_directories_and_credentials_that_others_can_read(state, tmp_path, monkeypatch):
    state.mkdir(parents=True)
    state.chmod(0o755)
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
    credentials.chmod(0o644)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    found = examined("--endpoint-url", "http://127.0.0.1:9")
    assert found[f"directory {state}"][0] == "fail"
    assert found[f"directory {state}"][2] == f"chmod 700 {state}"
    assert found["credentials file"][:2] == ("warn", f"{credentials}: other users can read it")


def test_files_that_a_mount_removes_while_a_directory_is_looked_at_are_no_fault(tmp_path):
    for name in "abc":
        (tmp_path / name).touch(0o644)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        exposed = _exposed(fd)
        first = next(exposed)
        for path in tmp_path.iterdir():
            path.unlink()
        assert (first in "abc", list(exposed)) == (True, [])
    finally:
        os.close(fd)


def test_directories_that_cannot_be_made(tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can have a mount namespace")
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(home))
    script = 'mount -t tmpfs none "$1"; mount -o remount,ro "$1"; exec "$2" doctor --json'
    words = ["unshare", "-m", "sh", "-euc", script, "sh", home, MIMICFS]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
    found = {
        it["name"]: (it["result"], it["found"], it["advice"]) for it in json.loads(done.stdout)
    }
    assert done.returncode == 1
    why = f"cannot be made, because {home} cannot be written"
    assert found[f"directory {home}/mimicfs"] == (
        "fail", why, "set XDG_STATE_HOME to another place"
    )  # fmt: skip
    assert found[f"directory {home}/mimicfs/blocks"] == ("warn", why, "name another --cache-dir")


def test_a_mount_that_cannot_be_taken_away_again_is_a_finding(tmp_path, monkeypatch):
    """As in a root without /etc/mtab, for whoever is not root."""
    real, said = shutil.which("fusermount3"), "failed to open /etc/mtab: No such file or directory"
    helper = tmp_path / "fusermount3"
    helper.write_text(
        f'#!/bin/sh\n[ "$1" != -u ] || {{ echo "fusermount3: {said}" >&2; exit 1; }}\n'
        f'exec {real} "$@"\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (found,) = [each for each in machine([]) if each.name == "mounting"]
    (point,) = tmp_path.glob("mimicfs-doctor-*")
    subprocess.run([real, "-u", "-z", str(point)], check=True)
    assert (found.result, found.found, found.advice) == (
        FAIL, f"{point}: cannot be unmounted ({said})",
        "as root: ln -s ../proc/self/mounts /etc/mtab",
    )  # fmt: skip


def test_redis_that_evicts_and_forgets(tmp_path, caplog):
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with servers.redis(tmp_path, *options) as port:
        url = f"redis://127.0.0.1:{port}"
        found = {each.name: each for each in examine_store(url)}
    assert found["store"].result == "ok"
    assert found["store policy"].result == "fail"
    assert "maxmemory-policy noeviction" in found["store policy"].advice
    assert found["store persistence"].result == "warn"
    assert [each.result for each in examine_store(url)] == ["fail"]


class _Late(BaseHTTPRequestHandler):
    """An S3 whose clock is 20 minutes ahead."""

    def do_GET(self):
        body = b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"
        self.send_response_only(200)
        self.send_header("Date", formatdate(self.server.clock(), usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_clock_that_is_wrong(state, store):
    import time

    server = HTTPServer(("127.0.0.1", 0), _Late)
    server.clock = lambda: time.time() + 1200
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        result, said, advice = examined("--endpoint-url", url, "--store", store)["clock"]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert result == "fail"
    assert said in ("1200 s behind S3's", "1199 s behind S3's", "1201 s behind S3's")
    assert "timedatectl set-ntp true" in advice


def test_for_people_failures_come_first_and_what_is_well_is_counted(state, store, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    words = ["doctor", "--endpoint-url", "http://127.0.0.1:9", "--store", store]
    result = run(*words)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("fail  credentials: no credentials found: run `aws configure`")
    assert re.fullmatch(r"\d+ ok; --verbose shows them", lines[-1])
    assert not [line for line in lines if line.startswith("ok ")]
    assert "ok    /dev/fuse: can be opened\n" in run(*words, "--verbose").stdout


def test_a_bundle_has_what_a_report_needs_and_no_secret(state, tmp_path, monkeypatch):
    variables = {
        "AWS_SESSION_TOKEN": "session-token-1234",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "of-container-1234",
        "AWS_SECRET_KEY": "of-boto-1234",
        "MIMICFS_EVENTS_TOKEN": "of-webhook-1234",
        "MIMICFS_STORE": "redis://name:of/redis@12%2B34@127.0.0.1:9",
        "HTTPS_PROXY": "http://name:of-proxy-1234@127.0.0.1:9",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "profiles"),
        "MIMICFS_SSE_C_KEY_FILE": str(tmp_path / "key"),
    }
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    of_profiles = ["of/profile+1234", "of-its-token-1234"]
    (tmp_path / "profiles").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B\n[team]\naws_access_key_id = C"
        f"\naws_secret_access_key = {of_profiles[0]}\naws_session_token = {of_profiles[1]}\n"
    )
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "key").chmod(0o600)
    sse_c = b64encode(bytes(range(32))).decode()
    secrets = ["very-secret-key", "session-token-1234", "of-container-1234", "of-boto-1234"]
    secrets += [
        "of-webhook-1234",
        "of/redis@12%2B34",
        "of/redis@12+34",
        "of-proxy-1234",
        *of_profiles,
    ]
    secrets += ["of%2Fprofile%2B1234", sse_c]
    state.mkdir(parents=True, mode=0o700)
    told = ["X-Amz-Signature=abcdef0123", "Authorization: AWS4-HMAC-SHA256 abcdef0123"]
    told += [
        "https://b.s3.amazonaws.com/k?AWSAccessKeyId=abcdef0123&Signature=abcdef0123&Expires=1"
    ]
    told += [
        "https://storage.googleapis.com/b/k?X-Goog-Credential=abcdef0123&X-Goog-Signature=abcdef0123"
    ]
    told += ["x-amz-security-token: abcdef0123", '{"password": "abcdef0123"}']
    told += ["x-amz-server-side-encryption-customer-key: abcdef0123="]
    told += ["rediss+cluster://:abcdef0123@h:1", "https://abcdef0123:x@h/"]
    lines = [*secrets, *told, "s3://photos/me@home.jpg took 12 s"]
    (state / "mimicfs.log").write_text("".join(f"a line with {line}\n" for line in lines))
    bundle = tmp_path / "report.tar.gz"
    result = run("doctor", "--endpoint-url", "http://127.0.0.1:9", "--bundle", bundle)
    assert f"packed: {bundle}; look at it before you send it\n" in result.stdout
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    with tarfile.open(bundle) as pack:
        files = {Path(it.name).name: pack.extractfile(it).read().decode() for it in pack}
    assert files.keys() == {
        *("versions.txt", "doctor.json", "config.toml", "environment.txt", "status.json"),
        "mimicfs.log",
    }
    assert files["versions.txt"].startswith("mimicfs 0.2.0\nPython ")
    assert 'endpoint-url = "http://127.0.0.1:9"' in files["config.toml"]
    assert "a line with X-Amz-Signature=***\n" in files["mimicfs.log"]
    everything = "".join(files.values())
    assert [it for it in [*secrets, "abcdef0123", "AKIDEXAMPLE"] if it in everything] == []
    assert "s3://photos/me@home.jpg took 12 s" in files["mimicfs.log"]
    assert "AWS_SHARED_CREDENTIALS_FILE=/" in files["environment.txt"]
    again = run("doctor", "--endpoint-url", "http://127.0.0.1:9", "--bundle", bundle)
    assert (again.returncode, again.stderr) == (
        2, f"mimicfs: {bundle}: exists already; name another file\n"
    )  # fmt: skip
