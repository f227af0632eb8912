"""botocore without awscrt. Where that is installed, botocore imports most of it to sign with, which
takes 48 ms and is of no use here: mimicfs signs by itself (signing.py). awscrt signs only what goes
to multi-region access points (everywhere.py), and what asks for the credentials of `aws login`.

Threading: before there are threads. For commands: a program's botocore is its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping

from mimicfs.config import aws
from mimicfs.config.values import S3Options

_EVERYWHERE = ".mrap"  # ends the ARN of a multi-region access point
_LOGIN = "login_session"


def spare_awscrt(
    options: S3Options, buckets: Iterable[str], environ: Mapping[str, str] = os.environ
) -> None:
    """Import botocore as if there were no awscrt, unless that has something to do for *buckets*, or
    it is imported already."""
    if "botocore.compat" in sys.modules or "awscrt" in sys.modules:
        return
    if any(_EVERYWHERE in bucket for bucket in buckets):
        return
    if any(_LOGIN in text for text in aws.texts(environ, str(options.credentials_file or ""))):
        return
    sys.modules["awscrt"] = None  # type: ignore[assignment]  # importing it is an ImportError
    try:
        import botocore.compat  # noqa: F401
    finally:
        del sys.modules["awscrt"]
