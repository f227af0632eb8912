"""Index files: what is written is read again, and what is not whole or not right is refused."""

import gzip
import io
import json

import pytest

from mimicfs.entry import KEPT, Entry
from mimicfs.errors import ConfigError, MalformedIndex, MimicError
from mimicfs.index import files
from mimicfs.index.jsonlines import JsonLinesSink, JsonLinesSource
from mimicfs.index.records import Header, IndexPart, read_time, time_text
from mimicfs.index.sorting import in_order

NS = 1_000_000_000
HEADER = Header(5 * NS, "https://s3", 2, 7 * NS, (("b", 3 * NS), ("c", 0)))
ENTRIES = sorted(
    [
        Entry("\x01\n\t\x7f", 1, 1_700_000_000_123_456_789, "e-2", "GLACIER", {"a": "ü"}, 0, "[1]"),
        Entry("a//b"),
        Entry("d/", kind=KEPT),
        Entry("d/nul\0", 2, -1),
        Entry("d/\U0001f600\uffff", 1 << 45, 10, "e", "", {}),
        Entry('q"\\', 3, NS),
    ]
)
PARTS = [
    (IndexPart("b", "", 6 * NS, 3 * NS, NS // 2, 5, 6), ENTRIES),
    (IndexPart("c", "p/", 8 * NS), []),
]
# To import pyarrow takes longer than all the quick tests here.
NAMES = ["x.jsonl", "x.ndjson.gz", pytest.param("x.parquet", marks=pytest.mark.slow)]


def write(path, parts=PARTS, header=HEADER):
    with files.sink(str(path), header, io.BytesIO()) as sink:
        for part, entries in parts:
            sink.part(part)
            for n in range(0, len(entries), 2):
                sink.write(entries[n : n + 2])
        sink.finish()
    return path


def read(path, stdin=None):
    with files.source(str(path), stdin or io.BytesIO()) as source:
        return source.header, [
            (part, [entry for batch in batches for entry in batch])
            for part, batches in source.parts()
        ]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(tmp_path, name):
    path = write(tmp_path / name)
    assert read(path) == (HEADER, PARTS)
    assert path.stat().st_mode & 0o777 == 0o600


def test_lines_of_json_are_ascii_and_say_what_they_are(tmp_path):
    lines = (write(tmp_path / "x.jsonl")).read_text("ascii").splitlines()
    first, second, third = map(json.loads, lines[:3])
    assert first["mimicfs_index"] == 1
    assert first["parts"] == 2
    assert second == {
        "bucket": "b", "prefix": "", "synced": "1970-01-01T00:00:06Z",
        "bucket_created": "1970-01-01T00:00:03Z", "sync_seconds": 0.5, "objects": 5, "bytes": 6,
    }  # fmt: skip
    assert third == {
        "key": "\x01\n\t\x7f", "size": 1, "last_modified": "2023-11-14T22:13:20.123456789Z",
        "etag": "e-2", "storage_class": "GLACIER", "metadata": {"a": "ü"}, "head": "[1]",
    }  # fmt: skip
    assert json.loads(lines[8]) == {"entries": 6}


@pytest.mark.slow
def test_parquet_is_a_table_for_others(tmp_path):
    import pyarrow.parquet as pq

    table = pq.read_table(write(tmp_path / "x.parquet"))
    assert table.num_rows == 6
    assert table["storage_class"].to_pylist()[0] == "GLACIER"
    assert table["size"].to_pylist()[1] == 0
    assert table["directory"].to_pylist().count(True) == 1


def test_times_to_the_nanosecond():
    for ns in (0, -1, 1, NS, 1_700_000_000_123_456_789):
        assert read_time(time_text(ns)) == ns
    assert read_time("2024-01-01T01:00:00+01:00") == read_time("2024-01-01T00:00:00.000Z")
    assert read_time("2024-01-01") == read_time("2024-01-01 00:00")


def test_names_say_the_format():
    for name in ("-", "a.jsonl", "b/a.json.gz", "a.b.parquet"):
        files.check_name(name)
    for name in ("a", "a.gz", "a.parquet.gz", "a.csv"):
        with pytest.raises(ConfigError, match=r"must end in \.jsonl"):
            files.check_name(name)


def test_parquet_without_pyarrow_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"x\.parquet: .*pip install 'mimicfs\[parquet\]'"):
        files.check_name("x.parquet")


def test_compressed_lines_come_through_a_pipe(tmp_path):
    data = write(tmp_path / "x.jsonl.gz").read_bytes()
    assert read("-", io.BufferedReader(io.BytesIO(data))) == (HEADER, PARTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_not_whole_is_none(tmp_path, name):
    whole = write(tmp_path / name).read_bytes()
    path = tmp_path / f"cut-{name}"
    for size in range(0, len(whole) - 1, 41):
        path.write_bytes(whole[:size])
        with pytest.raises(MalformedIndex, match=name.split(".")[0]):
            read(path)


def test_a_batch_at_the_end_comes_only_when_the_part_is_whole(tmp_path):
    lines = write(tmp_path / "x.jsonl").read_bytes().splitlines(keepends=True)
    source = JsonLinesSource(io.BytesIO(b"".join(lines[:8])), "x")
    ((_, batches),) = [next(source.parts())]
    with pytest.raises(MalformedIndex, match="x:9: ends early, 6 entries after the beginning"):
        next(batches)


GOOD = ['{"mimicfs_index":1}', '{"bucket":"b","synced":"2024-01-01T00:00:00Z"}']
ENTRY = '{"key":"%s","size":1,"last_modified":"2024-01-01T00:00:00Z"}'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{}"], "x.jsonl:1: not an index of mimicfs"),
        (["[]"], "x.jsonl:1: not a JSON object"),
        (['{"mimicfs_index":2}'], "x.jsonl:1: the index has version 2"),
        ([GOOD[0], "what"], "x.jsonl:2: not JSON"),
        ([GOOD[0], '{"bucket":"b"}'], "x.jsonl:2: synced: missing"),
        ([GOOD[0], '{"bucket":"a/b","synced":"2024-01-01T00:00:00Z"}'], "2: bucket: 'a/b'"),
        ([GOOD[0], '{"bucket":"..","synced":"2024-01-01T00:00:00Z"}'], r"2: bucket: '\.\.'"),
        ([GOOD[0][:-1] + r',"buckets":[{"name":"\u001b"}]}'], "1: buckets: .* is not the name"),
        ([GOOD[0], ENTRY % "a"], "x.jsonl:2: neither an entry"),
        ([*GOOD, '{"key":"a"}'], "x.jsonl:3: size: missing"),
        ([*GOOD, '{"key":"","size":1}'], "x.jsonl:3: key: it is empty"),
        ([*GOOD, '{"key":7}'], "x.jsonl:3: key: 7 is not a text"),
        ([*GOOD, ENTRY.replace("1,", "-1,") % "a"], "x.jsonl:3: size: -1 is not a size"),
        ([*GOOD, ENTRY.replace("2024-01-01T", "x") % "a"], "x.jsonl:3: last_modified: 'x00"),
        ([*GOOD, ENTRY % "\\udc80"], "x.jsonl:3: key: .* half a surrogate pair"),
        ([*GOOD, ENTRY % ("é" * 513)], "x.jsonl:3: key: .* has more than 1024 bytes"),
        ([*GOOD, ENTRY % "b", ENTRY % "a"], "x.jsonl:4: key: 'a' comes after 'b'"),
        ([*GOOD, ENTRY % "b", ENTRY % "b"], "x.jsonl:4: key: 'b' is there twice"),
        ([*GOOD, ENTRY % "b", '{"entries":2}'], "x.jsonl:4: it has 1 entries .* it has 2"),
        ([*GOOD, ENTRY % ("a" * (1 << 20))], "x.jsonl:3: a line of more than"),
        ([*GOOD, "[" * 100_000], "x.jsonl:3: not JSON"),
    ],
)
def test_an_error_says_where_and_what(tmp_path, lines, said):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(MalformedIndex, match=said):
        read(path)


