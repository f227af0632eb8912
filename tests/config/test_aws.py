"""The endpoint that the AWS configuration names is the one of the settings, as it is boto3's: what
is expected of AWS is expected of no other server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError

from mimicfs.backends.memory import Memory
from mimicfs.config.options import GivenValue
from mimicfs.config.settled import Settled, settle
from mimicfs.config.values import S3Options
from mimicfs.errors import MimicError
from mimicfs.mimicdb import Mirror
from mimicfs.s3.requests.client import S3

KEYS = "aws_access_key_id = AKID\naws_secret_access_key = secret\n"
MINIO = "endpoint_url = http://minio.test:9000\n"
OF_S3 = (
    "[services own]\ns3 =\n  endpoint_url = http://s3.test/base\nsqs =\n  endpoint_url = http://q\n"
)
CONFIGS = {
    "none": "",
    "default": f"[default]\n{MINIO}",
    "profile default": f"[profile default]\n{MINIO}",
    "services": f"[default]\n{MINIO}services = own\n{OF_S3}",
    "services of another": f"[default]\nservices = own\n{MINIO}"
    "[services own]\nsqs =\n  endpoint_url = http://q\n",
    "other profile": "[default]\nregion = eu-west-1\n"
    f"[profile other]\n{MINIO}ignore_configured_endpoint_urls = FALSE\n",
    "ignored": f"[default]\n{MINIO}ignore_configured_endpoint_urls = True\n",
    "in the section of S3": "[default]\ns3 =\n  endpoint_url = http://nobody.looks.here\n",
    "with quotes": f'[profile "other"]\n{MINIO}',
    "in a comment": f"[default]\n# {MINIO}",
    "in capitals": "[default]\nENDPOINT_URL = http://minio.test:9000\n",
    "empty": "[default]\nendpoint_url =\n",
}
ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"AWS_PROFILE": "other"},
    {"AWS_DEFAULT_PROFILE": "other", "AWS_PROFILE": "default"},
    {"AWS_ENDPOINT_URL": "http://env.test"},
    {"AWS_ENDPOINT_URL_S3": "http://s3.env.test", "AWS_ENDPOINT_URL": "http://env.test"},
    {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_ENDPOINT_URL_S3": "http://s3.env.test"},
    {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false", "AWS_ENDPOINT_URL": "http://env.test"},
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the AWS configuration is."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "MIMICFS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "credentials").write_text(f"[default]\n{KEYS}[other]\n{KEYS}")
    return tmp_path


def settled(**flags: str) -> Settled:
    return settle({name: GivenValue(it, "--") for name, it in flags.items()}, os.environ)


def endpoint_of_boto3(profile: str | None = None) -> str | None:
    """Return the endpoint that is not AWS's."""
    session = boto3.session.Session(profile_name=profile)
    client: Any = session.client("s3", region_name="us-east-1")
    found: str | None = client._ruleset_resolver._builtins.get("SDK::Endpoint")
    client.close()
    return found


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("environ", ENVIRONMENTS)
def test_the_endpoint_is_that_of_boto3(
    here: Path, monkeypatch: pytest.MonkeyPatch, text: str, environ: dict[str, str]
) -> None:
    (here / "config").write_text(text)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert (settled().settings().s3.endpoint_url or None) == (endpoint_of_boto3() or None)


@pytest.mark.parametrize("profile", ["default", "other"])
def test_a_profile_that_is_chosen_has_its_own_endpoint(here: Path, profile: str) -> None:
    text = f"[default]\n{MINIO}[profile other]\nservices = own\n{OF_S3}"
    (here / "config").write_text(text)
    found = settled(profile=profile).settings().s3.endpoint_url
    assert found == endpoint_of_boto3(profile)
    assert found == {"default": "http://minio.test:9000", "other": "http://s3.test/base"}[profile]


def test_credentials_may_name_an_endpoint_too(here: Path) -> None:
    (here / "credentials").write_text(f"[default]\n{KEYS}{MINIO}")
    assert settled().settings().s3.endpoint_url == endpoint_of_boto3() == "http://minio.test:9000"
    keys = here / "keys"
    keys.write_text(f"[default]\n{KEYS}endpoint_url = http://other.test\n")
    keys.chmod(0o600)
    assert settled(**{"credentials-file": str(keys)}).get("endpoint-url") == "http://other.test"


def test_what_mimicfs_is_told_goes_before_it_and_says_where_it_is_from(here: Path) -> None:
    (here / "config").write_text(f"[default]\n{MINIO}")
    assert settled().values["endpoint-url"].origin == "the profile default of the AWS configuration"
    (here / "mimicfs").mkdir()
    (here / "mimicfs" / "config.toml").write_text('endpoint-url = "http://ours.test"\n')
    assert settled().get("endpoint-url") == "http://ours.test"


def test_a_file_that_nobody_can_read_is_botocores_to_complain_of(here: Path) -> None:
    (here / "config").write_text("endpoint_url = http://before.any.section\n")
    settings = settled().settings()
    assert settings.s3.endpoint_url is None
    with pytest.raises(BotoCoreError):
        endpoint_of_boto3()
    s3 = S3(settings.s3, Mirror(Memory()))
    with pytest.raises(MimicError):
        s3.account()
    s3.close()


def test_a_server_of_the_aws_configuration_is_not_taken_for_aws(here: Path) -> None:
    (here / "config").write_text(f"[default]\n{MINIO}")
    s3 = S3(settled().settings().s3, Mirror(Memory()))
    assert s3.endpoint == "http://minio.test:9000"
    assert s3.capabilities["delete-etags"] == s3.capabilities["copy-etags"] == "unknown"
    assert s3.conditions.of_deletes("bucket") is None  # a HEAD looks before it deletes
    s3.close()


def test_where_aws_is_asked_no_configuration_leads_elsewhere(here: Path) -> None:
    (here / "config").write_text(f"[default]\n{MINIO}")
    aws = S3(S3Options(region="eu-west-1"), Mirror(Memory()))
    assert aws.link("bucket", "k", "", 60).startswith("https://bucket.s3.eu-west-1.amazonaws.com/k")
    aws.close()
