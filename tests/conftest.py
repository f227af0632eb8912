"""Fixtures: real servers, a counting proxy before them, and nothing of the user's own."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import apart  # noqa: F401  before botocore
import pytest
from benchlib.server import Server
from hypothesis import settings
from support import quick_botocore, servers
from support.clients import plain
from support.proxy import Proxy

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.sync import Syncer

_numbers = itertools.count(1)
quick_botocore.begin()

# A background job and some CI runners start the suite with SIGINT ignored, nohup with SIGHUP.
# Children would inherit that, and a test that interrupts one would wait in vain.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)


def _started(
    make: Callable[[Path], AbstractContextManager[Any]], factory: pytest.TempPathFactory
) -> Iterator[Any]:
    try:
        with make(factory.mktemp("server")) as where:
            yield where
    except servers.Missing as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def moto(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of moto's S3 server; or of the one that --server names, in its place."""
    name = request.config.getoption("--server")
    make = functools.partial(servers.named, name) if name else servers.moto
    yield from _started(make, tmp_path_factory)


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `rclone serve s3`."""
    yield from _started(servers.rclone, tmp_path_factory)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the server that benches use."""
    yield from _started(servers.bench, tmp_path_factory)


@pytest.fixture(scope="session")
def lists() -> Iterator[Server]:
    """The bench's S3 server, which lists a million keys in no time."""
    with Server(0.0) as server:
        yield server


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    yield from _started(servers.redis, tmp_path_factory)


@pytest.fixture
def redis_url(redis_port: int) -> str:
    """A Redis database that no other test uses (by its namespace)."""
    return f"redis://127.0.0.1:{redis_port}/0"


@pytest.fixture(params=["moto", "rclone"])
def server(request: pytest.FixtureRequest) -> str:
    """The URL of each S3 server in turn; with --server, of that one only."""
    if request.param == "rclone" and request.config.getoption("--server"):
        pytest.skip("--server names another")
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    """A counting proxy before the server."""
    proxy = Proxy(server)
    yield proxy
    proxy.close()


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    """A plain boto3 client: somebody else, who changes S3 behind our back."""
    client = plain(server)
    yield client
    client.close()


@pytest.fixture
def bucket(client: Any) -> str:
    """A new, empty bucket."""
    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def mimicdb() -> Iterator[Mirror]:
    mimicdb = Mirror(Memory())
    yield mimicdb
    mimicdb.close()


@pytest.fixture
def s3(proxy: Proxy, mimicdb: Mirror) -> Iterator[S3]:
    """Our S3, through the proxy, mimicked into `mimicdb`."""
    s3 = S3(S3Options(endpoint_url=proxy.url, attempts=3), mimicdb)
    yield s3
    s3.close()


@pytest.fixture
def syncer(mimicdb: Mirror, s3: S3) -> Syncer:
    return Syncer(mimicdb, s3)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--server", default="", help="one that scripts/servers knows, for moto")
    parser.addoption("--crashes", type=int, default=3, help="how often a load is killed")
    parser.addoption("--appends", type=int, default=60, help="how many appends meet")
    parser.addoption("--explore", action="store_true", help="other examples in each run")
    parser.addoption("--rounds", type=int, default=0, help="of the races of one name; 0: a few")
    parser.addoption("--messages", type=int, default=60, help="that are doubled, late and lost")
    parser.addoption("--versions", type=int, default=6_000, help="of the bucket of a moment")
    parser.addoption("--encrypted", type=int, default=40, help="objects that ransomware meets")
    parser.addoption("--interleavings", type=int, default=25, help="of mounts, a store")
    ours = Path(__file__).with_name("csi") / "csi.proto"
    parser.addoption(
        "--csi-proto", default=str(ours), help="the protocol that the driver is asked by"
    )
    parser.addoption("--orders", type=int, default=150, help="of steps on one file")
    parser.addoption("--containers", action="store_true", help="a driver as process 1, too")
    parser.addoption("--trees", type=int, default=60, help="in which mounts meet, a store")
    parser.addoption("--pairs", type=int, default=15, help="of operations that meet, a store")