@pytest.mark.slow
def test_errors_in_parquet_name_the_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = {"mimicfs_index": 1, "contents": [
        {"bucket": "b", "synced": "2024-01-01T00:00:00Z", "entries": 2}]}  # fmt: skip
    columns = {"bucket": ["b", "b"], "key": ["a", "b"], "size": [1, None]}
    columns["last_modified"] = pa.array([1, 2], pa.timestamp("ms"))
    for said, meta in (
        ("x.parquet: row 2: size: missing", index),
        ("no mimicfs_index in its metadata", None),
        ("2 rows; its metadata says 0", {"mimicfs_index": 1, "contents": []}),
    ):
        table = pa.table(columns)
        if meta:
            table = table.replace_schema_metadata({"mimicfs_index": json.dumps(meta)})
        pq.write_table(table, tmp_path / "x.parquet")
        with pytest.raises(MalformedIndex, match=said):
            read(tmp_path / "x.parquet")


def test_a_file_takes_the_place_of_another_only_when_it_is_whole(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("before")
    for error in (MimicError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            with files.sink(str(path), HEADER, io.BytesIO()):
                raise error
        assert [found.name for found in tmp_path.iterdir()] == ["x.jsonl"]
        assert path.read_text() == "before"
    write(path)
    assert read(path) == (HEADER, PARTS)
    with pytest.raises(MimicError, match="No such file or directory; nothing was written"):
        write(tmp_path / "none/x.jsonl")


class Pipe(io.BytesIO):
    """Has one page of entries at a time: the next is written when that is read."""

    def __init__(self, pages):
        super().__init__()
        self._coming = self._written(pages)

    def _written(self, pages):
        sink = JsonLinesSink(self, Header(1))
        sink.part(IndexPart("b", "", 1))
        for page in pages:
            sink.write(page)
            yield
        sink.finish()
        yield

    def readline(self, size):
        line = super().readline(size)
        if line:
            return line
        self.seek(0)
        self.truncate()
        if next(self._coming, self) is self:
            return b""
        self.seek(0)
        return super().readline(size)


@pytest.mark.slow
def test_an_index_is_read_as_it_comes():
    """100,000 entries, and never more than two batches of them in memory."""
    written = []

    def page(n):
        written.append(n)
        return [Entry(f"d/{n:04}{m:04}", m, NS) for m in range(1000)]

    source = JsonLinesSource(Pipe(map(page, range(100))), "pipe")
    ((part, batches),) = [next(source.parts())]
    count = 0
    for batch in batches:
        count += len(batch)
        assert len(written) - count // 1000 <= 1
    assert (part.bucket, count) == ("b", 100_000)


def test_any_order_is_put_in_order_and_the_newest_of_a_key_stays():
    keys = [f"{n * 7919 % 1000:04}" for n in range(1000)]
    entries = [Entry(key, n) for n, key in enumerate(keys)]
    entries += [Entry("0500", 1, mtime_ns=5), Entry("0500", 2, mtime_ns=4), Entry("é\0")]
    batches = [entries[n : n + 10] for n in range(0, len(entries), 10)]
    found = [entry for batch in in_order(batches, run=10) for entry in batch]  # 101 runs
    assert [entry.key for entry in found] == [*sorted(keys), "é\0"]
    assert found[500] == Entry("0500", 1, mtime_ns=5)
    assert list(in_order([])) == []


def test_a_damaged_file_is_told(tmp_path):
    data = bytearray(gzip.compress(b"".join(write(tmp_path / "x.jsonl").read_bytes() for _ in "a")))
    data[len(data) // 2] ^= 255
    (tmp_path / "x.jsonl.gz").write_bytes(data)
    with pytest.raises(MalformedIndex, match=r"x\.jsonl\.gz"):
        read(tmp_path / "x.jsonl.gz")
