"""Delete markers with the version id `null`, under which S3 also stores the next write.

While versioning is suspended, a write of the key replaces its marker `null`, under the same id: a
deletion of that version may then hit the new object, which nothing brings back. So such a marker
is removed only while versioning is enabled. Otherwise a copy of the version takes its place, on
condition that the key still has no object. A server that does not look at the condition of a copy
is not asked for one: the object stays deleted.

Threading: any thread. While one thread tries what the server does, others wait for the result.
"""

from __future__ import annotations

import threading
from itertools import takewhile

from mimicfs.errors import InvalidRequest, ObjectChanged, S3Error, Unsupported
from mimicfs.s3.requests.client import S3
from mimicfs.s3.requests.conditions import is_refused
from mimicfs.s3.requests.ownkeys import own_key_beside
from mimicfs.s3.requests.past import versioning, versions_below
from mimicfs.s3.requests.versions import Version

NULL = "null"


class NullMarkers:
    """The markers of *bucket*, which *s3* reaches."""

    def __init__(self, s3: S3, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._trying = threading.Lock()  # held while the next field is found out
        self._looks: bool | None = None  # the server looks at If-None-Match of a copy

    def stay(self) -> bool:
        """Whether no write replaces them now, because versioning is enabled."""
        return versioning(self._s3, self._bucket) == "Enabled"

    def is_there(self, key: str) -> bool:
        """Look whether *key* still has its marker. Raises ObjectChanged if that became an
        object."""
        versions = versions_below(self._s3, self._bucket, key)
        ours = takewhile(lambda each: each.key == key, versions)
        found = next((each for each in ours if each.version == NULL), None)
        if found is not None and not found.deleted:
            raise ObjectChanged(f"s3://{self._bucket}/{key}: was written again meanwhile")
        return found is not None

    def check_replaceable(self, version: Version) -> None:
        """Raise Unsupported unless S3 would refuse a copy of *version* over an object that
        somebody has written meanwhile."""
        if version.size <= self._s3.copy_max and self._server_looks(version.key):
            return
        raise Unsupported(
            f"s3://{self._bucket}/{version.key}: not undeleted: while versioning is suspended, this"
            " could destroy what others write under this name; switch versioning on, and run it"
            " again"
        )

    def _server_looks(self, key: str) -> bool:
        with self._trying:
            if self._looks is None:
                self._looks = self._tried(own_key_beside(key))
            return self._looks

    def _tried(self, own: str) -> bool:
        """Return whether the server refuses to copy *own*, a new object, over itself under the
        condition that there is none. The versions that this makes are deleted."""
        made = [self._s3.sender.put(self._bucket, own, b"", 0, {})]
        source = {"Bucket": self._bucket, "Key": own}
        copy = {"CopySource": source, "MetadataDirective": "REPLACE", "IfNoneMatch": "*"}
        try:
            made.append(self._s3.call("copy_object", self._bucket, own, **copy))
        except ObjectChanged:
            return True
        except S3Error as exc:
            if not isinstance(exc, InvalidRequest) and not is_refused(exc):
                raise
        finally:
            for version in {str(each.get("VersionId", NULL)) for each in made}:
                self._s3.call("delete_object", self._bucket, own, VersionId=version)
        return False
