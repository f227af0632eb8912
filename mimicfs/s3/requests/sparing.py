"""What botocore does at its start, and nobody needs here.

It imports most of awscrt, where that is installed, to sign with: 48 ms. mimicfs signs by itself
(signing.py); awscrt signs only what goes to multi-region access points (everywhere.py), and what
asks for the credentials of `aws login`.

It looks into the directory of models of each service, 434 of them, twice: 16 ms.

Threading: `spare_awscrt` before there are threads, and for commands: a program's botocore is its
own. `spare_looks` before the session is used, but after its profile and its files are set: it reads
them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

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
    texts = aws.texts(environ, str(options.credentials_file or ""))
    if any(_LOGIN in text.lower() for text in texts):  # as configparser finds it
        return
    sys.modules["awscrt"] = None  # type: ignore[assignment]  # importing it is an ImportError
    try:
        import botocore.compat  # noqa: F401
    finally:
        del sys.modules["awscrt"]


def spare_looks(session: Any) -> None:
    """Have *session*, one of botocore's, believe that each directory of models has all that it may
    load. If one lacks a model, loading that fails."""
    loader = session.get_component("data_loader")

    @cache
    def services(type_name: str) -> list[str]:
        found: set[str] = set()
        for path in loader.search_paths:
            with suppress(OSError):  # most users have no models of their own
                found.update(os.listdir(path))
        return sorted(found)

    loader.list_available_services = services
