"""Answers that leave out what S3 says are a mimicked client's as they are a plain one's."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError
from support.clients import plain
from support.proxy import Replace

from mimicfs.s3.mimicking.shown import date_ns

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]

BUCKETS = b"<ListAllMyBucketsResult><Owner><ID>x</ID></Owner>%s</ListAllMyBucketsResult>"
OBJECTS = b"""<ListBucketResult><IsTruncated>false</IsTruncated>
<Contents><Key>a</Key>%s</Contents></ListBucketResult>"""


def answer(client, operation, params):
    try:
        found = client._make_api_call(operation, dict(params))
    except ClientError as exc:
        found = exc.response
    found.pop("ResponseMetadata")
    return found


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("ListBuckets", BUCKETS % b""),
        ("ListBuckets", BUCKETS % b"<Buckets><Bucket><Name>other</Name></Bucket></Buckets>"),
        ("ListObjectsV2", OBJECTS % b"<Size>1</Size>"),
        ("ListObjectsV2", OBJECTS % b"<LastModified>2026-11-28T00:00:00.000Z</LastModified>"),
        ("ListObjects", OBJECTS % b""),
    ],
)
def test_a_listing_that_says_less_is_given_as_it_is(mimicked, proxy, bucket, operation, body):
    params = {} if operation == "ListBuckets" else {"Bucket": bucket}
    other = plain(proxy.url)
    with proxy.rule(Replace(lambda request: request.kind.startswith("LIST"), body)):
        assert answer(mimicked, operation, params) == answer(other, operation, params)
    other.close()


def test_a_copy_of_which_no_time_is_said_is_known(library, mimicked, client, proxy, bucket):
    etag = client.put_object(Bucket=bucket, Key="a", Body=b"x")["ETag"]
    library.sync(bucket, client=mimicked)
    source = {"Bucket": bucket, "Key": "a"}
    body = f"<CopyObjectResult><ETag>{etag}</ETag></CopyObjectResult>".encode()
    with proxy.rule(Replace(lambda request: request.kind == "COPY", body)):
        mimicked.copy_object(Bucket=bucket, Key="b", CopySource=source, CopySourceIfMatch=etag)
    found = mimicked.list_objects_v2(Bucket=bucket)["Contents"]
    assert [(item["Key"], item["ETag"]) for item in found] == [("a", etag), ("b", etag)]


def test_an_answer_at_a_time_that_nobody_can_read_came_now(server):
    assert date_ns({"ResponseMetadata": {"HTTPHeaders": {"date": "today"}}}) > 0
