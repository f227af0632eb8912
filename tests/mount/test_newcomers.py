"""The errors of a first day: each is one line that says what to do."""

from __future__ import annotations

import grp
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.mounts import MIMICFS, let_others_in, run, unmounted, wait_until
from support.proxy import Fail, Hold, Proxy

from mimicfs.config.values import S3Options
from mimicfs.errors import S3Unavailable
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.s3.transport.advice import about_connection

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

# As nobody, who cannot read where Python is: what is imported later must be imported before.
AS_NOBODY = """
import os, sys
os.environ |= {"HOME": "/nonexistent", "XDG_STATE_HOME": "/nonexistent"}
import mimicfs.cli.mounting, mimicfs.mount.serving, mimicfs.vfs.filesystem
import mimicfs.admin.watchedlog, mimicfs.s3.requests.account, mimicfs.s3.requests.client
import mimicfs.fuse.server, mimicfs.fuse.mounting
import mimicfs.fuse.guardian
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv[0] = "mimicfs"
mimicfs.cli.main()
"""


@pytest.fixture
def point(tmp_path: Path, state: Path) -> Iterator[Path]:
    point = tmp_path / "mnt"
    point.mkdir()
    yield point
    if not unmounted(point):
        subprocess.run(["fusermount3", "-u", "-z", str(point)], check=False, timeout=10)


def said(*arguments: Any, code: int = 3) -> str:
    """Run a command that fails; return its one line."""
    return one_line(run(*arguments), code)


def one_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.returncode == code, result.stderr
    assert "secret-key" not in result.stderr
    return result.stderr.removeprefix("mimicfs: ").rstrip("\n")


# The command


def test_words_in_the_wrong_order_or_mistyped(point: Path, server: str) -> None:
    assert said("mount", point, "s3://photos", code=2) == (
        f"the directory comes last: mimicfs mount s3://photos {point}; see mimicfs mount --help"
    )
    assert said("mount", "s3://photos", code=2) == (
        "the directory comes last: mimicfs mount s3://photos DIRECTORY; see mimicfs mount --help"
    )
    for words in (["mount"], ["status"], ["index", "export"], ["doctor"]):
        assert said(*words, "--config", code=2) == (
            f"option '--config' requires an argument; see mimicfs {' '.join(words)} --help"
        )
    assert said("monut", code=2).startswith("no such command 'monut'")
    assert "did you mean" in said("mount", "--allow-othr", point, code=2).lower()
    assert said("mount", "--prefix", "2024/", point, code=2) == (
        "no such option: --prefix; name it in the source: s3://BUCKET/PREFIX;"
        " see mimicfs mount --help"
    )
    for word in ("store_pasword", "passwd", "secret_access_key", "session_token"):
        assert said("mount", "-o", f"ro,{word}=hunter2", point, code=2).startswith(
            f"-o {word}=***: not"
        )
    assert said("mount", "-o", "alow_other", point, code=2) == (
        "-o alow_other: not an option; did you mean allow_other?"
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("photos", "s3://photos"),
        ("photos:/2024", "s3://photos/2024"),  # s3fs
        ("s3:/photos", "s3://photos"),
        ("S3://photos/2024/", "s3://photos/2024/"),
        ("arn:aws:s3:::photos/2024", "s3://photos/2024"),
        ("https://photos.s3.eu-west-1.amazonaws.com/2024/", "s3://photos/2024/"),
        ("https://s3.eu-west-1.amazonaws.com/photos", "s3://photos"),
        ("gs://photos", "s3://photos, with --endpoint-url https://storage.googleapis.com"),
        ("http://127.0.0.1:9000/photos", "s3://BUCKET, and name the server with --endpoint-url"),
        ("/photos", "s3://BUCKET or s3://BUCKET/PREFIX"),
        ("remote:photos", "s3://BUCKET or s3://BUCKET/PREFIX"),  # which of the two, who knows
    ],
)
def test_a_bucket_that_is_named_in_another_way(
    point: Path, server: str, written: str, meant: str
) -> None:
    assert said("mount", written, point, code=2) == f"{written}: not an S3 URL; write {meant}"


