"""After a change of which nobody knows whether S3 has done it, or that a hook may have changed,
nothing in the mirror is believed that may be wrong: S3 is asked."""

from __future__ import annotations

import threading

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from support.clients import CONFIG
from support.mounts import costs
from support.proxy import Fail, Hold, Lose

from mimicfs.errors import StoreError

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]

ENABLED = {"Status": "Enabled"}
TAGGED = {"TagSet": [{"Key": "t", "Value": "1"}]}
POLICY = '{"Version": "2012-10-17", "Statement": []}'


@pytest.fixture
def known(library, mimicked, bucket):
    """A bucket with one key, of which the mirror has all that it can."""
    mimicked.put_object(Bucket=bucket, Key="a", Body=b"x")
    library.sync(bucket, client=mimicked)
    mimicked.list_buckets()
    mimicked.head_bucket(Bucket=bucket)
    mimicked.head_object(Bucket=bucket, Key="a")
    return bucket


def lost(proxy, kind, *, within=""):
    """Have the answers to requests of *kind* lost; those with *within* in their query."""
    return proxy.rule(
        Lose(lambda request: request.kind == kind and within in ("", *request.query), times=99)
    )


def tags_said(client, bucket):
    return client.head_object(Bucket=bucket, Key="a").get("TagCount")


def test_a_head_is_asked_again_after_a_change_whose_answer_is_lost(mimicked, proxy, known):
    with lost(proxy, "PUT", within="tagging"), pytest.raises(BotoCoreError):
        mimicked.put_object_tagging(Bucket=known, Key="a", Tagging=TAGGED)
    assert tags_said(mimicked, known) == 1


def test_a_head_is_asked_again_after_a_change_that_the_store_did_not_take(
    library, mimicked, known, monkeypatch
):
    def away(*_, **__):
        raise StoreError("away")

    with monkeypatch.context() as broken:
        broken.setattr(library.backend, "apply", away)
        with pytest.raises(StoreError):
            mimicked.put_object_tagging(Bucket=known, Key="a", Tagging=TAGGED)
    assert tags_said(mimicked, known) == 1


def test_no_head_is_remembered_while_nobody_knows_of_versions(library, mimicked, proxy, known):
    with lost(proxy, "PUT", within="versioning"), pytest.raises(BotoCoreError):
        mimicked.put_bucket_versioning(Bucket=known, VersioningConfiguration=ENABLED)
    mimicked.head_object(Bucket=known, Key="a")
    assert library.entry(known, "a").head is None


def test_heads_are_remembered_again_after_a_change_that_s3_refuses(library, mimicked, proxy, known):
    refusing = Fail(lambda request: "versioning" in request.query, 403, "AccessDenied")
    with proxy.rule(refusing), pytest.raises(ClientError, match="AccessDenied"):
        mimicked.put_bucket_versioning(Bucket=known, VersioningConfiguration=ENABLED)
    mimicked.head_object(Bucket=known, Key="a")
    assert library.entry(known, "a").head is not None


@pytest.mark.parametrize("key", ["a", "new"])
def test_a_head_that_was_asked_for_before_versions_is_not_remembered(
    library, mimicked, client, proxy, known, key
):
    client.put_object(Bucket=known, Key="new", Body=b"x")
    asked = {"Bucket": known, "Key": key, "Force": True}
    with proxy.rule(Hold(lambda request: request.kind == "HEAD", answers=True)) as held:
        reader = threading.Thread(target=mimicked.head_object, kwargs=asked)
        reader.start()
        assert held.reached.wait(30)
        mimicked.put_bucket_versioning(Bucket=known, VersioningConfiguration=ENABLED)
        held.release()
        reader.join()
    assert library.entry(known, key).head is None
    mimicked.head_object(Bucket=known, Key=key)
    assert library.entry(known, key).head is not None


def test_a_head_beside_versions_is_forgotten_although_the_bucket_was_meanwhile(
    library, mimicked, proxy, known
):
    change = {"Bucket": known, "VersioningConfiguration": ENABLED}
    with proxy.rule(Hold(lambda request: request.kind == "PUT")) as held:
        changing = threading.Thread(target=mimicked.put_bucket_versioning, kwargs=change)
        changing.start()
        assert held.reached.wait(30)
        library.drop_bucket(known)
        library.sync(known, client=mimicked)
        mimicked.head_object(Bucket=known, Key="a")
        held.release()
        changing.join()
    assert library.entry(known, "a").head is None


