"""boto programs run with only their imports changed; what the mirror knows costs nothing."""

from __future__ import annotations

import base64
import io
import math
import os
import urllib.request

import pytest
from support.mounts import costs

from mimicfs.exception import S3CreateError, S3DataError, S3ResponseError
from mimicfs.s3.connection import S3Connection
from mimicfs.s3.key import Key
from mimicfs.s3.prefix import Prefix
from mimicfs.s3.progress import CallbackProgress, CountedBody, LimitedStream

pytestmark = pytest.mark.slow

moto_only = pytest.mark.parametrize("place", ["moto SQLite", "moto memory"], indirect=True)


def put(client, bucket, *keys):
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())


def test_store_and_read_back(conn, proxy, bucket, tmp_path):
    key = Key(conn.get_bucket(bucket))
    key.key = "d/foobar"
    with costs(proxy, PUT=1):
        assert key.set_contents_from_string("This is a test of S3") == 20
    assert key.get_contents_as_string() == b"This is a test of S3"
    assert key.get_contents_as_string(encoding="utf-8") == "This is a test of S3"
    assert key.md5 == key.etag.strip('"')
    path = tmp_path / "foo.txt"
    path.write_bytes(os.urandom(70_000))
    assert key.set_contents_from_filename(str(path)) == 70_000
    assert key.content_type == "text/plain"
    key.get_contents_to_filename(str(tmp_path / "bar"))
    assert (tmp_path / "bar").read_bytes() == path.read_bytes()
    assert b"".join(key) == path.read_bytes()
    key.open_read()
    assert key.read(10) + key.read() == path.read_bytes()
    assert key.read(4) == b""
    assert key.read(4) == path.read_bytes()[:4]
    key.close()
    with open(path, "rb") as file:
        file.seek(60_000)
        assert key.set_contents_from_file(file, size=5) == 5
        assert file.tell() in (60_005, 70_000)
    assert (
        key.get_contents_as_string(headers={"Range": "bytes=1-2"})
        == path.read_bytes()[60_001:60_003]
    )
    assert key.set_contents_from_string("no", replace=False) is None
    key.set_contents_from_stream(io.BytesIO(b"streamed"))
    assert key.get_contents_as_string() == b"streamed"


def test_bodies_are_read_as_awscrt_reads_them():
    """botocore signs with it where it is installed."""
    counted = CountedBody(io.BytesIO(b"12345"), CallbackProgress(None, 0, 5))
    for body in (counted, LimitedStream(io.BytesIO(b"12345"), None)):
        buffer = bytearray(3)
        sizes = [body.readinto(buffer) for _ in range(3)]
        assert (sizes, buffer) == ([3, 2, 0], b"453")


@moto_only
def test_a_program_is_told_how_far_a_transfer_is(conn, bucket):
    """As boto 2.49 tells it: up to num_cb times; and always when all is done."""
    mine = conn.get_bucket(bucket)
    body = bytes(100_000)

    def up(num_cb, told):
        key = mine.new_key("a")
        key.set_contents_from_string(body, cb=lambda *it: told.append(it), num_cb=num_cb)

    def down(num_cb, told):
        key = mine.get_key("a")
        key.get_contents_to_file(io.BytesIO(), cb=lambda *it: told.append(it), num_cb=num_cb)

    for transfer in (up, down):
        for num_cb, steps in ((0, []), (1, []), (2, []), (5, [32768, 65536, 98304])):
            told = []
            transfer(num_cb, told)
            assert told == [(done, 100_000) for done in (0, *steps, 100_000)]
        told = []
        transfer(-1, told)
        assert told == [(done, 100_000) for done in (*range(0, 100_000, 8192), 100_000)]
    told = []
    mine.new_key("none").set_contents_from_string("", cb=lambda *it: told.append(it))
    assert told == [(0, 0)]


