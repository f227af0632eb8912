"""Requests to multi-region access points, whose signature holds in all regions (SigV4A).

botocore signs them so by itself, unless it was told to sign by version 4. `clients.py` tells it
that, because otherwise botocore signs addresses by version 2.

SigV4A is made by awscrt.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/MultiRegionAccessPointRequests.html

Threading: any thread; no state.
"""

from __future__ import annotations

import re
from typing import Any

from botocore.compat import HAS_CRT

from mimicfs.errors import ConfigError

_ARN = re.compile(r"arn:[\w-]+:s3::\d*:accesspoint[:/][\w-]+\.mrap").fullmatch
_MARK = "mimicfs.everywhere"
_NEEDS = (
    "a multi-region access point needs awscrt: pip install 'mimicfs[crt]'; in a mount of all"
    " buckets it cannot be used: mount it itself"
)


def sign_everywhere(events: Any) -> None:
    """Have the client of *events* sign requests to multi-region access points for all regions."""
    events.register("before-parameter-build.s3", _mark)
    events.register("choose-signer.s3", _chosen)


def _mark(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    bucket = params.get("Bucket")
    if isinstance(bucket, str) and _ARN(bucket):
        context[_MARK] = bucket


def _chosen(context: dict[str, Any], signature_version: Any, **_: Any) -> str | None:
    # No string: the request is not signed at all.
    if _MARK not in context or not isinstance(signature_version, str):
        return None
    if not HAS_CRT:
        raise ConfigError(f"s3://{context[_MARK]}: {_NEEDS}")
    context["signing"] = {**context.get("signing", {}), "region": "*", "signing_name": "s3"}
    return "s3v4a"
