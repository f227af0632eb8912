"""`scripts/bench events`: a mount that S3 tells of the changes of others, with real servers.

    delays     how long each kind of change takes to be shown by a mount whose kernel holds the
               old state: from the arrival of its message at the mount, and from the moment before
               the client asks S3
    losses     messages are doubled, shuffled, delayed, and a tenth is lost: what is wrong in the
               mount before a sweep, and after it
    takeover   two mounts on one Redis; the one that takes the messages is killed (SQS only)

moto sends no message when something of a versioned bucket is deleted: those rows are of Ceph.
Each row has the requests to S3 that it cost. Run with the Python that has mimicfs and boto3.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

import boto3  # noqa: E402
from botocore.config import Config  # noqa: E402
from support import servers  # noqa: E402
from support.clients import plain, queue_of  # noqa: E402
from support.mounts import Mount, succeed, wait_until  # noqa: E402

from benchlib import machine  # noqa: E402

PATIENCE_S = 30.0
WORKERS = 4  # clients that change something and wait until it is shown
WRITERS = 8  # clients that do not wait, at most
DIRECTORIES = 30
LOST, DOUBLED, DELAYED_S = 0.1, 0.2, 2.0
CHANGED_S = 40.0  # that somebody changes keys, at most
SWEPT_S = 120  # more than that takes, until the last message has come
TARGET_S = 1.0
DELAYS = """
| server | change | changes | a second | ms from its message: p50 | p99 | most | ms from the call: \
p50 | p99 | most | requests | load |
|---|---|---|---|---|---|---|---|---|---|---|---|"""
LOSSES = """
| server | changes | messages | lost | sent, some twice | wrong before a sweep | wrong after it | \
requests |
|---|---|---|---|---|---|---|---|"""
TAKEOVER = """
| server | the other mount shows a change after | all changes | lost |
|---|---|---|---|"""
CLOUD_EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]


class Sent(NamedTuple):
    """The way of a run from S3 to the mount: the value of --events, and how a bucket is told to
    send its messages there."""

    source: str
    begin: Callable[[], None]


class Server:
    """An S3 server that tells. *direct* and *through* name where a mount is told."""

    name = ""
    kinds: tuple[str, ...]  # of buckets, of whose changes it tells
    pace: float
    writers: int

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = plain(url)
        self.client.meta.config.max_pool_connections = WRITERS

    def direct(self, bucket: str, arrivals: Arrivals) -> Sent:
        """Have S3 tell the mount by way of *arrivals*."""
        raise NotImplementedError

    @contextmanager
    def through(self, bucket: str, carrier: Carrier) -> Iterator[Sent]:
        """Within, S3 tells *carrier*, and that the mount."""
        raise NotImplementedError


class Moto(Server):
    """moto, and its SQS."""

    name = "moto, SQS"
    kinds = ("plain",)
    pace = 10.0  # keys a second: what it takes beside the requests of the mount
    writers = 2

    def direct(self, bucket: str, arrivals: Arrivals) -> Sent:
        queue = queue_of(self.url, bucket)
        arrivals.before(self.url)
        return Sent(f"sqs:{queue.replace(self.url, arrivals.url)}", lambda: None)

    @contextmanager
    def through(self, bucket: str, carrier: Carrier) -> Iterator[Sent]:
        sqs, first = plain(self.url, "sqs"), queue_of(self.url, bucket)
        second = sqs.create_queue(QueueName=f"{bucket}-second")["QueueUrl"]
        ended = threading.Event()

        def pull() -> None:
            while not ended.is_set():
                asked = sqs.receive_message(QueueUrl=first, MaxNumberOfMessages=10)
                for each in asked.get("Messages", ()):
                    carrier.take(each["Body"].encode())
                    sqs.delete_message(QueueUrl=first, ReceiptHandle=each["ReceiptHandle"])
                if not asked.get("Messages"):
                    ended.wait(0.02)

        def send(body: bytes) -> None:
            sqs.send_message(QueueUrl=second, MessageBody=body.decode())

        with carrier.running(send), ThreadPoolExecutor(1) as pool:
            pulled = pool.submit(pull)
            try:
                yield Sent(f"sqs:{second}", lambda: None)
            finally:
                ended.set()
                pulled.result()


class Ceph(Server):
    """Ceph's RADOS gateway, and its HTTP notifications."""

    name = "Ceph RGW, HTTP"
    kinds = ("plain", "versioned")
    pace = 100.0
    writers = WRITERS

    def direct(self, bucket: str, arrivals: Arrivals) -> Sent:
        address = f"http://127.0.0.1:{servers.free_port()}/"
        arrivals.before(address)
        return Sent(address, partial(self._tell, bucket, f"{arrivals.url}/"))

    @contextmanager
    def through(self, bucket: str, carrier: Carrier) -> Iterator[Sent]:
        port = servers.free_port()

        class Hook(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                carrier.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        hook = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{hook.server_port}/"
        with hook, carrier.running(partial(post, port)):
            source = f"http://127.0.0.1:{port}/"
            yield Sent(source, partial(self._tell, bucket, address))
            hook.shutdown()

    def _tell(self, bucket: str, address: str) -> None:
        config = Config(signature_version="v4", region_name="us-east-1")
        sns = boto3.client("sns", endpoint_url=self.url, config=config)
        topic = sns.create_topic(Name=bucket, Attributes={"push-endpoint": address})["TopicArn"]
        rule = {"Id": "told", "TopicArn": topic, "Events": CLOUD_EVENTS}
        self.client.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration={"TopicConfigurations": [rule]}
        )