@moto_only
def test_a_stream_is_stored_without_its_size(conn, bucket):
    class Pipe(io.RawIOBase):
        """Cannot be rewound, and gives a little at a time."""

        def __init__(self, size):
            self.left = size

        def readable(self):
            return True

        def read(self, size=-1):
            size = min(self.left, 60_000) if size < 0 else min(size, self.left, 60_000)
            self.left -= size
            return b"x" * size

    mine, told = conn.get_bucket(bucket), []
    key = mine.new_key("a")
    key.set_contents_from_stream(
        Pipe(3_000_000), cb=lambda *it: told.append(it), reduced_redundancy=True
    )
    assert (told[0], told[-1]) == ((0, 0), (3_000_000, 0))
    assert told == sorted(told)
    stored = mine.get_key("a", force=True)
    assert (stored.size, stored.storage_class) == (3_000_000, "REDUCED_REDUNDANCY")
    pipe = Pipe(3_000_000)
    key.set_contents_from_stream(pipe, size=1_000_000)
    assert mine.get_key("a").size == 1_000_000
    assert pipe.left == 2_000_000
    assert key.set_contents_from_stream(Pipe(1), replace=False) is None
    assert mine.get_key("a").size == 1_000_000


@moto_only
def test_what_s3_got_is_compared_with_what_was_sent(conn, bucket):
    mine = conn.get_bucket(bucket)
    wrong = ("0" * 32, base64.b64encode(bytes(16)).decode())
    with pytest.raises(S3DataError, match=r"s3://.*/a: ETag 5d41402abc4b2a76b9719d911017c592"):
        mine.new_key("a").set_contents_from_string("hello", md5=wrong)
    upload = mine.initiate_multipart_upload("b")
    with pytest.raises(S3DataError, match=r"s3://.*/b: ETag 5d41402abc4b2a76b9719d911017c592"):
        upload.upload_part_from_file(io.BytesIO(b"hello"), 1, md5=wrong)
    told = []
    part = upload.upload_part_from_file(
        io.BytesIO(b"hello, world"), 1, size=5, cb=lambda *it: told.append(it)
    )
    assert (part.size, part.md5) == (5, "5d41402abc4b2a76b9719d911017c592")
    assert part.base64md5 == "XUFAKrxLKna5cZ2REBfFkg=="
    assert told == [(0, 5), (5, 5)]
    upload.complete_upload()
    assert mine.get_key("b").get_contents_as_string() == b"hello"


@moto_only
def test_a_key_without_a_name_gets_that_of_its_content(conn, bucket):
    mine = conn.get_bucket(bucket)
    key = Key(mine)
    key.set_contents_from_string("hello")
    assert key.name == "5d41402abc4b2a76b9719d911017c592"
    assert key.content_type == "application/octet-stream"
    assert mine.get_key(key.name).delete().name == key.name
    assert mine.get_key(key.name) is None


def test_a_file_is_stored_piece_by_piece_from_where_it_stands(conn, bucket):
    mine = conn.get_bucket(bucket)
    file = io.BytesIO(b"0123456789")
    assert mine.new_key("a").set_contents_from_file(file, size=5) == 5
    assert mine.new_key("b").set_contents_from_file(file, size=5) == 5
    assert mine.get_key("a").get_contents_as_string() == b"01234"
    assert mine.get_key("b").get_contents_as_string() == b"56789"


def test_a_file_at_its_end_does_not_replace_an_object_by_nothing(conn, bucket):
    mine = conn.get_bucket(bucket)
    file = io.BytesIO(b"0123456789")
    mine.new_key("a").set_contents_from_file(file)
    with pytest.raises(AttributeError, match="at its end; pass rewind=True"):
        mine.new_key("a").set_contents_from_file(file)
    assert mine.get_key("a").get_contents_as_string() == b"0123456789"
    assert mine.new_key("a").set_contents_from_file(file, rewind=True) == 10
    assert mine.new_key("empty").set_contents_from_file(io.BytesIO()) == 0


def test_the_type_that_was_set_is_not_guessed_from_a_name(conn, client, bucket, tmp_path):
    (tmp_path / "page.html").write_text("<p>")
    key = conn.get_bucket(bucket).new_key("page")
    key.set_metadata("Content-Type", "text/x-template")
    key.set_contents_from_filename(str(tmp_path / "page.html"))
    assert client.head_object(Bucket=bucket, Key="page")["ContentType"] == "text/x-template"


