"""The S3 servers that tell a mount what others change."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from support import servers
from support.clients import plain, queue_of

from benchlib.told.passing import Arrivals, Carrier

WRITERS = 8  # clients that do not wait, at most
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
