"""The steps of scripts/demo: a real S3 server with objects that a plain boto3 client put there, a
mount over the embedded SQLite store, and the number of S3 requests that each step costs, as a proxy
between the two counts them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import servers
from support.proxy import Proxy

NONE: dict[str, int] = {}
LIMIT_S = 60


class Demo:
    """Runs steps, prints what they show and cost, and remembers whether all held."""

    def __init__(self, proxy: Proxy, client: Any, place: Path) -> None:
        self.proxy = proxy
        self.client = client
        self.mountpoint = place / "s3"
        self.failed: list[str] = []

    def step(
        self,
        title: str,
        command: str,
        shows: Callable[[str], bool] = lambda _: True,
        costs: dict[str, int] | None = None,
        lines: int = 8,
    ) -> str:
        """Run *command* in the shell; it must succeed, show what *shows* looks for, and cost
        just *costs* (None: any number of requests)."""
        self.proxy.counted()
        print(f"\n\033[1m# {title}\033[0m\n$ {command}")
        result = subprocess.run(
            ["bash", "-c", command],
            cwd=self.mountpoint if self.mountpoint.exists() else None,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        output = result.stdout + result.stderr
        shown = output.splitlines()
        print("\n".join(shown[:lines]), *(["..."] if len(shown) > lines else []), sep="\n")
        cost = self.proxy.counted()
        held = result.returncode == 0 and shows(output) and costs in (None, cost)
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(cost.items()))
        print(f"-- S3 requests: {said or 'none'}   {'ok' if held else 'FAILED'}")
        if not held:
            self.failed.append(title)
            print(f"   exit status {result.returncode}, expected requests {costs}")
        return output


def put_objects(client: Any) -> int:
    """Put a few hundred objects into three buckets, by boto3 alone; return how many."""
    words = [
        "harbour", "bridge", "market", "garden", "station", "museum", "tower", "river", "forest"
    ]  # fmt: skip
    objects: dict[tuple[str, str], bytes] = {}
    for year in (2024, 2025, 2026):
        for month in range(1, 13):
            for number, word in enumerate(words):
                key = f"{year}/{month:02}/{word}-{number}.jpg"
                objects["photos", key] = f"{key}\n".encode() * (10 * month)
    for number in range(40):
        name = f"reports/2026-q{number % 4 + 1}/report {number}.txt"
        objects["documents", name] = f"Report {number}\n".encode() * 50
    for day in range(1, 29):
        objects["logs", f"app/2026/11/{day:02}.log"] = b"12:00:00 INFO all is well\n" * day
    for bucket in ("photos", "documents", "logs"):
        client.create_bucket(Bucket=bucket)
    for (bucket, key), body in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=body)
    return len(objects)


def run(demo: Demo) -> None:
    step, point = demo.step, demo.mountpoint
    step("Every bucket becomes a directory", f"mimicfs mount {point}", costs={"LIST_BUCKETS": 1})
    look(demo)
    write(demo)
    refresh(demo)
    step("What is mounted", "mimicfs status", lambda out: "photos: 324 keys" in out, NONE)
    step("Unmount", f"cd / && mimicfs umount {point}", costs=NONE)
    step("Mount again: the mirror is still there", f"mimicfs mount {point}",
         costs={"LIST_BUCKETS": 1})  # fmt: skip
    step("Everything, without asking", "find . -type f | wc -l; ls -l photos/2026/12",
         lambda out: out.split()[0] == "393", NONE)  # fmt: skip
    step("Unmount", f"cd / && mimicfs umount {point}", costs=NONE)


def look(demo: Demo) -> None:
    step = demo.step
    step("The list of buckets", "ls", lambda out: out.split() == ["documents", "logs", "photos"],
         NONE)  # fmt: skip
    step("The first look at a directory lists just that", "ls photos", costs={"LIST": 1})
    step("touch .sync makes a bucket true; then no listing is asked any more",
         "touch photos/.sync documents/.sync logs/.sync", costs={"LIST": 3})  # fmt: skip
    step(
        "Names and sizes; whether modes and links are stored is asked of four objects, once",
        "ls -l photos/2025/07",
        lambda out: "market-2.jpg" in out,
        {"HEAD": 4},
    )
    step("Names and sizes, again", "ls -l photos/2025/07", costs=NONE)
    step("One file", "stat photos/2025/07/market-2.jpg", lambda out: "Size:" in out, NONE)
    step(
        "All files; the first look at the other 40 directories",
        "find . -type f | wc -l",
        lambda out: int(out) == 392,
        {"HEAD": 160},
    )
    step("All files, again", "find . -type f | wc -l", lambda out: int(out) == 392, NONE)
    step("How large", "du -sh --apparent-size photos documents logs", costs=NONE)
    step("A name that is not there", "! stat photos/nothing", costs=NONE)
    step("Its contents", "head -2 'documents/reports/2026-q1/report 0.txt'",
         lambda out: "Report 0" in out, {"GET": 1})  # fmt: skip


def write(demo: Demo) -> None:
    step, client = demo.step, demo.client
    step("A new file: one PUT, done when S3 has it", "echo hello > documents/hello.txt",
         costs={"PUT": 1})  # fmt: skip
    body = client.get_object(Bucket="documents", Key="hello.txt")["Body"].read()
    if body != b"hello\n":
        demo.failed.append("what S3 has of the new file")
    step(
        "It is there",
        "cat documents/hello.txt; ls -l documents",
        lambda out: "hello" in out,
        {"GET": 1},
    )


def refresh(demo: Demo) -> None:
    step, client = demo.step, demo.client
    client.put_object(Bucket="photos", Key="2026/12/new.jpg", Body=b"from elsewhere")
    client.delete_object(Bucket="photos", Key="2026/12/market-2.jpg")
    print("\n(somebody else puts photos/2026/12/new.jpg and deletes market-2.jpg there)")
    step("The mirror is believed until it is told to look", "ls photos/2026/12",
         lambda out: "new.jpg" not in out, NONE)  # fmt: skip
    step("Look again", "touch photos/2026/.sync", costs={"LIST": 1})
    step("Now it shows; the new object is looked at once",
         "ls photos/2026/12; cat photos/2026/12/new.jpg",
         lambda out: "new.jpg" in out and "market-2" not in out,
         {"GET": 1, "HEAD": 1})  # fmt: skip
    step("What the refresh found", "cat photos/2026/.sync",
         lambda out: "added: 1" in out and "deleted: 1" in out, NONE, lines=12)  # fmt: skip
    step("What the mirror knows", "getfattr -n user.mimicfs.etag photos/2026/12/new.jpg",
         costs=NONE)  # fmt: skip


def main() -> int:
    place = Path(tempfile.mkdtemp(prefix="mimicfs-demo-"))
    (place / "s3").mkdir()
    with servers.moto(place) as url:
        proxy = Proxy(url)
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": proxy.url,
            "XDG_STATE_HOME": str(place / "state"),
        }
        import boto3

        client = boto3.client("s3", endpoint_url=url)
        demo = Demo(proxy, client, place)
        started = time.monotonic()
        try:
            print(f"{put_objects(client)} objects in three buckets at {url}, put by boto3")
            run(demo)
        finally:
            subprocess.run(
                ["fusermount3", "-u", "-z", str(demo.mountpoint)], capture_output=True, check=False
            )
            proxy.close()
            client.close()
    if demo.failed:
        print(f"\nFAILED: {'; '.join(demo.failed)}\nwhat is left is in {place}")
        return 1
    shutil.rmtree(place)
    print(f"\nEvery step held, in {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