@moto_only  # rclone stores no other headers
def test_headers_among_metadata_are_stored_as_headers(conn, client, bucket):
    mine = conn.get_bucket(bucket)
    headers = {"Content-Type": "text/css", "Cache-Control": "no-cache", "by": "us"}
    mine.new_key("a").set_contents_from_string("x")
    mine.copy_key("copy", bucket, "a", metadata=headers)
    mine.get_key("a").copy(bucket, "copied", metadata=headers)
    upload = mine.initiate_multipart_upload("parts", metadata=headers)
    upload.upload_part_from_file(io.BytesIO(b"x"), 1)
    upload.complete_upload()
    key = mine.new_key("set")
    key.metadata = headers
    key.set_contents_from_string("x")
    for name in ("copy", "copied", "parts", "set"):
        stored = client.head_object(Bucket=bucket, Key=name)
        assert stored["ContentType"] == "text/css"
        assert stored["CacheControl"] == "no-cache"
        assert stored["Metadata"] == {"by": "us"}


@moto_only
def test_a_time_of_expiry_is_a_header(conn, client, bucket):
    key = conn.get_bucket(bucket).new_key("a")
    key.set_metadata("Expires", "Thu, 01 Jan 2032 00:00:00 GMT")
    key.set_contents_from_string("x")
    stored = client.head_object(Bucket=bucket, Key="a")
    assert stored["ResponseMetadata"]["HTTPHeaders"]["expires"] == "Thu, 01 Jan 2032 00:00:00 GMT"
    assert stored["Metadata"] == {}


def test_a_key_that_was_got_keeps_what_was_stored_with_it(conn, proxy, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"x", ContentType="text/x", Metadata={"k": "v"})
    conn.sync(bucket)
    key = conn.get_bucket(bucket, validate=False).get_key("a")
    with costs(proxy, HEAD=1, PUT=1):
        key.set_contents_from_string("other")
    stored = client.head_object(Bucket=bucket, Key="a")
    assert stored["ContentType"] == "text/x"
    assert {name.lower(): value for name, value in stored["Metadata"].items()} == {"k": "v"}


def test_what_must_not_be_replaced_is_looked_for_in_s3(conn, client, bucket):
    conn.sync(bucket)
    put(client, bucket, "a")  # the mirror does not know
    assert conn.get_bucket(bucket).new_key("a").set_contents_from_string("x", replace=False) is None
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"a"


def test_a_proxy_and_the_region_of_a_host_are_used(library_store):
    conn = S3Connection(
        "key",
        "secret",
        proxy="proxy.example",
        proxy_port=8080,
        proxy_user="me",
        proxy_pass="p@ss",
        host="s3-eu-west-1.amazonaws.com",
        mimicdb=library_store,
    )
    proxies = conn.client.meta.config.proxies
    assert proxies["https"] == "http://me:p%40ss@proxy.example:8080"
    assert conn.client.meta.region_name == "eu-west-1"
    assert conn.client.meta.endpoint_url == "https://s3-eu-west-1.amazonaws.com"
    conn.close()


def test_a_name_that_no_bucket_can_have_is_not_there(conn):
    assert conn.lookup("Not_A Bucket!") is None


def test_metadata_is_stored_and_found(conn, proxy, client, bucket):
    mine = conn.get_bucket(bucket)
    key = mine.new_key("photo")
    key.set_metadata("meta1", "the first")
    key.set_metadata("Content-Type", "image/jpeg")
    key.update_metadata({"Owner": "me", "Cache-Control": "no-cache"})
    key.set_contents_from_string("x", headers={"x-amz-meta-more": "1"})
    stored = client.head_object(Bucket=bucket, Key="photo")
    assert {name.lower(): value for name, value in stored["Metadata"].items()} == {
        "meta1": "the first",
        "owner": "me",
        "more": "1",
    }
    found = mine.get_key("photo", force=True)
    assert found.get_metadata("META1") == "the first"
    assert (found.content_type, found.cache_control) == ("image/jpeg", "no-cache")
    with costs(proxy):
        again = mine.get_key("photo")
        assert again.metadata == {"meta1": "the first", "owner": "me", "more": "1"}
        assert again.last_modified == found.last_modified


