"""The speed of the protocol alone: a MemFS of 100,000 files beside a plain directory and,
if one is named, another program that mounts one. Run it as root, by hand:

    python tests/fuse/bench.py [PROGRAM] [PROFILE]

The other program is given the mount point and the number of files.

With a PROFILE the server runs under cProfile and its figures go to that file.
"""

from __future__ import annotations

import cProfile
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent.parent)]
sys.setswitchinterval(5e-4)

FILES = 100_000
STATS = 20_000
NAMES = [f"file{number:07d}" for number in range(FILES)]


def serve(path: str, profile: str) -> None:
    """Mount a MemFS at *path* until it is unmounted."""
    from memfs import MemFS
    from mounts import Mount

    from mimicfs.fuse.session import SessionOptions

    fs = MemFS()
    fs.make("d", None)
    for number, name in enumerate(NAMES):
        fs.make(f"d/{name}").data = bytearray(number % 100)
    gc.freeze()  # as a daemon does: without it a quarter of the time goes to looking for cycles
    if not profile:
        mount = Mount(fs, Path(path), SessionOptions())
        print("ready", flush=True)
        mount._thread.join()
    else:
        profiled(fs, Path(path), profile)


def profiled(fs: object, path: Path, profile: str) -> None:
    from mimicfs.fuse.server import Server
    from mimicfs.fuse.session import Session

    server = Server(fs, Session.mount(path))  # type: ignore[arg-type]
    print("ready", flush=True)
    profiler = cProfile.Profile()
    profiler.runcall(server.serve)
    profiler.dump_stats(profile)


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=120)
    return time.perf_counter() - start


def stats(directory: Path) -> float:
    """Return microseconds a stat of names that were not listed."""
    paths = [str(directory / name) for name in NAMES[:STATS]]
    start = time.perf_counter()
    for path in paths:
        os.stat(path)
    return (time.perf_counter() - start) / STATS * 1e6


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(title: str, directory: Path, pid: int = 0) -> None:
    before = cpu_s(pid) if pid else 0.0
    cold, again, names = (
        timed(["ls", "-l", str(directory)]),
        timed(["ls", "-l", str(directory)]),
        timed(["ls", "-f", str(directory)]),
    )
    used = f", {cpu_s(pid) - before:.2f} s CPU of the daemon" if pid else ""
    print(f"{title:10} ls -l cold {cold:.2f} s, again {again:.2f} s, ls -f {names:.3f} s{used}")


def cold_stats(title: str, directory: Path, pid: int = 0) -> None:
    before = cpu_s(pid) if pid else 0.0
    cold, warm = stats(directory), stats(directory)
    used = f", {(cpu_s(pid) - before) / STATS * 1e6:.0f} us CPU each" if pid else ""
    print(f"{title:10} stat by LOOKUP {cold:.0f} us, again {warm:.1f} us{used}")


def against(title: str, command: list[str], path: Path) -> None:
    """Measure what *command* mounts at *path*; twice, as stat must come before a listing."""
    for what in (measure, cold_stats):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                while not os.path.ismount(path):
                    time.sleep(0.05)
                time.sleep(0.5)
                what(title, path / "d", process.pid)
            finally:
                subprocess.run(["umount", "-l", str(path)], check=False)
                end = threading.Timer(10, process.kill)
                end.start()
                process.wait()
                end.cancel()


def main() -> None:
    other, profile = (*sys.argv[1:3], "", "")[:2]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:
        top = Path(temporary)
        plain, path = top / "plain", top / "mnt"
        plain.mkdir()
        path.mkdir()
        own = [sys.executable, __file__, "serve", str(path), profile]
        against("MemFS", own, path)
        if other:
            against("other", [sys.executable, other, str(path), str(FILES)], path)
        for name in NAMES:
            (plain / name).touch()
        measure("plain", plain)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3])
    else:
        main()
