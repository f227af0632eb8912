"""Deleting one version of an object, and no other."""

import io
import itertools
import re
from urllib.parse import unquote

import pytest
from support.proxy import Fail, Rule
from support.standins import IgnoresConditions, StandIn

from mimicfs.errors import AccessDenied, ObjectChanged

pytestmark = pytest.mark.slow


def test_only_the_version_that_is_meant_is_deleted(s3, client, bucket, server, moto):
    old = s3.put(bucket, "a", b"old", 3)
    client.put_object(Bucket=bucket, Key="a", Body=b"new")
    if server == moto:  # rclone looks at no condition
        with pytest.raises(ObjectChanged):
            s3.conditions.delete(bucket, "a", old.etag)
        assert s3.mimicdb.entry(bucket, "a").etag != old.etag
    now, _ = s3.head(bucket, "a")
    s3.conditions.delete(bucket, "a", now.etag)
    s3.conditions.delete(bucket, "a", now.etag)  # that it is gone is no error
    assert s3.mimicdb.entry(bucket, "a") is None
    assert client.list_objects_v2(Bucket=bucket).get("Contents", []) == []


def test_where_deletions_know_no_condition_it_is_looked_before(s3, client, bucket, proxy):
    refused = itertools.count()
    rule = Fail(
        lambda request: request.kind == "DELETE" and not next(refused), 501, "NotImplemented"
    )
    old = s3.put(bucket, "a", b"old", 3)
    s3.put(bucket, "b", b"b", 1)
    client.put_object(Bucket=bucket, Key="a", Body=b"newer")
    with proxy.rule(rule), pytest.raises(ObjectChanged):
        s3.conditions.delete(bucket, "a", old.etag)
    s3.conditions.delete(bucket, "b", s3.mimicdb.entry(bucket, "b").etag)
    found = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in found] == ["a"]


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_that_refuses_conditions_of_many_is_asked_without(s3, client, bucket, proxy):
    for key in "ab":
        s3.put(bucket, key, b"x", 1)
    etags = {key: s3.mimicdb.entry(bucket, key).etag for key in "ab"}
    refused = itertools.count()
    rule = Fail(lambda request: request.kind == "POST" and not next(refused), 501, "NotImplemented")
    with proxy.rule(rule):
        assert s3.delete_many(bucket, list("ab"), etags) == []
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_where_only_deleting_many_is_denied_keys_are_deleted_one_by_one(s3, client, bucket, proxy):
    etags = {key: s3.put(bucket, key, b"x", 1).etag for key in "abc"}
    with proxy.rule(Fail(lambda request: request.kind == "POST", 403, "AccessDenied")):
        assert s3.delete_many(bucket, ["a"]) == []
        assert s3.delete_many(bucket, list("bc"), etags) == []
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize(
    ("versions", "asked"),
    [(False, {"POST": 1, "DELETE": 1}), (True, {"HEAD": 2, "POST": 1, "DELETE": 1})],
)
def test_without_the_right_to_delete_that_is_told_after_the_first_key(
    s3, client, bucket, proxy, versions, asked
):
    client.put_object(Bucket=bucket, Key="999", Body=b"x")
    etag = s3.head(bucket, "999")[0].etag
    keys = [str(number) for number in range(1000)]
    proxy.counted()
    with proxy.rule(Fail(lambda request: request.kind in ("POST", "DELETE"), 403, "AccessDenied")):
        with pytest.raises(AccessDenied):
            s3.delete_many(bucket, keys, dict.fromkeys(keys, etag) if versions else {})
    assert proxy.counted() == asked


@pytest.mark.parametrize("looks", ["unknown", "no"])
def test_of_many_what_somebody_else_has_deleted_is_not_refused(s3, client, bucket, looks):
    etags = {key: s3.put(bucket, key, b"x", 1).etag for key in "abc"}
    s3.capabilities.learned("delete-etags", looks)
    client.delete_object(Bucket=bucket, Key="a")
    assert s3.delete_many(bucket, list("abc"), etags) == []
    assert s3.mimicdb.listing(bucket) == []
    assert client.list_objects_v2(Bucket=bucket).get("Contents", []) == []


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_of_many_what_is_another_version_is_refused_and_the_rest_deleted(s3, client, bucket, proxy):
    for key in "ab":
        s3.put(bucket, key, b"x", 1)
    etags = {key: s3.mimicdb.entry(bucket, key).etag for key in "ab"}
    client.put_object(Bucket=bucket, Key="b", Body=b"somebody's")
    # As S3 answers; moto looks at no condition there. "a" is refused for no reason, "b" by a HEAD.
    said = "<Error><Key>a</Key><Code>PreconditionFailed</Code></Error>"
    rule = Fail(lambda request: request.kind == "POST", 200, "")
    rule.body = f"<DeleteResult>{said}</DeleteResult>".encode()
    with proxy.rule(rule):
        assert [key for key, _ in s3.delete_many(bucket, list("ab"), etags)] == ["b"]
    found = client.list_objects_v2(Bucket=bucket)["Contents"]
    assert [item["Key"] for item in found] == ["b"]


