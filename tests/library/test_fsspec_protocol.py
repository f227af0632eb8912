"""mimicfs:// and s3:// by fsspec: a dataset that was listed once is not listed again."""

from __future__ import annotations

import gc
from unittest.mock import Mock

import fsspec
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyarrow import parquet
from support.mounts import costs

import mimicfs.fsspec
from mimicfs.backends.sqlite import SQLite

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("server", ["moto"], indirect=True)]

OPTIONS = {"s3": {"addressing_style": "path"}}


@pytest.fixture
def dataset(client, bucket, tmp_path):
    """A partitioned table in the bucket."""
    table = pa.table({"year": [2025, 2025, 2026], "n": [1, 2, 3]})
    parquet.write_to_dataset(table, tmp_path / "t", partition_cols=["year"])
    for file in sorted((tmp_path / "t").rglob("*.parquet")):
        key = f"t/{file.relative_to(tmp_path / 't')}"
        client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
    return f"{bucket}/t"


def opened(proxy, tmp_path, **options):
    return fsspec.filesystem(
        "mimicfs",
        endpoint_url=proxy.url,
        config_kwargs=OPTIONS,
        store=f"sqlite:{tmp_path / 'mirror.db'}",
        skip_instance_cache=True,
        **options,
    )


def test_the_store_that_it_has_opened_is_closed_with_it(monkeypatch, proxy, tmp_path):
    close = Mock()
    monkeypatch.setattr(SQLite, "close", close)
    fs = opened(proxy, tmp_path)
    backend = fs.mimicdb.backend
    del fs
    gc.collect()
    assert close.call_count == 1
    monkeypatch.undo()
    backend.close()


def by_pyarrow(fs, path):
    found = ds.dataset(path, filesystem=fs, partitioning="hive", format="parquet")
    return found.to_table().column("n").to_pylist()


def by_pandas(fs, path):
    import pandas

    return list(pandas.read_parquet(path, filesystem=fs).n)


def by_dask(fs, path):
    import dask.dataframe

    return list(dask.dataframe.read_parquet(path, filesystem=fs).n.compute())


def by_duckdb(fs, path):
    import duckdb

    with duckdb.connect() as db:
        db.register_filesystem(fs)
        rows = db.sql(f"SELECT n FROM 'mimicfs://{path}/*/*.parquet'").fetchall()
    return [n for (n,) in rows]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dask's use of pandas
@pytest.mark.parametrize("read", [by_pyarrow, by_pandas, by_dask, by_duckdb])
def test_a_dataset_is_listed_once(proxy, tmp_path, dataset, read):
    first = opened(proxy, tmp_path)
    proxy.counted()
    assert sorted(read(first, dataset)) == [1, 2, 3]
    assert proxy.counted()["LIST"] >= 1
    assert sorted(read(first, dataset)) == [1, 2, 3]
    assert "LIST" not in proxy.counted()
    again = opened(proxy, tmp_path)  # as another program, with the same store
    assert sorted(read(again, dataset)) == [1, 2, 3]
    assert "LIST" not in proxy.counted()


def test_what_is_older_than_its_ttl_is_asked_again(proxy, tmp_path, client, bucket, dataset):
    opened(proxy, tmp_path).ls(dataset)
    client.put_object(Bucket=bucket, Key="t/new", Body=b"x")
    assert f"{dataset}/new" not in opened(proxy, tmp_path, ttl=3600).ls(dataset)
    assert f"{dataset}/new" in opened(proxy, tmp_path, ttl=0).ls(dataset)


def test_refresh_asks_s3(proxy, tmp_path, client, bucket, dataset):
    fs = opened(proxy, tmp_path)
    fs.ls(dataset)
    client.put_object(Bucket=bucket, Key="t/new", Body=b"x")
    assert f"{dataset}/new" in fs.ls(dataset, refresh=True)


