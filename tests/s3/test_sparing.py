"""botocore without awscrt, in a process of its own each, and without looks at all models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import botocore.session
import pytest
from botocore.exceptions import BotoCoreError

from mimicfs.backends.memory import Memory
from mimicfs.config.values import S3Options
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.sparing import spare_looks

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


@pytest.mark.slow
def test_botocore_does_without_awscrt_and_checksums_have_it(config: Path) -> None:
    assert said(config, "photos") == ["False", "False", str(_CHECK)]


@pytest.mark.slow
def test_awscrt_is_there_for_multi_region_access_points(config: Path) -> None:
    arn = "arn:aws:s3::123456789012:accesspoint/abc.mrap"
    assert said(config, "photos", arn) == ["True", "True", str(_CHECK)]


@pytest.mark.slow
def test_awscrt_is_there_for_the_credentials_of_a_login(config: Path) -> None:
    config.write_text("[profile a]\nLogin_Session = arn:aws:iam::123456789012:user/a\n")
    assert said(config, "photos") == ["True", "True", str(_CHECK)]


def test_a_session_lists_the_directory_of_no_service_but_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, listed = botocore.session.get_session(), list[str]()
    list_of = os.listdir

    def listdir(path: str) -> list[str]:
        listed.append(os.path.basename(path))
        return list_of(path)

    spare_looks(session)
    monkeypatch.setattr(os, "listdir", listdir)
    client = session.create_client("s3", "eu-west-1", endpoint_url="http://localhost")
    assert client.meta.endpoint_url == "http://localhost"
    assert set(listed) <= {"models", "data", "s3"}
    with pytest.raises(BotoCoreError, match="nothing"):
        session.create_client("nothing", "eu-west-1")


def test_no_other_file_nor_profile_is_read_before_those_that_are_named(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = "aws_access_key_id = AK\naws_secret_access_key = s\n"
    usual, given = tmp_path / "usual", tmp_path / "given"
    usual.write_text(f"[usual]\n{keys}region = us-west-1\n")
    given.write_text(f"[given]\n{keys}region = us-west-2\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(usual))
    monkeypatch.setenv("AWS_PROFILE", "nobody's")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    of_usual, of_given = (
        S3Options(profile="usual"),
        S3Options(profile="given", credentials_file=given),
    )
    found = [
        S3(each, Mirror(Memory()))._session.get_config_variable("region")
        for each in (of_usual, of_given)
    ]
    assert found == ["us-west-1", "us-west-2"]


def test_each_service_that_botocore_has_models_of_is_one() -> None:
    plain, session = botocore.session.get_session(), botocore.session.get_session()
    spare_looks(session)
    known = set(plain.get_available_services())
    assert known <= set(session.get_available_services())
    assert {"s3", "sqs", "sts"} <= known
