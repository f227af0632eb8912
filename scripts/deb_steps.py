"""The steps of scripts/try-deb: a package of Debian is installed without a network in a clean root,
used over a real S3 server, upgraded while a mount runs, and removed; then nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import servers
from support.clients import plain

SUITES = ("bookworm", "trixie")
UBUNTU = ("noble",)  # on request: its archive, and the key of that, are not everywhere
DEBIAN = "http://deb.debian.org/debian"
_UBUNTU = ("--components=main,universe", "http://archive.ubuntu.com/ubuntu")
# The packages that Depends names, and man, which shows the page.
INCLUDED = "fuse3,python3,man-db"
_LIMIT_S = 600

# In the root, as root. $1: the package; $2: a later one. Not looked at, whether anything is left
# there: what root's own mounts keep in /root, and the lock that fusermount3 makes in /etc.
TRIAL = r"""
set -eu
step() { echo "  $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
everything() { find / -xdev \( -path /proc -o -path /dev -o -path /tmp -o -path /var/lib/dpkg \
  -o -path /var/log -o -path /var/cache -o -path /run -o -path /root \
  -o -path /etc/mtab.fuselock \) -prune -o -print | sort; }
mount -t proc proc /proc
mkdir -p /tmp/home /tmp/a /tmp/b /tmp/c
everything >/tmp/before

step "installs without a network"
unshare -n dpkg -i "$1" >/tmp/said 2>&1 || { cat /tmp/said; fail install; }
mimicfs --version | head -n 1
man -w mimicfs >/dev/null
[ -e /usr/share/bash-completion/completions/mimicfs ]
/opt/mimicfs/bin/python3 -I -c 'import redis, prometheus_client' || fail "the libraries"

step "mimicfs mount, mount -t mimicfs, fstab"
mimicfs mount s3://clean /tmp/a
echo by-command >/tmp/a/command
mount -t mimicfs s3://clean /tmp/b -o ro
[ "$(cat /tmp/b/command)" = by-command ]
! touch /tmp/b/x 2>/dev/null || fail "ro"
umount /tmp/b
options=noauto,create_prefix,config=/etc/mimicfs/config.toml
echo "s3://clean/sub /tmp/c fuse.mimicfs $options 0 0" >>/etc/fstab
mount /tmp/c
echo by-fstab >/tmp/c/fstab
umount /tmp/c
sed -i '$d' /etc/fstab

step "an upgrade keeps the configuration, and mounts go on"
echo "# mine" >>/etc/mimicfs/config.toml
dpkg -i "$2" >/tmp/said 2>&1 || { cat /tmp/said; fail upgrade; }
tail -n 1 /etc/mimicfs/config.toml | grep -q "^# mine$" || fail "the configuration"
mimicfs --version | head -n 1 | grep -q "+later$" || fail "the version"
echo while-upgraded >/tmp/a/upgraded
mv /tmp/a/upgraded /tmp/a/moved
[ "$(cat /tmp/a/moved)" = while-upgraded ]
ls -l /tmp/a >/dev/null
touch /tmp/a/.sync
head -c 20000000 /dev/zero >/tmp/a/large
mkdir /tmp/a/d && rmdir /tmp/a/d && rm /tmp/a/large

step "a removal is refused while a mount runs"
! dpkg -r mimicfs >/tmp/said 2>&1 || fail "removed"
grep -q "Unmount first" /tmp/said || { cat /tmp/said; fail "the reason"; }
echo still >/tmp/a/still
mimicfs umount /tmp/a

step "is removed, and purged"
dpkg -r mimicfs >/tmp/said 2>&1 || { cat /tmp/said; fail remove; }
[ ! -e /opt/mimicfs ] || { find /opt/mimicfs | head; fail "left in /opt"; }
grep -q "^# mine$" /etc/mimicfs/config.toml || fail "the configuration of a removed package"
dpkg -P mimicfs >/tmp/said 2>&1 || { cat /tmp/said; fail purge; }
everything >/tmp/after
diff /tmp/before /tmp/after || fail "left"
"""
OBJECTS = {
    "command": b"by-command\n",
    "sub/fstab": b"by-fstab\n",
    "moved": b"while-upgraded\n",
    "still": b"still\n",
}


def main() -> int:
    package, *suites = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="mimicfs-deb-") as place:
        later = of_later_version(Path(package), Path(place))
        failed = [each for each in suites or SUITES if not tried(each, Path(package), later)]
    print(f"failed: {', '.join(failed)}" if failed else "the package is good")
    return 1 if failed else 0


def of_later_version(package: Path, place: Path) -> Path:
    """Return the same package with a later version."""
    subprocess.run(["dpkg-deb", "-R", package, place / "later"], check=True)
    control = place / "later/DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+later", control.read_text()))
    module = place / "later/opt/mimicfs/lib/python3/site-packages/mimicfs/__init__.py"
    module.write_text(re.sub(r'(__version__ = "[^"]+)', r"\1+later", module.read_text()))
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", f"{place}/later"]
    subprocess.run([*build, f"{place}/later.deb"], check=True, stdout=subprocess.DEVNULL)
    return place / "later.deb"


def tried(suite: str, package: Path, later: Path) -> bool:
    """Run the trial in a clean root of *suite*; return whether it succeeded."""
    print(f"{'Ubuntu' if suite in UBUNTU else 'Debian'} {suite}")
    with clean_root(suite) as root, tempfile.TemporaryDirectory() as logs:
        for name, source in (("now.deb", package), ("later.deb", later)):
            shutil.copy(source, root / "tmp" / name)
        with servers.moto(Path(logs)) as endpoint:
            environment = {
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": "/tmp/home",
                "LC_ALL": "C",
                "DEBIAN_FRONTEND": "noninteractive",
                "AWS_ENDPOINT_URL_S3": endpoint,
                "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
                "AWS_SECRET_ACCESS_KEY": "very-secret-key",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            os.environ |= {name: it for name, it in environment.items() if name.startswith("AWS_")}
            client = plain(endpoint)
            client.create_bucket(Bucket="clean")
            apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "chroot", str(root)]
            words = [*apart, "sh", "-c", TRIAL, "trial", "/tmp/now.deb", "/tmp/later.deb"]
            done = subprocess.run(words, env=environment, check=False, timeout=_LIMIT_S)
            found = {
                each["Key"]: client.get_object(Bucket="clean", Key=each["Key"])["Body"].read()
                for each in client.list_objects_v2(Bucket="clean").get("Contents", [])
            }
    if done.returncode == 0 and found != OBJECTS:
        print(f"FAILED: S3 has {found}")
    return done.returncode == 0 and found == OBJECTS


@contextmanager
def clean_root(suite: str) -> Iterator[Path]:
    """Yield a root of *suite* in which nothing was done, with /dev/fuse."""
    kept = Path.home() / f".cache/mimicfs-roots/{suite}.tar"
    if not kept.exists():
        make_root(suite, kept)
    with tempfile.TemporaryDirectory(prefix=f"mimicfs-{suite}-") as place:
        root = Path(place)
        root.chmod(0o755)
        subprocess.run(["tar", "-C", root, "-xf", kept], check=True)
        if not (root / "dev/fuse").exists():
            os.mknod(root / "dev/fuse", 0o020666, os.makedev(10, 229))
        yield root


def make_root(suite: str, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"mimicfs-{suite}-") as place:
        *more, mirror = _UBUNTU if suite in UBUNTU else (DEBIAN,)
        words = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", *more, suite, place]
        # debootstrap names one script for all of Ubuntu, and may be older than the suite.
        subprocess.run([*words, mirror, *(["gutsy"] if suite in UBUNTU else [])], check=True)
        archives = "./var/cache/apt/archives/*.deb"
        part = kept.with_suffix(".part")
        subprocess.run(["tar", "-C", place, f"--exclude={archives}", "-cf", part, "."], check=True)
        part.replace(kept)


if __name__ == "__main__":
    sys.exit(main())
