"""Transfers of files of a mimicked client."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

_PREFERS_CRT = """
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from mimicfs import MimicDB
from mimicfs.backends.memory import Memory
client = MimicDB(Memory()).client(
    region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
)
config = TransferConfig(preferred_transfer_client="crt")
print(type(create_transfer_manager(client, config)).__name__)
"""


def test_files_go_through_the_mimicked_client_where_boto3_would_rather_pass_it_by():
    """awscrt has a client of its own, of which the mirror learns nothing."""
    environment = {name: it for name, it in os.environ.items() if name != "BOTO_DISABLE_CRT"}
    said = subprocess.check_output(
        [sys.executable, "-c", _PREFERS_CRT], env=environment, text=True, timeout=60
    )
    assert said == "TransferManager\n"
