"""Servers that cannot run here, by stand-ins for their quirks (support/standins.py)."""

from __future__ import annotations

import gzip
from contextlib import closing
from itertools import count
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.faults import Refuse
from support.proxy import Fail, Request, Rule
from support.standins import (
    PROVIDERS,
    QUIRKS,
    BareConditions,
    IgnoresConditions,
    NoConditions,
    NoEncodingType,
    NoListV2,
    NoMarkersCopied,
    NoTagsOfCopies,
    NoTagsOfUploads,
    PlainPrefix,
    Quirk,
    Refusal,
    RefusesRightOnes,
    Silent,
    StandIn,
)

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.errors import (
    InvalidRequest,
    KeyNotFound,
    MimicError,
    ObjectChanged,
    PosixError,
    S3Unavailable,
)
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3, Condition, Content
from mimicfs.s3.requests.examine import Examination
from mimicfs.s3.requests.versions import Marker

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

MIB = 1 << 20
_numbers = count(1)


def read(s3, bucket, entry):
    buffer = bytearray(entry.size)
    s3.read_into(bucket, entry.key, entry.etag, 0, memoryview(buffer))
    return bytes(buffer)


def listed(s3, bucket, prefix):
    """All that there is, page by page."""
    found, token, after = [], None, ""
    while True:
        page = s3.list_page(bucket, prefix, after=after, token=token)
        found += [entry.key for entry in page.entries]
        if page.token is None:
            return found
        token, after = page.token, page.upto


def used(s3, client, bucket):
    """Use *s3* as a mount does. All that it says is true: of S3, and of the mirror."""
    d = f"d{next(_numbers)}/50%25 cash & co+/"
    packed = gzip.compress(b"hello" * 100)
    client.put_object(Bucket=bucket, Key=d + "gz", Body=packed, ContentEncoding="gzip")
    assert read(s3, bucket, s3.head(bucket, d + "gz")[0]) == packed
    a = s3.put(bucket, d + "a", b"abc", 3, Content("text/plain", {"mode": "33188"}))
    s3.put(bucket, d + "empty", b"", 0)
    now, content = s3.head(bucket, d + "a")
    assert (now.size, now.etag, now.meta) == (3, a.etag, {"mode": "33188"})
    assert content.content_type == "text/plain"
    assert s3.head(bucket, d + "empty")[0].size == 0
    assert read(s3, bucket, a) == b"abc"
    part = bytearray(2)
    s3.read_into(bucket, d + "a", a.etag, 1, memoryview(part))
    assert part == b"bc"
    copy = s3.copy((bucket, a), bucket, d + "b")
    assert (copy.size, copy.meta) == (3, {"mode": "33188"})
    assert listed(s3, bucket, d) == [d + name for name in ("a", "b", "empty", "gz")]

    new = s3.put(bucket, d + "a", b"abcd", 4, condition=Condition(a.etag))
    assert read(s3, bucket, new) == b"abcd"
    with pytest.raises(ObjectChanged):
        s3.put(bucket, d + "a", b"lost", 4, condition=Condition(a.etag))
    with pytest.raises(PosixError, match="File exists"):
        s3.put(bucket, d + "a", b"lost", 4, condition=Condition(absent=True))
    assert read(s3, bucket, s3.head(bucket, d + "a")[0]) == b"abcd"

    etags = {d + "a": a.etag, d + "b": copy.etag}  # of "a" there is another by now
    assert [key for key, _ in s3.delete_many(bucket, list(etags), etags)] == [d + "a"]
    s3.delete(bucket, d + "empty")
    assert listed(s3, bucket, d) == [d + "a", d + "gz"]
    found = client.list_objects_v2(Bucket=bucket, Prefix=d)
    assert [item["Key"] for item in found["Contents"]] == [d + "a", d + "gz"]
    assert s3.mimicdb.entry(bucket, d + "a").etag == new.etag
    assert s3.mimicdb.entry(bucket, d + "b") is None


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_is_used_as_s3_is(s3, client, bucket, proxy, provider):
    with proxy.rule(StandIn(*[quirk() for quirk in PROVIDERS[provider]])):
        used(s3, client, bucket)


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.__name__)
def test_a_quirk_is_lived_with(s3, client, bucket, proxy, quirk):
    assert quirk.source
    with proxy.rule(StandIn(quirk())):
        used(s3, client, bucket)


