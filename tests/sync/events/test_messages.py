"""Every form of a message is read; what is none is named, and takes nothing along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimicfs.sync.events.messages import Message, RulesPut, Told, parse

AT_NS = 1_768_478_400_123_000_000  # 2026-01-15T12:00:00.123Z


def record(key="a.jpg", name="ObjectCreated:Put", source="aws:s3", bucket="photos", **object_):
    return {
        "eventSource": source,
        "eventName": name,
        "eventTime": "2026-01-15T12:00:00.123Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, **object_}},
    }


def told(*records):
    found = parse(json.dumps({"Records": list(records)}))
    assert found.faults == []
    return found.told


def test_a_record_of_s3_names_key_version_and_time():
    assert told(record(eTag="0123", sequencer="00A1", versionId="v1", size=5)) == [
        Told(
            "photos", "a.jpg", False, "0123", AT_NS, "00A1", "v1", False, "ObjectCreated:Put", True
        )
    ]


def test_a_key_of_s3_and_of_minio_is_encoded_as_in_a_form():
    assert told(record("red+flower%2B%C3%BC.jpg"))[0].key == "red flower+ü.jpg"
    assert told(record("d%2Fa+b", "s3:ObjectCreated:Put", "minio:s3"))[0].key == "d/a b"


def test_a_key_of_ceph_is_as_it_is():
    found = told(record("50%/a b+c", "ObjectCreated:Put", "ceph:s3", etag="0123"))
    assert (found[0].key, found[0].etag) == ("50%/a b+c", "0123")


def test_what_ceph_posts_is_read():
    """ceph.jsonl is what a Ceph RGW posted for two PUTs, a copy, a multipart upload, a deletion."""
    lines = (Path(__file__).parent / "ceph.jsonl").read_text().splitlines()
    one = "c4ca4238a0b923820dcc509a6f75849b"
    assert [found[:4] + found[5:8] for found in (parse(line).told[0] for line in lines)] == [
        ("events", "a", False, one, "4612096BFA14562D", "", False),
        ("events", "50%/a b+c", False, one, "4612096B4F05BF33", "", False),
        ("events", "copy", False, one, "4712096BBA773D00", "", False),
        ("events", "m", False, "ba75038fa1683533b60cd651a9451255-1", "4812096B2B4EA02F", "", False),
        ("events", "a", True, "", "4812096BC86D8A35", "", False),
    ]


@pytest.mark.parametrize(
    ("name", "removed", "head_only"),
    [
        ("ObjectCreated:Copy", False, False),
        ("s3:ObjectCreated:CompleteMultipartUpload", False, False),
        ("ObjectRemoved:Delete", True, False),
        ("s3:ObjectRemoved:DeleteMarkerCreated", True, False),
        ("LifecycleExpiration:Delete", True, False),
        ("ObjectLifecycle:Expiration:Current", True, False),
        ("ObjectRestore:Completed", False, True),
        ("LifecycleTransition", False, True),
        ("ObjectTagging:Put", False, True),
        ("SomethingNew:Happened", False, False),
    ],
)
def test_the_kind_says_what_may_have_changed(name, removed, head_only):
    found = told(record(name=name))[0]
    assert (found.removed, found.head_only) == (removed, head_only)


def test_what_changes_nothing_is_no_record():
    """Our own HEAD is told as an access, and must not be the reason of another one."""
    for name in ("ObjectAccessed:Head", "BucketCreated:*", "Scanner:BigPrefix"):
        assert told(record(name=f"s3:{name}", source="minio:s3")) == []


def test_a_source_that_nobody_knows_may_encode_keys_or_not():
    found = told(record("d/a+b", source="rustfs:s3"), record("d/a", source="rustfs:s3"))
    assert [each.key for each in found] == ["d/a b", "d/a+b", "d/a"]


def test_a_key_that_cannot_be_decoded_is_as_it_is_where_nobody_knows_the_source():
    assert [each.key for each in told(record("a%ff", source="rustfs:s3"))] == ["a%ff"]


def test_a_batch_of_event_bridge_is_read():
    about = {"bucket": {"name": "photos"}, "object": {"key": "a"}}
    batch = [{"detail-type": "Object Created", "detail": about}] * 2
    assert [each.key for each in parse(json.dumps(batch)).told] == ["a", "a"]


def test_of_many_faults_some_are_named():
    text = json.dumps({"Records": [5] * 1000})
    assert parse(text).faults == ["a record is missing, or not an object"] * 10 + ["and 990 more"]


def test_what_a_deletion_says_of_the_object_is_not_kept():
    assert told(record(name="ObjectRemoved:Delete", eTag="0123", size=5))[0].etag == ""


def test_the_version_null_is_no_version():
    assert told(record(versionId="null"))[0].version_id == ""


def test_sns_and_event_bridge_and_a_test_message():
    body = json.dumps({"Records": [record()]})
    sns = json.dumps({"Type": "Notification", "Message": body})
    assert [each.key for each in parse(sns).told] == ["a.jpg"]
    name = "Object Deleted"
    bridge = {
        "detail-type": name,
        "time": "2026-01-15T12:00:00Z",
        "detail": {
            "bucket": {"name": "photos"},
            "object": {"key": "a b+%41", "version-id": "v2", "sequencer": "0B"},
            "deletion-type": "Permanently Deleted",
        },
    }
    assert parse(json.dumps(bridge)).told == [
        Told(
            "photos", "a b+%41", True, "", 1_768_478_400_000_000_000, "0B", "v2", False, name, True
        )
    ]
    test = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"}
    put = Message([], [], [RulesPut("photos", AT_NS)])
    assert parse(json.dumps(test | {"Time": "2026-01-15T12:00:00.123Z"})) == put
    assert parse(json.dumps(test)).put == [RulesPut("photos", 0)]
    assert parse(json.dumps(test | {"Bucket": 5})) == Message([], [], [])


def test_a_delete_marker_that_was_made_deletes_no_version():
    found = told(record(name="ObjectRemoved:DeleteMarkerCreated", versionId="v3"))[0]
    assert (found.removed, found.version_id) == (True, "")


@pytest.mark.parametrize("form", ["new", "old"])
def test_both_forms_of_minios_redis_list(form):
    one = record(source="minio:s3")
    log = [{"Event": [one], "EventTime": "x"}] if form == "new" else ["x", [one]]
    assert [each.key for each in parse(json.dumps(log)).told] == ["a.jpg"]


def test_an_element_that_makes_no_sense_leaves_those_behind_it_standing():
    found = parse(json.dumps([{"Event": 5}, 6, {"Event": [record("a")]}]))
    assert [each.key for each in found.told] == ["a"]
    assert found.faults == ["Records is not a list", "Records is not a list"]


def test_a_record_that_makes_no_sense_leaves_the_others_standing():
    text = json.dumps({"Records": [record("a"), {"s3": 5}, record("%ff"), record("b")]})
    found = parse(text)
    assert [each.key for each in found.told] == ["a", "b"]
    assert found.faults == ["s3 is missing, or not an object", "a key that is not UTF-8"]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("<xml/>", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("5", "neither an object nor a list"),
        ("{}", "not an S3 event in any known form"),
        ('{"Records": {}}', "Records is not a list"),
        (json.dumps({"Records": [record("")]}), "no key"),
        (json.dumps({"Records": [record("x" * 1025)]}), "no key"),
        (json.dumps({"Records": [record(bucket="../etc")]}), "the name of the bucket is missing"),
        (json.dumps({"Records": [record("\ud800")]}), "a key that is not UTF-8"),
        ("x" * ((1 << 20) + 1), "a message of 1048577 bytes"),
        (
            json.dumps({"Type": "SubscriptionConfirmation", "Message": "", "SubscribeURL": "http"}),
            "SNS waits for an answer ('SubscriptionConfirmation'); confirm it by hand",
        ),
    ],
)
def test_what_is_no_message_is_named(message, fault):
    assert parse(message) == Message([], [fault], [])


def test_an_envelope_that_holds_itself_ends():
    message = "{}"
    for _ in range(6):
        message = json.dumps({"Type": "Notification", "Message": message})
    assert parse(message).faults == ["envelopes within envelopes"]


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["Records", "s3", "object", "bucket", "key", "name", "Type", "Message",
                         "detail", "detail-type", "Event", "eventName", "eventTime", "eTag"]),
        inner, max_size=4),
    max_leaves=20,
))  # fmt: skip
def test_no_message_ends_the_reader(said):
    found = parse(json.dumps(said))
    assert all(isinstance(each, Told) for each in found.told)
