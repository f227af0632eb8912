"""The access log, `mimicfs top`, and the rates of `status --watch`."""

import json
import os
import subprocess
import sys

import pytest
from support.mounts import succeed

from mimicfs.cli.watching import rates

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_each_request_is_logged_with_its_answer_and_top_tells_who_asks(
    mount_at, client, bucket, tmp_path
):
    client.put_object(Bucket=bucket, Key="d/a", Body=b"x" * 1000)
    log = tmp_path / "access.log"
    path = mount_at(f"s3://{bucket}", "--access-log", str(log)).path
    top_of(path)  # from now on it is recorded
    code = f"open({str(path / 'd/a')!r}).read()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not (path / "no\n\x9bname").exists()
    told = top_of(path)
    (read,) = [each for each in told["paths"] if each["read_bytes"]]
    assert read["path"] == f"s3://{bucket}/d/a"
    assert read["read_bytes"] >= 1000
    assert {"pid", "program", "requests", "seconds", "errors"} <= set(told["processes"][0])
    lines = [line.split(" ", 8) for line in log.read_text().splitlines()]
    results = {(words[4], words[5], words[8]) for words in lines}
    assert ("read", "ok", f"s3://{bucket}/d/a") in results
    assert ("lookup", "ENOENT", f"s3://{bucket}/no\\n\\x9bname") in results
    assert {words[2] for words in lines} == {str(os.getuid())}
    assert log.stat().st_mode & 0o777 == 0o600


def top_of(path):
    return json.loads(succeed("top", "--json", "--seconds", "0.1", path))


def test_rates_are_what_was_done_in_between():
    def at(count):
        s3 = {"requests": {"GET": count}, "bytes_in": count * 1024, "bytes_out": 0,
              "calls": {"GetObject": count}, "seconds": {"GetObject": count * 0.02}}  # fmt: skip
        kernel = {"requests": {"read": count * 2, "lookup": 7}}
        return [{"mountpoint": "/mnt", "pid": 1, "s3": s3, "kernel": kernel}]

    assert list(rates(at(10), at(30), 2.0)) == [
        "/mnt, a second:",
        "  programs 20.0 read",
        "  S3       10.0 GET",
        "  bytes    10.0 KiB in, 0 B out",
        "  latency  20.0 ms GetObject",
    ]
    assert list(rates(at(10), [{**at(30)[0], "pid": 2}], 2.0)) == []
