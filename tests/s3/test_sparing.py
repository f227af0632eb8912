"""botocore without awscrt, in a process of its own each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CODE = """
import sys
from mimicfs.config.values import S3Options
from mimicfs.s3.requests.sparing import spare_awscrt
spare_awscrt(S3Options(), sys.argv[2:], {"AWS_CONFIG_FILE": sys.argv[1]})
import boto3, botocore.auth, botocore.compat
from mimicfs.s3.requests import checksums
before = "awscrt" in sys.modules
print(botocore.compat.HAS_CRT, before, checksums.crc32c()(memoryview(b"123456789")))
"""
_CHECK = 0xE3069283  # CRC-32C of "123456789" (RFC 3720)


def said(config: Path, *buckets: str) -> list[str]:
    command = [sys.executable, "-c", _CODE, str(config), *buckets]
    env = {name: it for name, it in os.environ.items() if name != "BOTO_DISABLE_CRT"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    return done.stdout.split()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text("[default]\nregion = eu-west-1\n")
    return path


def test_botocore_does_without_awscrt_and_checksums_have_it(config: Path) -> None:
    assert said(config, "photos") == ["False", "False", str(_CHECK)]


def test_awscrt_is_there_for_multi_region_access_points(config: Path) -> None:
    arn = "arn:aws:s3::123456789012:accesspoint/abc.mrap"
    assert said(config, "photos", arn) == ["True", "True", str(_CHECK)]


def test_awscrt_is_there_for_the_credentials_of_a_login(config: Path) -> None:
    config.write_text("[profile a]\nlogin_session = arn:aws:iam::123456789012:user/a\n")
    assert said(config, "photos") == ["True", "True", str(_CHECK)]
