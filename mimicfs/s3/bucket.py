"""Bucket, as boto has it: listings and keys come from the mirror if it knows them.

`for key in bucket` never asks S3. Threading: as its connection.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mimicfs.entry import OBJECT, Entry, pages
from mimicfs.errors import Unlisted
from mimicfs.exception import S3ResponseError
from mimicfs.s3.boto2 import (
    Headers,
    ask,
    listed_time,
    metadata_params,
    params_of,
    response_params,
)
from mimicfs.s3.configured import Configured
from mimicfs.s3.key import Key
from mimicfs.s3.mimicking.reads import VERSIONS
from mimicfs.s3.multipart import CompleteMultiPartUpload, MultiPartUpload
from mimicfs.s3.prefix import Prefix
from mimicfs.s3.requests.content import DELETE_MAX
from mimicfs.s3.versions import DeletedKey, DeleteMarker, Error, MultiDeleteResult

if TYPE_CHECKING:
    from mimicfs.s3.connection import S3Connection


class Bucket(Configured):
    """A bucket: its keys, from the mirror if that knows them, and its configuration.
    `creation_date` is as S3Connection.get_all_buckets says. Errors, *headers* and *force* are as in
    S3Connection."""

    def __init__(
        self,
        connection: S3Connection | None = None,
        name: str | None = None,
        key_class: type[Key] = Key,
    ) -> None:
        super().__init__(connection, name or "", key_class)
        self.creation_date: str | None = None

    def __repr__(self) -> str:
        return f"<Bucket: {self.name}>"

    def __contains__(self, key_name: str) -> bool:
        return self.get_key(key_name) is not None

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys that the mirror has, in S3's order. Asks nobody."""
        listing = self.connection.mimicdb.listing
        for page in pages(lambda after: listing(self.name, "", after)):
            yield from (self._from_entry(entry) for entry in page)

    def set_key_class(self, key_class: type[Key]) -> None:
        """Make the keys that this bucket returns from now on objects of *key_class*."""
        self.key_class = key_class

    def sync(self) -> None:
        """Make the mirror of this bucket equal to S3, as S3Connection.sync does."""
        self.connection.sync(self.name)

    # Keys

    def new_key(self, key_name: str | None = None) -> Key:
        """Return a Key of that name, which S3 need not have. Asks nobody. Raises ValueError for an
        empty name."""
        if not key_name:
            raise ValueError("a key must have a name")
        return self.key_class(self, key_name)

    def get_key(
        self,
        key_name: str,
        headers: Headers | None = None,
        version_id: str | None = None,
        response_headers: Headers | None = None,
        validate: bool = True,
        force: bool | None = None,
    ) -> Key | None:
        """Return the Key of that name, or None if there is none. A key that the mirror knows costs
        no request; metadata and headers that the mirror does not know cost one when they are read.
        Without *validate*, nobody is asked whether there is such a key. Raises ValueError for an
        empty name."""
        if not validate:
            if headers or version_id or response_headers:
                raise ValueError("headers and version_id need validate=True")
            return self.key_class(self, key_name)
        if not key_name:
            raise ValueError("a key must have a name")
        if not (force or headers or version_id):
            found = self._mirrored(key_name)
            if found is not None:
                return found[0]
        params = params_of(headers) | ({"VersionId": version_id} if version_id else {})
        try:
            answer = self.ask("head_object", force, Key=key_name, **params)
        except S3ResponseError as exc:
            if exc.status == 404:
                return None
            raise
        key = self.key_class(self, key_name)
        key.take_head(answer)
        return key

    def _mirrored(self, key_name: str) -> tuple[Key | None] | None:
        """Return, in a tuple, the key that the mirror has, or None if it knows that there is none;
        None alone: it says nothing certain."""
        mimicdb = self.connection.mimicdb
        entry = mimicdb.entry(self.name, key_name)
        if entry is not None and entry.kind == OBJECT:
            if entry.head is None and mimicdb.note(self.name, VERSIONS) is not None:
                return None  # S3 must say which version it is: a deletion deletes that version
            return (self._from_entry(entry, keeps=True),)
        directory, slash, name = key_name.rpartition("/")
        if not name:
            return None
        try:
            mimicdb.lookup(self.name, directory + slash, name)
        except Unlisted:
            return None
        return (None,) if mimicdb.cover(self.name, directory + slash) else None

    def _from_entry(self, entry: Entry, *, keeps: bool = False) -> Key:
        key = self.key_class(self, entry.key)
        key.take_entry(entry, keeps=keeps)
        return key

    def lookup(self, key_name: str, headers: Headers | None = None) -> Key | None:
        """Return the Key as get_key does; None also if S3 refuses."""
        try:
            return self.get_key(key_name, headers=headers)
        except S3ResponseError:
            return None

    def delete_key(
        self,
        key_name: str,
        headers: Headers | None = None,
        version_id: str | None = None,
        mfa_token: Any = None,
    ) -> Key:
        """Delete a key, or with *version_id* that version of it. It is no error if there is none.
        Return the Key, with the `version_id` and `delete_marker` of S3's answer. *mfa_token*:
        (serial number, code)."""
        if not key_name:
            raise ValueError("a key must have a name")
        params = params_of(headers) | _version(version_id, mfa_token)
        answer = self.ask("delete_object", Key=key_name, **params)
        key = self.key_class(self, key_name)
        key.version_id = answer.get("VersionId")
        key.delete_marker = bool(answer.get("DeleteMarker"))
        return key

    def delete_keys(
        self,
        keys: Iterable[Any],
        quiet: bool = False,
        mfa_token: Any = None,
        headers: Headers | None = None,
    ) -> MultiDeleteResult:
        """Delete *keys*: names, (name, version id), Keys or DeleteMarkers; 1,000 a request. Return
        the deleted keys, and an Error for each that was not deleted. A Prefix is skipped
        (PrefixSkipped), and so is anything else that is no key (InvalidArgument)."""
        result = MultiDeleteResult(self)
        batch: list[dict[str, Any]] = []
        for key in keys:
            named = _named(key)
            if named is None:
                result.errors.append(_skipped(key))
                continue
            batch.append(named)
            if len(batch) == DELETE_MAX:
                self._delete_batch(batch, quiet, mfa_token, headers, result)
                batch = []
        if batch:
            self._delete_batch(batch, quiet, mfa_token, headers, result)
        return result

    def _delete_batch(
        self,
        batch: list[dict[str, Any]],
        quiet: bool,
        mfa_token: Any,
        headers: Headers | None,
        result: MultiDeleteResult,
    ) -> None:
        params = params_of(headers) | _version(None, mfa_token)
        answer = self.ask("delete_objects", Delete={"Objects": batch, "Quiet": quiet}, **params)
        result.deleted += [DeletedKey.of(item) for item in answer.get("Deleted", ())]
        result.errors += [Error.of(item) for item in answer.get("Errors", ())]

    def copy_key(
        self,
        new_key_name: str,
        src_bucket_name: str,
        src_key_name: str,
        metadata: dict[str, str] | None = None,
        src_version_id: str | None = None,
        storage_class: str = "STANDARD",
        preserve_acl: bool = False,
        encrypt_key: bool = False,
        headers: Headers | None = None,
        query_args: str | None = None,
    ) -> Key:
        """Copy a key, within S3, to *new_key_name* of this bucket; return the new Key, with `etag`,
        `last_modified` and `version_id`. The copy has the metadata and headers of the source, or
        *metadata* instead. *preserve_acl* copies the ACL by two more requests; *encrypt_key*
        encrypts the copy (AES256)."""
        source: dict[str, Any] = {"Bucket": src_bucket_name, "Key": src_key_name}
        if src_version_id:
            source["VersionId"] = src_version_id
        params = params_of(headers)
        if metadata is not None:
            params |= {"MetadataDirective": "REPLACE", **metadata_params(metadata)}
        if storage_class != "STANDARD":
            params["StorageClass"] = storage_class
        if encrypt_key:
            params["ServerSideEncryption"] = "AES256"
        answer = self.ask("copy_object", Key=new_key_name, CopySource=source, **params)
        if preserve_acl:
            acl = ask(
                self.connection.client, "get_object_acl", Bucket=src_bucket_name, Key=src_key_name
            )
            policy = {"Grants": acl["Grants"], "Owner": acl["Owner"]}
            self.ask("put_object_acl", Key=new_key_name, AccessControlPolicy=policy)
        key = self.key_class(self, new_key_name)
        result = answer.get("CopyObjectResult", {})
        key.etag = result.get("ETag")
        if result.get("LastModified"):
            key.last_modified = listed_time(result["LastModified"])
        key.version_id = answer.get("VersionId")
        return key

    # Versions

    def configure_versioning(
        self,
        versioning: bool,
        mfa_delete: bool = False,
        mfa_token: Any = None,
        headers: Headers | None = None,
    ) -> bool:
        """Have S3 keep versions in this bucket, or suspend that. *mfa_token*: (serial number,
        code), which a bucket with MFA delete demands. Return True."""
        status = {"Status": "Enabled" if versioning else "Suspended"}
        if mfa_delete or mfa_token:
            status["MFADelete"] = "Enabled" if mfa_delete else "Disabled"
        params = params_of(headers) | _version(None, mfa_token)
        self.ask("put_bucket_versioning", VersioningConfiguration=status, **params)
        return True

    def get_versioning_status(self, headers: Headers | None = None) -> dict[str, str]:
        """Return {"Versioning": "Enabled" or "Suspended"}, with "MfaDelete" if that was ever set;
        {} if versions were never kept."""
        answer = self.ask("get_bucket_versioning", **params_of(headers))
        found = {"Versioning": answer.get("Status"), "MfaDelete": answer.get("MFADelete")}
        return {name: value for name, value in found.items() if value}

    # Multipart uploads

    def initiate_multipart_upload(
        self,
        key_name: str,
        headers: Headers | None = None,
        reduced_redundancy: bool = False,
        metadata: dict[str, str] | None = None,
        encrypt_key: bool = False,
        policy: str | None = None,
    ) -> MultiPartUpload:
        """Begin an upload of *key_name* in parts; return it. *policy* is a canned ACL."""
        params = params_of(headers)
        stored = metadata_params(metadata or {})
        stored["Metadata"] |= params.pop("Metadata", {})
        params = stored | params
        if reduced_redundancy:
            params["StorageClass"] = "REDUCED_REDUNDANCY"
        if encrypt_key:
            params["ServerSideEncryption"] = "AES256"
        if policy:
            params["ACL"] = policy
        answer = self.ask("create_multipart_upload", Key=key_name, **params)
        upload = MultiPartUpload(self)
        upload.key_name, upload.id, upload.bucket_name = key_name, answer["UploadId"], self.name
        return upload

    def complete_multipart_upload(
        self, key_name: str, upload_id: str, xml_body: Any, headers: Headers | None = None
    ) -> CompleteMultiPartUpload:
        """Make the parts of *xml_body* (MultiPartUpload.to_xml) the object *key_name*; return its
        names and ETag."""
        parts = MultiPartUpload.parts_of(xml_body)
        answer = self.ask(
            "complete_multipart_upload",
            Key=key_name,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            **params_of(headers),
        )
        return CompleteMultiPartUpload.of(self, answer)

    def cancel_multipart_upload(
        self, key_name: str, upload_id: str, headers: Headers | None = None
    ) -> None:
        """Give up an upload: S3 drops its parts."""
        self.ask("abort_multipart_upload", Key=key_name, UploadId=upload_id, **params_of(headers))

    # The bucket itself

    def delete(self, headers: Headers | None = None) -> None:
        """Remove the bucket. S3 refuses one that is not empty (409)."""
        self.connection.delete_bucket(self.name, headers)

    def get_policy(self, headers: Headers | None = None) -> str:
        """Return the policy of the bucket as JSON. S3ResponseError 404 if it has none."""
        return str(self.ask("get_bucket_policy", **params_of(headers))["Policy"])

    def set_policy(self, policy: str, headers: Headers | None = None) -> bool:
        """Give the bucket *policy*, JSON as text. Return True."""
        self.ask("put_bucket_policy", Policy=policy, **params_of(headers))
        return True

    def delete_policy(self, headers: Headers | None = None) -> bool:
        """Remove the policy of the bucket. Return True."""
        self.ask("delete_bucket_policy", **params_of(headers))
        return True

    def generate_url(
        self,
        expires_in: int,
        method: str = "GET",
        headers: Headers | None = None,
        force_http: bool = False,
        response_headers: Headers | None = None,
        expires_in_absolute: bool = False,
    ) -> str:
        """Return a signed address of the bucket, as S3Connection.generate_url does."""
        return self.signed_url(
            method,
            "",
            expires_in,
            headers,
            True,
            force_http,
            response_headers,
            expires_in_absolute,
            None,
        )

    def signed_url(
        self,
        method: str,
        key: str,
        expires_in: int,
        headers: Headers | None,
        query_auth: bool,
        force_http: bool,
        response_headers: Headers | None,
        expires_in_absolute: bool,
        version_id: str | None,
    ) -> str:
        """Return an address of *key* ("": the bucket) for *method*, as S3Connection.generate_url
        does."""
        operations = {
            "GET": "get_object" if key else "list_objects",
            "PUT": "put_object" if key else "create_bucket",
            "HEAD": "head_object" if key else "head_bucket",
            "DELETE": "delete_object" if key else "delete_bucket",
        }
        params = {"Bucket": self.name, **params_of(headers), **response_params(response_headers)}
        if key:
            params["Key"] = key
        if version_id:
            params["VersionId"] = version_id
        seconds = expires_in - int(time.time()) if expires_in_absolute else expires_in
        url: str = self.connection.client.generate_presigned_url(
            operations[method.upper()], Params=params, ExpiresIn=max(1, seconds)
        )
        url = url if query_auth else url.partition("?")[0]
        return url.replace("https://", "http://", 1) if force_http else url


def _version(version_id: str | None, mfa_token: Any) -> dict[str, Any]:
    found = {"VersionId": version_id} if version_id else {}
    return found | ({"MFA": " ".join(mfa_token)} if mfa_token else {})


def _skipped(key: Any) -> Error:
    """Return the Error of delete_keys for *key*, which is no key, but a Prefix or something
    else."""
    prefix = isinstance(key, Prefix)
    name, code = (key.name or "", "PrefixSkipped") if prefix else (repr(key), "InvalidArgument")
    return Error(name, None, code, "Invalid. No delete action taken for this object.")


def _named(key: Any) -> dict[str, Any] | None:
    """Return *key* as DeleteObjects takes it; None: it is no key."""
    version: str | None = None
    if isinstance(key, tuple) and len(key) == 2:
        key, version = key
    elif isinstance(key, Key | DeleteMarker):
        key, version = key.name, key.version_id
    if not isinstance(key, str) or not key:
        return None
    return {"Key": key} | ({"VersionId": version} if version else {})
