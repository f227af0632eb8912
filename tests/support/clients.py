"""A plain boto3 client: somebody else, who uses S3 without us."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config

# Of a user whose server may be rclone, which answers a ranged GET with the checksum of the whole.
CONFIG = Config(
    s3={"addressing_style": "path"},
    response_checksum_validation="when_required",
    retries={"total_max_attempts": 1},
)


def plain(url: str) -> Any:
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2})
    return boto3.client("s3", endpoint_url=url, config=config)
