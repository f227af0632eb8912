"""What a HEAD said is said again only as long as nothing shows that it is otherwise now."""

from __future__ import annotations

import io
import threading

import pytest
import s3transfer
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from support.mounts import costs
from support.proxy import Hold

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]


@pytest.fixture
def remembered(library, mimicked, bucket):
    """A bucket with one key, of which the mirror has all that a HEAD says."""
    mimicked.put_object(Bucket=bucket, Key="a", Body=b"x", Metadata={"state": "old"})
    library.sync(bucket, client=mimicked)
    mimicked.head_object(Bucket=bucket, Key="a")
    return bucket


def copied_onto_itself(client, bucket, **changed):
    source = {"Bucket": bucket, "Key": "a"}
    client.copy_object(
        Bucket=bucket, Key="a", CopySource=source, MetadataDirective="REPLACE", **changed
    )


@pytest.mark.parametrize("meta", [{"state": "new"}, {}])
def test_a_get_that_shows_other_metadata_ends_it(mimicked, client, remembered, meta):
    copied_onto_itself(client, remembered, Metadata=meta)
    mimicked.get_object(Bucket=remembered, Key="a")["Body"].close()
    assert mimicked.head_object(Bucket=remembered, Key="a")["Metadata"] == meta


def test_a_sync_that_shows_another_storage_class_ends_it(library, mimicked, client, remembered):
    copied_onto_itself(client, remembered, StorageClass="STANDARD_IA")
    library.sync(remembered, client=mimicked)
    (item,) = mimicked.list_objects_v2(Bucket=remembered)["Contents"]
    said = mimicked.head_object(Bucket=remembered, Key="a")
    assert (item["StorageClass"], said["StorageClass"]) == ("STANDARD_IA", "STANDARD_IA")


def test_a_sync_that_shows_nothing_else_leaves_it(library, mimicked, proxy, remembered):
    library.sync(remembered, client=mimicked)
    proxy.counted()
    with costs(proxy):
        assert mimicked.head_object(Bucket=remembered, Key="a")["Metadata"] == {"state": "old"}


@pytest.mark.parametrize("known", [True, False])
def test_one_that_was_asked_for_before_our_change_is_not_remembered(
    library, mimicked, client, bucket, proxy, known
):
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    if known:
        library.sync(bucket, client=mimicked)
    asked = {"Bucket": bucket, "Key": "a"}
    with proxy.rule(Hold(lambda request: request.kind == "HEAD", answers=True)) as held:
        reader = threading.Thread(target=mimicked.head_object, kwargs=asked)
        reader.start()
        assert held.reached.wait(30)
        mimicked.put_object_tagging(**asked, Tagging={"TagSet": [{"Key": "t", "Value": "1"}]})
        held.release()
        reader.join()
    for _ in range(2):
        said = mimicked.head_object(**asked)["ResponseMetadata"]["HTTPHeaders"]
        assert said["x-amz-tagging-count"] == "1"


def test_one_that_is_learned_while_those_of_the_bucket_end_ends_too(
    library, mimicked, remembered, monkeypatch
):
    record_all, entry = library.record_all, library.entry(remembered, "a")

    def overtaken(*args):
        monkeypatch.setattr(library, "record_all", record_all)
        library.record(remembered, entry)
        record_all(*args)

    monkeypatch.setattr(library, "record_all", overtaken)
    mimicked.put_bucket_versioning(Bucket=remembered, VersioningConfiguration={"Status": "Enabled"})
    assert library.entry(remembered, "a").head is None


def test_of_a_bucket_it_ends_with_the_bucket(mimicked, proxy, bucket):
    mimicked.head_bucket(Bucket=bucket)
    mimicked.delete_bucket(Bucket=bucket)
    mimicked.create_bucket(Bucket=bucket)
    proxy.counted()
    with costs(proxy, HEAD=1):
        mimicked.head_bucket(Bucket=bucket)


MIB = 1 << 20


@pytest.mark.parametrize("transfer", ["download", "copy"])
@pytest.mark.parametrize(("old", "heads"), [(6 * MIB, 1), (5 * MIB - 1, 0), (None, 1)])
def test_a_transfer_of_what_others_have_replaced_is_that_of_a_plain_client(
    library, client, bucket, proxy, transfer, old, heads
):
    """It asks for the parts of what it was told of first, and no others."""
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    mimicked = library.client(endpoint_url=proxy.url, config=config)
    parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    if old is not None:
        client.put_object(Bucket=bucket, Key="a", Body=bytes(old))
    library.sync(bucket, client=mimicked)
    if old is not None:
        mimicked.head_object(Bucket=bucket, Key="a")
    newer = b"\1" * (7 * MIB)
    client.put_object(Bucket=bucket, Key="a", Body=newer)
    proxy.counted()
    found = io.BytesIO()
    if transfer == "copy":
        mimicked.copy({"Bucket": bucket, "Key": "a"}, bucket, "b", Config=parts)
        found.write(client.get_object(Bucket=bucket, Key="b")["Body"].read())
    else:
        mimicked.download_fileobj(bucket, "a", found, Config=parts)
        assert proxy.counted().get("HEAD", 0) == heads
    assert found.getvalue() == newer
    mimicked.close()


def test_a_download_by_the_s3transfer_of_old_is_that_of_a_plain_client(
    library, mimicked, client, bucket, tmp_path
):
    client.put_object(Bucket=bucket, Key="a", Body=bytes(6 * MIB))
    library.sync(bucket, client=mimicked)
    mimicked.head_object(Bucket=bucket, Key="a")
    newer = b"\1" * (7 * MIB)
    client.put_object(Bucket=bucket, Key="a", Body=newer)
    parts = s3transfer.TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    transfer = s3transfer.S3Transfer(mimicked, parts)
    transfer.download_file(bucket, "a", str(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == newer
