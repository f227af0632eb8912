"""Key, as boto has it: an object of a bucket and its content.

Threading: one thread at a time uses a Key, as with boto.
"""

from __future__ import annotations

from typing import Any

from mimicfs.exception import S3ResponseError
from mimicfs.s3.acl import Policy
from mimicfs.s3.boto2 import PROVIDER, Headers, left_out, params_of
from mimicfs.s3.reading import Reading
from mimicfs.s3.writing import Writing


class Key(Reading, Writing):
    """An object: its bytes, and what S3 tells about them. Errors, *headers* and *force* are as in
    S3Connection.

    As in boto, `last_modified` is in the form of ISO 8601 for a key that was listed
    (2026-11-23T22:15:00.000Z), and in that of HTTP for a key that was got (Mon, 23 Nov 2026
    22:15:00 GMT).
    """

    def __init__(self, bucket: Any = None, name: str | bytes | None = None) -> None:
        super().__init__(bucket, name)
        self.filename: str | None = None
        self.source_version_id: str | None = None
        self.delete_marker = False

    def __repr__(self) -> str:
        return f"<Key: {self.bucket.name if self.bucket else None},{self.name}>"

    @property
    def key(self) -> str | None:
        """The name."""
        return self.name

    @key.setter
    def key(self, name: str | None) -> None:
        self.name = name

    provider = PROVIDER

    # The object

    def exists(self, headers: Headers | None = None) -> bool:
        """Return whether there is such a key, by Bucket.lookup."""
        return bool(self.bucket.lookup(self.name, headers=headers))

    def delete(self, headers: Headers | None = None) -> Key:
        """Delete the object; if the Key has a version, delete that version. Return the Key as
        Bucket.delete_key does."""
        deleted: Key = self.bucket.delete_key(
            self.name, version_id=self.version_id, headers=headers
        )
        return deleted

    def copy(
        self,
        dst_bucket: Any,
        dst_key: str,
        metadata: dict[str, str] | None = None,
        reduced_redundancy: bool = False,
        preserve_acl: bool = False,
        encrypt_key: bool = False,
        validate_dst_bucket: bool = True,
    ) -> Key:
        """Copy the object, within S3, to *dst_key* of *dst_bucket* (a Bucket or its name); return
        the new Key. The copy has the metadata and headers of this Key, or *metadata* instead. If
        this Key has a version, that version is copied."""
        name = getattr(dst_bucket, "name", dst_bucket)
        bucket = self.bucket.connection.get_bucket(name, validate=validate_dst_bucket)
        storage_class = "REDUCED_REDUNDANCY" if reduced_redundancy else self.storage_class
        copied: Key = bucket.copy_key(
            dst_key,
            self.bucket.name,
            self.name,
            metadata,
            src_version_id=self.version_id,
            storage_class=storage_class,
            preserve_acl=preserve_acl,
            encrypt_key=encrypt_key,
        )
        return copied

    def change_storage_class(
        self,
        new_storage_class: str,
        dst_bucket: str | None = None,
        validate_dst_bucket: bool = True,
    ) -> Any:
        """Copy the object onto itself, or to *dst_bucket* (a name), in *new_storage_class*
        ("STANDARD_IA" ...); return the Key that then has that class."""
        self._complete_from_s3()
        self._storage_class = new_storage_class
        if dst_bucket and dst_bucket != self.bucket.name:
            return self.copy(dst_bucket, self._named(), validate_dst_bucket=validate_dst_bucket)
        self._copy_onto_itself({"StorageClass": new_storage_class}, preserve_acl=False)
        return self

    def restore(self, days: int, headers: Headers | None = None) -> None:
        """Ask S3 to make an archived object readable for *days*."""
        self.bucket.ask(
            "restore_object", Key=self.name, RestoreRequest={"Days": days}, **params_of(headers)
        )

    # Who may do what

    def get_acl(self, headers: Headers | None = None) -> Policy:
        """Return the owner of the object, and the permissions of others."""
        policy: Policy = self.bucket.get_acl(self.name, headers=headers)
        return policy

    def set_acl(self, acl_str: Policy | str, headers: Headers | None = None) -> None:
        """Set the ACL to a Policy, or to the canned ACL of a name."""
        self.bucket.set_acl(acl_str, self.name, headers=headers)

    def set_canned_acl(self, acl_str: str, headers: Headers | None = None) -> None:
        """Set a canned ACL: "private", "public-read" ..."""
        self.bucket.set_canned_acl(acl_str, self.name, headers)

    def get_xml_acl(self, headers: Headers | None = None) -> bytes:
        """Return the ACL as S3's XML."""
        xml: bytes = self.bucket.get_xml_acl(self.name, headers=headers)
        return xml

    def set_xml_acl(self, acl_str: str | bytes, headers: Headers | None = None) -> None:
        """Set the ACL from S3's XML."""
        self.bucket.set_xml_acl(acl_str, self.name, headers=headers)

    def add_email_grant(
        self, permission: str, email_address: str, headers: Headers | None = None
    ) -> None:
        """Give the account of *email_address* a permission (READ, WRITE, READ_ACP, WRITE_ACP,
        FULL_CONTROL). Reads the ACL and writes it."""
        policy = self.get_acl(headers)
        policy.acl.add_email_grant(permission, email_address)
        self.set_acl(policy, headers)

    def add_user_grant(
        self,
        permission: str,
        user_id: str,
        headers: Headers | None = None,
        display_name: str | None = None,
    ) -> None:
        """Give the user of the canonical id *user_id* a permission, as add_email_grant does."""
        policy = self.get_acl(headers)
        policy.acl.add_user_grant(permission, user_id, display_name)
        self.set_acl(policy, headers)

    def make_public(self, headers: Headers | None = None) -> None:
        """Let everybody read the object."""
        self.set_acl("public-read", headers)

    def generate_url(
        self,
        expires_in: int,
        method: str = "GET",
        headers: Headers | None = None,
        query_auth: bool = True,
        force_http: bool = False,
        response_headers: Headers | None = None,
        expires_in_absolute: bool = False,
        version_id: str | None = None,
        policy: str | None = None,
        reduced_redundancy: bool = False,
        encrypt_key: bool = False,
    ) -> str:
        """Return an address at which anybody may do *method* with the object for *expires_in*
        seconds, as S3Connection.generate_url does. *policy* (a canned ACL), *reduced_redundancy*
        and *encrypt_key* are for a PUT, which must send the same headers."""
        asked = dict(headers or {})
        if policy:
            asked["x-amz-acl"] = policy
        if reduced_redundancy:
            asked["x-amz-storage-class"] = "REDUCED_REDUNDANCY"
        if encrypt_key:
            asked["x-amz-server-side-encryption"] = "AES256"
        url: str = self.bucket.signed_url(
            method,
            self.name,
            expires_in,
            asked,
            query_auth,
            force_http,
            response_headers,
            expires_in_absolute,
            version_id,
        )
        return url

    def get_redirect(self) -> str | None:
        """Return the place to which the website of the bucket sends visitors of this key; None:
        nowhere, or there is no such key. Asks S3."""
        try:
            answer = self.bucket.ask("head_object", force=True, Key=self.name)
        except S3ResponseError as exc:
            if exc.status == 404:
                return None
            raise
        location: str | None = answer.get("WebsiteRedirectLocation")
        return location

    def set_redirect(self, redirect_location: str, headers: Headers | None = None) -> bool:
        """Replace the object by an empty one, which the website of the bucket redirects to
        *redirect_location* (an absolute path or a URL). Return True."""
        params = params_of(headers) | {"WebsiteRedirectLocation": redirect_location}
        self.bucket.ask("put_object", Key=self.name, Body=b"", **params)
        return True

    get_torrent_file = left_out("get_torrent_file", "get_object")
