"""A question that S3 was not asked, or did not answer, teaches nothing: neither what the server can
do, nor what is stored with an object."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from support.proxy import Fail, Proxy

from mimicfs.config.values import S3Options
from mimicfs.errors import NOTHING_SAID, S3Error, TooManyRequests
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.examine import Examination
from mimicfs.s3.requests.past import versioning
from mimicfs.s3.requests.scratch import Scratch

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
PUBLIC = {"GrantRead": f'uri="{ALL_USERS}"'}
# A refusal of each kind that says nothing of what was asked.
MUTE = [(503, "SlowDown"), (500, "InternalError"), (400, "ExpiredToken")]


def more_today(s3: S3, count: int) -> None:
    """Let *s3* send *count* requests more."""
    s3.limits.set("max-requests-per-day", "off")
    s3.list_buckets()  # a limit of 0 is none
    most = s3.limits.figures()["requests_today"] + count
    s3.limits.set("max-requests-per-day", str(most))


@pytest.fixture
def once(proxy: Proxy, mimicdb: Mirror) -> Any:
    """An S3 that asks once."""
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=1), mimicdb)
    yield s3
    s3.close()


@pytest.mark.usefixtures("caplog")  # it is warned of the end of the day
def test_the_day_may_end_at_each_request_of_a_deletion(s3: S3, bucket: str) -> None:
    etag = s3.put(bucket, "a", b"x", 1).etag
    for left in range(2):  # the HEAD goes, and not the DeleteObjects
        more_today(s3, left)
        try:
            refused = s3.delete_many(bucket, ["a"], {"a": etag})
        except TooManyRequests:
            refused = [("a", "TooManyRequests")]
        assert [key for key, _ in refused] == ["a"]
        assert s3.capabilities.known()["delete-etags"] == ("unknown", "usual")
        assert s3.capabilities.known()["delete-many"] == ("yes", "usual")
    s3.limits.set("max-requests-per-day", "off")
    assert s3.delete_many(bucket, ["a"], {"a": etag}) == []


@pytest.mark.parametrize(("status", "code"), MUTE)
def test_a_refusal_that_says_nothing_does_not_teach_how_to_delete(
    once: S3, bucket: str, proxy: Proxy, status: int, code: str
) -> None:
    etag = once.put(bucket, "a", b"x", 1).etag
    rule = Fail(lambda request: request.kind == "POST", status, code)
    with proxy.rule(rule), pytest.raises(NOTHING_SAID):
        once.delete_many(bucket, ["a"], {"a": etag})
    assert once.capabilities.known()["delete-etags"] == ("unknown", "usual")
    assert once.capabilities.known()["delete-many"] == ("yes", "usual")


@pytest.mark.usefixtures("caplog")
@pytest.mark.parametrize("left", range(5))
def test_the_day_ends_while_an_acl_is_asked_for_and_it_is_kept_the_next_day(
    s3: S3, client: Any, bucket: str, left: int
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"x", Tagging="t=v", **PUBLIC)
    more_today(s3, left)  # of five: HEAD, tags, ownership and ACL of the bucket, ACL
    with pytest.raises(TooManyRequests):
        s3.kept.of(bucket, "a")
    s3.limits.set("max-requests-per-day", "off")
    _, content = s3.kept.of(bucket, "a")
    assert content.headers["Tagging"] == "t=v"
    assert ALL_USERS in content.headers["GrantRead"]


@pytest.mark.parametrize("asked", ["acl", "tagging"])
@pytest.mark.parametrize(("status", "code"), MUTE)
def test_what_s3_does_not_say_of_an_object_is_not_taken_for_none(
    once: S3, client: Any, bucket: str, proxy: Proxy, asked: str, status: int, code: str
) -> None:
    client.put_object(Bucket=bucket, Key="a", Body=b"x", Tagging="t=v", **PUBLIC)
    rule = Fail(lambda request: request.key == "a" and asked in request.query, status, code)
    with proxy.rule(rule):
        if (asked, status) == ("acl", 500):  # some servers answer so whenever they are asked
            assert "GrantRead" not in once.kept.of(bucket, "a")[1].headers
        else:
            with pytest.raises(NOTHING_SAID):
                once.kept.of(bucket, "a")
    _, content = once.kept.of(bucket, "a")
    assert content.headers["Tagging"] == "t=v"
    assert ALL_USERS in content.headers["GrantRead"]


def test_an_expired_key_is_not_taken_for_a_server_that_knows_no_conditions(
    once: S3, bucket: str, proxy: Proxy
) -> None:
    conditional = itertools.count()
    rule = Fail(
        lambda request: "If-Match" in request.headers and not next(conditional), 400, "ExpiredToken"
    )
    with proxy.rule(rule), pytest.raises(S3Error, match="ExpiredToken"):
        once.conditions.honoured(bucket, "a")
    assert once.conditions.honoured(bucket, "a").match == "quoted"


def test_of_what_s3_does_not_say_doctor_finds_nothing(once: S3, bucket: str, proxy: Proxy) -> None:
    examination = Examination(once, once._options, bucket)
    rule = Fail(lambda request: request.kind == "COPY", 503, "SlowDown")
    with proxy.rule(rule):
        found = {
            each.name: each
            for each in Scratch(
                examination.tried, examination.ask, examination.s3, bucket, ""
            ).findings()
        }
    assert (found["copy"].result, found["copy"].advice) == ("fail", "")
    assert "SlowDown" in found["copy"].found
    assert found["checksums"].result == "ok"


def test_a_server_that_knows_no_versioning_has_never_kept_versions(
    once: S3, bucket: str, proxy: Proxy
) -> None:
    """JuiceFS and R2 say 501."""
    rule = Fail(lambda request: "versioning" in request.query, 501, "NotImplemented")
    with proxy.rule(rule):
        assert versioning(once, bucket) == ""
