"""The rights that docs/security.md names are enough for events, and each of them is needed.

moto checks them as IAM does, by action and resource; it prints each action that it refuses.
"""

from __future__ import annotations

import json
import re
from contextlib import closing, suppress
from functools import cache, partial
from pathlib import Path

import boto3
import pytest
import requests
from support import servers

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options, Target
from mimicfs.errors import MimicError
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.hearing import Hearing
from mimicfs.sync.events.ledger import Ledger
from mimicfs.sync.events.setup import Setup
from mimicfs.sync.events.sqs import SQS

pytestmark = pytest.mark.slow
ASKED = ("notification", "lifecycle")
REGION = "eu-central-1"  # that of docs/security.md
OBJECTS = [
    {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::photos"},
    {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::photos/*"},
]


def documented():
    """Return the statements of a mount, and the rights of setup and remove."""
    text = (Path(__file__).parents[3] / "docs/security.md").read_text()
    mount = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
    sentence = re.search("`mimicfs events setup` and `remove` need(.*?) on queues", text)[1]
    return mount["Statement"], re.findall(r"`((?:s3|sqs):\w+)`", sentence)


class Account:
    """An account of moto, with a user whose rights can be set."""

    def __init__(self, url, log):
        self.url, self._log = url, log
        self.client = cache(self._client)  # to make one costs more than most calls
        self.admin(lambda: self.client("iam").create_user(UserName="mimicfs"))
        made = self.admin(lambda: self.client("iam").create_access_key(UserName="mimicfs"))
        key = made["AccessKey"]
        self.keys = key["AccessKeyId"], key["SecretAccessKey"]

    def _client(self, service):
        return boto3.client(service, endpoint_url=self.url, region_name=REGION)

    def admin(self, do):
        """Return what *do* returns; nobody's rights are looked at meanwhile."""
        self._looks_from(1e9)
        try:
            return do()
        finally:
            self._looks_from(0)

    def _looks_from(self, count):
        requests.post(f"{self.url}/moto-api/reset-auth", data=str(count), timeout=10)

    def allow(self, statements):
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        names = {"UserName": "mimicfs", "PolicyName": "events"}
        self.admin(lambda: self.client("iam").put_user_policy(**names, PolicyDocument=policy))

    def refused(self, do):
        """Do *do* as the user; return which actions were refused."""
        before = len(self._log.read_text())
        with suppress(MimicError):
            do()
        return set(re.findall(r"refused (\S+)", self._log.read_text()[before:]))


@pytest.fixture(scope="module")
def account(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rights")
    with servers.moto(directory, "moto_rights.py") as url:
        account = Account(url, directory / "moto.log")
        where = {"CreateBucketConfiguration": {"LocationConstraint": REGION}}
        account.admin(lambda: account.client("s3").create_bucket(Bucket="photos", **where))
        yield account


@pytest.fixture
def s3(account, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", account.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", account.keys[1])
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with closing(S3(S3Options(endpoint_url=account.url, attempts=1), Mirror(Memory()))) as s3:
        yield s3


@pytest.fixture
def setup(s3):
    with closing(s3.queues("photos")) as queues:
        yield Setup(s3, queues, Target("photos"))


def of_setup(rights):
    on = {"s3": "arn:aws:s3:::photos", "sqs": f"arn:aws:sqs:{REGION}:123456789012:mimicfs-*"}
    services = {each.partition(":")[0] for each in rights}
    return [
        {
            "Effect": "Allow",
            "Action": [each for each in rights if each.startswith(f"{service}:")],
            "Resource": on[service],
        }
        for service in sorted(services)
    ]


def test_setup_and_remove_need_each_right_that_is_documented(account, setup):
    _, rights = documented()
    assert len(rights) == 9

    def both():
        setup.make()
        setup.remove()

    account.allow(of_setup(rights))
    assert account.refused(both) == set()
    assert account.admin(setup.remove) == []
    for each in rights:
        account.allow(of_setup([it for it in rights if it != each]))
        assert account.refused(both) == {each}
        account.admin(setup.remove)


def consumed(s3, mimicdb, url, aside):
    """Have one message applied, and come again, as a mount does."""
    with closing(SQS(s3.queue(url))) as source:
        asks = [partial(s3.call, f"get_bucket_{it}_configuration") for it in ASKED]
        ledger = Ledger(mimicdb, source, url, lambda: ["photos"], "", *asks, print)
        hearing = Hearing(mimicdb, s3, Syncer(mimicdb, s3))
        consumer = Consumer(source, hearing, aside, ledger)
        ledger.begins()
        found, until_ns = consumer.received(0)
        assert found
        consumer.consume(found, until_ns)
        source.retry(found)


def without(statements, missing):
    left = [
        {**each, "Action": [right for right in listed(each["Action"]) if right != missing]}
        for each in statements
    ]
    return [each for each in left if each["Action"]]


def listed(action):
    return [action] if isinstance(action, str) else action


def test_a_consumer_needs_each_right_that_is_documented(
    account, s3, mimicdb, setup, tmp_path, caplog
):
    url = account.admin(setup.make).url
    text = json.dumps(documented()[0]).replace("012:photos", f"012:{url.rpartition('/')[2]}")
    statements = json.loads(text)
    rights = [right for each in statements for right in listed(each["Action"])]
    assert len(rights) == 7
    for missing in ["", *rights]:
        account.allow(without(statements, missing) + OBJECTS)
        account.admin(lambda: account.client("s3").put_object(Bucket="photos", Key="a"))
        refused = account.refused(lambda: consumed(s3, mimicdb, url, tmp_path / "aside"))
        assert refused == {missing} - {""}
    assert caplog.text.count("takes the right s3:GetBucketNotification") == 1
    account.admin(setup.remove)
