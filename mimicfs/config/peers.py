"""The options of s3fs, rclone, mountpoint, goofys, JuiceFS and libfuse, answered in our words.

docs/coming-from.md has the same words in tables, and more about them.
"""

from __future__ import annotations

_KEEPS_NAMES = "the mirror keeps names; ttl=SECONDS lists old directories again"
_CREDENTIALS = "write credentials_file=FILE (written as ~/.aws/credentials)"
_IN_SOURCE = "name it in the source: s3://BUCKET/PREFIX"
_STAGED = "written files are always staged on the local disk; see write_back"
_CERTIFICATES = "certificates are always verified; name your own CA in AWS_CA_BUNDLE"
_PATH = "write addressing_style=path (the default with an endpoint_url)"
_WRITABLE = "writing is allowed unless the mount is read-only (ro)"
_CACHE = "write cache_dir=DIRECTORY"
_SIZE = "write cache_size="
_CONNECTIONS = "write connections="
_PARTS = "write part_size="
_DEBUG = "write log_level=debug"
_MEMORY = "write read_memory="
_TIMEOUT = "write read_timeout=SECONDS or request_timeout=SECONDS"
_LOG = "write log_file="
_LIMITS = "write download_limit= or upload_limit="
_ENDPOINT = "write endpoint_url=URL"
_AHEAD = "read-ahead adapts by itself; see read_memory"
_CHECKSUMS = "S3 checks a checksum of everything that mimicfs writes; see server_can"
_TIMES = "write metadata=no: the times of files are those of S3 then"
_BY_ITSELF = "not needed"

