"""The values that boto programs give and get: text, MD5s, versions, prefixes, and names of
modules."""

from __future__ import annotations

import io
import sqlite3

import pytest
from support.mounts import costs

import mimicfs.s3
from mimicfs.backends.sqlite import SQLite
from mimicfs.exception import BotoClientError, S3ResponseError
from mimicfs.s3 import bucketlistresultset, deletemarker, multidelete, user
from mimicfs.s3.cors import CORSConfiguration
from mimicfs.s3.key import Key
from mimicfs.s3.lifecycle import Lifecycle, Transition
from mimicfs.s3.tagging import Tags, TagSet

moto_only = pytest.mark.parametrize("place", ["moto SQLite", "moto memory"], indirect=True)


@pytest.fixture
def mine(conn, bucket):
    return conn.get_bucket(bucket)


@moto_only
def test_text_is_stored_in_utf_8(mine, client, bucket, tmp_path):
    (tmp_path / "a.txt").write_text("blå\n", encoding="utf-8")
    with open(tmp_path / "a.txt", encoding="utf-8") as file:
        assert mine.new_key("file").set_contents_from_file(file) == 5
    key = mine.new_key("string")
    assert key.set_contents_from_file(io.StringIO("blå\n")) == 5
    assert key.md5 == "ba90ad6b0ba20bc33efe046be37c09cd"
    mine.new_key("stream").set_contents_from_stream(io.StringIO("blå\n"))
    upload = mine.initiate_multipart_upload("part")
    upload.upload_part_from_file(io.StringIO("blå\n"), 1)
    upload.complete_upload()
    for name in ("file", "string", "stream", "part"):
        assert client.get_object(Bucket=bucket, Key=name)["Body"].read() == b"bl\xc3\xa5\n"


@moto_only
def test_text_begins_where_the_file_stands(mine):
    text = io.StringIO("one two")
    text.seek(4)
    assert mine.new_key("a").compute_md5(text)[0] == "b8a9f715dbb64fd5c56e7783c6820a61"
    assert mine.new_key("a").set_contents_from_file(text) == 3
    assert mine.get_key("a").get_contents_as_string() == b"two"
    with pytest.raises(AttributeError, match="the file is at its end"):
        mine.new_key("a").set_contents_from_file(text)


@moto_only
def test_a_key_has_the_md5_that_its_etag_says(mine, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"hello")
    hello = "5d41402abc4b2a76b9719d911017c592"
    assert mine.get_key("a").md5 == hello
    assert [key.md5 for key in mine.list()] == [hello]
    key = mine.new_key("a")
    assert key.get_contents_as_string() == b"hello"
    assert key.md5 == hello
    upload = mine.initiate_multipart_upload("parts")
    upload.upload_part_from_file(io.BytesIO(b"hello"), 1)
    upload.complete_upload()
    assert mine.get_key("parts", force=True).md5 is None


def test_a_bucket_from_the_mirror_says_when_it_was_made(conn, proxy, bucket):
    said = {each.name: each.creation_date for each in conn.get_all_buckets(force=True)}
    conn.sync()
    proxy.counted()
    with costs(proxy):
        known = {each.name: each.creation_date for each in conn.get_all_buckets()}
    assert known[bucket] == said[bucket]
    conn.get_bucket(bucket, force=True)
    assert {each.name: each.creation_date for each in conn.get_all_buckets()} == known


def test_a_key_that_is_made_has_the_size_of_the_mirror(conn, proxy, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"hello")
    conn.sync(bucket)
    mine = conn.get_bucket(bucket, validate=False)
    with costs(proxy):
        key = Key(mine, "a")
        assert (key.size, key.etag) == (5, '"5d41402abc4b2a76b9719d911017c592"')
        assert (Key(mine, "nothing").size, Key(mine, "nothing").md5) == (None, None)
        assert Key().size is None


@moto_only
def test_the_version_of_a_key_is_copied(conn, mine, bucket):
    mine.configure_versioning(True)
    key = mine.new_key("a")
    key.set_contents_from_string("one")
    first = key.version_id
    key.set_contents_from_string("two")
    mine.get_key("a", version_id=first).copy(mine, "copy")
    assert mine.get_key("copy").get_contents_as_string() == b"one"
    mine.get_key("a").copy(bucket, "copy")
    assert mine.get_key("copy").get_contents_as_string() == b"two"


@moto_only
def test_a_key_has_its_version_whatever_the_mirror_holds(conn, mine, bucket):
    """Its deletion removes that version; it makes no marker."""
    mine.configure_versioning(True)
    stored = mine.new_key("a")
    stored.set_contents_from_string("one")
    conn.sync(bucket)
    key = mine.get_key("a")
    assert key.version_id == stored.version_id
    key.delete()
    assert list(mine.list_versions()) == []


@moto_only
def test_a_key_without_a_name_has_none_until_its_content_names_it(mine, client, bucket):
    key = Key(mine)
    assert (key.name, key.key, repr(key)) == (None, None, f"<Key: {bucket},None>")
    for refused in (key.exists, key.delete):
        with pytest.raises(ValueError, match="a key must have a name"):
            refused()
    with pytest.raises(BotoClientError, match="the key has no name"):
        key.set_contents_from_stream(io.BytesIO(b"blue"))
    assert key.set_contents_from_string("blue", replace=False) == 4
    assert key.name == "48d6215903dff56238e52e8891380c8f"
    assert client.get_object(Bucket=bucket, Key=key.name)["Body"].read() == b"blue"
    assert Key(mine).set_contents_from_string("blue", replace=False) is None