def test_a_directory_may_have_a_name_that_xml_cannot_have(s3, client, bucket, proxy):
    client.put_object(Bucket=bucket, Key="a\x1b[2J&/b", Body=b"abc")
    with proxy.rule(StandIn(PlainPrefix())):
        assert listed(s3, bucket, "a\x1b[2J&/") == ["a\x1b[2J&/b"]


@pytest.mark.parametrize(
    ("quirks", "asked"),
    [((NoListV2,), 4), ((NoEncodingType,), 5), ((NoListV2, NoEncodingType), 6)],
)
def test_how_a_server_lists_is_learned_once(s3, client, bucket, proxy, quirks, asked):
    client.put_object(Bucket=bucket, Key="a b+", Body=b"abc")
    known = {"list-v2": NoListV2, "encoding-type": NoEncodingType}
    proxy.counted()
    with proxy.rule(StandIn(*[quirk() for quirk in quirks])):
        assert listed(s3, bucket, "") == ["a b+"]
        assert [it.key for it in s3.version_page(bucket, "", Marker()).versions] == ["a b+"]
        assert proxy.counted()["LIST"] == asked
        again = S3(S3Options(endpoint_url=proxy.url), s3.mimicdb)
        with closing(again):
            assert listed(again, bucket, "") == ["a b+"]
            assert proxy.counted() == {"LIST": 1}
            found = list(Examination(again, again._options, bucket).findings(write=False))
        assert [(it.name, it.found) for it in found if it.result == "fail"] == []
    for word, quirk in known.items():
        learned = ("no", "learned") if quirk in quirks else ("yes", "usual")
        assert s3.capabilities.known()[word] == learned


def test_a_listing_that_is_refused_in_every_form_is_refused(s3, bucket, proxy):
    proxy.counted()
    with proxy.rule(Fail(lambda request: request.kind == "LIST", 400, "InvalidArgument")):
        with pytest.raises(InvalidRequest, match="InvalidArgument"):
            s3.list_page(bucket)
    assert proxy.counted() == {"LIST": 4}
    for word in ("list-v2", "encoding-type"):
        assert s3.capabilities.known()[word] == ("yes", "usual")


@pytest.mark.parametrize("code", ["InvalidArgument", "MethodNotAllowed", "NotImplemented"])
def test_a_refusal_that_does_not_come_again_teaches_nothing_of_listings(
    s3, client, bucket, proxy, code
):
    client.put_object(Bucket=bucket, Key="a b+", Body=b"abc")
    with proxy.rule(Refuse(lambda request: request.kind == "LIST", 400, code)):
        assert listed(s3, bucket, "") == ["a b+"]
    for word in ("list-v2", "encoding-type"):
        assert s3.capabilities.known()[word] == ("yes", "usual")


def test_a_refused_token_teaches_nothing_of_listings(s3, bucket, proxy):
    """As of a listing that was begun long ago."""
    proxy.counted()
    with proxy.rule(
        Fail(lambda request: "continuation-token" in request.query, 400, "InvalidArgument")
    ):
        for _ in range(2):
            with pytest.raises(InvalidRequest, match="InvalidArgument"):
                s3.list_page(bucket, after="a", token="of-another-listing")
    assert proxy.counted() == {"LIST": 2}
    assert s3.capabilities.known()["list-v2"] == ("yes", "usual")


def test_a_copy_with_other_metadata_has_the_tags_of_its_source(s3, client, bucket, proxy):
    client.put_object(Bucket=bucket, Key="a", Body=b"abc", Tagging="x=1%2B1&y=")
    with proxy.rule(StandIn(NoTagsOfCopies())):
        for key, asked in (("b", 4), ("c", 2)):  # it is looked once
            entry, content = s3.kept.of(bucket, "a")
            proxy.counted()
            s3.copy((bucket, entry), bucket, key, content._replace(meta={"mode": "33188"}))
            tags = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
            assert tags == [{"Key": "x", "Value": "1+1"}, {"Key": "y", "Value": ""}]
            assert sum(proxy.counted().values()) == asked
    assert s3.capabilities.known()["copy-tags"] == ("no", "learned")


def test_an_upload_in_parts_has_the_tags_that_were_said(s3, client, bucket, proxy):
    content = Content().tagged({"x": "1+1"})
    with proxy.rule(StandIn(NoTagsOfUploads())):
        for key, asked in (("b", 7), ("c", 5)):  # it is looked once
            proxy.counted()
            upload = s3.start_upload(bucket, key, content)
            part = s3.upload_part(bucket, key, upload, 1, b"abc", 3)
            s3.finish_upload(bucket, key, upload, [part], 3)
            tags = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
            assert tags == [{"Key": "x", "Value": "1+1"}]
            assert sum(proxy.counted().values()) == asked
    assert s3.capabilities.known()["upload-tags"] == ("no", "learned")


