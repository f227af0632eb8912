"""The limits of a mount, as `mimicfs set` and `mimicfs status` show them. No mount answers."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from mimicfs.cli import watching

FIGURES = {
    "download_limit": "off",
    "upload_limit": "08:00=1048576",
    "request_rate": 0.5,
    "max_requests_per_day": 1234567,
    "requests_today": 7,
}


@pytest.fixture
def set_limits(state, monkeypatch):
    monkeypatch.setattr(watching, "asked", lambda *_: lambda *_, **__: FIGURES)
    return lambda *words: CliRunner().invoke(watching.set_, ["/mnt", *words]).output


def test_set_tells_each_number_with_all_its_digits(set_limits):
    assert set_limits("max-requests-per-day=1234567").splitlines() == [
        "download-limit=off",
        "upload-limit=08:00=1048576",
        "request-rate=0.5",
        "max-requests-per-day=1234567",
        "requests-today=7",
    ]
    assert json.loads(set_limits("--json")) == FIGURES


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"request_rate": 0.0},
         "up 08:00=1.0 MiB/s; 7 of 1,234,567 requests of today are sent"),
        ({"download_limit": "1048576", "upload_limit": "08:00=1048576 18:00=off",
          "request_rate": 1234567.0, "max_requests_per_day": 0},
         "down 1.0 MiB/s; up 08:00=1.0 MiB/s 18:00=off; 1234567 requests a second to a bucket"),
        ({"upload_limit": "off", "request_rate": 0.0, "max_requests_per_day": 0}, None),
    ],
)  # fmt: skip
def test_status_tells_each_limit_that_is_not_off(limits, line):
    part = {
        "requests": {}, "bytes_in": 0, "bytes_out": 0, "connections_max": 1, "errors": {},
        "slow": 0, "limits": FIGURES | limits,
    }  # fmt: skip
    wanted = [] if line is None else [f"  limits   {line}"]
    assert list(watching._s3(part))[1:] == wanted
