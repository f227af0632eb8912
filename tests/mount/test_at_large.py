"""A mount of a moment of a large bucket costs one pass over its versions, and nothing from then on.

The suite has 6,000 versions; `--versions 100000` has as many as one likes.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from benchlib.s3objects import EPOCH_S, synthetic
from benchlib.s3versions import DAY_S
from support.mounts import mounted

pytestmark = pytest.mark.slow

EACH = 10  # versions of a key


@pytest.fixture
def keys(request: pytest.FixtureRequest) -> int:
    number: int = request.config.getoption("--versions")
    return number // EACH


@pytest.mark.usefixtures("metadata_never")
def test_a_mount_of_a_moment_costs_one_pass_and_nothing_from_then_on(lists, keys, tmp_path):
    names = [f"d{number % 20:02}/f {number}" for number in range(keys)]
    lists.control("fill", bucket="at-large", kind="lines", body=names)
    lists.control("versions", bucket="at-large", each=EACH)
    lists.control("reset")
    then_s = EPOCH_S + 15 * DAY_S - 5 * DAY_S  # the newest are at most ten days younger
    then = datetime.fromtimestamp(then_s, UTC).isoformat()
    with mounted(
        tmp_path, lists.endpoint, "s3://at-large", "-o", f"at={then}", sync=False
    ) as mount:
        asked = lists.control("reset")["requests"]
        assert asked.pop("LIST") <= keys * EACH / 1000 + 10
        assert asked == {"HEAD bucket": 1, "GET bucket": 1}
        found = {
            f"{os.path.basename(top)}/{name}": os.stat(os.path.join(top, name)).st_size
            for top, _, files in os.walk(mount.path)
            for name in files
        }
        assert found == {name: size_at(name, then_s) for name in names}
        assert lists.control("reset")["requests"] == {}
        first = names[0]
        assert len((mount.path / first).read_bytes()) == size_at(first, then_s)
        assert lists.control("reset")["requests"] == {"GET": 1}


def size_at(name: str, then_s: int) -> int:
    """Return the size of the version that was the newest at *then_s*."""
    newest = synthetic(name)
    later = max(0, -(-int(newest.mtime_s - then_s) // DAY_S))
    return newest.size + later
