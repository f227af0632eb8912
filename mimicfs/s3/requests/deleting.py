"""Deleting many keys: a thousand a request, and one by one, 64 at once, where a server has no
DeleteObjects (501), or not as S3 has it (a 400 that wants another checksum).

If the version of a key is known, only that version is deleted: by the ETags of DeleteObjects if the
server is known to look at them; otherwise by single DELETEs with If-Match if it looks at that;
otherwise after a HEAD, a moment before. Most servers ignore what they do not know, and delete.

This is strict: a key counts as deleted only when the server has said so, about the key or about the
request that named it, or has said that there is no such key. For every other key, the reason is
returned.

Threading: any thread.
"""

from __future__ import annotations

import logging
import os.path
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mimicfs.entry import KEY_MAX
from mimicfs.errors import (
    NOTHING_SAID,
    AccessDenied,
    KeyNotFound,
    NoSuchBucket,
    ObjectChanged,
    S3Error,
)
from mimicfs.s3.requests.conditions import NOBODYS
from mimicfs.s3.requests.content import DELETE_MAX
from mimicfs.s3.requests.ownkeys import own_key_beside

if TYPE_CHECKING:
    from mimicfs.s3.requests.client import S3

log = logging.getLogger(__name__)

# These codes do not say whether the server knows DeleteObjects.
_OF_NO_FORM: tuple[type[S3Error], ...] = (AccessDenied, NoSuchBucket, *NOTHING_SAID)

RefusedKeys = list[tuple[str, str]]  # keys, and why


class Deleter:
    """Deletes through *s3*, in *bucket*. Of a key in *etags*, only that version, as far as the
    server looks."""

    def __init__(self, s3: S3, bucket: str, etags: Mapping[str, str]) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._etags = etags

    def delete(self, keys: Sequence[str]) -> RefusedKeys:
        """Delete the keys; return those that were refused."""
        # Keys below a marker go before it: to some servers (JuiceFS) the marker is a directory,
        # which stays while it has something in it.
        keys = sorted(keys, reverse=True)
        plain = [key for key in keys if _xml_can_say(key)]
        alone = [key for key in keys if not _xml_can_say(key)]
        refused: RefusedKeys = []
        for start in range(0, len(plain), DELETE_MAX):
            page = plain[start : start + DELETE_MAX]
            if self._s3.capabilities["delete-many"] == "no":
                alone += page
            else:
                self._page(page, alone, refused)
        return refused + self._singly(alone)

    def _page(self, keys: Sequence[str], alone: list[str], refused: RefusedKeys) -> None:
        """Delete *keys*; add to *alone* those about which only a single deletion can tell."""
        meant = [key for key in keys if key in self._etags]
        if meant and self._leaves_directories(keys):
            alone += keys
            return
        if meant and self._s3.capabilities["delete-etags"] == "unknown":
            gone = self._try_etags(meant, refused)
            keys = [key for key in keys if key not in gone]
        looks = self._s3.capabilities["delete-etags"] == "yes"
        if not looks and meant and self._s3.conditions.of_deletes(self._bucket):
            alone += [key for key in keys if key in self._etags]
            keys = [key for key in keys if key not in self._etags]
        elif not looks and meant:
            keys = self._meant(keys, refused)
        if keys:
            self._at_once(keys, self._etags if looks else {}, alone, refused)

    def _leaves_directories(self, keys: Sequence[str]) -> bool:
        """Whether DeleteObjects leaves directories behind, and says otherwise (JuiceFS): tried
        once, where *keys* would be deleted by it from a directory, and the server is not known to
        look at any ETag, as S3 does."""
        s3 = self._s3
        top = os.path.commonprefix(keys).rpartition("/")[0]  # noqa: RUF071  keys are no paths
        of_s3 = s3.capabilities["delete-etags"] == "yes" or s3.conditions.of_deletes(self._bucket)
        is_known = s3.capabilities.known()["delete-many"][1] != "usual"
        if not top or of_s3 or is_known or s3.capabilities["markers"] == "no":
            return False
        return leaves_directories(s3, self._bucket, top)

    def _at_once(
        self, keys: Sequence[str], etags: Mapping[str, str], alone: list[str], refused: RefusedKeys
    ) -> None:
        try:
            errors = self._asked(keys, etags)
        except AccessDenied:  # only DeleteObjects is denied, behind some gateways
            self._first_alone(keys[0], refused)
            refused += self._singly(keys[1:])
            return
        except _OF_NO_FORM:
            raise
        except S3Error as exc:
            self._otherwise(keys, any(key in etags for key in keys), refused, exc)
            return
        for key, code, text in errors:
            if code in ("PreconditionFailed", "NotImplemented"):
                alone.append(key)
            elif code != "NoSuchKey":
                refused.append((key, text))

    def _asked(self, keys: Sequence[str], etags: Mapping[str, str]) -> list[tuple[str, str, str]]:
        """Ask for the deletion of *keys*; return (key, code, why) of those that are refused."""
        objects = [_named(key, etags) for key in keys]
        delete = {"Objects": objects, "Quiet": True}
        errors = self._s3.call("delete_objects", self._bucket, Delete=delete).get("Errors", ())
        found = [(each.get("Key", ""), each.get("Code", "refused"), each) for each in errors]
        return [(key, code, each.get("Message") or code) for key, code, each in found]

    def _try_etags(self, keys: Sequence[str], refused: RefusedKeys) -> set[str]:
        """Find out whether the server looks at ETags: ask it to delete another version of a key
        that is to be deleted anyway, as a HEAD has just shown. Return the keys that this settles:
        the key is deleted if the server does not look; others are refused."""
        settled = set()
        for key in keys:
            settled.add(key)
            if not self._meant([key], refused):
                continue
            try:
                errors = self._asked([key], {key: NOBODYS})
            # perhaps only DeleteObjects is denied: the key is still to be deleted
            except AccessDenied:
                self._first_alone(key, refused)
                break
            except _OF_NO_FORM:
                raise
            except S3Error:  # it knows no ETags there, or no DeleteObjects
                errors, looks = [], "no"
                settled.discard(key)
            else:
                looks = "yes" if errors else "no"
            if any(code != "PreconditionFailed" for _, code, _ in errors):
                refused += [(key, text) for _, _, text in errors]
                continue
            if errors:
                settled.discard(key)
            self._s3.capabilities.learned("delete-etags", looks)
            break
        return settled

    def _otherwise(
        self, keys: Sequence[str], conditional: bool, refused: RefusedKeys, refusal: S3Error
    ) -> None:
        """Delete *keys*, which were refused together, one by one. If that works, the refusal was
        about the form of the request: first of all about the conditions, if there were any."""
        failed = self._singly(keys)
        if len(failed) == len(keys):
            raise refusal
        refused += failed
        if conditional:
            self._s3.capabilities.learned("delete-etags", "no")
        else:
            self._s3.capabilities.learned("delete-many", "no")

    def _meant(self, keys: Sequence[str], refused: RefusedKeys) -> list[str]:
        """Return the *keys* that are still the versions to be deleted, as far as one can see a
        moment before; other versions are refused."""
        gone: list[str] = []

        def look(key: str) -> None:
            if key not in self._etags:
                return
            try:
                now, _ = self._s3.head(self._bucket, key)
            except KeyNotFound:  # somebody else was quicker
                gone.append(key)
            else:
                if now.etag != self._etags[key]:
                    raise ObjectChanged.since_opened(f"s3://{self._bucket}/{key}")

        reasons = self._s3.each(_reason(look), keys)
        no = dict(zip(keys, reasons, strict=True))
        refused += [(key, reason) for key, reason in no.items() if reason]
        return [key for key, reason in no.items() if not reason and key not in gone]

    def _first_alone(self, key: str, refused: RefusedKeys) -> None:
        """Delete *key*, the first of many whose deletion was denied together. Raises AccessDenied
        if that is denied, too: then it is useless to ask for each of the others."""
        try:
            self._s3.conditions.delete(self._bucket, key, self._etags.get(key, ""))
        except _OF_NO_FORM:
            raise
        except S3Error as exc:
            refused.append((key, str(exc)))

    def _singly(self, keys: Sequence[str]) -> RefusedKeys:
        def delete(key: str) -> None:
            self._s3.conditions.delete(self._bucket, key, self._etags.get(key, ""))

        refused: RefusedKeys = []
        for _, level in groupby(sorted(keys, key=_level), _level):
            some = list(level)
            reasons = self._s3.each(_reason(delete), some)
            refused += [(key, reason) for key, reason in zip(some, reasons, strict=True) if reason]
        return refused


