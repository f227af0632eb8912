"""The parts on which commands and mounts stand: the mirror, S3, and what keeps the one true to the
other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mimicfs.backends import Backend
from mimicfs.backends.open import file_of, open_store
from mimicfs.config.values import Buckets, Settings, Target, redacted
from mimicfs.errors import AccessDenied, InvalidRequest, NoSuchPrefix, S3Unavailable, Unlisted
from mimicfs.mimicdb import Mirror
from mimicfs.private import check_parent, private_directory

if TYPE_CHECKING:
    from mimicfs.s3.requests.client import S3
    from mimicfs.sync import Syncer

log = logging.getLogger(__name__)

T = TypeVar("T")


class Parts:
    """The mirror, S3, and what keeps the one true to the other. The last two are made when they are
    needed: an answer of the mirror does not wait for the import of botocore.

    *store* is the URL of the store, without a password.
    """

    def __init__(
        self, mimicdb: Mirror, store: str, reach: Callable[[], S3], buckets: Buckets
    ) -> None:
        self.mimicdb = mimicdb
        self.store = store
        self._reach = reach
        self._buckets = buckets

    @cached_property
    def s3(self) -> S3:
        return self._reach()

    @cached_property
    def syncer(self) -> Syncer:
        from mimicfs.sync import Syncer

        return Syncer(self.mimicdb, self.s3, self._buckets)

    def sure(self, ask: Callable[[], T]) -> T:
        """Return the answer of *ask*, after listing what the mirror does not know for it."""
        try:
            return ask()
        except Unlisted:
            return self.syncer.sure(ask)

    def close(self) -> None:
        if "s3" in self.__dict__:
            self.s3.close()
        self.mimicdb.close()


def assemble(
    settings: Settings, beside: Callable[[Backend], Backend] = lambda store: store
) -> Parts:
    """Open the store and make the parts that stand on it. Makes no request. *beside* puts a copy
    beside a store."""
    url = store_url(settings, lambda: _account(settings))
    if not settings.store:
        private_directory(settings.state)
    elif (file := file_of(url)) is not None:
        check_parent(file)
    mimicdb = Mirror(beside(open_store(url, settings.namespace, settings.store_password)))
    return Parts(mimicdb, redacted(url), lambda: _s3(settings, mimicdb), settings.s3.buckets)


def _s3(settings: Settings, mimicdb: Mirror) -> S3:
    from mimicfs.s3.requests.client import S3

    return S3(settings.s3, mimicdb)


def _account(settings: Settings) -> str:
    from mimicfs.s3.requests.account import Accounts

    known = Accounts(private_directory(settings.state) / "accounts.json")
    clues = known.clues(settings.s3, os.environ)
    found = known.get(clues)
    if found:
        return found
    with closing(_s3(settings, Mirror(open_store("memory:")))) as s3:
        account = s3.account()
        if s3.account_stays():
            known.put(clues, account)
        return account


def store_url(settings: Settings, account: Callable[[], str]) -> str:
    """Return where the mirror of *account* is. Makes no request."""
    return settings.store or f"sqlite://{settings.state / (account() + '.db')}"


def own_directories(settings: Settings) -> list[Path]:
    """Return the directories that are for us alone."""
    staging = settings.cache_dir or settings.state
    found = [settings.state, settings.state / "mounts", staging / "staging"]
    if settings.cache_dir is not None:
        found += [settings.cache_dir, settings.cache_dir / "blocks"]
    elif settings.blocks is not None:
        found.append(settings.blocks)
    return found


def check(parts: Parts, target: Target) -> None:
    """Raise the error that would make the mount useless: no credentials, no such bucket, no rights.

    One request. If S3 cannot be reached, it is enough that the mirror has the bucket.
    """
    parts.s3.check_credentials()
    exposed = parts.s3.exposed_credentials()
    if exposed is not None:
        log.warning("%s: other users can read the credentials in it; chmod 600 it", exposed)
    if target.bucket:
        known = parts.mimicdb.known_bucket(target.bucket) is not None
    else:
        known = parts.mimicdb.scope("", "") is not None
    try:
        if target.bucket:
            _check_bucket(parts.s3, target)
            parts.mimicdb.add_bucket(target.bucket, 0)
        else:
            parts.syncer.sync_buckets()
    except S3Unavailable as exc:
        if not known:
            raise
        log.warning("S3 does not answer; the mount shows the mirror as it is: %s", exc)


def check_prefix(parts: Parts, target: Target) -> None:
    """Raise NoSuchPrefix if nothing in S3 begins with what *target* names. One request, and none
    where the mirror knows of something."""
    if not target.prefix or parts.mimicdb.has_below(target.bucket, target.prefix):
        return
    try:
        page = parts.s3.list_page(target.bucket, target.prefix, limit=1)
    except S3Unavailable as exc:
        log.warning("S3 does not answer; %s may not exist: %s", target, exc)
        return
    if not page.entries:
        raise NoSuchPrefix(f"{target}: nothing in the bucket begins with that")


def _check_bucket(s3: S3, target: Target) -> None:
    """Raise what is wrong with the bucket. A HEAD answers 403 for an unknown key id or a wrong
    clock as well as for a missing right, and also to an account that may list only a prefix: a
    listing knows better."""
    try:
        s3.head_bucket(target.bucket)
    except (AccessDenied, InvalidRequest) as exc:
        log.debug("%s", exc)
        s3.list_page(target.bucket, target.prefix, limit=1)
