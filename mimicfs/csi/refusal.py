"""The refusal of a volume: a code of gRPC, as csi-spec assigns them, and the reason."""

from __future__ import annotations

from enum import Enum

from mimicfs.errors import MimicError


class Code(Enum):
    """The codes in our answers, with the names that gRPC has for them."""

    INVALID_ARGUMENT = "a field is missing or wrong"
    NOT_FOUND = "no such volume, or no such bucket"
    ALREADY_EXISTS = "published there in another way"
    PERMISSION_DENIED = "S3 refuses the credentials"
    FAILED_PRECONDITION = "not possible as things are"
    ABORTED = "the volume is busy; to be tried again"
    DEADLINE_EXCEEDED = "uploads take longer; to be tried again"
    UNAVAILABLE = "S3 does not answer; to be tried again"
    INTERNAL = "anything else"


class Refusal(MimicError):
    """The refusal of a request, which is answered with *code*."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