def test_refresh_asks_s3_about_one_object_and_about_buckets(proxy, tmp_path, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"1", Metadata={"n": "1"})
    fs = opened(proxy, tmp_path)
    asking = [
        lambda **how: fs.info(f"{bucket}/a", **how)["size"],
        lambda **how: fs.checksum(f"{bucket}/a", **how),
        lambda **how: fs.metadata(f"{bucket}/a", **how)["n"],
        lambda **how: fs.modified(f"{bucket}/a", **how) is None,
        lambda **how: f"{bucket}-new" in fs.ls("", detail=False, **how),
    ]
    fs.ls(bucket)
    before = [ask() for ask in asking]
    with costs(proxy):
        assert [ask() for ask in asking] == before == [1, before[1], "1", False, False]
    client.create_bucket(Bucket=f"{bucket}-new")
    new = []
    for size, ask in enumerate(asking, 2):
        client.put_object(Bucket=bucket, Key="a", Body=b"1" * size, Metadata={"n": str(size)})
        new.append(ask(refresh=True))
    assert new == [2, int("698d51a19d8a121ce581499d7b701668", 16), "4", False, True]


def test_what_the_ttl_says_of_listings_holds_for_one_object_and_for_buckets(
    proxy, tmp_path, client, bucket
):
    client.put_object(Bucket=bucket, Key="a", Body=b"1")
    kept = opened(proxy, tmp_path, ttl=3600)
    kept.ls(""), kept.ls(bucket), kept.info(f"{bucket}/a")
    client.put_object(Bucket=bucket, Key="a", Body=b"12")
    client.put_object(Bucket=bucket, Key="new", Body=b"1")
    client.create_bucket(Bucket=f"{bucket}-new")

    def shown(fs):
        exist = [fs.exists(f"{bucket}/new"), fs.isfile(f"{bucket}/new")]
        return fs.info(f"{bucket}/a")["size"], *exist, f"{bucket}-new" in fs.ls("", detail=False)

    with costs(proxy):
        assert shown(kept) == (1, False, False, False)
    assert shown(opened(proxy, tmp_path, ttl=0)) == (2, True, True, True)


def test_a_directory_that_is_too_big_is_listed_deep_once(
    monkeypatch, proxy, tmp_path, client, bucket
):
    for key in ("d/a", "d/b/c", "d/b/d"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    fs = opened(proxy, tmp_path)
    ask = fs._call_s3

    async def ask_for_one(method, *asked, **params):
        return await ask(method, *({**each, "MaxKeys": 1} for each in asked), **params)

    monkeypatch.setattr(fs, "_call_s3", ask_for_one)  # which lists deep
    monkeypatch.setattr(mimicfs.fsspec, "_PAGES_MAX", 2)
    with costs(proxy, LIST=3):
        assert fs.ls(f"{bucket}/d", detail=False) == [f"{bucket}/d/a", f"{bucket}/d/b"]
    client.put_object(Bucket=bucket, Key="d/e", Body=b"x")
    for how in ({}, {"refresh": True}):
        with costs(proxy, LIST=1):
            assert f"{bucket}/d/e" in fs.ls(f"{bucket}/d", detail=False, **how)


def test_addresses_and_writes(proxy, tmp_path, bucket):
    fs = opened(proxy, tmp_path)
    fs.pipe(f"mimicfs://{bucket}/d/a", b"123")
    assert fs.cat(f"mimicfs://{bucket}/d/a") == b"123"
    assert fs.ls(f"s3://{bucket}/d") == [f"{bucket}/d/a"]
    fs.mimicdb.close()


def test_s3_addresses_are_the_mirrors_once_installed(monkeypatch, proxy, tmp_path, bucket):
    monkeypatch.setattr(fsspec.config, "conf", {})
    before = fsspec.get_filesystem_class("s3")
    store = f"sqlite:{tmp_path / 'mirror.db'}"
    mimicfs.fsspec.install(store=store, endpoint_url=proxy.url, config_kwargs=OPTIONS)
    try:
        with fsspec.open(f"s3://{bucket}/a", "wb") as file:
            file.write(b"12")
        fs, _ = fsspec.core.url_to_fs(f"s3://{bucket}/a")
        assert type(fs) is mimicfs.fsspec.MimicFileSystem
        assert [entry.key for entry in fs.mimicdb.listing(bucket)] == ["a"]
        fs.mimicdb.close()
    finally:
        for protocol in ("s3", "s3a"):
            fsspec.register_implementation(protocol, before, clobber=True)