def pytest_configure(config: pytest.Config) -> None:
    """The same examples in each run, so that a run tells of the change that was made; new ones
    are sought with --explore. The quick tests look at a fifth of them."""
    # No deadlines: on a busy machine an example may take any time.
    settings.register_profile("same", derandomize=True, deadline=None)
    settings.register_profile("quick", settings.get_profile("same"), max_examples=20)
    settings.register_profile("explore", print_blob=True, deadline=None)
    usual = "quick" if config.option.markexpr == "not slow" else "same"
    settings.load_profile("explore" if config.getoption("--explore") else usual)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import modules of which every test is slow where those are left out: pandas and moto
    cost more than all that is left."""
    if config.option.markexpr != "not slow" or not collection_path.name.startswith("test_"):
        return None
    return True if _SLOW_MODULE.search(collection_path.read_text()) else None


# Each test of the module is marked slow, or asks a server.
_SLOW_MODULE = re.compile(
    r'^pytestmark = (\[\s*)?pytest.mark.(slow\b|parametrize\("server")', re.MULTILINE
)
# Of 10 to 40 seconds each, some with few tests. The others follow by the number of their tests.
_LONGEST = (
    *("mount/test_life", "mirror/test_locks", "mount/test_system", "mount/test_trees"),
    *("cli/test_packaging", "cli/test_history", "sync/test_sweep", "mount/test_pairs"),
    *("mount/test_orders_of_programs", "vfs/test_moved_bases", "mount/test_kill_9"),
    *("mount/test_one_name", "mount/test_refresh"),
)
# These take a second to start, or are slow to use.
_SLOW = {"moto", "rclone", "bench", "lists", "needs_fuse"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs an S3 server or a mount as slow; `scripts/test --fast` leaves it out."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        words = (word for value in params.values() for word in str(value).split())
        needs = {*getattr(item, "fixturenames", ()), *words}
        if needs & _SLOW:
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):  # one of several processes
        _put_long_modules_first(items)


def _put_long_modules_first(items: list[pytest.Item]) -> None:
    """The processes share the modules in this order: where the longest ones come last, one works
    alone in the end."""
    tests = Counter(item.path for item in items)
    named = {name: number for number, name in enumerate(_LONGEST)}
    order = {
        path: (named.get(f"{path.parent.name}/{path.stem}", len(named)), -tests[path])
        for path in tests
    }
    items.sort(key=lambda item: order[item.path])


def pytest_collection_finish() -> None:
    """Leave what is imported and collected out of garbage collection, which was a fifth of the CPU
    of the quick tests: it stays until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state directory for commands."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "state" / "mimicfs"


@pytest.fixture
def really_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of the test are started by an interpreter of their own (support/preloaded.py)."""
    monkeypatch.setenv("START_REALLY", "1")


class _Warnings(logging.Handler):
    """The warnings, but for those of threads that earlier tests have left, and those of a request
    that took long: on a busy machine each does. (`caplog` has them all.)"""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        left = set(threading.enumerate()) - {threading.main_thread()}
        self._left = {thread.ident for thread in left}

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread not in self._left and not str(record.msg).startswith("slow: "):
            self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def no_warning_unasked(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test in which mimicfs warns fails, unless it looks at the log (`caplog`) itself."""
    warnings = _Warnings()
    logger = logging.getLogger("mimicfs")
    logger.addHandler(warnings)
    yield
    logger.removeHandler(warnings)
    root = logging.getLogger()  # a command within this process logs to a stream that is closed now
    root.handlers = [each for each in root.handlers if type(each) is not logging.StreamHandler]
    assert "caplog" in request.fixturenames or warnings.messages == []


# These end with their process: those that look for killed callers, and that tell figures; those of
# fsspec and of dask. One that lists for a client of a moment goes with it. The last ones answer a
# client as long as it lives, which may be one of a whole module.
_MAY_STAY = re.compile(
    r"fuse-killed|figures-|fsspecIO|asyncio_|ThreadPoolExecutor-|s3-list_"
    r"|.* \(process_request_thread\)"
).match


@pytest.fixture(autouse=True)
def no_thread_left(monkeypatch: pytest.MonkeyPatch, no_warning_unasked: None) -> Iterator[None]:
    """The threads of a test, and of its fixtures, end before its environment is taken back, and
    before the next test begins, which would have their warnings and requests."""
    before = set(threading.enumerate())
    yield
    left = [each for each in threading.enumerate() if each not in before]
    left = [each for each in left if not _MAY_STAY(each.name)]
    deadline = time.monotonic() + 30
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert [each.name for each in left if each.is_alive()] == []
