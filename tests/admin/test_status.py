"""An administrator's view of a mount while it works, by the real commands."""

import contextlib
import http.client
import json
import os
import pty
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.clients import plain
from support.mounts import MIMICFS, Mount, run, succeed, unmounted, wait_until
from support.servers import free_port

from mimicfs.admin.controlsocket import ask
from mimicfs.admin.site import Site
from mimicfs.errors import ConfigError, MountError

pytestmark = pytest.mark.slow

_TOP = Path(__file__).parents[2]
DEPLOY, DOCS = _TOP / "deploy", _TOP / "docs"


@pytest.fixture
def server(moto):
    return moto


@pytest.fixture
def mount(mount_at, bucket, client):
    client.put_object(Bucket=bucket, Key="d/a", Body=b"hello")
    client.put_object(Bucket=bucket, Key="d/b", Body=b"x")
    return mount_at(f"s3://{bucket}")


@pytest.fixture(scope="module")
def quiet(moto, tmp_path_factory):
    """A mount that several tests look at, each in its turn."""
    base = tmp_path_factory.mktemp("quiet")
    client = plain(moto)
    client.create_bucket(Bucket="quiet")
    words = ["--endpoint-url", moto, "--store", f"sqlite://{base}/store.db", "s3://quiet"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_STATE_HOME", str(base / "state"))
        environment.setenv("HOME", str(base))
        mount = Mount(base / "mnt", words, base / "mount.log")
    yield mount
    mount.close()
    client.close()


@pytest.fixture
def its_state(quiet, monkeypatch):
    """The commands of the test are those of the user who mounted `quiet`."""
    monkeypatch.setenv("XDG_STATE_HOME", str(quiet.log.parent / "state"))
    return quiet.log.parent / "state/mimicfs"


def told(mount):
    (found,) = json.loads(succeed("status", "--json", mount.path))
    return found


def control_socket(state):
    (path,) = (state / "mounts").glob("*.sock")
    return path


@pytest.mark.usefixtures("metadata_never")
def test_status_tells_what_was_answered_and_what_it_cost(mount, bucket, proxy):
    (mount.path / ".sync").touch()
    before = told(mount)
    assert [b["objects"] for b in before["buckets"] if b["name"] == bucket] == [2]
    assert sorted(os.listdir(mount.path / "d")) == ["a", "b"]
    assert not (mount.path / "d/missing").exists()
    assert (mount.path / "d/a").read_text() == "hello"
    (mount.path / "d/new").write_bytes(b"12345678")
    after = told(mount)
    gained = {
        name: after["kernel"]["saved"][name] - before["kernel"]["saved"][name]
        for name in ("HEAD", "LIST")
    }
    assert gained["LIST"] == 1
    assert gained["HEAD"] >= 2
    assert after["kernel"]["asked_s3_first"] == before["kernel"]["asked_s3_first"]
    assert (after["kernel"]["bytes_read"], after["kernel"]["bytes_written"]) == (5, 8)
    assert after["s3"]["requests"] == {"HEAD": 1, "LIST": 1, "GET": 1, "PUT": 1}
    assert after["s3"]["requests"] == dict(proxy.counted())
    assert after["s3"]["bytes_out"] == 8
    assert (after["error"], after["files"]["pending"], after["sync"]["running"]) == ("", 0, [])
    text = succeed("status", mount.path)
    assert "at most 32 requests at once" in text
    assert "workers  at most: quick 16, open 16, names 16, " in text
    assert re.search(rf"{bucket}: 3 keys, 14 B, listed \d+ s ago\n", text)
    assert after["kernel"]["errors"] == {}  # a name that is missing is an answer
    assert "1 GET, 1 HEAD, 1 LIST, 1 PUT" in text
    assert "/.cache/mimicfs/blocks; " in text

    (session,) = json.loads(succeed("status", "--all", "--store", after["store"], "--json"))
    shown = ("mountpoint", "pid", "alive", "buckets", "read_only")  # beats say the rest, later
    assert [session[name] for name in shown] == [
        str(mount.path),
        mount.process.pid,
        True,
        [bucket],
        0,
    ]


def test_status_answers_while_the_mount_is_loaded_and_s3_is_stalled(mount, proxy):
    proxy.latency_s = 0.2
    stop = threading.Event()

    def load(number):
        while not stop.is_set():
            path = mount.path / f"d/f{number}"
            path.write_bytes(b"x" * 100_000)
            os.listdir(mount.path / "d")
            (mount.path / ".sync").touch()

    threads = [threading.Thread(target=load, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: told(mount)["files"]["unsaved"] > 0)
        wait_until(lambda: told(mount)["sync"]["running"] != [])
        found = told(mount)
        assert found["error"] == ""
        assert all("error" not in found[part] for part in ("process", "mirror", "sync"))
    finally:
        stop.set()
        proxy.latency_s = 0
        for thread in threads:
            thread.join()


def test_a_mount_that_does_not_answer_is_told_as_such_and_in_time(quiet, its_state):
    (quiet.path / "new").mkdir()
    (quiet.path / "new").rmdir()  # so the kernel would ask for the attributes of the root
    quiet.process.send_signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        result = run("status", "--timeout", "0.5", quiet.path)
        assert time.monotonic() - started < 10
        assert result.returncode == 3  # the health check of the image
        assert "DOES NOT ANSWER: the mount did not answer within 0.5 s" in result.stdout
    finally:
        quiet.process.send_signal(signal.SIGCONT)
    assert told(quiet)["error"] == ""


def test_after_kill_9_status_says_dead_and_the_next_mount_answers(mount, mount_at, bucket):
    mount.process.kill()
    mount.process.wait()
    result = run("status", mount.path)
    assert (result.returncode, "DEAD; mount again" in result.stdout) == (3, True)
    assert run("status", "--json", mount.path).returncode == 3
    assert "DEAD; mount again" in succeed("status")  # of all mounts, one may be dead
    again = mount_at(f"s3://{bucket}")
    wait_until(lambda: told(again)["pid"] == again.process.pid)
    assert (told(again)["alive"], told(again)["error"]) == (True, "")


@pytest.mark.parametrize("spoiled", ["not a database", None])
def test_a_dead_mount_whose_mirror_is_spoiled_is_shown_and_nothing_is_made(
    mount, bucket, tmp_path, spoiled
):
    mount.process.kill()
    mount.process.wait()
    store = tmp_path / "store.db"
    for each in tmp_path.glob("store.db*"):
        each.unlink()
    if spoiled is not None:
        store.write_text(spoiled * 1000)
        store.chmod(0o600)
    result = run("status", mount.path)
    assert (result.returncode, result.stderr) == (3, "")
    assert f"s3://{bucket}/ at {mount.path} (DEAD; mount again" in result.stdout
    said = "file is not a database" if spoiled else "no such store"
    assert said in result.stdout.splitlines()[-1]
    assert store.exists() == (spoiled is not None)


def test_a_signal_to_what_fills_the_terminal_gives_it_back(quiet, its_state):
    for words, end in [
        (["top", quiet.path], b"\x1b[?25h\x1b[?1049l"),
        (["status", "--watch", quiet.path], b"\x1b[?25h"),
    ]:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm"}
        command = [str(MIMICFS), *map(str, words)]
        with subprocess.Popen(command, stdout=theirs, env=environment) as process:
            os.close(theirs)
            shown = os.read(ours, 4096)
            while b"S3" not in shown and b"REQ/S" not in shown:
                shown += os.read(ours, 4096)
            process.terminate()
            assert process.wait(10) == 143
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                while piece := os.read(ours, 4096):
                    shown += piece
        os.close(ours)
        assert shown.endswith(end), words


def test_watch_shows_it_again_and_again(quiet, its_state):
    words = [str(MIMICFS), "status", "--watch", "--json", str(quiet.path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        seen = [json.loads(process.stdout.readline())[0]["pid"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert seen == [quiet.process.pid] * 2


def test_watch_into_a_pipe_shows_it_again_and_again_too(quiet, its_state):
    words = [str(MIMICFS), "status", "--watch", str(quiet.path)]
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        first = f"s3://quiet/ at {quiet.path} (pid {quiet.process.pid})\n"
        assert process.stdout.readline() == first
        assert first in iter(process.stdout.readline, "")
        process.stdout.close()  # as head(1) does
    assert process.returncode != 0


def test_the_control_socket_is_for_the_user_who_mounted_and_root(quiet, its_state):
    path = control_socket(its_state)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert ask(path, "status")["process"]["pid"] == quiet.process.pid
    with pytest.raises(MountError, match="no such command: 'no-such'"):
        ask(path, "no-such")
    if os.geteuid() == 0:
        assert asked_by_nobody(path) == b'{"error": "for the user who mounted, and root"}\n'
        assert "control socket: user 65534 was refused" in quiet.log.read_text()


def asked_by_nobody(path):
    """The answer to another user, who was let in by mistake."""
    program = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1]); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[2])\n"
        's.sendall(b\'{"command": "status"}\\n\'); sys.stdout.write(s.recv(1000).decode())'
    )
    path.parent.chmod(0o755)
    path.chmod(0o666)
    words = [sys.executable, "-c", program, str(path.parent), path.name]
    try:
        return subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=20).stdout
    finally:
        path.parent.chmod(0o700)


def test_nonsense_at_the_control_socket_harms_nobody(quiet, its_state):
    path = control_socket(its_state)
    for nonsense in (b"\n", b"[]\n", b"{" * 100, b"x" * 200_000, b'{"command": {}}\n', b""):
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
            os.chdir(path.parent)  # the path is longer than an address may be
            connection.connect(path.name)
            connection.sendall(nonsense)
    os.chdir("/")
    assert ask(path, "log-level") == "info"


def test_a_question_behind_many_others_waits_for_its_answer(quiet, its_state):
    path = control_socket(its_state)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(path.parent))
        asking = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(40)]
        for connection in asking:
            connection.settimeout(20)
            connection.connect(path.name)
        for connection in reversed(asking):
            connection.sendall(b'{"command": "log-level"}\n')
        assert {each.recv(100) for each in asking} == {b'{"answer": "info"}\n'}


