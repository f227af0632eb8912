"""Functions that a program hooks into its client, or puts in the place of botocore's calls, hold
for a mimicked client as for a plain one."""

from __future__ import annotations

import copy
import io
import itertools
from contextlib import suppress
from types import SimpleNamespace
from urllib.parse import urlsplit

import boto3
import moto.core.models  # noqa: F401 - its handler, which does nothing here, is on every client
import pytest
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.handlers import decode_list_object_v2
from botocore.stub import Stubber
from support.clients import CONFIG
from support.mounts import costs

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def keys(client, bucket, prefix=""):
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [item["Key"] for item in listed]


@pytest.fixture
def synced(library, mimicked, client, bucket):
    for key in ("a", "team/a"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    library.sync(bucket, client=mimicked)
    return bucket


@pytest.mark.parametrize("event", ["provide-client-params", "before-parameter-build"])
def test_a_hook_that_changes_what_is_asked_is_heard(mimicked, proxy, synced, event):
    def into_the_team(params, **_):
        params["Prefix"] = "team/" + params["Prefix"]

    name = f"{event}.s3.ListObjectsV2"
    assert keys(mimicked, synced) == ["a", "team/a"]
    mimicked.meta.events.register(name, into_the_team)
    assert keys(mimicked, synced) == ["team/a"]
    mimicked.meta.events.unregister(name, into_the_team)
    proxy.counted()
    with costs(proxy):
        assert keys(mimicked, synced) == ["a", "team/a"]


def test_what_a_hook_makes_of_a_write_is_not_taken_for_what_was_asked(library, mimicked, synced):
    def into_the_team(params, **_):
        params["Key"] = "team/" + params["Key"]

    mimicked.meta.events.register("provide-client-params.s3.PutObject", into_the_team)
    mimicked.put_object(Bucket=synced, Key="b", Body=b"x")
    assert keys(mimicked, synced) == ["a", "team/a", "team/b"]


def test_what_a_hook_answers_to_our_own_questions_is_not_believed(library, mimicked, synced):
    def not_found(**_):
        answer = {"Error": {"Code": "404"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
        return SimpleNamespace(status_code=404), answer

    mimicked.meta.events.register("before-call.s3.HeadObject", not_found)
    mimicked.copy_object(Bucket=synced, Key="b", CopySource={"Bucket": synced, "Key": "a"})
    plain = library.client(endpoint_url=mimicked.meta.endpoint_url)
    assert keys(plain, synced) == ["a", "b", "team/a"]
    plain.close()


def test_a_hook_on_the_list_of_buckets_takes_none_out_of_the_mirror(library, mimicked, synced):
    def none(**_):
        return SimpleNamespace(status_code=200), {"Buckets": [], "Owner": {"ID": "x"}}

    mimicked.meta.events.register("before-call.s3.ListBuckets", none)
    assert mimicked.list_buckets()["Buckets"] == []
    assert library.entry(synced, "a").size == 1


def test_a_hook_of_the_session_is_heard(library, proxy, synced):
    session = boto3.session.Session()
    session.events.register(
        "provide-client-params.s3.*", lambda params, **_: params | {"Prefix": "none"}
    )
    client = library.mimic(session.client("s3", endpoint_url=proxy.url))
    assert keys(client, synced) == []
    client.close()


def test_a_session_is_copied_as_boto3s_are(library, proxy, synced):
    session = copy.deepcopy(library.session())
    client = session.client("s3", endpoint_url=proxy.url, config=CONFIG)
    with costs(proxy):
        assert [item["Key"] for item in client.list_objects_v2(Bucket=synced)["Contents"]]
    client.close()


def test_what_traces_calls_sees_those_that_go_to_s3(monkeypatch, mimicked, synced):
    seen = []
    call = BaseClient._make_api_call

    def traced(self, operation, params):
        seen.append(operation)
        return call(self, operation, params)

    monkeypatch.setattr(BaseClient, "_make_api_call", traced)
    mimicked.get_object(Bucket=synced, Key="a")["Body"].close()
    assert seen == ["GetObject"]


def test_what_more_a_list_of_buckets_shows_is_not_left_out(mimicked, bucket):
    def name_regions(parsed, **_):
        for item in parsed["Buckets"]:
            item["BucketRegion"] = "eu-west-1"

    mimicked.meta.events.register("after-call.s3.ListBuckets", name_regions)
    for _ in range(2):
        regions = {item.get("BucketRegion") for item in mimicked.list_buckets()["Buckets"]}
        assert regions == {"eu-west-1"}


class Pipe(io.RawIOBase):
    """Bytes of which nobody knows how many there are."""

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def read(self, size=-1):
        return self._content.read(size)


def test_the_size_of_a_stream_is_s3s(library, proxy, bucket):
    unsigned = {"addressing_style": "path", "payload_signing_enabled": False}
    config = Config(s3=unsigned, request_checksum_calculation="when_required")
    client = library.client(endpoint_url=proxy.url, config=config)
    client.put_object(Bucket=bucket, Key="piped", Body=Pipe(b"12345"))
    assert library.entry(bucket, "piped").size == 5
    client.close()


@pytest.fixture
def other(library, mimicked, client, synced):
    """Another bucket, all of it in the mirror."""
    client.create_bucket(Bucket=f"{synced}-other")
    client.put_object(Bucket=f"{synced}-other", Key="b", Body=b"x")
    library.sync(f"{synced}-other", client=mimicked)
    return f"{synced}-other"


def test_a_hook_that_sends_a_write_to_another_bucket_leaves_neither_of_them_wrong(
    library, mimicked, proxy, synced, other
):
    def into_the_other(params=None, request=None, **_):
        if request is not None:
            request.url = request.url.replace(f"{synced}/", f"{other}/")
        elif "Bucket" in params:
            params["Bucket"] = other
        elif "url" in params:
            params["url"] = params["url"].replace(f"{synced}/", f"{other}/")

    events = ("provide-client-params", "before-parameter-build", "before-call")
    events += ("request-created", "before-send")
    written = ["b"]
    for event, operations in itertools.product(events, ("PutObject", "*")):
        hooked = library.client(endpoint_url=proxy.url, config=CONFIG)
        hooked.meta.events.register(f"{event}.s3.{operations}", into_the_other)
        if event == "before-send":  # the signature was made for the first
            hooked.meta.events.register("choose-signer.s3", lambda **_: UNSIGNED)
        written.append(f"{event} {operations}")
        hooked.put_object(Bucket=synced, Key=written[-1], Body=b"12345")
        assert keys(mimicked, synced) == ["a", "team/a"]
        assert keys(mimicked, other) == sorted(written)
        assert mimicked.head_object(Bucket=other, Key=written[-1])["ContentLength"] == 5
        hooked.close()


def test_a_hook_that_looks_on_costs_nothing(library, mimicked, proxy, synced):
    seen = []
    for event in ("request-created", "before-sign", "before-send"):
        mimicked.meta.events.register(f"{event}.s3", lambda request, **_: seen.append(request.url))
    with costs(proxy, PUT=1):
        mimicked.put_object(Bucket=synced, Key="new", Body=b"12345")
        assert keys(mimicked, synced) == ["a", "new", "team/a"]
    assert [url.partition("/bucket")[2] for url in set(seen)] == [f"{synced[6:]}/new"]


@pytest.mark.parametrize(
    ("operation", "params"),
    [
        ("PutObject", {"Key": "a", "Body": b"12345", "IfNoneMatch": "*"}),
        ("CopyObject", {"Key": "b", "CopySource": "nothing"}),
    ],
)
def test_a_hook_that_looks_on_costs_nothing_after_a_write_that_s3_refuses(
    mimicked, proxy, synced, operation, params
):
    mimicked.meta.events.register("before-send.s3", lambda **_: None)
    mimicked.head_object(Bucket=synced, Key="a")
    if "CopySource" in params:
        params = params | {"CopySource": {"Bucket": synced, "Key": params["CopySource"]}}
    with pytest.raises(ClientError):
        mimicked._make_api_call(operation, {"Bucket": synced} | params)
    with costs(proxy):
        assert mimicked.head_object(Bucket=synced, Key="a")["ContentLength"] == 1


def test_a_hook_that_looks_on_and_asks_s3_itself_changes_neither_question(mimicked, proxy, synced):
    asked = []

    def ask(request, **_):
        if not asked:
            asked.append(request.url)
            mimicked.head_object(Bucket=synced, Key="a")

    mimicked.meta.events.register("before-send.s3", ask)
    with costs(proxy, PUT=1, HEAD=1):
        mimicked.put_object(Bucket=synced, Key="new", Body=b"12345")
    with costs(proxy):
        assert keys(mimicked, synced) == ["a", "new", "team/a"]
        assert mimicked.head_object(Bucket=synced, Key="a")["ContentLength"] == 1


def test_a_request_that_botocore_redirects_to_the_buckets_region_is_as_it_was_made(
    monkeypatch, library
):
    client = library.client(region_name="us-east-1")
    client.meta.events.register("before-send.s3", lambda **_: None)
    hosts = []

    def send(request):
        hosts.append(urlsplit(request.url).hostname)
        region = {"x-amz-bucket-region": "eu-west-1"}
        if hosts[-1] != "away.s3.eu-west-1.amazonaws.com":
            return AWSResponse(request.url, 301, region, Empty())
        said = {"ETag": '"e"', "Content-Length": "5", "Last-Modified": "Thu, 01 Jan 2026 00:00:00"}
        return AWSResponse(request.url, 200, region | said, Empty())

    monkeypatch.setattr(client._endpoint.http_session, "send", send)
    library.add_bucket("away", 0)
    assert client.head_object(Bucket="away", Key="a")["ContentLength"] == 5
    assert hosts == ["away.s3.amazonaws.com", "away.s3.eu-west-1.amazonaws.com"]
    assert library.entry("away", "a").size == 5
    client.close()


def test_a_key_whose_request_a_hook_changes_is_asked_of_s3_and_the_rest_stays_known(
    library, mimicked, proxy, synced
):
    def colder(request, **_):
        request.headers["x-amz-storage-class"] = "STANDARD_IA"

    mimicked.meta.events.register("before-sign.s3.PutObject", colder)
    with costs(proxy, PUT=1, HEAD=1):
        mimicked.put_object(Bucket=synced, Key="new", Body=b"12345")
    with costs(proxy):
        assert keys(mimicked, synced) == ["a", "new", "team/a"]
        assert library.entry(synced, "new").storage_class == "STANDARD_IA"


@pytest.mark.parametrize("deleted", [False, True])
def test_a_key_of_which_only_a_hook_knows_what_became_is_not_told_of_as_deleted(
    library, mimicked, proxy, synced, tmp_path, deleted
):
    def news():
        feed = library.changes(f"s3://{synced}", state=tmp_path / "feed.db", follow=False, since=0)
        return [(it.change, it.key, it.size) for it in feed]

    assert news() == []
    hooked = library.client(endpoint_url=proxy.url, config=CONFIG)
    hooked.meta.events.register("provide-client-params.s3", lambda **_: None)
    if deleted:
        hooked.delete_object(Bucket=synced, Key="a")
    else:
        hooked.put_object(Bucket=synced, Key="a", Body=b"12345")
    assert news() == []
    assert keys(mimicked, synced) == (["team/a"] if deleted else ["a", "team/a"])
    assert news() == [("deleted", "a", 1) if deleted else ("changed", "a", 5)]
    hooked.close()


class Empty:
    """The body of an answer."""

    def stream(self):
        return []


def answering(status, **headers):
    def answer(request, **_):
        return AWSResponse(request.url, status, headers, Empty())

    return answer


@pytest.mark.parametrize("event", ["before-send.s3.{}", "before-send"])
def test_what_a_hook_answers_in_the_place_of_s3_is_not_believed(
    library, mimicked, proxy, synced, event
):
    answered = [
        ("PutObject", 200, {"Key": "a", "Body": b"12345"}),
        ("DeleteObject", 204, {"Key": "a"}),
        ("HeadObject", 404, {"Key": "a", "IfNoneMatch": "none"}),
        ("DeleteBucket", 204, {}),
    ]
    for operation, status, params in answered:
        hooked = library.client(endpoint_url=proxy.url, config=CONFIG)
        hooked.meta.events.register(event.format(operation), answering(status, ETag='"e"'))
        with suppress(ClientError):
            hooked._make_api_call(operation, {"Bucket": synced} | params)
        assert keys(mimicked, synced) == ["a", "team/a"]
        assert mimicked.head_object(Bucket=synced, Key="a")["ContentLength"] == 1
        hooked.close()


def test_what_a_hook_takes_out_of_an_answer_stays_in_the_mirror(library, mimicked, proxy, synced):
    def hide(parsed, **_):
        parsed["Contents"] = []

    hooked = library.client(endpoint_url=proxy.url, config=CONFIG)
    hooked.meta.events.register("after-call.s3.ListObjectsV2", hide)
    for _ in range(2):
        assert keys(hooked, synced) == []
    assert keys(mimicked, synced) == ["a", "team/a"]
    hooked.close()


def test_what_a_hook_on_retries_takes_out_of_an_answer_stays_in_the_mirror(
    library, mimicked, proxy, synced
):
    def hide(response, **_):
        response[1]["Contents"] = []

    hooked = library.client(endpoint_url=proxy.url, config=CONFIG)
    hooked.meta.events.register("needs-retry.s3.ListObjectsV2", hide)
    for _ in range(2):
        assert keys(hooked, synced) == []
    assert keys(mimicked, synced) == ["a", "team/a"]
    hooked.close()


def test_names_that_a_program_wants_encoded_are_encoded_and_teach_nothing(
    library, mimicked, client, proxy, bucket
):
    client.put_object(Bucket=bucket, Key="a b", Body=b"x")
    library.sync(bucket, client=mimicked)
    hooked = library.client(endpoint_url=proxy.url, config=CONFIG)
    for each in (hooked, client):
        each.meta.events.unregister("after-call.s3.ListObjectsV2", decode_list_object_v2)
    for _ in range(2):
        assert keys(hooked, bucket) == keys(client, bucket) != ["a b"]
    assert keys(mimicked, bucket) == ["a b"]
    hooked.close()


def test_a_stubber_answers_only_what_the_program_asks(mimicked):
    with Stubber(mimicked) as stubber:
        stubber.add_response("create_bucket", {}, {"Bucket": "stubbed"})
        stubber.add_response("list_objects_v2", {"KeyCount": 7}, {"Bucket": "stubbed"})
        mimicked.create_bucket(Bucket="stubbed")
        assert mimicked.list_objects_v2(Bucket="stubbed")["KeyCount"] == 7


def test_what_a_stubber_answers_is_its_own(mimicked, synced):
    with Stubber(mimicked) as stubber:
        stubber.add_response("list_objects_v2", {"Contents": [], "KeyCount": 0})
        stubber.add_response("put_object", {"ETag": '"e"'})
        stubber.add_client_error("head_object", http_status_code=404)
        assert keys(mimicked, synced) == []
        mimicked.put_object(Bucket=synced, Key="stubbed", Body=b"x")
        with pytest.raises(ClientError):
            mimicked.head_object(Bucket=synced, Key="a")
        stubber.assert_no_pending_responses()
    assert keys(mimicked, synced) == ["a", "team/a"]
    assert mimicked.head_object(Bucket=synced, Key="a")["ContentLength"] == 1