def test_a_password_in_what_is_no_s3_url_is_not_printed(point: Path, server: str) -> None:
    assert said("mount", "https://me:secret-key@minio.example/b", point, code=2).startswith(
        "https://***@minio.example/b: not an S3 URL"
    )
    assert said("mount", "rediss://me:secret-key@redis.example/0", point, code=2) == (
        "rediss://***@redis.example/0: not an S3 URL; write s3://BUCKET or s3://BUCKET/PREFIX"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mnt"], "no such command 'mnt'; did you mean `mimicfs mount`?"),
        (["unmount", "/mnt"], "no such command 'unmount'; write `mimicfs umount`"),
        (["help", "sync"], "no such command 'help'; write `mimicfs sync --help`"),
        (["cp", "a", "s3://b"], ("no such command 'cp'; mount the bucket, and use the commands of"
         " your shell")),
        (["s3://b"], "no such command 's3://b'; write `mimicfs mount s3://b DIRECTORY`"),
        (["-V"], "no such option: -V; write --version"),
        (["-o", "ro", "/mnt"], ("no such option: -o; options are written behind a command:"
         " mimicfs mount -o ro s3://BUCKET DIRECTORY")),
    ],
)  # fmt: skip
def test_a_command_that_is_named_in_another_way(server: str, words: list[str], says: str) -> None:
    assert said(*words, code=2) == f"{says}; see mimicfs --help"


# The mount point


def test_mount_points(point: Path, proxy: Proxy, mount_at: Any, bucket: str) -> None:
    words = ["mount", "--endpoint-url", proxy.url]
    assert said(*words, point / "no") == f"{point}/no: no such directory; mkdir {point}/no"
    (point / "file").touch()
    assert said(*words, point) == (
        f"{point}: not empty, and the mount would hide its files, such as 'file'"
        " (maybe written while nothing was mounted there); name an empty directory,"
        " or use -o nonempty"
    )
    assert said(*words, point / "file") == (
        f"{point}/file: not a directory; name an empty directory to mount on"
    )
    empty, log = point / "empty", point / "empty/log"
    empty.mkdir()
    for option, what in (("--log-file", "log"), ("--access-log", "access log")):
        assert said(*words, empty, option, log) == (
            f"{empty}: the {what} ({log}) would lie in the mount, which needs it to answer;"
            " name another mount point, or a place outside of it"
        )
    (point / "link").symlink_to(empty)
    store = f"unix://{empty}/redis.sock"
    for option, value in (("--cache-dir", empty / "cache"), ("--store", store)):
        text = said(*words, point / "link", option, value)
        assert text.startswith(f"{point}/link: the {option.removeprefix('--')[:5]} (")
    assert proxy.counted() == {}
    taken = mount_at(f"s3://{bucket}", name="taken").path
    assert said(*words, taken) == (
        f"{taken}: already mounted; unmount it first (fusermount3 -u {taken})"
    )
    # The modules that speak to S3 take four fifths of the CPU of a start: a refusal does without.
    refused = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mimicfs", *words, "-f", str(taken)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "already mounted" in refused.stderr
    assert "mimicfs.mount.starting" in refused.stderr
    assert "botocore" not in refused.stderr


def test_a_log_that_cannot_be_written(point: Path, server: str) -> None:
    assert said("mount", "--log-file", "/nope/log", point, code=2) == (
        "/nope/log: No such file or directory; name another --log-file"
    )


# The machine


def in_namespace(script: str, *arguments: Any, code: int = 3) -> str:
    """Run *script* as root in a mount namespace of its own; return the one line of it."""
    if os.geteuid() != 0:
        pytest.skip("only root can have a mount namespace")
    words = ["timeout", "30", "unshare", "-m", "sh", "-euc", script, "sh", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=40, check=False)
    return one_line(done, code)


NO_DEVICES = "mount -t tmpfs -o mode=755 none /dev; mknod -m 666 /dev/null c 1 3\n"
NO_DEVICES += "mknod -m 666 /dev/urandom c 1 9\n"


def test_a_container_without_dev_fuse(point: Path, server: str) -> None:
    assert in_namespace(f"{NO_DEVICES} exec {MIMICFS} mount {point}") == (
        "/dev/fuse is missing; modprobe fuse (in a container: --device /dev/fuse"
        " --cap-add SYS_ADMIN)"
    )


def test_a_device_for_a_group_that_one_is_not_in(point: Path, server: str) -> None:
    group = next(group for group in grp.getgrall() if 0 < group.gr_gid < 1000)
    script = f"{NO_DEVICES} mknod -m 660 /dev/fuse c 10 229; chgrp {group.gr_gid} /dev/fuse\n"
    script += 'exec "$@"'
    assert in_namespace(script, sys.executable, "-c", AS_NOBODY, "mount", "-f", point) == (
        f"/dev/fuse: no permission; join the group {group.gr_name}"
        f" (usermod -aG {group.gr_name} USER, then log in again)"
    )