def test_prefixes_are_not_deleted(mine, client, bucket):
    for name in ("a", "d/b"):
        client.put_object(Bucket=bucket, Key=name, Body=b"x")
    result = mine.delete_keys([*mine.list(delimiter="/"), 5])
    assert [deleted.key for deleted in result.deleted] == ["a"]
    assert [(error.key, error.code) for error in result.errors] == [
        ("d/", "PrefixSkipped"),
        ("5", "InvalidArgument"),
    ]
    assert [key.name for key in mine.list()] == ["d/b"]


@moto_only
def test_a_download_comes_in_pieces_of_buffer_size(mine):
    mine.new_key("a").set_contents_from_string("x" * 10_000)
    sizes = []

    class Sizes(io.BytesIO):
        def write(self, data):
            sizes.append(len(data))
            return super().write(data)

    key = mine.get_key("a")
    key.BufferSize = 4000
    key.get_contents_to_file(Sizes())
    assert sizes == [4000, 4000, 2000]


@moto_only
def test_metadata_that_is_not_ascii_is_percent_encoded(mine, client, bucket):
    key = mine.new_key("a")
    key.set_metadata("name", "blå bær, 100%")
    key.set_metadata("X-Robots-Tag", "noindex")
    key.set_metadata("Content-Disposition", "filename=Bär.txt")
    key.set_contents_from_string("x", headers={"Cache-Control": "é"})
    stored = client.head_object(Bucket=bucket, Key="a")
    assert stored["Metadata"] == {"name": "bl%C3%A5 b%C3%A6r, 100%"}
    assert stored["ContentDisposition"] == "filename=B%C3%A4r.txt"
    assert stored["CacheControl"] == "%C3%A9"
    assert mine.get_key("a", force=True).get_metadata("name") == "blå bær, 100%"


def test_a_bucket_that_is_missing_cannot_be_synced(conn):
    with pytest.raises(S3ResponseError) as exc:
        conn.sync("no-such-bucket-here")
    assert (exc.value.status, exc.value.error_code) == (404, "NoSuchBucket")


def test_sqlite_takes_the_parameters_of_connect(tmp_path):
    path = str(tmp_path / "x.db")
    for backend in (
        SQLite(database=path),
        SQLite(path, 0.25, 0, None, False, sqlite3.Connection, 100, False),
        SQLite(path, timeout=5.0, cached_statements=10),
        SQLite(f"file:{path}", uri=True),
    ):
        backend.close()
    assert (tmp_path / "x.db").exists()
    assert not (tmp_path / f"file:{path}").exists()


@moto_only
def test_what_is_set_for_a_bucket_comes_back_in_botos_classes(mine):
    tags = TagSet()
    tags.add_tag("a", "<1>")
    assert mine.set_tags(Tags([tags]))
    assert [[(it.key, it.value) for it in found] for found in mine.get_tags()] == [[("a", "<1>")]]
    cors = CORSConfiguration()
    cors.add_rule(["GET", "PUT"], "https://x.org", allowed_header="*", max_age_seconds=9)
    mine.set_cors(cors)
    (rule,) = mine.get_cors()
    assert (rule.allowed_method, rule.allowed_origin) == (["GET", "PUT"], ["https://x.org"])
    assert (rule.allowed_header, rule.max_age_seconds) == (["*"], 9)
    lifecycle = Lifecycle()
    lifecycle.add_rule("old", "d/", expiration=30, transition=Transition(7, None, "GLACIER"))
    mine.configure_lifecycle(lifecycle)
    (kept,) = mine.get_lifecycle_config()
    assert (kept.id, kept.prefix, kept.expiration.days) == ("old", "d/", 30)
    assert (kept.transition.days, kept.transition.storage_class) == (7, "GLACIER")
    mine.configure_website("index.html")
    website = {"IndexDocument": {"Suffix": "index.html"}}
    assert mine.get_website_configuration() == {"WebsiteConfiguration": website}
    assert mine.get_logging_status().target is None
    mine.add_user_grant("READ", "0123456789abcdef")
    assert [it.id for it in mine.list_grants()][-1] == "0123456789abcdef"
    with pytest.raises(S3ResponseError, match="MalformedXML"):
        mine.set_xml_tags("<Tagging><Nothing/></Tagging>")


@moto_only
def test_text_is_stored_part_by_part_and_progress_is_told_by_the_buffer(mine):
    text = io.StringIO("0123456789")
    key = mine.new_key("k")
    key.set_contents_from_file(text, size=4)
    assert (text.tell(), key.get_contents_as_string()) == (4, b"0123")
    told = []
    key.BufferSize = 2
    key.set_contents_from_string("01234567", cb=lambda done, _: told.append(done), num_cb=-1)
    assert told == [0, 2, 4, 6, 8]


def test_modules_and_functions_are_where_boto_has_them(library_store):
    assert bucketlistresultset.BucketListResultSet.__name__ == "BucketListResultSet"
    assert deletemarker.DeleteMarker.__name__ == "DeleteMarker"
    assert multidelete.MultiDeleteResult.__name__ == "MultiDeleteResult"
    assert user.User(id="me").id == "me"
    conn = mimicfs.s3.connect_to_region(
        "eu-west-1",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="x",
        mimicdb=library_store,
    )
    assert conn.client.meta.region_name == "eu-west-1"
    assert conn.host == "s3-eu-west-1.amazonaws.com"  # as boto writes it
    assert conn.client.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    conn.close()