def test_what_the_mirror_does_not_know_of_a_key_is_asked_when_it_is_read(
    conn, proxy, client, bucket
):
    client.put_object(Bucket=bucket, Key="a", Body=b"x", ContentType="text/x", Metadata={"k": "v"})
    conn.sync(bucket)
    with costs(proxy):
        (key,) = conn.get_bucket(bucket, validate=False).list()
        assert (key.size, key.etag[0], key.storage_class) == (1, '"', "STANDARD")
    with costs(proxy, HEAD=1):
        assert key.content_type == "text/x"
        assert key.get_metadata("k") == "v"


def test_walking_a_tree(conn, proxy, client, bucket):
    put(
        client, bucket, "a", "photos/2001/1", "photos/2001/2", "photos/2002/1", "photos/readme", "z"
    )
    conn.sync(bucket)
    mine = conn.get_bucket(bucket, validate=False)

    def walk(prefix):
        for item in mine.list(prefix=prefix, delimiter="/"):
            if isinstance(item, Prefix):
                yield from walk(item.name)
            else:
                yield item.name

    with costs(proxy):
        assert list(walk("")) == [
            "a",
            "z",
            "photos/readme",
            "photos/2001/1",
            "photos/2001/2",
            "photos/2002/1",
        ]
        page = mine.get_all_keys(max_keys=2)
        assert [key.name for key in page] == ["a", "photos/2001/1"]
        assert page.is_truncated
        page = mine.get_all_keys(max_keys=2, marker="photos/2001/1")
        assert [key.name for key in page] == ["photos/2001/2", "photos/2002/1"]
        tops = mine.get_all_keys(delimiter="/", max_keys=2)
        assert [item.name for item in tops] == ["a", "photos/"]
        assert tops.next_marker == "photos/"
        rest = mine.get_all_keys(delimiter="/", marker=tops.next_marker)
        assert [item.name for item in rest] == ["z"]


def test_a_backup_uploads_only_what_changed(conn, proxy, bucket, tmp_path):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    conn.sync(bucket)
    mine = conn.get_bucket(bucket, validate=False)

    def backup():
        sent = []
        for path in sorted(tmp_path.glob("*.txt")):
            key = mine.get_key(path.name)
            with open(path, "rb") as file:
                md5 = Key(mine, path.name).compute_md5(file)
            if key is None or key.etag.strip('"') != md5[0]:
                Key(mine, path.name).set_contents_from_filename(str(path), md5=md5)
                sent.append(path.name)
        return sent

    with costs(proxy, PUT=3):
        assert backup() == ["a.txt", "b.txt", "c.txt"]
    with costs(proxy):
        assert backup() == []
    (tmp_path / "b.txt").write_text("other")
    with costs(proxy, PUT=1):
        assert backup() == ["b.txt"]


def test_copies(conn, proxy, client, bucket):
    client.put_object(Bucket=bucket, Key="from", Body=b"xyz", Metadata={"k": "v"})
    mine = conn.get_bucket(bucket)
    copied = mine.get_key("from").copy(bucket, "to")
    assert copied.get_contents_as_string() == b"xyz"
    assert mine.get_key("to").get_metadata("k") == "v"
    with pytest.raises(S3ResponseError) as exc:
        mine.copy_key("x", bucket, "nothing")
    assert (exc.value.status, exc.value.error_code) == (404, "NoSuchKey")


@moto_only  # rclone adds to the metadata instead of replacing it
def test_a_copy_can_have_other_metadata(conn, client, bucket):
    client.put_object(Bucket=bucket, Key="from", Body=b"xyz", Metadata={"k": "v"})
    mine = conn.get_bucket(bucket)
    mine.copy_key("again", bucket, "from", metadata={"other": "1"})
    assert mine.get_key("again", force=True).metadata == {"other": "1"}


def test_deletions(conn, proxy, client, bucket):
    put(client, bucket, "a", "b", "c", "d")
    conn.sync(bucket)
    mine = conn.get_bucket(bucket, validate=False)
    mine.get_key("a").delete()
    mine.delete_key("nothing")
    result = mine.delete_keys([mine.get_key("b"), "c", ("d", None)])
    assert sorted(item.key for item in result.deleted) == ["b", "c", "d"]
    assert result.errors == []
    proxy.counted()
    with costs(proxy):
        assert list(mine.list()) == []
        assert not Key(mine, "a").exists()
    mine.delete()
    assert bucket not in conn


