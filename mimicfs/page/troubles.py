"""What somebody should look at, by the figures of a mount, and what to do about it.

Threading: no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from mimicfs.human import number_of

Figures = Mapping[str, Any]


class Trouble(NamedTuple):
    """*grave*: bytes may be lost, or nothing works; else it is good to know."""

    grave: bool
    what: str
    advice: str


_PARTS = {
    "mirror": "Is the store there? `mimicfs store check` looks.",
    "sharing": "Is the store there? `mimicfs store check` looks.",
    "follower": "Is the store there? `mimicfs store check` looks.",
}
_IN_LOG = "The log of the mount has more; `mimicfs doctor` looks for the cause."
# By S3's code, or by the class of the error. What is not here is looked up by its kind below.
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
    """Return what to do about an error that S3 answered."""
    return _S3.get(code, _UNKNOWN_CODE)


def meaning_of_errno(name: str) -> str:
    """Return what an error that a program was given mostly means; "" if that is plain."""
    return _ERRNOS.get(name, "")


def troubles(figures: Figures, dead: Iterable[str]) -> list[Trouble]:
    """Return what is wrong, the grave first. *dead*: where mounts of this user have died."""
    found = [*_silent(figures), *_files(figures), *_mirror(figures), *_events(figures)]
    found += [
        Trouble(True, f"The process that served {point} has died.",
                "Mount it again; bytes that S3 did not have yet are uploaded then.")
        for point in dead
    ]  # fmt: skip
    return sorted(found, key=lambda each: not each.grave)


def _silent(figures: Figures) -> Iterator[Trouble]:
    for name, part in figures.items():
        if name not in ("events", "reconcile") and isinstance(part.get("error"), str):
            advice = _PARTS.get(name, _IN_LOG)
            yield Trouble(True, f"The part “{name}” fails: {part['error']}", advice)


def _files(figures: Figures) -> Iterator[Trouble]:
    files = figures.get("files", {})
    queue = files.get("write_back", {})
    if queue.get("error"):
        yield Trouble(
            True, f"Uploads fail: {queue['error']}",
            "Their bytes are on the local disk, and are sent again until S3 takes them.",
        )  # fmt: skip
    if files.get("recovered"):
        yield Trouble(
            True,
            f"{number_of(files['recovered'], 'file')} in staging/recovered: S3 does not have them.",
            "Look at them, copy what is needed into the mount, and delete them.",
        )
    limits = figures.get("s3", {}).get("limits", {})
    most = limits.get("max_requests_per_day")
    if most and limits["requests_today"] >= most:
        yield Trouble(
            True, f"All {most:,} requests of today are sent; S3 is not asked any more.",
            "`mimicfs set MOUNTPOINT max-requests-per-day=0`, or wait until midnight UTC.",
        )  # fmt: skip


def _mirror(figures: Figures) -> Iterator[Trouble]:
    sharing = figures.get("sharing", {})
    if sharing.get("away"):
        yield Trouble(
            True, "The store does not answer: files are read, changes are refused.",
            "Start it again; the mount goes on by itself.",
        )  # fmt: skip
    if sharing.get("epoch_changes"):
        times = number_of(sharing["epoch_changes"], "time")
        yield Trouble(
            False, f"The store may have lost changes ({times}); all was asked of S3 anew.",
            "Was it emptied, or restored? Its eviction policy must be noeviction.",
        )  # fmt: skip
    for each in figures.get("sync", {}).get("failed", ()):
        yield Trouble(
            True, f"The last sync of s3://{each['bucket']}/ failed: {each['error']}",
            f"`mimicfs sync s3://{each['bucket']}` goes on where it ended.",
        )  # fmt: skip


def _events(figures: Figures) -> Iterator[Trouble]:
    events, sweep = figures.get("events", {}), figures.get("reconcile", {})
    if events.get("error"):
        yield Trouble(
            True, f"Nothing is heard of changes: {events['error']}",
            "Is the source of --events there? `mimicfs events check s3://BUCKET` tries it.",
        )  # fmt: skip
    for bucket, told in sorted(events.get("configured", {}).items()):
        if told == "no":
            yield Trouble(
                False, f"S3 tells nothing of s3://{bucket}.",
                f"`mimicfs events setup s3://{bucket}` has it tell.",
            )  # fmt: skip
    if events.get("put_aside"):
        count = number_of(events["put_aside"], "message")
        yield Trouble(False, f"{count} in events-aside.jsonl could not be understood.", _IN_LOG)
    if sweep.get("error"):
        yield Trouble(False, f"Listing again (--reconcile) fails: {sweep['error']}", _IN_LOG)