def test_the_level_of_the_log_changes_while_the_mount_runs(quiet, its_state):
    assert succeed("log-level", quiet.path) == "info\n"
    assert succeed("log-level", quiet.path, "debug") == "debug\n"
    quiet.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: succeed("log-level", quiet.path) == "info\n")
    quiet.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: succeed("log-level", quiet.path) == "debug\n")
    result = run("log-level", quiet.path, "loud")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "levels are debug, info, warning, error" in result.stderr
    assert "the log is at level debug, it was at info" in quiet.log.read_text()


@pytest.mark.usefixtures("metadata_never")
def test_slow_requests_are_logged_and_counted(mount_at, bucket, client, proxy):
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    mount = mount_at(f"s3://{bucket}", "--slow-request", "0.3")
    proxy.latency_s = 0.4
    assert os.listdir(mount.path) == ["a"]
    assert (mount.path / "a").read_text() == "x"
    proxy.latency_s = 0
    (mount.path / "b").write_text("y")
    said = re.findall(r" WARNING slow: (\w+) .* took ([0-9.]+) s", mount.log.read_text())
    # On a busy machine others are slow as well.
    assert {"ListObjectsV2", "GetObject"} <= {operation for operation, _ in said}
    assert all(float(seconds) >= 0.3 for _, seconds in said)
    assert told(mount)["s3"]["slow"] == len(said) == mount.log.read_text().count("slow:")


