"""Messages about buckets, as servers send them."""

from __future__ import annotations

import json
from typing import Any


def message(bucket: str, key: str, name: str = "ObjectCreated:Put", **object_: Any) -> str:
    """Return a message of Ceph's, whose keys are as they are."""
    about = {"bucket": {"name": bucket}, "object": {"key": key, **object_}}
    record = {"eventSource": "ceph:s3", "eventName": name, "s3": about}
    return json.dumps({"Records": [record]})
