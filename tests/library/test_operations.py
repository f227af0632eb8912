"""Every operation of the installed botocore is in the table of what it does to the mirror."""

from __future__ import annotations

import botocore.session

from mimicfs.s3.mimicking.operations import Effect, changed_keys, effect_of, unclassed


def operations():
    model = botocore.session.get_session().get_service_model("s3")
    return {name: model.operation_model(name) for name in model.operation_names}


def test_no_operation_of_botocore_is_missing():
    assert unclassed(operations()) == [], (
        "botocore has operations that mimicfs does not know: read in S3's reference what each"
        " does to objects, and name it under that effect in mimicfs/s3/mimicking/operations.py"
    )


def test_what_is_taken_for_reading_by_its_name_reads():
    methods = {
        model.http["method"]
        for name, model in operations().items()
        if name.startswith(("Get", "Head", "List"))
    }
    assert methods == {"GET", "HEAD"}


def test_the_keys_that_a_call_changes():
    names = {
        name: changed_keys(name, {"Bucket": "b", "Key": "k"})
        for name in operations()
        if effect_of(name) in (Effect.KEY, Effect.UPLOAD, Effect.HEAD)
    }
    changing = {name for name, keys in names.items() if keys == [("b", "k")]}
    assert changing == {name for name in names if effect_of(name) is not Effect.UPLOAD}
    assert {"PutObject", "DeleteObject", "PutObjectTagging"} <= changing
    deleted = {"Objects": [{"Key": "a"}, {"Key": "c", "VersionId": "1"}, {"Key": "a"}]}
    assert changed_keys("DeleteObjects", {"Bucket": "b", "Delete": deleted}) == [
        ("b", "a"),
        ("b", "c"),
    ]


def test_a_rename_changes_each_key_that_its_source_may_name():
    moved = {"Bucket": "b", "Key": "new", "RenameSource": "old%20name"}
    assert changed_keys("RenameObject", moved) == [("b", "new"), ("b", "old name")]
    moved["RenameSource"] = "b/old"
    assert changed_keys("RenameObject", moved) == [("b", "new"), ("b", "old"), ("b", "b/old")]


def test_an_operation_that_nobody_knows_changes_what_it_names():
    assert effect_of("TransmogrifyObject") is Effect.UNKNOWN
    assert changed_keys("TransmogrifyObject", {"Bucket": "b", "Key": "k"}) == [("b", "k")]
    assert effect_of("GetWhateverComes") is Effect.NONE