class Leaves(Rule):
    """DeleteObjects leaves directories behind, and says otherwise."""

    def __init__(self, client, bucket):
        super().__init__(lambda request: "delete" in request.query)
        self._client, self._bucket = client, bucket

    def before(self, handler):
        for key in re.findall("<Key>([^<]*[^/])</Key>", handler.body().decode()):
            self._client.delete_object(Bucket=self._bucket, Key=key)
            directory = key.rpartition("/")[0]
            self._client.put_object(Bucket=self._bucket, Key=f"{directory}/", Body=b"")
        handler.send(200, [], b"<DeleteResult></DeleteResult>")
        return True


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_server_that_leaves_directories_behind_is_asked_one_by_one(s3, client, bucket, proxy):
    keys = ("c/d/", "c/d/a", "c/d/e/", "c/d/e/b")
    etags = {key: s3.put(bucket, key, b"", 0).etag for key in keys}
    with proxy.rule(Leaves(client, bucket)), proxy.rule(StandIn(IgnoresConditions())):
        assert s3.delete_many(bucket, list(keys), etags) == []
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert s3.mimicdb.listing(bucket) == []
    assert s3.capabilities.known()["delete-many"] == ("no", "learned")


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_whether_directories_are_left_behind_is_tried_once(s3, client, bucket, proxy):
    with proxy.rule(StandIn(IgnoresConditions())):
        for asked in (
            {
                "PUT": 1,
                "LIST": 1,
                "POST": 3,
                "HEAD": 2,
            },  # POST: the trial, one with a wrong ETag, the rest
            {"POST": 1, "HEAD": 2},
        ):
            etags = {key: s3.put(bucket, key, b"", 0).etag for key in ("d/", "d/a")}
            proxy.counted()
            assert s3.delete_many(bucket, list(etags), etags) == []
            assert proxy.counted() == asked
            assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert s3.capabilities.known()["delete-many"] == ("yes", "learned")


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_what_cannot_be_tried_is_deleted_all_the_same(s3, client, bucket, proxy):
    etags = {key: s3.put(bucket, key, b"", 0).etag for key in ("d/", "d/a")}
    with proxy.rule(Fail(lambda request: request.kind == "PUT", 403, "AccessDenied")):
        with proxy.rule(StandIn(IgnoresConditions())):
            assert s3.delete_many(bucket, list(etags), etags) == []
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert s3.capabilities.known()["delete-many"] == ("yes", "usual")


@pytest.mark.parametrize("server", ["moto"], indirect=True)
@pytest.mark.parametrize("many", [True, False])
def test_a_marker_is_deleted_after_what_is_below_it(s3, client, bucket, proxy, many):
    keys = ["d/", "d/a", "d/e/", "d/e/f/", "d/e/f/b", "d/e0", "g"]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    deletes = Order()
    refused = Fail(lambda request: not many and request.kind == "POST", 501, "NotImplemented")
    with proxy.rule(refused), proxy.rule(deletes):
        assert s3.delete_many(bucket, keys) == []
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    order = deletes.keys
    assert sorted(order) == keys
    for marker in ("d/", "d/e/", "d/e/f/"):
        below = [order.index(key) for key in keys if key.startswith(marker) and key != marker]
        assert max(below) < order.index(marker)


class Order(Rule):
    """Notes the keys that are deleted, in the order in which that is asked."""

    def __init__(self):
        super().__init__(lambda request: request.kind in ("POST", "DELETE"))
        self.keys = []

    def after(self, handler, response):
        if handler.command == "DELETE":
            self.keys.append(unquote(handler.path).split("/", 2)[2])
        return False

    def before(self, handler):
        if handler.command == "POST":
            said = handler.rfile.read(int(handler.headers["Content-Length"]))
            self.keys += re.findall("<Key>([^<]*)</Key>", said.decode())
            handler.rfile = io.BytesIO(said)
        return False
