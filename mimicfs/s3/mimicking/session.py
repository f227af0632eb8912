"""A boto3 Session whose S3 clients mimic, and with them its resources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3


class MimickingSession(boto3.session.Session):
    """Each S3 client is handed to *mimic*. The other parameters are boto3's."""

    def __init__(self, mimic: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)

        def shared(client: Any) -> Any:
            return mimic(client)

        self._mimic = shared  # a copy of the session copies no function, but would copy a MimicDB

    def client(self, service_name: str, *args: Any, **kwargs: Any) -> Any:
        """Return a client, as boto3 does; for "s3", a mimicking one. Resources use it, too."""
        make: Any = super().client
        client = make(service_name, *args, **kwargs)
        return self._mimic(client) if service_name == "s3" else client
