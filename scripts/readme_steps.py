"""The steps of scripts/readme: the commands of README.md in their order, as a reader would type
them. Commands that are left out are named, with the reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import boto3
from support import servers

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LEFT_OUT = {
    "sudo apt": "installs packages: scripts/setup.sh does",
    "pipx": "scripts/package tries the wheel in an environment of its own",
    "mimicfs index import --inventory": "needs an inventory of AWS (tests/index/test_inventory.py)",
    "scripts/": "is run by itself",
}
_LIMIT_S = 60


class Command(NamedTuple):
    line: int
    text: str

    @property
    def left_out(self) -> str:
        return next((why for what, why in _LEFT_OUT.items() if self.text.startswith(what)), "")


def commands(text: str) -> Iterator[Command]:
    """Yield the commands of the blocks of *text*, without their comments."""
    for block in _BLOCK.finditer(text):
        first = text[: block.start(1)].count("\n") + 1
        for number, line in enumerate(block[1].splitlines(), first):
            if line.startswith("$ "):
                yield Command(number, re.split(r"\s{2,}# ", line[2:])[0].strip())


def prepare(endpoint: str, home: Path) -> dict[str, str]:
    """Make what the README takes for granted: buckets, some objects, a file. Return the
    environment of its reader."""
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "reader",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ |= {name: text for name, text in environment.items() if name.startswith("AWS_")}
    client = boto3.client("s3")
    for bucket in ("photos", "documents"):
        client.create_bucket(Bucket=bucket)
    for key in ("a.jpg", "2024/b.jpg", "2024/c.raw"):
        client.put_object(Bucket="photos", Key=key, Body=b"a picture")
    (home / "report.pdf").write_bytes(b"%PDF")
    return environment


def main() -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as place, servers.moto(Path(place)) as endpoint:
        home = Path(place) / "home"
        home.mkdir()
        environment = prepare(endpoint, home)
        try:
            for command in commands((ROOT / "README.md").read_text()):
                failed += not ran(command, environment, home)
        finally:
            words = ["fusermount3", "-u", "-z", str(home / "s3")]
            subprocess.run(words, check=False, capture_output=True)
    print(f"{failed} failed" if failed else "README.md holds")
    return 1 if failed else 0


def ran(command: Command, environment: dict[str, str], home: Path) -> bool:
    """Run *command*; return whether it succeeded."""
    print(f"README.md:{command.line}: {command.text}")
    if command.left_out:
        print(f"    left out: {command.left_out}")
        return True
    done = subprocess.run(
        ["bash", "-c", command.text],
        env=environment, cwd=home, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        print(f"    FAILED ({done.returncode}): {done.stdout}{done.stderr}")
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