class Tagging(Quirk):
    """Requests about tags are refused, those of *methods*."""

    def __init__(self, status: int, code: str, methods: str = "GET PUT") -> None:
        self._refusal = Refusal(status, code)
        self._methods = methods

    def refused(self, request: Request, method: str) -> Refusal | None:
        asked = "tagging" in request.query and method in self._methods
        return self._refusal if asked else None


def tagged(s3, bucket):
    """Store *up*, in parts, and *copy*, each with a tag."""
    content = Content().tagged({"x": "1"})
    upload = s3.start_upload(bucket, "up", content)
    part = s3.upload_part(bucket, "up", upload, 1, b"abc", 3)
    entry = s3.finish_upload(bucket, "up", upload, [part], 3)
    return entry, s3.copy((bucket, entry), bucket, "copy", content)


@pytest.mark.parametrize("methods", ["GET PUT", "PUT"])
@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (403, "AccessDenied"), (400, "ExpiredToken")]
)
def test_what_is_stored_is_stored_though_its_tags_are_refused(
    s3, client, bucket, proxy, caplog, methods, status, code
):
    quirks = (NoTagsOfUploads(), NoTagsOfCopies(), Tagging(status, code, methods))
    with proxy.rule(StandIn(*quirks)):
        stored = tagged(s3, bucket)
    assert [(entry.key, entry.size) for entry in stored] == [("up", 3), ("copy", 3)]
    assert {each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]} == {
        "up",
        "copy",
    }
    warned = [each.getMessage().split(": ")[:2] for each in caplog.records if each.levelno >= 30]
    assert warned == [
        ["stored, maybe without its tags", f"s3://{bucket}/up"],
        ["stored, maybe without its tags", f"s3://{bucket}/copy"],
    ]
    for word in ("upload-tags", "copy-tags"):
        assert s3.capabilities.known()[word] == ("unknown", "usual")


def test_of_tags_that_may_not_be_read_nothing_is_learned(s3, client, bucket, proxy):
    with proxy.rule(StandIn(Tagging(403, "AccessDenied", "GET"))):
        tagged(s3, bucket)
    for key in ("up", "copy"):
        tags = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        assert tags == [{"Key": "x", "Value": "1"}]
    for word in ("upload-tags", "copy-tags"):
        assert s3.capabilities.known()[word] == ("unknown", "usual")


@pytest.mark.parametrize("tags", ["", "x=1"])
def test_nothing_is_learned_of_what_another_writer_has_put_there(s3, client, bucket, proxy, tags):
    class Replaced(Quirk):
        def refused(self, request: Request, method: str) -> Refusal | None:
            if "tagging" in request.query and method == "GET":
                client.put_object(Bucket=bucket, Key=request.key, Body=b"other", Tagging=tags)
            return None

    with proxy.rule(StandIn(NoTagsOfUploads(), Replaced())):
        upload = s3.start_upload(bucket, "up", Content().tagged({"x": "1"}))
        part = s3.upload_part(bucket, "up", upload, 1, b"abc", 3)
        s3.finish_upload(bucket, "up", upload, [part], 3)
    there = client.get_object_tagging(Bucket=bucket, Key="up")["TagSet"]
    assert there == ([{"Key": "x", "Value": "1"}] if tags else [])
    assert s3.capabilities.known()["upload-tags"] == ("unknown", "usual")


def test_a_marker_that_the_server_does_not_copy_is_written_anew(s3, client, bucket, proxy):
    s3.put(bucket, "d/", b"", 0, Content("text/x-own", {"mode": "16832"}))
    entry, _ = s3.head(bucket, "d/")
    with proxy.rule(StandIn(NoMarkersCopied())) as server:
        for key in ("e/", "f/"):
            assert s3.copy((bucket, entry), bucket, key).meta == {"mode": "16832"}
            assert client.head_object(Bucket=bucket, Key=key)["ContentType"] == "text/x-own"
    assert server.refused == {"InternalError": 3}  # the attempts of the first one
    assert s3.capabilities.known()["copy-markers"] == ("no", "learned")