def test_fusermount3_missing_or_not_setuid(point: Path, server: str, tmp_path: Path) -> None:
    result = run("mount", point, env={**os.environ, "PATH": str(tmp_path)})
    assert one_line(result, 3) == "fusermount3 is not installed; apt (or dnf) install fuse3"
    helper = tmp_path / "fusermount3"
    shutil.copyfile(shutil.which("fusermount3") or "", helper)
    helper.chmod(0o755)
    script = f'chmod 666 /dev/fuse; PATH={tmp_path}:$PATH exec "$@"'
    script = f"{NO_DEVICES} mknod -m 666 /dev/fuse c 10 229; {script}"
    let_others_in(tmp_path)
    assert in_namespace(script, sys.executable, "-c", AS_NOBODY, "mount", "-f", point) == (
        f"{helper} is not setuid root, so that only root can mount; as root: chmod u+s {helper}"
    )


# The account


def test_a_bucket_mistyped(point: Path, proxy: Proxy, client: Any, bucket: str) -> None:
    client.create_bucket(Bucket=f"holiday-{bucket}")
    typo, common = f"holidya-{bucket}", ["--endpoint-url", proxy.url, "--store", "memory:"]
    assert said("mount", *common, f"s3://{typo}", point, code=6) == (
        f"s3://{typo}: no such bucket; did you mean s3://holiday-{bucket}?"
    )
    assert said("ls", *common, f"s3://{typo}", code=6).endswith(
        f"(NoSuchBucket); did you mean s3://holiday-{bucket}?"
    )
    assert said("sync", *common, "s3://nothing-like-it", code=6).endswith(
        "; `mimicfs ls` lists yours"
    )


def test_an_endpoint_with_the_bucket_in_it(point: Path, proxy: Proxy, bucket: str) -> None:
    common = ["--store", "memory:", f"s3://{bucket}", point]
    assert said("mount", "--endpoint-url", f"{proxy.url}/{bucket}", *common, code=6) == (
        f"s3://{bucket}: no such bucket; write --endpoint-url {proxy.url}, without the bucket"
    )
    assert said("mount", "--endpoint-url", "ftp://127.0.0.1", *common, code=2) == (
        "--endpoint-url ftp://127.0.0.1: not a URL; write https://HOST or http://HOST:PORT"
    )


def test_rights_on_one_bucket_but_not_to_list_them(point: Path, proxy: Proxy, bucket: str) -> None:
    common = ["--endpoint-url", proxy.url, "--store", "memory:"]
    denied = Fail(lambda request: request.kind == "LIST_BUCKETS", 403, "AccessDenied")
    with proxy.rule(denied):
        for words in (["mount", *common, point], ["ls", *common], ["sync", *common]):
            assert said(*words, code=5) == (
                "list of buckets: AccessDenied; name the bucket that you may use: s3://BUCKET"
            )
        assert run("mount", *common, f"s3://{bucket}", point).returncode == 0
        assert run("umount", point).returncode == 0


def test_a_prefix_that_does_not_exist_is_mounted_only_where_that_is_meant(
    point: Path, proxy: Proxy, client: Any, bucket: str
) -> None:
    client.put_object(Bucket=bucket, Key="2024/a", Body=b"")
    common = ["--endpoint-url", proxy.url, "--store", "memory:"]
    assert said("mount", *common, f"s3://{bucket}/other", point, code=6) == (
        f"s3://{bucket}/other/: nothing in the bucket begins with that; -o create_prefix mounts it"
        " nevertheless"
    )
    client.put_object(Bucket=bucket, Key="year/2024/b", Body=b"")
    assert said("mount", *common, f"s3://{bucket}/year/2023/", point, code=6).endswith(
        f"; did you mean s3://{bucket}/year/2024? -o create_prefix mounts it nevertheless"
    )
    assert said("mount", *common, f"s3://{bucket}/2024/a", point, code=6).endswith(
        f"; that is an object; name what it is in: s3://{bucket}/2024"
    )
    assert (
        run("mount", *common, "-o", "create_prefix", f"s3://{bucket}/2025", point).returncode == 0
    )
    (point / "b").write_text("text")
    assert run("umount", point).returncode == 0
    assert client.get_object(Bucket=bucket, Key="2025/b")["Body"].read() == b"text"


