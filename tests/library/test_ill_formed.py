"""A call that botocore refuses is refused by a mimicked client in the same words; and what a call
says in an odd way changes nothing in the mirror that it does not mean."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    EndpointResolutionError,
    NoCredentialsError,
    ParamValidationError,
)
from botocore.handlers import validate_bucket_name
from botocore.session import get_session
from botocore.validate import ParamValidator
from support.clients import CONFIG, plain
from support.mounts import costs

from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
from mimicfs.entry import Entry
from mimicfs.mimicdb import Mirror
from mimicfs.s3.mimicking import uploads
from mimicfs.s3.mimicking.conversation import hold
from mimicfs.s3.mimicking.forms import is_refused
from mimicfs.s3.mimicking.local import place_of
from mimicfs.s3.mimicking.reads import Reads
from mimicfs.s3.mimicking.rememberedheads import RememberedHeads
from mimicfs.s3.mimicking.uploads import Uploads

NOBODY = "http://127.0.0.1:9"
WHERE = {"Bucket": "b", "Key": "k"}
DELETES: list[Any] = [
    None,
    [],
    "k",
    {},
    {"Objects": None},
    {"Objects": "k"},
    {"Objects": ["k"]},
    {"Objects": [None]},
    {"Objects": [{}]},
    {"Objects": [{"Key": ["k"]}]},
    {"Objects": [{"Key": "k", "VersionId": 5}]},
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("delete_objects", {"Bucket": "b"}),
    *[("delete_objects", {"Bucket": "b", "Delete": delete}) for delete in DELETES],
    *[
        (name, {"Bucket": "b", "Delimiter": "/", "Marker": "a"} | wrong)
        for name in ("list_objects",)
        for wrong in (
            {"Bucket": ["b"]},
            {"Bucket": None},
            {"Prefix": None},
            {"Prefix": 5},
            {"Delimiter": 5},
            {"Delimiter": ["/"]},
            {"Marker": 5},
            {"Marker": ["a"]},
            {"MaxKeys": "5"},
            {"MaxKeys": None},
            {"EncodingType": 5},
            {"Nonsense": 5},
        )
    ],
    ("list_objects_v2", {"Bucket": "b", "ContinuationToken": 5}),
    ("list_objects_v2", {"Bucket": "b", "ContinuationToken": ["a"], "Delimiter": "/"}),
    ("list_objects_v2", {"Bucket": {}, "StartAfter": "a"}),
    ("list_objects_v2", {"Bucket": "b", "StartAfter": b"a"}),
    ("list_objects_v2", {"Bucket": "b", "MaxKeys": 1.5}),
    ("list_objects_v2", {}),
    ("head_object", {"Bucket": "b", "Key": ["k"]}),
    ("head_object", {"Bucket": {}, "Key": "k"}),
    ("get_object", {"Bucket": 5, "Key": "k"}),
    ("get_object", {"Bucket": "b", "Key": None}),
    ("head_bucket", {"Bucket": ["b"]}),
    ("create_bucket", {"Bucket": ["b"]}),
    ("delete_bucket", {"Bucket": {}}),
    ("put_object", WHERE | {"Metadata": None}),
    ("put_object", WHERE | {"Metadata": {"a": 5}}),
    ("put_object", WHERE | {"Body": 5}),
    ("copy_object", WHERE | {"CopySource": None}),
    ("copy_object", WHERE | {"CopySource": {}}),
    ("copy_object", WHERE | {"CopySource": {"Bucket": "b"}}),
    ("copy_object", WHERE | {"CopySource": ["b/k"]}),
    ("upload_part", WHERE | {"UploadId": ["u"], "PartNumber": 1}),
    ("upload_part_copy", WHERE | {"UploadId": "u", "PartNumber": "1", "CopySource": "b/k"}),
    ("complete_multipart_upload", WHERE | {"UploadId": "u", "MultipartUpload": []}),
    ("complete_multipart_upload", WHERE | {"UploadId": "u", "MultipartUpload": {"Parts": [1]}}),
    ("list_buckets", {"MaxBuckets": "1"}),
]


def refusal(client: Any, name: str, params: dict[str, Any]) -> str:
    # botocore looks at some values before it looks at their types.
    wrong = (ParamValidationError, EndpointResolutionError, TypeError, AttributeError)
    with pytest.raises(wrong) as found:
        getattr(client, name)(**params)
    return f"{found.type.__name__}: {found.value}"


def test_ill_formed_parameters_are_refused_as_botocore_refuses_them():
    library = MimicDB(Memory())
    client, mimicked = plain(NOBODY), library.client(endpoint_url=NOBODY, config=CONFIG)
    for name, params in REFUSED:
        expected = refusal(client, name, dict(params))
        assert refusal(mimicked, name, dict(params)) == expected, (name, params)
        assert refusal(mimicked, name, params | {"Force": True}) == expected, (name, params)
    assert library.intents.unsettled("b", "k") == []
    client.close()
    mimicked.close()


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("put_object", {"Key": "k", "Body": b"x"}),
    ("delete_object", {"Key": "k"}),
    ("delete_objects", {"Delete": {"Objects": [{"Key": "k"}]}}),
    ("copy_object", {"Key": "k", "CopySource": {"Bucket": "c", "Key": "k"}}),
    ("complete_multipart_upload", {"Key": "k", "UploadId": "u"}),
]
if "RenameObject" in get_session().get_service_model("s3").operation_names:
    # The oldest botocore that setup.cfg admits does not have it.
    REFUSED.append(("rename_object", WHERE | {"RenameSource": None}))
    CHANGES.append(("rename_object", {"Key": "k", "RenameSource": "l"}))


@pytest.mark.parametrize(("name", "params"), CHANGES, ids=lambda it: it if type(it) is str else "")
@pytest.mark.parametrize(("bucket", "signed"), [("In valid", True), ("b", False)])
def test_a_change_that_botocore_does_not_send_leaves_nothing_to_ask(name, params, bucket, signed):
    library = MimicDB(Memory())
    mimicked = library.client(endpoint_url=NOBODY, config=CONFIG)
    if not signed:
        mimicked._request_signer._credentials = None
    with pytest.raises((ParamValidationError, NoCredentialsError)):
        getattr(mimicked, name)(Bucket=bucket, **params)
    assert library.intents.unsettled(bucket, "k") == []
    mimicked.close()


@pytest.mark.parametrize("bucket", ["In valid", ""])
@pytest.mark.parametrize("validation", [True, False])
def test_a_bucket_whose_name_botocore_refuses_is_not_listed(bucket, validation):
    library = MimicDB(Memory())
    config = CONFIG.merge(Config(parameter_validation=validation))
    mimicked = library.client(endpoint_url=NOBODY, config=config)
    with pytest.raises(ParamValidationError):
        mimicked.put_object(Bucket=bucket, Key="k")
    assert library.backend.buckets() == []
    mimicked.meta.events.unregister("before-parameter-build.s3", validate_bucket_name)
    if bucket:
        with pytest.raises(EndpointConnectionError):
            mimicked.put_object(Bucket=bucket, Key="k")
        assert [each.key for each in library.intents.unsettled(bucket, "k")] == ["k"]
    mimicked.close()
    library.close()


@pytest.mark.parametrize(("name", "params"), CHANGES, ids=lambda it: it if type(it) is str else "")
def test_a_change_whose_server_does_not_answer_may_be_done(name, params):
    library = MimicDB(Memory())
    mimicked = library.client(endpoint_url=NOBODY, config=CONFIG)
    with pytest.raises(EndpointConnectionError):
        getattr(mimicked, name)(Bucket="b", **params)
    assert [each.key for each in library.intents.unsettled("b", "k")] == ["k"]
    mimicked.close()
    library.close()


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_deletion_of_an_empty_version_is_looked_at(library, mimicked, bucket, proxy):
    for key in ("a", "b"):
        mimicked.put_object(Bucket=bucket, Key=key, Body=b"x")
    with costs(proxy, DELETE=1, HEAD=1):  # servers refuse it, or take it for none
        mimicked.delete_object(Bucket=bucket, Key="a", VersionId="")
    with costs(proxy, POST=1, HEAD=1):
        mimicked.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "b", "VersionId": ""}]})


@pytest.mark.parametrize("given", [{"VersionId": ""}, {"PartNumber": 0}], ids=str)
@pytest.mark.parametrize("operation", ["HeadObject", "GetObject"])
def test_an_empty_version_or_part_says_nothing_of_the_object(operation, given):
    mirror = Mirror(Memory())
    mirror.record("b", Entry("k", 5))
    said = {"HTTPStatusCode": 404, "HTTPHeaders": {"x-amz-request-id": "1"}}
    missing = {"Error": {"Code": "404"}, "ResponseMetadata": said}

    def ask(operation: str, params: dict[str, Any]) -> Any:
        raise ClientError(missing, operation)

    reads = Reads(mirror, RememberedHeads(mirror), lambda _: False)
    with pytest.raises(ClientError):
        hold(reads.read(operation, WHERE | given), ask)
    assert mirror.entry("b", "k") == Entry("k", 5)


@pytest.mark.parametrize(
    ("span", "size"),
    [
        ("bytes=0-9", 10),
        ("bytes=7-7", 1),
        ("bytes=0-", None),
        ("bytes=-5", None),
        ("bytes=5", None),
        ("bytes=", None),
        ("bytes=9-3", None),
        ("bytes=a-b", None),
        ("bytes=0-4,7-9", None),
        ("bytes=+0-+9", None),
        ("bytes=1_0-2_0", None),
        ("characters=0-9", None),
        ("", None),
        (None, None),
    ],
)
def test_a_part_that_is_copied_has_the_size_of_its_range_or_none(span, size):
    uploads, upload = Uploads(), WHERE | {"UploadId": "u"}
    uploads.begin(WHERE, {"UploadId": "u"}, 0)
    uploads.part(upload | {"PartNumber": 1}, {}, 5)  # which is replaced
    copied = {} if span is None else {"CopySourceRange": span}
    uploads.part_copy(upload | {"PartNumber": 1} | copied, {}, 0)
    parts = {"MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": "e"}]}}
    completed = uploads.completed(upload | parts)
    assert (completed and completed.size) == size


def test_uploads_that_nobody_ends_are_forgotten(monkeypatch):
    monkeypatch.setattr(uploads, "_UPLOADS_MAX", 2)
    known = Uploads()
    for number in "123":
        known.begin({"Key": number}, {"UploadId": number}, 0)
        known.part({"UploadId": "1", "PartNumber": 1}, {}, 5)
    ended = {"MultipartUpload": {"Parts": [{"PartNumber": 1}]}}
    assert known.completed({"UploadId": "1", **ended}) == ({"Key": "1"}, 5)
    assert known.completed({"UploadId": "2", **ended}) is None


@pytest.mark.parametrize(
    "told", [{}, {"MultipartUpload": {}}, {"MultipartUpload": {"Parts": [{"ETag": "e"}]}}], ids=str
)
def test_an_upload_that_names_no_part_is_of_unknown_size(told):
    uploads = Uploads()
    uploads.begin(WHERE, {"UploadId": "u"}, 0)
    uploads.part(WHERE | {"UploadId": "u", "PartNumber": 1}, {}, 5)
    assert uploads.completed(WHERE | {"UploadId": "u"} | told) is None


@pytest.mark.parametrize(
    "token", ["mimicfs:", "mimicfs:zzz", "mimicfs:YQ", "mimicfs:YQ==!", "YQ=="]
)
def test_a_token_that_the_mirror_has_not_given_out_is_s3s_to_refuse(token):
    assert place_of(token) is None
    assert place_of("mimicfs:YQ==") == "a"


def test_a_listing_of_the_past_that_is_ill_formed_is_refused_as_botocore_refuses_it():
    library = MimicDB(Memory())
    client, then = plain(NOBODY), library.at("-1h").client(endpoint_url=NOBODY, config=CONFIG)
    listings = [(name, params) for name, params in REFUSED if name.startswith("list_objects")]
    for name, params in listings:
        if isinstance(params.get("Bucket", ""), str):
            expected = refusal(client, name, dict(params))
            # An older botocore refuses a Prefix when it looks for the endpoint, first of all.
            if not expected.startswith("EndpointResolutionError"):
                assert refusal(then, name, dict(params)) == expected
    client.close()
    then.close()


def test_a_call_is_refused_exactly_when_botocores_validator_refuses_it():
    client = plain(NOBODY)
    values = ("text", "", b"bytes", b"", 5, 0, True, None, [], ["text"], {})
    differing = []
    for operation in client.meta.service_model.operation_names:
        shape = client.meta.service_model.operation_model(operation).input_shape
        whole = dict.fromkeys(shape.required_members, "text") if shape else {}
        given = [{n: v for n, v in whole.items() if n != missing} for missing in whole]
        given += [whole | {n: v} for n in (*whole, "Expires", "Body", "Nonsense") for v in values]
        for params in given:
            if shape and params.get("Bucket") != "":  # that is refused for its name
                refused = ParamValidator().validate(params, shape).has_errors()
                if is_refused(client, operation, params) != refused:
                    differing.append((operation, params))
    assert differing == []


def test_nothing_is_kept_of_the_model_of_a_client_that_is_gone():
    client = plain(NOBODY)
    shape = client.meta.service_model.operation_model("GetObject").input_shape
    assert not is_refused(client, "GetObject", {"Bucket": "b", "Key": "k"})
    kept = weakref.ref(shape)
    client.close()
    del client, shape
    gc.collect()
    assert kept() is None