def test_a_multipart_upload_in_chunks_of_a_file(conn, proxy, client, bucket, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(12 << 20))
    size, chunk = path.stat().st_size, 5 << 20
    upload = conn.get_bucket(bucket).initiate_multipart_upload("large", metadata={"k": "v"})
    with open(path, "rb") as file:
        for number in range(math.ceil(size / chunk)):
            file.seek(number * chunk)
            part = upload.upload_part_from_file(
                file, part_num=number + 1, size=min(chunk, size - number * chunk)
            )
            assert part.size == min(chunk, size - number * chunk)
    assert [part.part_number for part in upload] == [1, 2, 3]
    done = upload.complete_upload()
    assert done.key_name == "large"
    key = conn.get_bucket(bucket).get_key("large")
    assert key.size == size
    assert key.get_contents_as_string() == path.read_bytes()


@moto_only
def test_an_upload_that_is_given_up_leaves_nothing(conn, bucket):
    mine = conn.get_bucket(bucket)
    upload = mine.initiate_multipart_upload("large")
    upload.upload_part_from_file(io.BytesIO(b"x"), 1)
    assert [it.key_name for it in mine.list_multipart_uploads()] == ["large"]
    upload.cancel_upload()
    assert list(mine.list_multipart_uploads()) == []
    assert mine.get_key("large", force=True) is None


@moto_only
def test_versions(conn, bucket):
    mine = conn.get_bucket(bucket)
    assert mine.get_versioning_status() == {}
    mine.configure_versioning(True)
    assert mine.get_versioning_status() == {"Versioning": "Enabled"}
    key = mine.new_key("a")
    key.set_contents_from_string("one")
    first = key.version_id
    key.set_contents_from_string("two")
    assert mine.get_key("a", version_id=first).get_contents_as_string() == b"one"
    mine.delete_key("a")
    assert mine.get_key("a") is None
    found = list(mine.list_versions())
    assert [type(item).__name__ for item in found].count("DeleteMarker") == 1
    assert len(found) == 3
    mine.delete_keys(found)
    assert list(mine.list_versions()) == []


@moto_only
def test_a_static_site_is_published(conn, bucket):
    mine = conn.get_bucket(bucket)
    key = mine.new_key("index.html")
    key.set_contents_from_string("<p>", headers={"Content-Type": "text/html"}, policy="public-read")
    url = key.generate_url(60)
    with urllib.request.urlopen(url) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"<p>", "text/html")
    plain = key.generate_url(60, query_auth=False)
    assert plain.endswith(f"/{bucket}/index.html")
    key.set_remote_metadata({"Cache-Control": "max-age=60", "by": "us"}, [], preserve_acl=True)
    found = mine.get_key("index.html", force=True)
    assert (found.cache_control, found.content_type) == ("max-age=60", "text/html")
    found.change_storage_class("STANDARD_IA")
    assert mine.get_key("index.html", force=True).storage_class == "STANDARD_IA"
    mine.make_public(recursive=True)


@moto_only
def test_a_bucket_that_another_has_cannot_be_made(conn, client, bucket):
    assert conn.create_bucket(f"{bucket}-mine").get_location() == ""
    client.create_bucket(
        Bucket=f"{bucket}-x", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    with pytest.raises(S3CreateError) as exc:
        conn.create_bucket(f"{bucket}-x", location="eu-west-1")
    assert exc.value.status == 409


def test_errors_say_what_s3_said(conn, bucket):
    with pytest.raises(S3ResponseError) as exc:
        Key(conn.get_bucket(bucket), "nothing").get_contents_as_string()
    assert (exc.value.status, exc.value.error_code) == (404, "NoSuchKey")
    assert str(exc.value).startswith("S3ResponseError: 404 Not Found\n<?xml")
    with pytest.raises(S3ResponseError):
        conn.get_bucket(f"{bucket}-none", validate=False).get_all_keys()


def test_a_file_that_was_not_downloaded_is_removed(conn, bucket, tmp_path):
    with pytest.raises(S3ResponseError):
        Key(conn.get_bucket(bucket), "nothing").get_contents_to_filename(str(tmp_path / "file"))
    assert not (tmp_path / "file").exists()