def test_a_bucket_whose_removal_is_not_confirmed_is_asked_about(mimicked, client, proxy, known):
    mimicked.delete_object(Bucket=known, Key="a")
    with lost(proxy, "DELETE"), pytest.raises(BotoCoreError):
        mimicked.delete_bucket(Bucket=known)
    for ask in (mimicked.head_bucket, mimicked.list_objects_v2):
        with pytest.raises(ClientError):
            ask(Bucket=known)
    assert mimicked.list_buckets()["Buckets"] == client.list_buckets()["Buckets"]


def test_a_bucket_whose_making_is_not_confirmed_is_listed(mimicked, proxy, known):
    name = f"{known}-new"
    with lost(proxy, "PUT"), pytest.raises(BotoCoreError):
        mimicked.create_bucket(Bucket=name)
    assert name in [item["Name"] for item in mimicked.list_buckets()["Buckets"]]


@pytest.mark.parametrize("hooked", [True, False])
def test_who_may_read_is_asked_after_a_policy_that_nobody_confirmed(mimicked, proxy, known, hooked):
    if hooked:
        mimicked.meta.events.register("before-call.s3.PutBucketPolicy", lambda **_: None)
        mimicked.put_bucket_policy(Bucket=known, Policy=POLICY)
    else:
        with lost(proxy, "PUT", within="policy"), pytest.raises(BotoCoreError):
            mimicked.put_bucket_policy(Bucket=known, Policy=POLICY)
    proxy.counted()
    with costs(proxy, LIST=1, HEAD=1):
        for _ in range(2):
            mimicked.list_objects_v2(Bucket=known)
            mimicked.head_object(Bucket=known, Key="a")


def test_a_bucket_that_a_hooked_call_removes_is_gone(mimicked, known):
    mimicked.delete_object(Bucket=known, Key="a")
    mimicked.meta.events.register("before-call.s3.DeleteBucket", lambda **_: None)
    mimicked.delete_bucket(Bucket=known)
    with pytest.raises(ClientError, match="404"):
        mimicked.head_bucket(Bucket=known)


def test_a_tagging_of_what_others_have_deleted_shows_that_it_is_gone(
    library, mimicked, client, known
):
    client.delete_object(Bucket=known, Key="a")
    with pytest.raises(ClientError, match="NoSuchKey"):
        mimicked.put_object_tagging(Bucket=known, Key="a", Tagging=TAGGED)
    assert library.listing(known) == []


def test_a_copy_of_what_is_too_large_by_now_is_taken_in_parts_the_next_time(mimicked, proxy, known):
    """S3 copies up to 5 GB at once; what the mirror has is smaller."""
    refusing = Fail(lambda request: request.kind == "COPY", 400, "InvalidRequest")
    proxy.counted()
    with proxy.rule(refusing), pytest.raises(ClientError, match="InvalidRequest"):
        mimicked.copy({"Bucket": known, "Key": "a"}, known, "b")
    assert proxy.counted()["HEAD"] == 1


def test_a_lost_change_is_asked_about_by_a_store_without_intents(
    mimicked, proxy, known, library, monkeypatch
):
    """As somebody may write one."""
    monkeypatch.setattr(type(library.backend), "intents", False)
    with lost(proxy, "PUT"), pytest.raises(BotoCoreError):
        mimicked.put_object(Bucket=known, Key="a", Body=b"longer")
    assert mimicked.head_object(Bucket=known, Key="a")["ContentLength"] == 6


def test_a_copy_that_s3_may_make_late_is_looked_for_where_a_store_has_no_intents(
    library, mimicked, client, proxy, known, monkeypatch
):
    monkeypatch.setattr(type(library.backend), "intents", False)
    again = CONFIG.merge(Config(retries={"total_max_attempts": 2}))
    copying = library.client(endpoint_url=proxy.url, config=again)
    none = {"Bucket": known, "Key": "none"}
    with proxy.rule(Lose(lambda request: request.kind == "COPY")):
        with pytest.raises(ClientError, match="NoSuchKey"):
            copying.copy_object(Bucket=known, Key="b", CopySource=none)
    copying.close()
    client.put_object(Bucket=known, Key="b", Body=b"late")
    listed = mimicked.list_objects_v2(Bucket=known)["Contents"]
    assert [item["Key"] for item in listed] == ["a", "b"]
