"""Requests to directory buckets (S3 Express), which are signed with the keys of a session.

botocore begins a session by itself (CreateSession), unless it was told to sign by version 4.
`clients.py` tells it that, because otherwise botocore signs addresses by version 2.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-create-session.html

Threading: any thread; no state.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from botocore import UNSIGNED

_SCHEME = "sigv4-s3express"


def sign_with_sessions(client: Any) -> None:
    """Have *client* sign requests to directory buckets as S3 wants them signed there."""
    if client.meta.config.signature_version is UNSIGNED:
        return
    resolver = client._ruleset_resolver
    told, untold = resolver.auth_schemes_to_signing_ctx, copy(resolver)
    untold._requested_auth_scheme = None

    def chosen(schemes: Any) -> Any:
        with_session = any(each["name"] == _SCHEME for each in schemes)
        return untold.auth_schemes_to_signing_ctx(schemes) if with_session else told(schemes)

    resolver.auth_schemes_to_signing_ctx = chosen