def post(port: int, body: bytes) -> None:
    """POST until it is taken."""
    while True:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        line.request("POST", "/", body)
        status = line.getresponse().status
        line.close()
        if status == 200:
            return
        time.sleep(0.2)


class Carrier:
    """Carries messages on: some twice, in another order, late, and a tenth not at all."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._held: list[tuple[float, bytes]] = []  # when each is to be sent
        self._lock = threading.Lock()
        self.taken = self.lost = self.sent = 0

    def take(self, body: bytes) -> None:
        with self._lock:
            self.taken += 1
            if self._chance.random() < LOST:
                self.lost += 1
                return
            for _ in range(1 + (self._chance.random() < DOUBLED)):
                self._held.append((time.monotonic() + self._chance.random() * DELAYED_S, body))

    @contextmanager
    def running(self, send: Callable[[bytes], None]) -> Iterator[None]:
        ended = threading.Event()

        def carry() -> None:
            while not ended.wait(0.05):
                now_s = time.monotonic()
                with self._lock:
                    due = [body for at, body in self._held if at <= now_s]
                self._chance.shuffle(due)
                with ThreadPoolExecutor(WRITERS) as pool:
                    list(pool.map(send, due))
                with self._lock:
                    self._held = [each for each in self._held if each[0] > now_s]
                    self.sent += len(due)

        thread = threading.Thread(target=carry, daemon=True)
        thread.start()
        yield
        ended.set()
        thread.join(60)

    @property
    def empty(self) -> bool:
        with self._lock:
            return not self._held


class Arrivals:
    """Stands before what *before* names, and notes when the last message about each key passed."""

    def __init__(self) -> None:
        self.at_s: dict[str, float] = {}
        handler = type("Handler", (_Passing,), {"arrivals": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def before(self, url: str) -> None:
        self.port = int(url.rstrip("/").rpartition(":")[2])

    def saw(self, body: bytes) -> None:
        now_s = time.perf_counter()
        for key in _KEY.findall(body.decode()):
            self.at_s[unquote_plus(key)] = now_s

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


_KEY = re.compile(r'key\\*": *\\*"([^"\\]+)')  # also in JSON within JSON


class _Passing(BaseHTTPRequestHandler):
    arrivals: Arrivals
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.arrivals.saw(body)
        line = http.client.HTTPConnection("127.0.0.1", self.arrivals.port)
        line.request("POST", self.path, body, dict(self.headers.items()))
        answer = line.getresponse()
        said = answer.read()
        line.close()
        self.arrivals.saw(said)
        self.send_response_only(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        with suppress(ConnectionError):  # the mount has waited for long enough
            self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


# The mount


def status(mount: Mount) -> Any:
    """Return what the mount says of itself."""
    [told] = json.loads(succeed("status", "--json", str(mount.path)))
    return told


def asked(mount: Mount) -> dict[str, int]:
    requests: dict[str, int] = status(mount)["s3"]["requests"]
    return requests


def since(before: dict[str, int], after: dict[str, int]) -> str:
    cost = {name: after[name] - before.get(name, 0) for name in after}
    return ", ".join(f"{count:,} {name}" for name, count in sorted(cost.items()) if count) or "none"


@contextmanager
def mounted(
    work: Path, server: Server, bucket: str, source: str, *more: str, store: str = ""
) -> Iterator[Mount]:
    """Within, *bucket* is mounted, and the mirror has all of it."""
    store = store or f"sqlite://{work}/{bucket}.db"
    where = ["--endpoint-url", server.url, "--store", store, "--metadata", "never"]
    path = Path(tempfile.mkdtemp(dir=work))
    words = [*where, "--events", source, *more, f"s3://{bucket}"]
    mount = Mount(path, words, path.with_suffix(".log"))
    try:
        (mount.path / ".sync").touch()
        yield mount
    finally:
        mount.close()


# Delays

Change = Callable[[Any, str, str], object]  # client, bucket, key
Seen = Callable[[Path], bool]


def size_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return -1


def put(client: Any, bucket: str, key: str, body: bytes = b"12345") -> None:
    client.put_object(Bucket=bucket, Key=key, Body=body)


def copy(client: Any, bucket: str, key: str) -> None:
    client.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": "source"})


def delete(client: Any, bucket: str, key: str) -> None:
    client.delete_object(Bucket=bucket, Key=key)


def in_parts(client: Any, bucket: str, key: str) -> None:
    where = {"Bucket": bucket, "Key": key}
    upload = client.create_multipart_upload(**where)["UploadId"]
    part = client.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"12345")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload=parts)


def undelete(client: Any, bucket: str, key: str) -> None:
    """Delete the delete marker of *key*: the object is there again."""
    found = client.list_object_versions(Bucket=bucket, Prefix=key)["DeleteMarkers"]
    client.delete_object(Bucket=bucket, Key=key, VersionId=found[0]["VersionId"])


def delete_version(client: Any, bucket: str, key: str) -> None:
    """Delete the present version: the one before it is what the key has."""
    found = client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]
    [version] = [each["VersionId"] for each in found if each["IsLatest"]]
    client.delete_object(Bucket=bucket, Key=key, VersionId=version)


shown: Seen = os.path.lexists
changed = partial(put, body=b"another")
# By name: what is done before, the change, and what is seen then.
PLAIN: dict[str, tuple[list[Change], Change, Seen]] = {
    "put, a new key": ([], put, shown),
    "put, an old key": ([put], changed, lambda path: size_of(path) == 7),
    "copy": ([], copy, shown),
    "multipart upload": ([], in_parts, shown),
    "delete": ([put], delete, lambda path: not shown(path)),
}
VERSIONED: dict[str, tuple[list[Change], Change, Seen]] = {
    "delete, versioned": ([put], delete, lambda path: not shown(path)),
    "delete a marker": ([put, delete], undelete, shown),
    "delete a version": ([put, changed], delete_version, lambda path: size_of(path) == 5),
}
KINDS = {"plain": PLAIN, "versioned": VERSIONED}


def seen_after_s(seen: Seen, path: Path, began_s: float) -> float:
    while not seen(path) and time.perf_counter() - began_s < PATIENCE_S:
        time.sleep(0.002)
    return time.perf_counter() - began_s


def delays(work: Path, server: Server, count: int, kind: str) -> int:
    """Print a row for each change in a bucket of *kind*; return how many miss the target."""
    bucket = f"delays-{kind}"
    server.client.create_bucket(Bucket=bucket)
    if kind == "versioned":
        server.client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )
    put(server.client, bucket, "source")
    missed = 0
    with closing(Arrivals()) as arrivals:
        sent = server.direct(bucket, arrivals)
        with mounted(work, server, bucket, sent.source) as mount:
            sent.begin()
            for name, (before, change, seen) in KINDS[kind].items():
                keys = [f"{name.replace(' ', '-')}/{n:06}" for n in range(count)]
                for each in before:
                    in_threads(partial(each, server.client, bucket), keys)
                settle(mount)
                for key in keys:
                    shown(mount.path / key)  # the kernel holds what was before
                one = partial(timed, server.client, bucket, mount, change, seen)
                missed += measured(server, name, mount, arrivals, keys, one, WORKERS)
            keys = [f"many/{n % DIRECTORIES}/{n:06}" for n in range(count * 5)]
            one = partial(begun, server, bucket, time.monotonic())
            name = f"put, {server.pace:.0f} a second"
            missed += measured(server, name, mount, arrivals, keys, one, WRITERS)
    return missed


def timed(
    client: Any, bucket: str, mount: Mount, change: Change, seen: Seen, key: str
) -> tuple[float, float]:
    """Return when the change began, and when it was seen."""
    began_s = time.perf_counter()
    change(client, bucket, key)
    return began_s, began_s + seen_after_s(seen, mount.path / key, began_s)


def begun(server: Server, bucket: str, started_s: float, key: str) -> tuple[float, float]:
    """Make *key* when its time has come."""
    due_s = started_s + int(key.rpartition("/")[2]) / server.pace
    time.sleep(max(0.0, due_s - time.monotonic()))
    began_s = time.perf_counter()
    put(server.client, bucket, key)
    return began_s, 0.0


def measured(
    server: Server,
    name: str,
    mount: Mount,
    arrivals: Arrivals,
    keys: list[str],
    one: Callable[[str], tuple[float, float]],
    threads: int,
) -> int:
    """Print a row; 1: it misses the target. Changes that *one* has not seen are looked for in the
    order of the calls."""
    requests, told, started_s = asked(mount), [], time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for key, made in [(key, pool.submit(one, key)) for key in keys]:
            began_s, seen_s = made.result()
            seen_s = seen_s or began_s + seen_after_s(shown, mount.path / key, began_s)
            told.append((began_s, arrivals.at_s.get(key, seen_s), seen_s))
    rate = len(keys) / (time.perf_counter() - started_s)
    from_call, from_arrival = (sorted(each[2] - each[n] for each in told) for n in (0, 1))
    never = sum(each >= PATIENCE_S for each in from_call)
    note = f"; {never} never" if never else ""
    print(f"| {server.name} | {name} | {len(keys):,} | {rate:.0f} | {percentiles(from_arrival)} |"
          f" {percentiles(from_call)} | {since(requests, asked(mount))}{note} |"
          f" {machine.load_average():.1f} |", flush=True)  # fmt: skip
    return int(from_arrival[int(len(told) * 0.99)] > TARGET_S or never > 0)


def percentiles(took_s: list[float]) -> str:
    ms = [each * 1000 for each in took_s]
    return f"{ms[len(ms) // 2]:.0f} | {ms[int(len(ms) * 0.99)]:.0f} | {ms[-1]:.0f}"


def in_threads(do: Callable[[Any], Any], keys: Sequence[Any], threads: int = WRITERS) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(do, keys))


def settle(mount: Mount) -> None:
    """Wait until no message has come for a moment, or for a minute."""
    before, until_s = -1, time.monotonic() + 60
    while (now := status(mount)["events"]["messages"]) != before and time.monotonic() < until_s:
        before = now
        time.sleep(1.5)


# Losses


def truth(server: Server, bucket: str) -> dict[str, tuple[int, str]]:
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = [each for page in pages for each in page.get("Contents", ())]
    return {each["Key"]: (each["Size"], each["ETag"].strip('"')) for each in found}


def looked_at(mount: Mount) -> dict[str, tuple[int, str]]:
    """Return what programs see: each file with its size and ETag."""
    found = {}
    for directory, _, names in os.walk(mount.path):
        for name in names:
            path = Path(directory, name)
            with suppress(FileNotFoundError):  # a ghost of a moment
                etag = os.getxattr(path, "user.mimicfs.etag").decode().strip('"')
                found[str(path.relative_to(mount.path))] = (path.lstat().st_size, etag)
    return found


def wrong(server: Server, bucket: str, mount: Mount) -> int:
    there, here = truth(server, bucket), looked_at(mount)
    return sum(there.get(key) != here.get(key) for key in there.keys() | here.keys())


def losses(work: Path, server: Server, count: int, chance: random.Random) -> int:
    """Print what a tenth of lost messages leaves; return how much is wrong after a sweep."""
    bucket, carrier = "losses", Carrier(chance)
    server.client.create_bucket(Bucket=bucket)
    put(server.client, bucket, "source")
    keys = [f"{n % DIRECTORIES}/{n:06}" for n in range(count)]
    in_threads(partial(put, server.client, bucket), keys[: count // 2], server.writers)
    kinds = (put, changed, copy, delete)
    changes = [(key, chance.choice(kinds)) for key in keys * 2]
    chance.shuffle(changes)
    with (
        server.through(bucket, carrier) as sent,
        mounted(work, server, bucket, sent.source, "--reconcile", f"{SWEPT_S}s") as mount,
    ):
        sent.begin()
        requests, until_s = asked(mount), time.monotonic() + CHANGED_S

        def change(each: tuple[str, Change]) -> bool:
            if time.monotonic() > until_s:
                return False
            each[1](server.client, bucket, each[0])
            return True

        made = sum(in_threads(change, changes, server.writers))
        for n in range(count // 20):  # through the mount, and S3 tells of it, too
            (mount.path / f"{n % DIRECTORIES}/own-{n}").write_bytes(b"own")
        wait_until(lambda: carrier.empty, 120)
        settle(mount)
        before, changed_ns = wrong(server, bucket, mount), time.time_ns()
        wait_until(lambda: swept_ns(mount, bucket) > changed_ns, SWEPT_S + 60)
        left = wrong(server, bucket, mount)
        cost = since(requests, asked(mount))
    print(f"| {server.name} | {made:,} | {carrier.taken:,} | {carrier.lost:,} |"
          f" {carrier.sent:,} | {before:,} | {left:,} | {cost} |", flush=True)  # fmt: skip
    return left


def swept_ns(mount: Mount, bucket: str) -> int:
    time.sleep(1)
    return int(status(mount)["reconcile"]["swept_until_ns"].get(bucket, 0))


# Takeover


def takeover(work: Path, server: Moto, rounds: int) -> int:
    """Kill the mount that takes the messages, *rounds* times; return how many changes the other
    one never shows."""
    lost = 0
    (work / "redis").mkdir()
    for n in range(rounds):
        bucket = f"takeover-{n}"
        server.client.create_bucket(Bucket=bucket)
        sent = Sent(f"sqs:{queue_of(server.url, bucket)}", lambda: None)
        with servers.redis(work / "redis") as port, ExitStack() as stack:
            store = f"redis://127.0.0.1:{port}/0"
            opened = partial(mounted, work, server, bucket, sent.source, store=store)
            first = stack.enter_context(opened())
            second = stack.enter_context(opened())
            first_s, all_s, missing = killed(server, bucket, first, second)
        lost += missing
        print(f"| {server.name} | {first_s:.1f} s | {all_s:.1f} s | {missing} |", flush=True)
    return lost


def killed(server: Server, bucket: str, first: Mount, second: Mount) -> tuple[float, float, int]:
    """Kill *first* while somebody makes keys. Return how long after that *second* shows the first
    one that it had not shown, and all that were made in the next ten seconds; and how many it
    never shows."""
    wait_until(lambda: status(second)["events"]["state"] == "waiting", 60)
    keys: list[str] = []
    ended = threading.Event()

    def make() -> None:
        while not ended.wait(0.05):
            keys.append(f"{len(keys):06}")
            put(server.client, bucket, keys[-1])

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(make)
        wait_until(lambda: len(keys) > 20 and shown(second.path / keys[10]))
        first.process.kill()
        killed_s = time.perf_counter()
        time.sleep(1)
        before = len(os.listdir(second.path))
        while len(os.listdir(second.path)) == before:
            time.sleep(0.05)
        first_s = time.perf_counter() - killed_s
        time.sleep(max(0.0, 10 - first_s))
        ended.set()
        made.result()
    with suppress(AssertionError):
        wait_until(lambda: all(shown(second.path / key) for key in keys), PATIENCE_S)
    all_s = time.perf_counter() - killed_s
    return first_s, all_s, sum(not shown(second.path / key) for key in keys)


# All of it


@contextmanager
def server_at(name: str, work: Path) -> Iterator[Server]:
    """Within, the server runs."""
    directory = work / name
    directory.mkdir()
    boto3.setup_default_session()  # that of the server before keeps its credentials
    if name == "moto":
        with servers.moto(directory) as url:
            yield Moto(url)
    else:
        with servers.named(name, directory) as url:
            yield Ceph(url)


def run(work: Path, names: list[str], count: int, what: list[str]) -> int:
    """Print the tables; 1: something misses its target."""
    os.environ |= {"XDG_STATE_HOME": str(work), "XDG_CACHE_HOME": str(work), "HOME": str(work)}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "bench")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    print(f"`scripts/bench events`: {machine.description(work)}; target: p99 <= {TARGET_S} s\n")
    bad = 0
    for name in names:
        with server_at(name, work) as server:
            if "delays" in what:
                print(DELAYS, flush=True)
                bad += sum(delays(work, server, count, kind) for kind in server.kinds)
            if "losses" in what:
                print(LOSSES, flush=True)
                bad += losses(work, server, count * 10, random.Random(1))
            if "takeover" in what and isinstance(server, Moto):
                print(TAKEOVER, flush=True)
                bad += takeover(work, server, 3)
    print(f"\nload average at the end {machine.load_average():.1f}")
    return int(bad > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--servers", default="moto,ceph")
    parser.add_argument("--changes", type=int, default=300, help="of each kind")
    parser.add_argument("--what", default="delays,losses,takeover")
    chosen = parser.parse_args()
    machine.unwind_at_sigterm()
    return run(chosen.work, chosen.servers.split(","), chosen.changes, chosen.what.split(","))


if __name__ == "__main__":
    sys.exit(main())
