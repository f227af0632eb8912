"""`scripts/bench events`: a mount that S3 tells of the changes of others, with real servers.

    delays     how long each kind of change takes to be shown by a mount whose kernel holds the
               old state: from the arrival of its message at the mount, and from the moment before
               the client asks S3
    losses     messages are doubled, shuffled, delayed, and a tenth is lost: what is wrong in the
               mount before a sweep, and after it
    takeover   two mounts on one Redis; the one that takes the messages is killed (SQS only)

moto sends no message when something of a versioned bucket is deleted: those rows are of Ceph.
Each row has the requests to S3 that it cost. Run with the Python that has mimicfs and boto3.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from benchlib import machine  # noqa: E402
from benchlib.told.delays import DELAYS, TARGET_S, delays  # noqa: E402
from benchlib.told.losses import LOSSES, losses  # noqa: E402
from benchlib.told.takeover import TAKEOVER, takeover  # noqa: E402
from benchlib.told.tellers import Moto, server_at  # noqa: E402


def run(work: Path, names: list[str], count: int, what: list[str]) -> int:
    """Print the tables; 1: something misses its target."""
    os.environ |= {"XDG_STATE_HOME": str(work), "XDG_CACHE_HOME": str(work), "HOME": str(work)}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ.setdefault(name, "bench")
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    print(f"`scripts/bench events`: {machine.description(work)}; target: p99 <= {TARGET_S} s\n")
    bad = 0
    for name in names:
        with server_at(name, work) as server:
            if "delays" in what:
                print(DELAYS, flush=True)
                bad += sum(delays(work, server, count, kind) for kind in server.kinds)
            if "losses" in what:
                print(LOSSES, flush=True)
                bad += losses(work, server, count * 10, random.Random(1))
            if "takeover" in what and isinstance(server, Moto):
                print(TAKEOVER, flush=True)
                bad += takeover(work, server, 3)
    print(f"\nload average at the end {machine.load_average():.1f}")
    return int(bad > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--servers", default="moto,ceph")
    parser.add_argument("--changes", type=int, default=300, help="of each kind")
    parser.add_argument("--what", default="delays,losses,takeover")
    chosen = parser.parse_args()
    machine.unwind_at_sigterm()
    return run(chosen.work, chosen.servers.split(","), chosen.changes, chosen.what.split(","))


if __name__ == "__main__":
    sys.exit(main())
