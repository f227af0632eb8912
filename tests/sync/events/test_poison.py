"""A message that cannot be applied again and again is put aside, and holds up no other one."""

from __future__ import annotations

import json
import time

import pytest

from mimicfs.backends.memory import Memory
from mimicfs.cli.watching import _events
from mimicfs.entry import Entry, Scope
from mimicfs.errors import ConfigError, MimicError, Unlisted
from mimicfs.mimicdb import Mirror
from mimicfs.sync.events import hearing as hearing_of
from mimicfs.sync.events.consumer import Consumer
from mimicfs.sync.events.hearing import Heard
from mimicfs.sync.events.messages import parse
from mimicfs.sync.events.source import Delivery, EventSource


def test_what_cannot_be_found_out_is_not_certain_in_a_bucket_that_was_listed_whole():
    mirror = Mirror(Memory())
    mirror.record_all("photos", [Entry("d/x", 1), Entry("e/y", 1)])
    mirror.complete("photos", Scope("", True, time.time_ns()))
    told = parse(delivery("d/poison").body).told
    hearing_of.Hearing(mirror, None, None).doubt(told)
    with pytest.raises(Unlisted):
        mirror.lookup("photos", "d/", "poison")
    assert [entry.key for entry in mirror.children("photos", "e/")] == ["e/y"]
    assert [entry.key for entry in mirror.children("photos", "")] == ["d/", "e/"]


class Source(EventSource):
    """Remembers what it was told of its messages."""

    name = "sqs:queue"

    def __init__(self):
        self.acknowledged, self.retried = [], []

    def receive(self, wait_s):
        return []

    def acknowledge(self, deliveries):
        self.acknowledged += [each.receipt for each in deliveries]

    def retry(self, deliveries):
        self.retried += [each.receipt for each in deliveries]


class Hearing:
    """Asks S3 about each record, and fails at the key "poison"."""

    def __init__(self):
        self.doubted = []

    def hear(self, told, cancellation):
        if any(each.key == "poison" for each in told):
            raise ValueError("of a kind that nobody foresaw")
        return Heard(heads=len(told))

    def doubt(self, told):
        self.doubted += [each.key for each in told]


def delivery(key):
    about = {"bucket": {"name": "photos"}, "object": {"key": key}}
    record = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": about}
    return Delivery(json.dumps({"Records": [record]}), key)


def test_poison_is_put_aside_with_the_reason_and_shown_in_status(tmp_path, caplog):
    source, hearing = Source(), Hearing()
    consumer = Consumer(source, hearing, tmp_path / "aside")
    for number in range(4):
        with pytest.raises(MimicError, match="nobody foresaw"):
            consumer.consume([delivery(f"good{number}"), delivery("poison")])
    assert (source.retried, hearing.doubted) == (["poison"] * 4, [])
    consumer.consume([delivery("good4"), delivery("poison")])
    assert source.acknowledged == [f"good{number}" for number in range(5)] + ["poison"]
    assert hearing.doubted == ["poison"]  # what is there is asked of S3 at the next look
    line = json.loads((tmp_path / "aside").read_text())
    assert line["why"] == ["cannot be applied: of a kind that nobody foresaw"]
    assert "1 message written to" in caplog.text
    figures = consumer.figures() | {"told_until_ns": {}, "configured": {}, "another_store": False}
    assert "  LOOK AT  1 message in events-aside.jsonl" in list(_events(figures))


def test_where_s3_answers_nothing_no_message_is_poison(tmp_path, monkeypatch, caplog):
    source, hearing = Source(), Hearing()
    consumer = Consumer(source, hearing, tmp_path / "aside")
    for _ in range(9):
        with pytest.raises(MimicError):
            consumer.consume([delivery("poison"), delivery("poison")])
    assert (source.acknowledged, consumer.figures()["put_aside"]) == ([], 0)


def test_what_cannot_be_read_is_put_aside_once_however_often_its_message_comes_again(
    tmp_path, caplog
):
    """S3 is away for hours, and the rest of the message cannot be applied."""
    source, hearing = Source(), Hearing()
    consumer = Consumer(source, hearing, tmp_path / "aside")
    records = json.loads(delivery("poison").body)["Records"]
    mixed = Delivery(json.dumps({"Records": [5, *records]}), "mixed")
    for _ in range(3):
        with pytest.raises(MimicError):
            consumer.consume([mixed])
    assert consumer.figures()["put_aside"] == 1
    assert (tmp_path / "aside").read_text().count("\n") == 1
    hearing.hear = lambda told, _: Heard(heads=len(told))
    consumer.consume([mixed])
    assert (source.acknowledged, consumer.figures()["put_aside"]) == (["mixed"], 1)
    consumer.consume([mixed])  # another one that says the same
    assert consumer.figures()["put_aside"] == 2


def test_what_cannot_be_put_aside_comes_again(tmp_path):
    source = Source()
    consumer = Consumer(source, Hearing(), tmp_path / "missing" / "aside")
    with pytest.raises(ConfigError, match="No such file or directory"):
        consumer.consume([delivery("good"), Delivery("<hostile/>", "unreadable")])
    assert (source.acknowledged, source.retried) == ([], ["good", "unreadable"])
