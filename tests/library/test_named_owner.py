"""The owner of objects, whom ListObjects names: what is seen once is known to every program."""

from __future__ import annotations

import pytest
from support.clients import CONFIG
from support.mounts import costs

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
from mimicfs.s3.mimicking.accounts import NamedOwner

pytestmark = pytest.mark.slow


def owners(answer):
    return [(item["Key"], item.get("Owner")) for item in answer["Contents"]]


def test_each_program_knows_the_owner_of_objects_once_s3_has_named_it_to_one(
    library, mimicked, proxy, client, bucket
):
    for key in ("a", "d/b"):
        client.put_object(Bucket=bucket, Key=key)
    mimicked.list_objects(Bucket=bucket)
    later = library.client(endpoint_url=proxy.url, config=CONFIG)
    with costs(proxy):
        shown = owners(later.list_objects(Bucket=bucket))
    assert shown == owners(client.list_objects(Bucket=bucket))


def test_a_listing_without_objects_needs_no_owner(mimicked, proxy, bucket):
    mimicked.list_objects_v2(Bucket=bucket)
    with costs(proxy):
        assert "Contents" not in mimicked.list_objects(Bucket=bucket)


def named(*owners):
    return {"Contents": [{"Owner": {"ID": owner}} for owner in owners], "IsTruncated": False}


def test_objects_of_several_owners_have_none_until_a_whole_listing_names_one():
    owner = NamedOwner(MimicDB(Memory()))
    owner.named({"Bucket": "b"}, named("me", "me"))
    assert owner.of("b") == [{"ID": "me"}]
    owner.named({"Bucket": "b", "Prefix": "theirs/"}, named("them"))
    owner.named({"Bucket": "b", "Prefix": "mine/"}, named("me"))
    assert owner.of("b") == []
    owner.named({"Bucket": "b"}, named("me", "them"))
    assert owner.of("b") == []
    owner.named({"Bucket": "b"}, named("me"))
    assert owner.of("b") == [{"ID": "me"}]