class Sessions(Rule):
    """The requests to directory buckets: CreateSession is answered, the others are counted by what
    they are, and by whether they name the session."""

    def __init__(self):
        super().__init__(lambda request: True)
        self.asked = []

    def before(self, handler):
        request = Request(handler.command, handler.path, handler.headers)
        if "session" in request.query:
            names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
            said = "".join(f"<{name}>of the session</{name}>" for name in names)
            said += "<Expiration>2099-01-01T00:00:00Z</Expiration>"
            body = f"<CreateSessionResult><Credentials>{said}</Credentials></CreateSessionResult>"
            handler.send(200, [], body.encode())
            return True
        token = {**request.headers}.get("x-amz-s3session-token")
        token = token or request.query.get("X-Amz-S3session-Token", [""])[0]
        self.asked.append((request.kind, token))
        return False


def test_a_directory_bucket_is_written_listed_and_read_in_a_session(server, proxy):
    name = "bucket--use1-az4--x-s3"
    urlopen(UrlRequest(f"{server}/{name}", method="PUT")).close()
    s3 = S3(S3Options(endpoint_url=proxy.url, region="us-east-1"), Mirror(Memory()))
    with proxy.rule(Sessions()) as sessions, closing(s3):
        a = s3.put(name, "d/a", b"abc", 3)
        assert read(s3, name, a) == b"abc"
        part = bytearray(2)
        s3.read_into(name, "d/a", a.etag, 1, memoryview(part))
        assert part == b"bc"
        assert s3.head(name, "d/a")[0].size == 3
        assert [each.key for each in s3.list_page(name, delimiter="/").entries] == ["d/"]
        with pytest.raises(KeyNotFound):
            s3.read_into(name, "none", "", 0, memoryview(part))
        assert s3.delete_many(name, ["d/a"], {"d/a": a.etag}) == []
    assert {token for _, token in sessions.asked} == {"of the session"}
    assert {kind for kind, _ in sessions.asked} >= {"GET", "PUT", "HEAD", "LIST", "POST"}
    urlopen(UrlRequest(f"{server}/{name}", method="DELETE")).close()  # others list every bucket


def test_a_session_without_credentials_is_an_error_of_the_server(server):
    """moto answers CreateSession as another call."""
    name = "other--use1-az4--x-s3"
    urlopen(UrlRequest(f"{server}/{name}", method="PUT")).close()
    s3 = S3(S3Options(endpoint_url=server, region="us-east-1"), Mirror(Memory()))
    said = "CreateSession was answered without Credentials"
    with closing(s3):
        with pytest.raises(S3Unavailable, match=said):
            s3.list_page(name)
        with pytest.raises(S3Unavailable, match=said):
            s3.head(name, "a")
    urlopen(UrlRequest(f"{server}/{name}", method="DELETE")).close()  # others list every bucket


# What quirks do together: nothing that is not confirmed counts as done, and nothing is deleted of
# which it is not certain that it is what was meant.

KEYS = ("a", "b%2F c+")
KINDS = ("HEAD", "GET", "LIST", "PUT", "COPY", "POST", "DELETES")
CALLS = (
    *("theirs", "put", "put new", "put stale", "copy", "parts", "parts by copy"),
    *("listing", "head", "reading", "reading of a part", "delete", "delete stale"),
)


