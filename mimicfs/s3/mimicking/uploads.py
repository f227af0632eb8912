"""Multipart uploads that are under way, and the objects that their parts will become.

The call that completes an upload says only which parts it has: earlier calls have said their sizes,
and what is stored with the object.

Threading: any thread.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import NamedTuple

from mimicfs.s3.mimicking.sent import UNKNOWN
from mimicfs.s3.transport.calls import Answer, Params

_UPLOADS_MAX = 1000  # that are remembered; of what a forgotten one becomes, S3 is asked
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]+)")  # of what is copied


class CompletedUpload(NamedTuple):
    params: Params  # what it was begun with
    size: int


class _Upload:
    """The facts about one upload: sizes by part number (or UNKNOWN), and what it was begun with."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.sizes: dict[int, int] = {}


class Uploads:
    """The uploads that one client has begun. Each method learns from one answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # protects the uploads
        self._uploads: OrderedDict[str, _Upload] = OrderedDict()  # the one used last is last

    def begin(self, params: Params, answer: Answer, _sent: int) -> None:
        with self._lock:
            self._uploads[answer["UploadId"]] = _Upload(params)
            while len(self._uploads) > _UPLOADS_MAX:  # nobody may ever end them
                self._uploads.popitem(last=False)

    def part(self, params: Params, _answer: Answer, sent: int) -> None:
        self._note(params, sent)

    def part_copy(self, params: Params, _answer: Answer, _sent: int) -> None:
        span = _RANGE.fullmatch(params.get("CopySourceRange", ""))
        size = int(span[2]) - int(span[1]) + 1 if span else 0
        self._note(params, size if size > 0 else UNKNOWN)

    def _note(self, params: Params, size: int) -> None:
        with self._lock:
            upload = self._uploads.get(params["UploadId"])
            if upload is not None:
                upload.sizes[params["PartNumber"]] = size
                self._uploads.move_to_end(params["UploadId"])

    def abort(self, params: Params, _answer: Answer, _sent: int) -> None:
        with self._lock:
            self._uploads.pop(params["UploadId"], None)

    def completed(self, params: Params) -> CompletedUpload | None:
        """Return the object that the upload becomes which *params* complete, and forget the upload;
        None if a part of it is not known."""
        with self._lock:
            upload = self._uploads.pop(params["UploadId"], None)
        if upload is None:
            return None
        parts = params.get("MultipartUpload", {}).get("Parts", ())
        sizes = [upload.sizes.get(part.get("PartNumber"), UNKNOWN) for part in parts]
        if not sizes or UNKNOWN in sizes:
            return None
        return CompletedUpload(upload.params, sum(sizes))
