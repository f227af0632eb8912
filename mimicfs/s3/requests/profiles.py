"""The profiles of providers: only what would be learned else (capabilities.py), so that nothing has
to be refused first. None is needed, and of most nothing is known that differs.

Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping

from mimicfs.config.values import PROVIDERS

# S3 looks at the ETags of DeleteObjects ("Conditional deletes" in its user guide) and of sources
# (x-amz-copy-source-if-match, in its reference of CopyObject and UploadPartCopy). Cloudflare's R2
# refuses parts of different sizes ("Multipart upload", Limitations, in its documentation).
# Alibaba's OSS and Tencent's COS refuse buckets that are named in the path (docs/servers.md).
PROFILES: Mapping[str, Mapping[str, str]] = {
    "aws": dict.fromkeys(
        ("delete-etags", "copy-etags", "copy-tags", "upload-tags", "markers"), "yes"
    ),
    "b2": {},
    "ceph": {},
    "cos": {"addressing": "virtual"},
    "digitalocean": {},
    "gcs": {},
    "minio": {},
    "oss": {"addressing": "virtual"},
    "r2": {"equal-parts": "yes"},
    "swift": {},
    "wasabi": {},
}
assert PROFILES.keys() == set(PROVIDERS)
