"""The profiles of providers. They only say what mimicfs would otherwise learn (capabilities.py), so
that no request has to be refused first. No profile is needed, and most providers are not known to
differ.

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
