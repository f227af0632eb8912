"""/dev/fd/N: a mount that somebody else made, served by a process without privileges."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.mounts import MIMICFS, let_others_in

from mimicfs.config.values import BucketOptions, Buckets, MountChoices, VFSOptions
from mimicfs.errors import MountError
from mimicfs.fuse.handed import Handed
from mimicfs.mount.starting import _without_kernel

pytestmark = pytest.mark.slow

NOBODY = 65534
SCRIPT = Path(__file__).parent.parent / "support" / "hands_over.py"


def as_nobody():
    """How nobody makes namespaces; where nobody may not run our Python, we without our rights."""
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    own = ["unshare", "-Urm"]
    for words in ([*nobody, *own], own):
        tried = [*words, sys.executable, "-c", "import mimicfs.cli"]
        if subprocess.run(tried, capture_output=True, cwd="/", check=False).returncode == 0:
            return words
    return own


@pytest.fixture
def device(tmp_path):
    """/dev/fuse as distributions have it: everybody may open it."""
    if os.getuid():
        return "/dev/fuse"
    path = tmp_path / "fuse"
    os.mknod(path, stat.S_IFCHR, os.makedev(10, 229))
    path.chmod(0o666)
    return str(path)


@pytest.mark.parametrize("server", ["moto"], indirect=True)
def test_a_process_without_privileges_serves_what_another_one_mounted(
    tmp_path, device, client, bucket, proxy
):
    unshare = as_nobody()
    tried = [*unshare, "mount", "-t", "tmpfs", "x", "/mnt"]
    probe = subprocess.run(tried, capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no user namespaces here: {probe.stderr!r}")
    client.put_object(Bucket=bucket, Key="a", Body=b"from S3")
    point, home = tmp_path / "point", tmp_path / "home"
    for each in (point, home):
        each.mkdir()
        each.chmod(0o777)
    let_others_in(tmp_path)
    command = [MIMICFS, "mount", "-f", "--endpoint-url", proxy.url, f"s3://{bucket}", "/dev/fd/{}"]
    environment = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": f"{home}/state"}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [*unshare, sys.executable, SCRIPT, device, point, *command],
        env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert (seen["listed"], seen["read"]) == (["a", "new"], "from S3")
    assert seen["ended"] == 0  # by SIGTERM, and what was open is in S3
    assert client.get_object(Bucket=bucket, Key="open")["Body"].read() == b"still open"
    assert client.get_object(Bucket=bucket, Key="new")["Body"].read() == b"written"
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"FROM S3"
    assert seen["then"] == "Transport endpoint is not connected"
    assert seen["served"][1] == ""


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        ("", "this descriptor is not open; was it inherited (without close-on-exec)?"),
        ("/dev/null", "the descriptor does not refer to /dev/fuse"),
        ("/dev/fuse", "it belongs to no mount; call mount(2) with fd= first"),
    ],
)
def test_a_descriptor_that_is_no_mount_is_refused(opened, said):
    fd = os.open(opened, os.O_RDWR) if opened else 4000
    with pytest.raises(MountError) as refused:
        Handed.named(Path(f"/dev/fd/{fd}")).wait_for_init()
    assert str(refused.value) == f"/dev/fd/{fd}: {said}"
    if opened:
        os.close(fd)


def test_read_only_holds_where_the_kernel_was_not_told():
    """In a mount that somebody else made for reading and writing, -o ro is ours to keep."""
    named = Buckets(BucketOptions(), {"b": BucketOptions(ttl_s=5.0)})
    asked = MountChoices(read_only=True, vfs=VFSOptions(buckets=named))
    kept = _without_kernel(asked).vfs.buckets
    assert [kept.of("a").read_only, kept.of("b").read_only, kept.of("b").ttl_s] == [True, True, 5.0]