def leaves_directories(s3: S3, bucket: str, beside: str) -> bool:
    """Whether DeleteObjects leaves the directory behind of which it has deleted all: tried with one
    of our own beside *beside*. What is found is remembered; of what is denied, nothing is."""
    directory = own_key_beside(beside)
    left = [f"{directory}/a"]
    try:
        s3.sender.put(bucket, left[0], b"", 0, {})
        if Deleter(s3, bucket, {})._asked(left, {}):
            return False
        # JuiceFS shows it only to whoever asks for what is above.
        left = [entry.key for entry in s3.list_page(bucket, directory, limit=1).entries]
        s3.capabilities.learned("delete-many", "no" if left else "yes")
        return bool(left)
    except S3Error as exc:
        log.debug("s3://%s/%s: what DeleteObjects leaves is not known: %s", bucket, directory, exc)
        return False
    finally:
        for key in left:
            try:
                s3.delete(bucket, key)
            except S3Error as exc:  # what was seen is seen
                log.warning("s3://%s/%s is left: %s", bucket, key, exc)


def _level(key: str) -> int:
    """Return the turn of *key*: markers come after all other keys, the deepest first."""
    return -key.count("/") if key.endswith("/") else -KEY_MAX - 1


def _reason(work: Callable[[str], Any]) -> Callable[[str], str]:
    """Return *work* as a function that returns why it failed; "" if it did not."""

    def tried(key: str) -> str:
        try:
            work(key)
        except S3Error as exc:
            return str(exc)
        return ""

    return tried


def _named(key: str, etags: Mapping[str, str]) -> dict[str, str]:
    """Return an item of DeleteObjects."""
    etag = etags.get(key)
    return {"Key": key, "ETag": f'"{etag}"'} if etag else {"Key": key}


def _xml_can_say(key: str) -> bool:
    """Whether XML 1.0 can carry *key*: no control characters, and no CR (read as LF)."""
    return not any(
        (letter < " " and letter not in "\t\n") or letter in "\ufffe\uffff" for letter in key
    )
