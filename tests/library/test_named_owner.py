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


class Account:
    """One access key."""

    def __init__(self, key):
        self.key = lambda: key


def writer(library, key):
    return NamedOwner(library, Account(key))


def named(*owners):
    """A page: the keys are those of the owners, and S3 calls an owner as its access key here."""
    items = [{"Key": f"of {owner}", "Owner": {"ID": owner}} for owner in owners]
    return {"Contents": items, "IsTruncated": False}


def test_objects_of_several_owners_have_none_until_a_whole_listing_names_one():
    owner = writer(MimicDB(Memory()), "me")
    owner.named({"Bucket": "b"}, named("me", "me"))
    assert owner.of("b") == ({"ID": "me"},)
    owner.named({"Bucket": "b", "Prefix": "theirs/"}, named("them"))
    owner.named({"Bucket": "b", "Prefix": "mine/"}, named("me"))
    assert owner.of("b") == ()
    owner.named({"Bucket": "b"}, named("me", "them"))
    assert owner.of("b") == ()
    owner.named({"Bucket": "b"}, named("me"))
    assert owner.of("b") == ({"ID": "me"},)


def test_what_another_account_writes_has_no_owner_until_s3_names_one():
    library = MimicDB(Memory())
    mine, theirs = writer(library, "me"), writer(library, "them")
    mine.wrote("b", "of me")
    assert mine.of("b") == ()
    mine.named({"Bucket": "b", "Prefix": "of me"}, named("me"))
    assert mine.of("b") == theirs.of("b") == ({"ID": "me"},)
    mine.wrote("b", "another")
    assert mine.of("b") == ({"ID": "me"},)
    theirs.wrote("b", "of them")
    assert mine.of("b") == theirs.of("b") == ()
    mine.named({"Bucket": "b", "Prefix": "of me"}, named("me"))
    assert mine.of("b") == ()  # nobody has seen theirs
    theirs.named({"Bucket": "b"}, named("me", "them"))
    assert mine.of("b") == theirs.of("b") == ()


def test_another_key_whose_objects_have_the_same_owner_is_asked_about_once():
    library = MimicDB(Memory())
    mine, role = writer(library, "me"), writer(library, "role")
    mine.named({"Bucket": "b"}, named("me"))
    role.wrote("b", "of me")
    assert mine.of("b") == ()
    role.named({"Bucket": "b", "Prefix": "of"}, named("me"))
    role.wrote("b", "more of me")
    again = writer(library, "role")
    again.wrote("b", "still more")
    assert mine.of("b") == again.of("b") == ({"ID": "me"},)


def test_who_writes_into_a_bucket_that_is_made_again_is_asked_about_again():
    library = MimicDB(Memory())
    mine, theirs = writer(library, "me"), writer(library, "them")
    library.add_bucket("b", 1)
    mine.wrote("b", "of me")
    mine.named({"Bucket": "b"}, named("me"))
    mine.gone("b")
    library.drop_bucket("b")
    library.add_bucket("b", 2)
    theirs.named({"Bucket": "b"}, named("them"))
    assert mine.of("b") == ({"ID": "them"},)
    mine.wrote("b", "of me")
    assert mine.of("b") == ()


def test_the_first_listing_after_the_first_write_of_a_program_names_the_owner(
    library, mimicked, proxy, client, bucket
):
    client.put_object(Bucket=bucket, Key="a")
    mimicked.list_objects(Bucket=bucket)
    mimicked.put_object(Bucket=bucket, Key="b")
    with costs(proxy, LIST=1):
        assert owners(mimicked.list_objects(Bucket=bucket)) == owners(
            client.list_objects(Bucket=bucket)
        )
    mimicked.put_object(Bucket=bucket, Key="c")
    with costs(proxy):
        shown = owners(mimicked.list_objects(Bucket=bucket))
    assert shown == owners(client.list_objects(Bucket=bucket))
