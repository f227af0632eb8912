"""Reports of S3 Inventory, over a real server."""

import pytest
from support import reports
from support.reports import row

from mimicfs.entry import Entry
from mimicfs.errors import ConfigError, KeyNotFound, MalformedIndex
from mimicfs.index.inventory import coverage, read_entries, read_manifest
from mimicfs.index.sorting import in_order

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

HOSTILE = ["a b+c", "d/é%41", "d/\x01\n,\"'", "e//f", "z\U0001f600"]


def entries(s3, url, prefix=""):
    manifest = read_manifest(s3, url)
    return [entry for batch in in_order(read_entries(s3, manifest, prefix)) for entry in batch]


@pytest.mark.parametrize(
    ("kind", "write"),
    [("CSV", reports.csv_file), ("Parquet", reports.parquet_file), ("ORC", reports.orc_file)],
)
def test_current_objects_are_read_in_any_order_of_any_format(s3, client, bucket, kind, write):
    rows = [row("src", key, n) for n, key in enumerate(HOSTILE)]
    rows += [
        row("src", "a b+c", 99, is_latest=False, version_id="v0"),
        row("src", "gone", None, is_delete_marker=True, version_id="v1"),
        row("src", "old", 1, storage_class="GLACIER", e_tag="x-2"),
    ]
    url = reports.publish(client, bucket, "src", [write(rows[::-2]), write(rows[-2::-2])], kind)
    found = entries(s3, url)
    mtime_ns = 1_600_000_000 * 1_000_000_000
    expected = [Entry(key, n, mtime_ns, "e") for n, key in enumerate(HOSTILE)]
    expected.append(Entry("old", 1, mtime_ns, "x-2", "GLACIER"))
    assert found == sorted(expected)
    manifest = read_manifest(s3, url.removesuffix("/manifest.json"))
    assert (manifest.bucket, manifest.created_ns) == ("src", reports.CREATED_MS * 1_000_000)


def test_optional_fields_may_be_missing(s3, client, bucket):
    schema = ["Bucket", "Key", "Size"]
    body = reports.csv_file([row("src", "a", 7)], schema)
    url = reports.publish(client, bucket, "src", [body], schema=schema)
    assert entries(s3, url) == [Entry("a", 7, reports.CREATED_MS * 1_000_000)]


def test_nothing_is_used_whose_checksum_is_wrong(s3, client, bucket):
    body = reports.csv_file([row("src", "a")])
    files = [{"key": "reports/src/daily/data/0.csv", "size": len(body), "MD5checksum": "0" * 32}]
    url = reports.publish(client, bucket, "src", [body], files=files)
    with pytest.raises(MalformedIndex, match=r"0\.csv \(file 1 of 1\): its MD5 is"):
        entries(s3, url)
    files[0]["size"] = 1
    reports.publish(client, bucket, "src", [body], files=files)
    with pytest.raises(MalformedIndex, match="the manifest says 1"):
        entries(s3, url)
    key = url.removeprefix(f"s3://{bucket}/")
    client.put_object(Bucket=bucket, Key=key, Body=b"{}")
    with pytest.raises(MalformedIndex, match="its MD5 differs from that in"):
        read_manifest(s3, url)
    client.delete_object(Bucket=bucket, Key=key.replace(".json", ".checksum"))
    with pytest.raises(MalformedIndex, match=r"manifest\.checksum: not there yet"):
        read_manifest(s3, url)
    with pytest.raises(KeyNotFound):
        read_manifest(s3, f"s3://{bucket}/none/manifest.json")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("other", "a")], "line 1|row 1: the bucket is 'other'"),
        ([row("src", "a"), row("src", "ab", None)], "row 2: size None of 'ab'"),
        ([row("src", "a", is_latest="maybe")], "line 1: is_latest: 'maybe'"),
        ([row("src", "out")], "row 1: key 'out' does not begin with 'a'"),
    ],
)
def test_an_error_names_file_and_row(s3, client, bucket, rows, said):
    url = reports.publish(client, bucket, "src", [reports.csv_file(rows)])
    with pytest.raises(MalformedIndex, match=rf"data/0\.csv .*({said})"):
        entries(s3, url, "a")


def test_a_report_that_cannot_say_what_is_there_is_refused(s3, client, bucket):
    for schema, said in (
        (["Bucket", "Key"], "no column Size"),
        (["Bucket", "Size"], "no column Key"),
        (["Bucket", "Key", "Size", "VersionId"], "which are the latest"),
    ):
        url = reports.publish(client, bucket, "src", [], schema=schema)
        with pytest.raises(MalformedIndex, match=said):
            read_manifest(s3, url)
    for changed, said in (({"fileFormat": "XML"}, "'XML'"), ({"files": [{}]}, "KeyError")):
        with pytest.raises(MalformedIndex, match=said):
            read_manifest(s3, reports.publish(client, bucket, "src", [], **changed))
    url = reports.publish(client, bucket, "src", [b"no gzip"])
    with pytest.raises(MalformedIndex, match=r"0\.csv .*: line 0: Not a gzipped file"):
        entries(s3, url)


def test_the_configuration_says_of_which_prefix_it_is(s3, client, bucket):
    source = f"{bucket}-source"
    client.create_bucket(Bucket=source)
    manifest = read_manifest(s3, reports.publish(client, bucket, source, []))
    with pytest.raises(ConfigError, match=r"cannot find out .* give --prefix ''"):
        coverage(s3, manifest)
    configuration = {
        "Destination": {"S3BucketDestination": {"Bucket": "arn:aws:s3:::x", "Format": "CSV"}},
        "IsEnabled": True, "Id": "daily", "IncludedObjectVersions": "All",
        "Schedule": {"Frequency": "Daily"},
    }  # fmt: skip

    def configure(**more):
        client.put_bucket_inventory_configuration(
            Bucket=source, Id="daily", InventoryConfiguration={**configuration, **more}
        )

    configure()
    assert coverage(s3, manifest) == ""
    configure(Filter={"Prefix": "d/log-"})
    assert coverage(s3, manifest) == "d/log-"