def test_rights_on_a_prefix_only(point: Path, proxy: Proxy, client: Any, bucket: str) -> None:
    client.put_object(Bucket=bucket, Key="mine/a", Body=b"")
    common = ["--endpoint-url", proxy.url, "--store", "memory:"]
    denied = Fail(
        lambda request: (
            request.bucket == bucket
            and not request.key
            and not request.query.get("prefix", [""])[0].startswith("mine/")
        ),
        *(403, "AccessDenied"),
    )
    with proxy.rule(denied):
        assert said("mount", *common, f"s3://{bucket}", point, code=5) == (
            f"listing of s3://{bucket}/: AccessDenied; ask for s3:ListBucket on it, or choose"
            " another --profile"
        )
        assert run("mount", *common, f"s3://{bucket}/mine", point).returncode == 0
        assert os.listdir(point) == ["a"]
        assert run("umount", point).returncode == 0


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("InvalidAccessKeyId", "check the access key, or choose a profile with --profile"),
        ("SignatureDoesNotMatch", "check the secret key, or choose a profile with --profile"),
        ("ExpiredToken", "renew the credentials (for SSO: aws sso login)"),
        ("RequestTimeTooSkewed", "set the clock of this machine (timedatectl set-ntp true)"),
    ],
)
def test_credentials_that_s3_refuses(
    point: Path, proxy: Proxy, bucket: str, code: str, says: str
) -> None:
    with proxy.rule(Fail(lambda request: True, 403, code)):
        line = said("mount", "--endpoint-url", proxy.url, f"s3://{bucket}", point, code=5)
    assert line.endswith(f"{code}; {says}")


WITHOUT_A_SOURCE = """\
[profile program]
credential_process = /nonexistent/helper --token secret-key
[profile talks]
credential_process = echo hello
[profile role]
role_arn = arn:aws:iam::1:role/x
source_profile = gone
[profile web]
role_arn = arn:aws:iam::1:role/x
web_identity_token_file = /nonexistent/token
"""


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("program", "[Errno 2] No such file or directory: '/nonexistent/helper'"),
        ("talks", "no JSON"),
        ("web", "[Errno 2] No such file or directory: '/nonexistent/token'"),
    ],
)
def test_credentials_whose_source_does_not_give_them(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, says: str
) -> None:
    (tmp_path / "config").write_text(WITHOUT_A_SOURCE)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert said("ls", "--endpoint-url", server, "--profile", profile, code=5) == (
        f"Error when retrieving credentials from their source: {says}; choose --profile or log in"
        " again"
    )
    assert said("ls", "--endpoint-url", server, "--profile", "role", code=5).endswith(
        "does not exist.; look into ~/.aws/config"
    )


