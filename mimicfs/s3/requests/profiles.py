"""What providers are known to do, by their own descriptions: only what would be learned else
(capabilities.py), so that nothing has to be refused first. None is needed.

Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping

from mimicfs.config.values import PROVIDERS

# The descriptions that these are from are named in docs/servers.md, a row for each provider.
PROFILES: Mapping[str, Mapping[str, str]] = {
    "aws": {},
    "b2": {},
    "ceph": {},
    "cos": {"addressing": "virtual", "checksum": "md5"},
    "digitalocean": {},
    "gcs": {"delete-many": "no", "checksum": "md5", "copy-parts": "yes"},
    "minio": {},
    "oss": {"addressing": "virtual", "checksum": "md5"},
    "r2": {"equal-parts": "yes"},
    "swift": {"checksum": "md5"},
    "wasabi": {},
}
assert PROFILES.keys() == set(PROVIDERS)
