"""The owner of objects, whom ListObjects names: what is seen once is known to every program."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from support.clients import CONFIG
from support.mounts import costs

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
from mimicfs.backends.sqlite import SQLite
from mimicfs.errors import StoreUnavailable
from mimicfs.s3.mimicking.accounts import NamedOwner
from mimicfs.s3.mimicking.mimic import mimicking_of
from mimicfs.s3.mimicking.settling import Settling

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


def test_a_bucket_that_is_found_gone_and_made_again_has_owners_of_its_own(
    library, mimicked, client, bucket
):
    client.put_object(Bucket=bucket, Key="a")
    mimicked.list_objects(Bucket=bucket)
    mimicked.put_object(Bucket=bucket, Key="a")
    mimicked.list_objects(Bucket=bucket)
    owner = mimicking_of(mimicked)._local._owner
    assert owner._sure == {bucket}
    client.delete_object(Bucket=bucket, Key="a")
    client.delete_bucket(Bucket=bucket)
    with pytest.raises(ClientError):
        mimicked.head_bucket(Bucket=bucket)
    assert owner._sure == set()


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


def lists(owner, params, page):
    owner.named(params, page, owner.before("b"))


def test_objects_of_several_owners_have_none_until_a_whole_listing_names_one():
    owner = writer(MimicDB(Memory()), "me")
    lists(owner, {"Bucket": "b"}, named("me", "me"))
    assert owner.of("b") == ({"ID": "me"},)
    lists(owner, {"Bucket": "b", "Prefix": "theirs/"}, named("them"))
    lists(owner, {"Bucket": "b", "Prefix": "mine/"}, named("me"))
    assert owner.of("b") == ()
    lists(owner, {"Bucket": "b"}, named("me", "them"))
    assert owner.of("b") == ()
    lists(owner, {"Bucket": "b"}, named("me"))
    assert owner.of("b") == ({"ID": "me"},)


def test_what_another_account_writes_has_no_owner_until_s3_names_one():
    library = MimicDB(Memory())
    mine, theirs = writer(library, "me"), writer(library, "them")
    mine.wrote("b", "of me")
    assert mine.of("b") == ()
    lists(mine, {"Bucket": "b", "Prefix": "of me"}, named("me"))
    assert mine.of("b") == theirs.of("b") == ({"ID": "me"},)
    mine.wrote("b", "another")
    assert mine.of("b") == ({"ID": "me"},)
    theirs.wrote("b", "of them")
    assert mine.of("b") == theirs.of("b") == ()
    lists(mine, {"Bucket": "b", "Prefix": "of me"}, named("me"))
    assert mine.of("b") == ()  # nobody has seen theirs
    lists(theirs, {"Bucket": "b"}, named("me", "them"))
    assert mine.of("b") == theirs.of("b") == ()


def test_another_key_whose_objects_have_the_same_owner_is_asked_about_once():
    library = MimicDB(Memory())
    mine, role = writer(library, "me"), writer(library, "role")
    lists(mine, {"Bucket": "b"}, named("me"))
    role.wrote("b", "of me")
    assert mine.of("b") == ()
    lists(role, {"Bucket": "b", "Prefix": "of"}, named("me"))
    role.wrote("b", "more of me")
    again = writer(library, "role")
    again.wrote("b", "still more")
    assert mine.of("b") == again.of("b") == ({"ID": "me"},)


@pytest.mark.parametrize("params", [{"Bucket": "b"}, {"Bucket": "b", "Prefix": "of me"}])
def test_a_listing_that_was_asked_for_before_a_write_says_nothing_of_its_owner(params):
    library = MimicDB(Memory())
    mine, theirs = writer(library, "me"), writer(library, "them")
    lists(mine, {"Bucket": "b"}, named("me"))
    before = [(each, each.before("b")) for each in (mine, theirs)]
    theirs.wrote("b", "of me")  # S3 shows what was there until then
    for each, known in before:
        each.named(params, named("me"), known)
    assert mine.of("b") == theirs.of("b") == ()


@pytest.mark.parametrize("at", ["writing", "wrote", "failed"])
def test_a_listing_during_the_first_write_says_nothing_of_its_owner(at):
    """It may be of before the write, or there was none."""
    library = MimicDB(Memory())
    library.add_bucket("b", 1)
    mine, theirs = writer(library, "me"), writer(library, "them")
    lists(mine, {"Bucket": "b"}, named("me"))
    theirs.writes("b")
    assert mine.of("b") == ()
    before = mine.before("b")
    if at == "wrote":
        theirs.wrote("b", "of them")
    mine.named({"Bucket": "b"}, named("me"), before)
    if at == "failed":
        assert mine.of("b") == ({"ID": "me"},)
        theirs = writer(library, "them")
        theirs.writes("b")
    theirs.wrote("b", "of them")
    assert mine.of("b") == theirs.of("b") == ()


def test_a_write_is_noted_until_the_store_takes_it(monkeypatch):
    def away(*_):
        raise StoreUnavailable("no answer")

    library = MimicDB(Memory())
    library.add_bucket("b", 1)
    mine, theirs = writer(library, "me"), writer(library, "them")
    lists(mine, {"Bucket": "b"}, named("me"))
    for note in (theirs.writes, lambda bucket: theirs.wrote(bucket, "of them")):
        with monkeypatch.context() as patched:
            patched.setattr(library, "swap_note", away)
            with pytest.raises(StoreUnavailable):
                note("b")
    assert mine.of("b") == ({"ID": "me"},)
    theirs.wrote("b", "more of them")
    assert mine.of("b") == ()


def test_the_owner_of_a_write_is_unsure_before_s3_has_it(library, mimicked, client, bucket):
    """Whoever writes may die before the answer comes."""
    client.put_object(Bucket=bucket, Key="a")
    mimicked.list_objects(Bucket=bucket)
    assert len(writer(library, "any").of(bucket)) == 1
    noted = []
    mimicked.meta.events.register(
        "before-send.s3.PutObject",
        lambda **_: noted.append(writer(library, "any").of(bucket)),
    )
    mimicked.put_object(Bucket=bucket, Key="b")
    assert noted == [()]


def test_a_write_that_s3_refuses_changes_nothing_of_the_owners(
    library, mimicked, proxy, client, bucket
):
    client.put_object(Bucket=bucket, Key="a")
    mimicked.list_objects(Bucket=bucket)
    with pytest.raises(ClientError):
        mimicked.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "none"})
    with costs(proxy):
        shown = owners(mimicked.list_objects(Bucket=bucket))
    assert shown == owners(client.list_objects(Bucket=bucket))


def test_writers_without_end_are_several_owners():
    """The note is parsed at each ListObjects: roles have another key each hour."""
    library = MimicDB(Memory())
    for number in range(40):
        writer(library, f"role {number}").wrote("b", "a")
    assert len(library.note("b", "object-owner")) < 200
    mine = writer(library, "me")
    lists(mine, {"Bucket": "b", "Prefix": "of"}, named("me"))
    assert mine.of("b") == ()
    lists(mine, {"Bucket": "b"}, named("me"))
    assert mine.of("b") == ({"ID": "me"},)


@pytest.mark.parametrize("backend", [Memory, SQLite])
def test_a_bucket_of_which_nothing_is_believed_keeps_its_owners(backend):
    """Others who write into it have noted that, and do not again."""
    library = MimicDB(backend())
    library.add_bucket("b", 1)
    mine, theirs = writer(library, "me"), writer(library, "them")
    lists(mine, {"Bucket": "b"}, named("me"))
    theirs.wrote("b", "of them")
    Settling(library, None, None, lambda _: False)._forget_bucket("b")
    theirs.wrote("b", "more of them")
    lists(mine, {"Bucket": "b", "Prefix": "of me"}, named("me"))
    assert mine.of("b") == ()
    lists(mine, {"Bucket": "b"}, named("me", "them"))
    Settling(library, None, None, lambda _: False)._forget_bucket("b")
    lists(mine, {"Bucket": "b", "Prefix": "of me"}, named("me"))
    assert mine.of("b") == ()


def test_whoever_writes_into_a_bucket_that_is_made_again_is_asked_about_again():
    library = MimicDB(Memory())
    mine, theirs = writer(library, "me"), writer(library, "them")
    library.add_bucket("b", 1)
    mine.wrote("b", "of me")
    lists(mine, {"Bucket": "b"}, named("me"))
    mine.gone("b")
    library.drop_bucket("b")
    library.add_bucket("b", 2)
    lists(theirs, {"Bucket": "b"}, named("them"))
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