def test_keys_that_are_mistyped_are_never_sent(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["ls", "--endpoint-url", server]
    odd = "has a blank at an end, a line feed, or a letter that no key has"
    for variable, part in (
        ("AWS_ACCESS_KEY_ID", "access key id"),
        ("AWS_SECRET_ACCESS_KEY", "secret key"),
        ("AWS_SESSION_TOKEN", "session token"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(variable, "AKID\n")
            assert said(*common, code=5) == (
                f"Error when retrieving credentials from env: the {part} {odd}; choose --profile"
                " or log in again"
            )
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert said(*common, code=5) == (
        "Partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY; a key has two parts,"
        " an id and a secret"
    )


def test_a_file_of_keys_that_is_named_goes_before_keys_in_the_environment(
    server: str, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("[team]\naws_access_key_id = A\naws_secret_access_key = B\n")
    keys.chmod(0o600)
    common = ["ls", "--endpoint-url", server, "--store", "memory:", "--credentials-file", keys]
    assert said(*common, code=5).startswith("The config profile (default) could not be found")
    assert run(*common, "--profile", "team").returncode == 0
    keys.write_text("KEY:SECRET\n")  # as s3fs has it
    assert said(*common, code=2) == (
        f"Unable to parse config file: {keys}; it has sections like [default], and lines like"
        " aws_access_key_id = KEY and aws_secret_access_key = SECRET"
    )


def test_a_bundle_of_certificates_and_a_proxy_that_are_not_there(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["ls", "--store", "memory:", "--attempts", "1", "--endpoint-url"]
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent.pem")
    assert said(*common, server.replace("http", "https"), code=7).endswith(
        "cannot read the certificates in /nonexistent.pem: No such file or directory;"
        " check AWS_CA_BUNDLE, and ca_bundle in ~/.aws/config"
    )
    monkeypatch.delenv("AWS_CA_BUNDLE")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret-key@127.0.0.1:9")
    assert said(*common, "https://s3.invalid", code=7).endswith(
        'proxy URL: "http://127.0.0.1:9"; check HTTP_PROXY, HTTPS_PROXY and NO_PROXY'
    )


def test_a_clock_that_is_wrong(point: Path, proxy: Proxy, bucket: str) -> None:
    date = formatdate(os.stat(point).st_mtime - 7200, usegmt=True)
    with proxy.rule(Fail(lambda request: True, 403, "AccessDenied", Date=date)):
        line = said("mount", "--endpoint-url", proxy.url, f"s3://{bucket}", point, code=5)
    assert line == (
        f"s3://{bucket}: 403; the clock of this machine is 120 minutes fast; set it"
        " (timedatectl set-ntp true)"
    )


# The address


class _Silent(BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[int]:
    """The port of a server that speaks https, with a certificate of its own making."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=127.0.0.1", "-keyout", str(tmp_path / "key"), "-out"]
    subprocess.run([*made, str(tmp_path / "cert")], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server = HTTPServer(("127.0.0.1", 0), _Silent)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_addresses_where_no_s3_is(proxy: Proxy, tls: int, mimicdb: Mirror) -> None:
    """As the commands ask, but once: they take some seconds to give up."""
    port = proxy.url.rpartition(":")[2]
    authority = "its certificate is not trusted; set AWS_CA_BUNDLE to the file of its authority"
    wanted = {
        f"https://127.0.0.1:{port}": "the server does not speak https; write http:// in"
        " --endpoint-url",
        f"http://127.0.0.1:{tls}": "it may speak https; write https:// in --endpoint-url",
        f"https://127.0.0.1:{tls}": authority,
        None: "AWS has no region eu-wst-1; check --region; did you mean eu-west-1?",
    }
    for url, says in wanted.items():
        with closing(S3(S3Options(url, "eu-wst-1", attempts=1), mimicdb)) as s3:
            with pytest.raises(S3Unavailable) as caught:
                s3.list_buckets()
        assert str(caught.value).endswith(f"; {says}")


def test_what_may_be_wrong_with_an_address(server: str) -> None:
    refused = "[Errno 111] Connection refused"
    assert about_connection("http://127.0.0.1:9/", refused) == (
        "nothing listens there; check --endpoint-url and the network"
    )
    unknown = "[Errno -2] Name or service not known"
    assert about_connection("http://s3.mistyped.invalid/", unknown) == (
        "no server has that name; check --endpoint-url and the network"
    )
    assert about_connection("https://b.s3.eu-west-1.amazonaws.com/", unknown) == (
        "check --endpoint-url and the network"
    )
    assert said("ls", "--endpoint-url", "127.0.0.1:9000", code=2) == (
        "--endpoint-url 127.0.0.1:9000: not a URL; write https://HOST or http://HOST:PORT"
    )


def test_a_mount_whose_command_is_ended_before_it_answers_ends_while_s3_is_silent(
    point, proxy, bucket, tmp_path
):
    without_sigterm = ["env", "--ignore-signal=TERM", "--block-signal=TERM"]  # whoever asks
    words = ["mount", "--endpoint-url", proxy.url, "--store", f"sqlite://{tmp_path}/store.db"]
    words += [f"s3://{bucket}", str(point)]
    with proxy.rule(Hold(lambda request: True)) as silent:
        asked = subprocess.Popen([*without_sigterm, str(MIMICFS), *words])
        wait_until(lambda: silent.seen and named(point) > {asked.pid})
        asked.send_signal(signal.SIGINT)
        assert asked.wait(20) == 130
        wait_until(lambda: not named(point), 20)
    assert unmounted(point)


def named(point: Path) -> set[int]:
    """Return the processes that have *point* in their arguments."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if os.fsencode(point) in path.read_bytes():
                found.add(int(path.parent.name))
    return found


def test_a_signal_that_comes_before_a_mount_answers_leaves_no_dead_mount(
    point, proxy, bucket, tmp_path
):
    os.mkfifo(tmp_path / "fifo")  # opened once there is a mount; nobody reads it
    words = ["mount", "-f", "--endpoint-url", proxy.url, "--store", f"sqlite://{tmp_path}/store.db"]
    words += ["--access-log", str(tmp_path / "fifo"), f"s3://{bucket}", str(point)]
    process = subprocess.Popen([str(MIMICFS), *words])
    wait_until(lambda: not unmounted(point))
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert unmounted(point)
