"""The meanings of errors, and what to do about them: errors of S3, and errors that programs got.

Threading: no state.
"""

from __future__ import annotations

# By S3's code, or by the class of the error. The kinds below are for errors that are not here.
_S3 = {
    "AccessDenied": "These credentials may not do that. `mimicfs doctor --write s3://BUCKET` says"
    " which right is missing.",
    "AllAccessDisabled": "The account, or the bucket, was switched off: ask its owner.",
    "ExpiredToken": "The credentials have expired: renew them (aws sso login); the mount takes the"
    " new ones by itself.",
    "InvalidAccessKeyId": "S3 does not know the access key: is it that of this endpoint?",
    "SignatureDoesNotMatch": "The secret key is not that of the access key.",
    "RequestTimeTooSkewed": "The clock of this machine is wrong: timedatectl set-ntp true.",
    "NoSuchBucket": "A bucket was deleted; `mimicfs ls` lists yours.",
    "NoSuchKey": "Somebody else has deleted objects since they were listed: `touch .sync` in the"
    " directory, or --ttl, --events.",
    "404": "Objects were asked for that are not there. Mostly nothing is wrong.",
    "NoSuchUpload": "An upload was ended by somebody else (a rule of the bucket's lifecycle?).",
    "PreconditionFailed": "Somebody else changed objects at the same time; nothing of theirs was"
    " overwritten.",
    "SlowDown": "S3 wants fewer requests: `mimicfs set MOUNTPOINT request-rate=50`.",
    "ServiceUnavailable": "S3 had too much to do; requests were sent again.",
    "InternalError": "S3 failed; requests were sent again.",
    "EndpointConnectionError": "The endpoint cannot be reached: network, name, port?",
    "ConnectTimeoutError": "The endpoint does not answer: network, firewall?",
    "ReadTimeoutError": "S3 was silent for longer than --read-timeout.",
    "SSLError": "The certificate is not trusted: AWS_CA_BUNDLE names a CA of yours.",
}
_UNKNOWN_CODE = "The log has each; `mimicfs log-level MOUNTPOINT debug` logs every request."
_ERRNOS = {
    "EACCES": "Refused by S3 or by the mode of a file.",
    "EPERM": "Not possible, or for the owner only.",
    "EIO": "S3 failed or did not answer; the log says which request.",
    "ENOSPC": "The disk under the cache directory is full, or --staging-size is reached.",
    "EDQUOT": "The requests of the day are used up: `mimicfs set MOUNTPOINT"
    " max-requests-per-day=…`.",
    "EROFS": "The mount, or the bucket, is read-only by its settings.",
    "ESTALE": "An object was replaced by somebody else while it was open.",
    "EBUSY": "In use, or being uploaded.",
    "ENOTEMPTY": "A directory that was to be removed has files.",
    "EFBIG": "Larger than an object of S3 can be.",
    "ENAMETOOLONG": "A key of S3 has at most 1,024 bytes.",
    "EINTR": "The program was interrupted while it waited.",
    "ETIMEDOUT": "S3 took longer than --request-timeout.",
}


def advice_of_code(code: str) -> str:
    """Return what to do about an error of S3."""
    return _S3.get(code, _UNKNOWN_CODE)


def meaning_of_errno(name: str) -> str:
    """Return the usual meaning of an error that a program got; "" if it is plain."""
    return _ERRNOS.get(name, "")