def test_metrics_are_served_where_they_were_asked_for(mount_at, bucket, tmp_path):
    port = free_port()
    mount = mount_at(f"s3://{bucket}", "--metrics", f"127.0.0.1:{port}")
    (mount.path / "a").write_bytes(b"1234")
    text = scraped(http.client.HTTPConnection("127.0.0.1", port, timeout=10))
    assert 'mimicfs_s3_requests_total{kind="PUT"} 1.0' in text
    assert "mimicfs_kernel_bytes_written_total 4.0" in text
    assert 'mimicfs_kernel_saved_total{kind="HEAD"}' in text
    assert f'mimicfs_bucket_objects{{bucket="{bucket}"}} 1.0' in text
    assert "mimicfs_files_unsaved 0.0" in text
    assert 'mimicfs_up{part="mirror"} 1.0' in text
    for figure in ("contended", "resolved", "epoch_changes"):
        assert f"mimicfs_sharing_{figure}_total 0.0" in text
    assert "mimicfs_s3_connections_max 32.0" in text
    served = {
        it.name: it
        for family in text_string_to_metric_families(text)
        for it in (family, *family.samples)
    }
    dashboard = (DEPLOY / "grafana.json").read_text()
    named = set(re.findall(r"mimicfs_\w+", dashboard + (DOCS / "monitoring.md").read_text()))
    without_type = {name.removesuffix("_total") for name in named} - {"mimicfs_PART_NAME"}
    assert "mimicfs_s3_seconds" in without_type
    assert without_type - served.keys() == set()
    for label, name in re.findall(r"sum by \((\w+)\) \(rate\((\w+)\{", dashboard):
        assert name not in served or label in served[name].labels, name


