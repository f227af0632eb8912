"""What users of s3fs, rclone, mountpoint, goofys and JuiceFS write, answered in our words."""

from __future__ import annotations

_ADVICE = {
    "passwd_file": "write credentials_file=FILE (in the form of ~/.aws/credentials)",
    "url": "write endpoint_url=URL",
    "endpoint": "write region=NAME, or endpoint_url=URL",
    "prefix": "name it in the source: s3://BUCKET/PREFIX",
    "bucket": "name it in the source: s3://BUCKET",
    "iam_role": "boto3 finds the role of the machine; profile=NAME selects another one",
    "allow_delete": "deleting is allowed unless the mount is read-only (ro)",
    "allow_overwrite": "writing is allowed unless the mount is read-only (ro)",
    "allow_root": "write allow_other",
    "mp_umask": "write umask=",
    "public_bucket": "write no_sign_request",
    "default_acl": "write acl=",
    "use_sse": "write sse=AES256 or sse=aws:kms",
    "use_cache": "write cache_dir=DIRECTORY",
    "cache": "write cache_dir=DIRECTORY",
    "max_cache_size": "write cache_size=",
    "vfs_cache_max_size": "write cache_size=",
    "vfs_cache_mode": "files that are written are always staged on the local disk; see write_back",
    "writeback": "write write_back",
    "ensure_diskfree": "write staging_size=",
    "multipart_size": "write part_size=",
    "parallel_count": "write connections=",
    "max_threads": "write connections=",
    "retries": "write attempts=",
    "dbglevel": "write log_level=debug",
    "debug": "write log_level=debug",
    "stat_cache_expire": "the mirror keeps names; ttl=SECONDS lists old directories again",
    "dir_cache_time": "the mirror keeps names; ttl=SECONDS lists old directories again",
    "metadata_ttl": "the mirror keeps names; ttl=SECONDS lists old directories again",
    "no_check_certificate": "certificates are always verified; AWS_CA_BUNDLE names a CA of yours",
    "use_xattr": "not needed: user.* attributes are always kept",
    "compat_dir": "not needed: a directory exists while a key begins with its name",
}


def advice(word: str) -> str:
    """Return what to write instead of another program's *word*; "" if it is not known."""
    return _ADVICE.get(word.lstrip("-").replace("-", "_"), "")
