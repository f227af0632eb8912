"""Moments as people write them."""

from __future__ import annotations

import pytest

from mimicfs.config.moments import parse_moment
from mimicfs.errors import ConfigError

NOW_NS = 1_793_491_200_000_000_000  # 2026-11-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "s"),
    [
        ("2026-10-31T23:00", -3600),
        ("2026-10-31T23:00Z", -3600),
        ("2026-11-01T00:30+01:00", -1800),
        ("2026-10-31", -86400),
        ("-2h", -7200),
        ("-1d12h", -129_600),
        ("-90s", -90),
        ("-1w", -604_800),
        ("yesterday", -86400),
        ("now", 0),
    ],
)
def test_a_moment_is_a_time_or_how_long_ago(text, s):
    assert parse_moment(text, NOW_NS) == NOW_NS + s * 1_000_000_000


def test_a_fraction_of_a_second_counts():
    assert parse_moment("2026-10-31T23:59:59.25", NOW_NS) == NOW_NS - 750_000_000


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2h", "-h", "-2x", "2026-13-01", "-999999999999999999999d", "\udcff"]
)
def test_what_is_no_moment_is_refused_with_the_forms(text):
    with pytest.raises(ConfigError, match="not a moment; write 2026-11-01T18:00"):
        parse_moment(text, NOW_NS)


def test_what_is_still_to_come_is_refused():
    with pytest.raises(ConfigError, match="is in the future"):
        parse_moment("2026-11-01T00:01", NOW_NS)
