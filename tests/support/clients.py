"""A plain boto3 client: somebody else, who uses S3 without us."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config


def plain(url: str) -> Any:
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2})
    return boto3.client("s3", endpoint_url=url, config=config)