_ADVICE = {
    # s3fs
    "passwd_file": _CREDENTIALS,
    "url": _ENDPOINT,
    "host": _ENDPOINT,
    "endpoint": "write region=NAME, or endpoint_url=URL",
    "use_path_request_style": _PATH,
    "bucket": "name it in the source: s3://BUCKET",
    "iam_role": "boto3 finds the role of the machine; profile=NAME selects another one",
    "ibm_iam_auth": "not available; use HMAC keys of IBM's storage",
    "ecs": "boto3 finds the credentials of a container by itself",
    "public_bucket": "write no_sign_request",
    "default_acl": "write acl=",
    "use_sse": "write sse=AES256 or sse=aws:kms",
    "load_sse_c": "write sse_c_key_file=FILE",
    "use_rrs": "write storage_class=REDUCED_REDUNDANCY",
    "use_cache": _CACHE,
    "del_cache": "delete the directory of the cache while nothing is mounted",
    "ensure_diskfree": "write staging_size= and cache_size=",
    "max_dirty_data": _STAGED,
    "streamupload": "not needed: mimicfs uploads large files while they are written",
    "multipart_size": _PARTS,
    "parallel_count": _CONNECTIONS,
    "retries": "write attempts=",
    "connect_timeout": _TIMEOUT,
    "readwrite_timeout": _TIMEOUT,
    "stat_cache_expire": _KEEPS_NAMES,
    "max_stat_cache_size": _KEEPS_NAMES,
    "enable_noobj_cache": _KEEPS_NAMES,
    "disable_noobj_cache": _KEEPS_NAMES,
    "complement_stat": "not needed: without stored modes, umask, file_mode and dir_mode apply",
    "compat_dir": "not needed: a directory exists while a key begins with its name",
    "notsup_compat_dir": "not needed: a directory exists while a key begins with its name",
    "use_xattr": "not needed: user.* attributes are always kept",
    "enable_content_md5": "not needed: S3 checks a checksum of everything that mimicfs writes",
    "nocopyapi": "write server_can='copy-parts=no' if the server cannot copy in parts",
    "norenameapi": "a rename is always a copy within S3",
    "sigv2": "requests are always signed with version 4",
    "sigv4": "not needed: requests are always signed with version 4",
    "ssl_verify_hostname": _CERTIFICATES,
    "no_check_certificate": _CERTIFICATES,
    "dbglevel": _DEBUG,
    "curldbg": _DEBUG,
    "logfile": _LOG,
    "mp_umask": "write umask=",
    "mime": "not needed: mimicfs uses /etc/mime.types",
    "tmpdir": _CACHE,
    "ahbe_conf": "write rules in the configuration file: [[buckets.NAME.rules]]",
    "multireq_max": _CONNECTIONS,
    "max_thread_count": _CONNECTIONS,
    "multipart_copy_size": _PARTS,
    "bucket_size": "not needed: `df` shows how much the buckets hold",
    "servicepath": _ENDPOINT,
    "proxy": "set HTTPS_PROXY in the environment",
    "enable_unsigned_payload": _CHECKSUMS,
    "imdsv1only": "boto3 finds the role of the machine",
    "use_wtf8": "not needed: every key has a name",
    # libfuse: in a line of fstab that was written for another program
    "auto_unmount": "not needed: mounting again clears a dead mount",
    "direct_io": "not needed: the kernel caches data as long as it is valid",
    "auto_cache": "not needed: the kernel caches data as long as it is valid",
    "kernel_cache": "not needed: the kernel caches data as long as it is valid",
    "entry_timeout": _KEEPS_NAMES,
    "negative_timeout": _KEEPS_NAMES,
    "use_ino": _BY_ITSELF,
    "big_writes": _BY_ITSELF,
    "max_read": _BY_ITSELF,
    "max_write": _BY_ITSELF,
    "max_background": _BY_ITSELF,
    "hard_remove": _BY_ITSELF,
    "noforget": _BY_ITSELF,
    # AWS, in a configuration file
    "access_key_id": _CREDENTIALS,
    "secret_access_key": _CREDENTIALS,
    "aws_access_key_id": _CREDENTIALS,
    "aws_secret_access_key": _CREDENTIALS,
    "access_key": _CREDENTIALS,
    "secret_key": _CREDENTIALS,
    # rclone
    "vfs_cache_mode": _STAGED,
    "vfs_cache_max_size": _SIZE,
    "vfs_cache_max_age": "write cache_size=; the least recently read data goes first",
    "vfs_write_back": "write write_back: S3 gets a file when it is closed, or later",
    "vfs_read_chunk_size": _AHEAD,
    "vfs_read_ahead": _AHEAD,
    "buffer_size": _MEMORY,
    "dir_cache_time": _KEEPS_NAMES,
    "attr_timeout": _KEEPS_NAMES,
    "poll_interval": "write events=SOURCE, or ttl=SECONDS",
    "transfers": _CONNECTIONS,
    "checkers": _CONNECTIONS,
    "allow_non_empty": "write nonempty",
    "s3_endpoint": _ENDPOINT,
    "s3_region": "write region=",
    "s3_provider": "write provider=",
    "s3_acl": "write acl=",
    "s3_storage_class": "write storage_class=",
    "s3_access_key_id": _CREDENTIALS,
    "s3_secret_access_key": _CREDENTIALS,
    "s3_force_path_style": _PATH,
    "s3_no_check_bucket": "not needed: a mount never makes a bucket",
    "s3_profile": "write profile=NAME",
    "s3_env_auth": "not needed: boto3 finds the keys in the environment, and roles",
    "s3_session_token": _CREDENTIALS,
    "s3_chunk_size": _PARTS,
    "s3_upload_concurrency": _CONNECTIONS,
    "s3_server_side_encryption": "write sse=AES256 or sse=aws:kms",
    "s3_sse_kms_key_id": "write kms_key_id=",
    "s3_requester_pays": "write requester_pays",
    "s3_use_accelerate_endpoint": "write accelerate",
    "vfs_read_chunk_size_limit": _AHEAD,
    "vfs_read_chunk_streams": _AHEAD,
    "vfs_cache_poll_interval": "not needed: the cache keeps within cache_size at any time",
    "max_read_ahead": _AHEAD,
    "no_modtime": _TIMES,
    "use_server_modtime": _TIMES,
    "no_checksum": _CHECKSUMS,
    "tpslimit": "write request_rate=NUMBER",
    "daemon_wait": "not needed: the command returns when the mount answers",
    "daemon_timeout": "not needed: the command returns when the mount answers",
    "bwlimit": _LIMITS,
    "rc": "`mimicfs status` asks a mount",
    # mountpoint
    "prefix": _IN_SOURCE,
    "allow_delete": _WRITABLE.replace("writing", "deleting"),
    "allow_overwrite": _WRITABLE,
    "allow_root": "write allow_other",
    "force_path_style": _PATH,
    "transfer_acceleration": "write accelerate",
    "dual_stack": "write dualstack",
    "sse_kms_key_id": "write kms_key_id=",
    "metadata_ttl": _KEEPS_NAMES,
    "negative_metadata_ttl": _KEEPS_NAMES,
    "cache": _CACHE,
    "max_cache_size": _SIZE,
    "max_threads": _CONNECTIONS,
    "maximum_throughput_gbps": _CONNECTIONS,
    "read_part_size": _AHEAD,
    "write_part_size": _PARTS,
    "upload_checksums": _CHECKSUMS,
    "incremental_upload": "not needed: an append sends only what is new",
    "max_memory_target": _MEMORY,
    "log_metrics": "write metrics=ADDRESS; `mimicfs status` shows the figures, too",
    "no_log": "write log_level=error",
    "log_directory": _LOG,
    "debug": _DEBUG,
    "debug_crt": _DEBUG,
    # goofys
    "stat_cache_ttl": _KEEPS_NAMES,
    "type_cache_ttl": _KEEPS_NAMES,
    "cheap": "not needed: the mirror answers for names",
    "no_implicit_dir": "not needed: a directory exists while a key begins with its name",
    "http_timeout": _TIMEOUT,
    "sse_kms": "write sse=aws:kms and kms_key_id=ID",
    "subdomain": "write addressing_style=virtual",
    "sse_c": "write sse_c_key_file=FILE",
    "use_content_type": "not needed: the content type is guessed from the name",
    "debug_s3": _DEBUG,
    "debug_fuse": _DEBUG,
    # JuiceFS
    "free_space_ratio": "write cache_size=; a quarter of the free space is kept by default",
    "writeback": "write write_back",
    "attr_cache": _KEEPS_NAMES,
    "entry_cache": _KEEPS_NAMES,
    "dir_entry_cache": _KEEPS_NAMES,
    "open_cache": "write consistency=mirror (the default) or consistency=open",
    "prefetch": _AHEAD,
    "max_uploads": _CONNECTIONS,
    "get_timeout": _TIMEOUT,
    "put_timeout": _TIMEOUT,
    "io_retries": "write attempts=",
    "upload_delay": "write write_back: S3 gets a file when it is closed, or later",
    "open_cache_limit": "write consistency=mirror (the default) or consistency=open",
    "enable_xattr": "not needed: user.* attributes are always kept",
    "log": _LOG,
    "no_syslog": "not needed: the log is a file; log_file=syslog: is the system's",
    "subdir": _IN_SOURCE,
    "no_usage_report": "not needed: mimicfs reports nothing to anybody",
    "backup_meta": "not needed: mimicfs can rebuild the mirror from S3; see `mimicfs index export`",
}  # fmt: skip
WORDS = frozenset(_ADVICE)


def advice(word: str) -> str:
    """Return what to write instead of another program's *word*; "" if it is not known."""
    return _ADVICE.get(word.lstrip("-").replace("-", "_"), "")
