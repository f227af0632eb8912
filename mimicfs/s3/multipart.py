"""Multipart uploads, as boto has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO
from xml.etree import ElementTree

from mimicfs.exception import S3ResponseError
from mimicfs.s3.boto2 import Callback, Headers, listed_time, params_of
from mimicfs.s3.key import Key


class Part:
    """A part that was uploaded."""

    def __init__(self, bucket: Any = None) -> None:
        self.bucket = bucket
        self.part_number = 0
        self.last_modified: str | None = None
        self.etag = ""
        self.size = 0

    def __repr__(self) -> str:
        return f"<Part {self.part_number}>"


class CompleteMultiPartUpload:
    """A finished upload."""

    def __init__(self, bucket: Any = None) -> None:
        self.bucket = bucket
        self.location: str | None = None
        self.bucket_name: str | None = None
        self.key_name: str | None = None
        self.etag: str | None = None
        self.version_id: str | None = None
        self.encrypted: str | None = None

    @classmethod
    def of(cls, bucket: Any, answer: Any) -> CompleteMultiPartUpload:
        done = cls(bucket)
        done.location, done.bucket_name = answer.get("Location"), answer.get("Bucket")
        done.key_name, done.etag = answer.get("Key"), answer.get("ETag")
        done.version_id = answer.get("VersionId")
        done.encrypted = answer.get("ServerSideEncryption")
        return done

    def __repr__(self) -> str:
        return f"<CompleteMultiPartUpload: {self.bucket_name}.{self.key_name}>"


class MultiPartUpload:
    """An upload in parts. Iteration yields the parts that S3 has."""

    def __init__(self, bucket: Any = None) -> None:
        self.bucket = bucket
        self.bucket_name: str | None = None
        self.key_name: str = ""
        self.id: str = ""
        self.initiated: str | None = None
        self.storage_class: str | None = None
        self.next_part_number_marker: int | None = None
        self.is_truncated = False
        self._parts: list[Part] = []

    @classmethod
    def of(cls, bucket: Any, item: Any) -> MultiPartUpload:
        upload = cls(bucket)
        upload.bucket_name, upload.key_name, upload.id = bucket.name, item["Key"], item["UploadId"]
        upload.storage_class = item.get("StorageClass")
        if item.get("Initiated"):
            upload.initiated = listed_time(item["Initiated"])
        return upload

    def __repr__(self) -> str:
        return f"<MultiPartUpload {self.key_name}>"

    def __iter__(self) -> Iterator[Part]:
        marker = None
        while True:
            yield from self.get_all_parts(part_number_marker=marker) or ()
            if not self.is_truncated:
                return
            marker = self.next_part_number_marker

    def get_all_parts(
        self,
        max_parts: int | None = None,
        part_number_marker: int | None = None,
        encoding_type: str | None = None,
    ) -> list[Part] | None:
        """Return a page of the parts that S3 has; None if the upload is gone."""
        params = {"MaxParts": max_parts, "PartNumberMarker": part_number_marker}
        asked = {name: value for name, value in params.items() if value is not None}
        try:
            answer = self.bucket.ask("list_parts", Key=self.key_name, UploadId=self.id, **asked)
        except S3ResponseError as exc:
            if exc.status == 404:
                return None
            raise
        self.is_truncated = bool(answer.get("IsTruncated"))
        self.next_part_number_marker = answer.get("NextPartNumberMarker")
        self._parts = [self._part(item) for item in answer.get("Parts", ())]
        return self._parts

    def _part(self, item: Any) -> Part:
        part = Part(self.bucket)
        part.part_number, part.etag, part.size = item["PartNumber"], item["ETag"], item["Size"]
        if item.get("LastModified"):
            part.last_modified = listed_time(item["LastModified"])
        return part

    def upload_part_from_file(
        self,
        fp: BinaryIO,
        part_num: int,
        headers: Headers | None = None,
        replace: bool = True,
        cb: Callback | None = None,
        num_cb: int = 10,
        md5: Any = None,
        size: int | None = None,
    ) -> Key:
        """Upload a part: *fp* from its position on, at most *size* bytes. Return a Key with the
        etag, MD5 and size of the part. Raises S3ResponseError, S3DataError."""
        if part_num < 1:
            raise ValueError("part numbers begin at 1")
        key: Key = self.bucket.new_key(self.key_name)
        if replace or self.bucket.get_key(self.key_name, force=True) is None:
            key.send_part(fp, self.id, part_num, headers, cb, num_cb, md5, size)
        return key

    def copy_part_from_key(
        self,
        src_bucket_name: str,
        src_key_name: str,
        part_num: int,
        start: int | None = None,
        end: int | None = None,
        src_version_id: str | None = None,
        headers: Headers | None = None,
    ) -> Key:
        """Copy a part from another key: the bytes from *start* to *end*, both included."""
        source: dict[str, Any] = {"Bucket": src_bucket_name, "Key": src_key_name}
        if src_version_id:
            source["VersionId"] = src_version_id
        params = params_of(headers)
        if start is not None and end is not None:
            params["CopySourceRange"] = f"bytes={start}-{end}"
        answer = self.bucket.ask(
            "upload_part_copy",
            Key=self.key_name,
            UploadId=self.id,
            PartNumber=part_num,
            CopySource=source,
            **params,
        )
        key: Key = self.bucket.new_key(self.key_name)
        key.etag = answer.get("CopyPartResult", {}).get("ETag")
        return key

    def to_xml(self) -> str:
        """Return the parts that S3 has, in the form that complete_multipart_upload takes."""
        root = ElementTree.Element("CompleteMultipartUpload")
        for part in self:
            item = ElementTree.SubElement(root, "Part")
            ElementTree.SubElement(item, "PartNumber").text = str(part.part_number)
            ElementTree.SubElement(item, "ETag").text = part.etag
        return ElementTree.tostring(root, encoding="unicode")

    @staticmethod
    def parts_of(xml_body: str | bytes) -> list[dict[str, Any]]:
        """Return the parts in *xml_body*, which to_xml made, in the form that boto3 takes."""
        root = ElementTree.fromstring(xml_body)
        return [
            {"PartNumber": int(item.findtext("PartNumber", "0")), "ETag": item.findtext("ETag", "")}
            for item in root
        ]

    def complete_upload(self) -> CompleteMultiPartUpload:
        """Turn the parts that S3 has into the object."""
        done: CompleteMultiPartUpload = self.bucket.complete_multipart_upload(
            self.key_name, self.id, self.to_xml()
        )
        return done

    def cancel_upload(self) -> None:
        """Give up the upload: S3 drops its parts."""
        self.bucket.cancel_multipart_upload(self.key_name, self.id)
