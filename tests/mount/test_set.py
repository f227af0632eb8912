"""Limits and costs of a mount that runs: `mimicfs set` and `status`."""

import pytest
from support.mounts import run, succeed

from mimicfs.config.limits import Prices

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


def test_a_running_mount_is_told_other_limits_and_tells_what_it_costs(mount_at, client, bucket):
    client.put_object(Bucket=bucket, Key="a", Body=b"x")
    prices = ["--prices", "put=5 get=0.5"]
    path = mount_at(f"s3://{bucket}", "--upload-limit", "5M", *prices).path
    assert (path / "a").read_text() == "x"
    assert succeed("set", path).splitlines()[:2] == ["download-limit=off", "upload-limit=5242880"]
    told = succeed("set", path, "download_limit=10M", "max-requests-per-day=1").splitlines()
    assert told[0] == "download-limit=10485760"
    with pytest.raises(OSError, match="quota"):
        (path / "b").write_text("not to be sent")
    succeed("set", path, "max-requests-per-day=off")
    (path / "b").write_text("sent")
    shown = succeed("status", path)
    assert "  limits   down 10.0 MiB/s; up 5.0 MiB/s\n" in shown
    (costs,) = [line for line in shown.splitlines() if line.startswith("  costs    ")]
    words = costs.replace(",", "").split()
    put, get = int(words[1]), int(words[7])
    spent = Prices(5, 0.5).of({"PUT": put, "GET": get})
    assert f"; {spent:,.2f} USD spent, " in costs


def test_a_limit_that_makes_no_sense_is_a_wrong_command_line(mount_at, bucket):
    path = mount_at(f"s3://{bucket}").path
    wrong = [("set", "download-limit=fast"), ("set", "parts=1"), ("log-level", "loud")]
    for command, word in wrong:
        assert run(command, path, word).returncode == 2, word
    said = "fast: not a limit; write 10M, off, or 08:00=1M 18:00=off"
    assert run("set", path, "download-limit=fast").stderr == f"mimicfs: {said}\n"