def test_the_collector_of_opentelemetry_is_told_where_a_mount_serves_its_metrics():
    """The pipeline is of what is declared, and asks where the page's own example serves."""
    page = (DOCS / "monitoring.md").read_text()
    (snippet,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    told = yaml.safe_load(snippet)
    (pipeline,) = told["service"]["pipelines"].values()
    assert set(pipeline["receivers"]) == told["receivers"].keys()
    assert set(pipeline["exporters"]) == told["exporters"].keys()
    (job,) = told["receivers"]["prometheus"]["config"]["scrape_configs"]
    assert job.keys() == {"job_name", "static_configs"}  # so: http, at /metrics
    ((target,),) = [each["targets"] for each in job["static_configs"]]
    assert f"--metrics {target} s3://" in page


def test_metrics_can_be_served_at_a_unix_socket_for_us_alone(mount_at, bucket, tmp_path):
    path = tmp_path / "metrics.sock"
    mount = mount_at(f"s3://{bucket}", "--metrics", f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    assert "mimicfs_process_resident_bytes" in scraped(connection)
    mount.end()
    assert not path.exists()


def scraped(connection):
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Content-Type")[:10]) == (200, "text/plain")
        return answer.read().decode()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("0.0.0.0:9100", "if you want that, public:0.0.0.0:9100"),
        ("[::]:9100", "anybody who reaches this address"),
        ("9100", "write 127.0.0.1:PORT, unix:/PATH or public:ADDRESS:PORT"),
        ("127.0.0.1:99999", "write 127.0.0.1:PORT"),
        ("unix:/tmp/metrics.sock", "anybody can write in it"),
        ("192.0.2.1.2:9100", "anybody who reaches this address"),
        ("public:192.0.2.1:9100", "Cannot assign requested address"),
    ],
)
def test_metrics_are_not_served_just_anywhere(address, says):
    with pytest.raises(ConfigError) as raised:
        Site("--metrics", address, {}, "read names of buckets")
    assert says in str(raised.value)


def test_metrics_that_cannot_be_served_leave_no_mount(
    state, tmp_path, proxy, bucket, store, monkeypatch
):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    point = tmp_path / "mnt"
    point.mkdir()
    common = ["--endpoint-url", proxy.url, "--store", store, "--metrics", "127.0.0.1:1"]
    result = run("mount", *common, f"s3://{bucket}", point)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "prometheus-client: pip install 'mimicfs[metrics]'" in result.stderr
    assert unmounted(point)


def test_sigterm_under_load_keeps_what_was_closed(mount, client, bucket):
    closed, device = [], mount.path.stat().st_dev

    def write(number):
        with contextlib.suppress(OSError):  # the end of the mount
            for n in range(1000):
                name = f"w{number}-{n}"
                with open(mount.path / name, "wb") as file:
                    if os.fstat(file.fileno()).st_dev != device:
                        return  # unmounted: this is below the mount point
                    file.write(name.encode())
                closed.append(name)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(closed) > 20)
    mount.process.terminate()
    assert mount.process.wait(30) == 0
    for thread in threads:
        thread.join()
    assert unmounted(mount.path)
    answers = {name: client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in closed}
    assert answers == {name: name.encode() for name in closed}