class Use:
    """One bucket in use by ours and by somebody else's client, through a server with *quirks*."""

    def __init__(self, url, client, bucket, prefix):
        self.s3 = S3(S3Options(endpoint_url=url, attempts=2), Mirror(Memory()))
        self.client, self.bucket = client, bucket
        self.a, self.b = (prefix + key for key in KEYS)
        self.sizes = count(3)

    def there(self):
        """Return what S3 has, by key."""
        found = {}
        for key in (self.a, self.b):
            try:
                found[key] = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except self.client.exceptions.NoSuchKey:
                continue
        return found

    def bytes(self):
        return b"x" * next(self.sizes)

    def do(self, call):
        """Do it, and look whether what is said of it is true."""
        before, body = self.there(), self.bytes()
        known = {key: self.s3.mimicdb.entry(self.bucket, key) for key in before}
        try:
            done = getattr(self, call.replace(" ", "_"))(body, before)
        except MimicError:
            done = None
        after = self.there()
        if done is not None:
            assert after == done
        elif call.endswith("stale") or call.startswith("delete"):
            assert after == before or not call.endswith("stale")
        for key in after:
            assert known.get(key) is None or self.s3.mimicdb.entry(self.bucket, key), call

    # Each returns what S3 must have then. Raises MimicError.

    def theirs(self, body, before):
        self.client.put_object(Bucket=self.bucket, Key=self.a, Body=body)
        return {**before, self.a: body}

    def put(self, body, before):
        assert self.s3.put(self.bucket, self.a, body, len(body)).size == len(body)
        return {**before, self.a: body}

    def put_new(self, body, before):
        self.s3.put(self.bucket, self.a, body, len(body), condition=Condition(absent=True))
        assert self.a not in before
        return {self.a: body, **before}

    def put_stale(self, body, before):
        self.s3.put(self.bucket, self.a, body, len(body), condition=Condition("0" * 31 + "1"))
        raise AssertionError("a version that nobody had was replaced")

    def copy(self, _body, before):
        entry, _ = self.s3.head(self.bucket, self.a)
        assert self.s3.copy((self.bucket, entry), self.bucket, self.b).size == len(before[self.a])
        return {**before, self.b: before[self.a]}

    def parts(self, body, before):
        upload = self.s3.start_upload(self.bucket, self.b, Content())
        part = self.s3.upload_part(self.bucket, self.b, upload, 1, body, len(body))
        self.s3.finish_upload(self.bucket, self.b, upload, [part], len(body))
        return {**before, self.b: body}

    def parts_by_copy(self, _body, before):
        entry, _ = self.s3.head(self.bucket, self.a)
        source = (self.bucket, entry)
        upload = self.s3.start_upload(self.bucket, self.b, Content())
        part = self.s3.copy_part(source, self.bucket, self.b, upload, 1, 0, entry.size)
        self.s3.finish_upload(self.bucket, self.b, upload, [part], entry.size)
        return {**before, self.b: before[self.a]}

    def listing(self, _body, before):
        prefix = self.a[: -len(KEYS[0])]
        assert listed(self.s3, self.bucket, prefix) == sorted(before)
        return before

    def head(self, _body, before):
        for key, data in before.items():
            assert self.s3.head(self.bucket, key)[0].size == len(data)
        return before

    def reading(self, _body, before):
        for key, data in before.items():
            assert read(self.s3, self.bucket, self.s3.head(self.bucket, key)[0]) == data
        return before

    def reading_of_a_part(self, _body, before):
        for key, data in before.items():
            buffer = bytearray(2)
            etag = self.s3.head(self.bucket, key)[0].etag
            self.s3.read_into(self.bucket, key, etag, 1, memoryview(buffer))
            assert buffer == data[1:3]
        return before

    def delete(self, _body, before):
        etags = {key: self.s3.head(self.bucket, key)[0].etag for key in before}
        refused = dict(self.s3.delete_many(self.bucket, list(etags), etags))
        return {key: data for key, data in before.items() if key in refused}

    def delete_stale(self, _body, before):
        etags = dict.fromkeys(before, "0" * 31 + "1")
        refused = dict(self.s3.delete_many(self.bucket, list(etags), etags))
        assert refused.keys() == before.keys()
        for key in before:
            with pytest.raises(MimicError):
                self.s3.conditions.delete(self.bucket, key, etags[key])
        return before


@given(
    st.sampled_from([NoConditions, IgnoresConditions, BareConditions, RefusesRightOnes]),
    st.sets(st.sampled_from(QUIRKS), max_size=6),
    st.sets(st.sampled_from(KINDS), max_size=1),
    st.permutations(CALLS),
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=4,
    phases=[Phase.generate],
)
def test_of_a_server_with_many_quirks_nothing_is_believed_that_is_not_true(
    client, bucket, proxy, conditions, quirks, silent, calls
):
    use = Use(proxy.url, client, bucket, f"{next(_numbers)}/")
    server = [each() for each in ordered({conditions, *quirks})]
    with proxy.rule(StandIn(*(Silent(kind) for kind in silent), *server)):
        for call in ("theirs", *calls):
            use.do(call)
    use.s3.close()
    use.s3.mimicdb.close()


@given(
    st.sampled_from([NoConditions, IgnoresConditions, BareConditions, RefusesRightOnes]),
    st.sets(st.sampled_from(QUIRKS), min_size=2, max_size=6),
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=4,
    phases=[Phase.generate],
)
def test_a_server_with_many_quirks_that_does_what_it_says_is_used_as_s3_is(
    client, bucket, proxy, conditions, quirks
):
    server = [each() for each in ordered({conditions, *quirks})]
    mirror = Mirror(Memory())
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=2), mirror)
    with proxy.rule(StandIn(*server)), closing(mirror), closing(s3):
        used(s3, client, bucket)


def ordered(quirks: set[type[Quirk]]) -> list[type[Quirk]]:
    return sorted(quirks, key=QUIRKS.index)
