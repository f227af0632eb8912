"""What providers are known to do: only what would be learned else (capabilities.py), so that
nothing has to be refused first. None is needed, and of most nothing is known that differs.

Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping

from mimicfs.config.values import PROVIDERS

# Alibaba's OSS and Tencent's COS refuse buckets that are named in the path (docs/servers.md).
PROFILES: Mapping[str, Mapping[str, str]] = {
    "aws": {},
    "b2": {},
    "ceph": {},
    "cos": {"addressing": "virtual"},
    "digitalocean": {},
    "gcs": {},
    "minio": {},
    "oss": {"addressing": "virtual"},
    "r2": {},
    "swift": {},
    "wasabi": {},
}
assert PROFILES.keys() == set(PROVIDERS)
