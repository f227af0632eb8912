"""Turns the errors of botocore and the refusals of S3 into the errors of mimicfs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.client import responses
from typing import Any

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3 import exceptions as web

from mimicfs import errors
from mimicfs.config.masking import masked
from mimicfs.errors import MimicError, S3Error
from mimicfs.s3.transport.advice import about_clock, about_closed, about_connection, about_tls
from mimicfs.s3.transport.answers import error_of

# By S3's error code (the API reference, "Error responses"); HEAD answers have the status. A code
# that is not here has the class of its status; a status that is not here is an S3Error, EIO.
_CODES: dict[str, type[S3Error]] = {
    "AccessDenied": errors.AccessDenied,
    "AllAccessDisabled": errors.AccessDenied,
    "AccountProblem": errors.AccessDenied,
    "Forbidden": errors.AccessDenied,
    "UnauthorizedAccess": errors.AccessDenied,
    "UnauthorizedAccessError": errors.AccessDenied,
    "KMS.DisabledException": errors.AccessDenied,
    "KMS.InvalidKeyUsageException": errors.AccessDenied,
    "KMS.KMSInvalidStateException": errors.AccessDenied,
    "KMS.NotFoundException": errors.AccessDenied,
    "403": errors.AccessDenied,
    "401": errors.CredentialsError,
    "Unauthorized": errors.CredentialsError,
    "InvalidAccessKeyId": errors.CredentialsError,
    "SignatureDoesNotMatch": errors.CredentialsError,
    "ExpiredToken": errors.CredentialsError,
    "InvalidToken": errors.CredentialsError,
    "TokenRefreshRequired": errors.CredentialsError,
    "RequestTimeTooSkewed": errors.CredentialsError,
    "AuthorizationHeaderMalformed": errors.CredentialsError,
    "AuthorizationQueryParametersError": errors.CredentialsError,
    "CredentialsNotSupported": errors.CredentialsError,
    "MissingSecurityHeader": errors.CredentialsError,
    "MissingAuthenticationToken": errors.CredentialsError,
    "NoSuchBucket": errors.NoSuchBucket,
    "NoSuchKey": errors.KeyNotFound,
    "NoSuchVersion": errors.KeyNotFound,
    "NotFound": errors.KeyNotFound,
    "404": errors.KeyNotFound,
    "NoSuchUpload": errors.KeyNotFound,
    "RequestTimeout": errors.S3Unavailable,  # a 400: the body did not come in time
    # 400s too: the body did not arrive as it was sent.
    "BadDigest": errors.S3Unavailable,
    "IncompleteBody": errors.S3Unavailable,
    "XAmzContentSHA256Mismatch": errors.S3Unavailable,
    "XAmzContentChecksumMismatch": errors.S3Unavailable,
    "InvalidPart": errors.S3Unavailable,  # it is not there (any more)
    "InvalidPartOrder": errors.S3Unavailable,
    "PermanentRedirect": errors.S3Unavailable,
    "TemporaryRedirect": errors.S3Unavailable,
    "Redirect": errors.S3Unavailable,
    "IllegalLocationConstraintException": errors.S3Unavailable,
    "IncorrectEndpoint": errors.S3Unavailable,
    "InvalidRange": errors.InvalidRequest,
    "416": errors.InvalidRequest,
    "MethodNotAllowed": errors.InvalidRequest,
    "PreconditionFailed": errors.ObjectChanged,
    "412": errors.ObjectChanged,
    "ConditionalRequestConflict": errors.ObjectChanged,
    "InvalidObjectState": errors.ObjectArchived,
    "BucketNotEmpty": errors.BucketNotEmpty,
    "BucketAlreadyExists": errors.BucketExists,
    "BucketAlreadyOwnedByYou": errors.BucketExists,
    "InvalidBucketName": errors.InvalidRequest,
    "KeyTooLongError": errors.KeyTooLong,
    "InvalidArgument": errors.InvalidRequest,
    "InvalidRequest": errors.InvalidRequest,
    "InvalidURI": errors.InvalidRequest,
    "EntityTooLarge": errors.ObjectTooLarge,
    "EntityTooSmall": errors.InvalidRequest,
    "MetadataTooLarge": errors.OutOfSpace,
    "NotImplemented": errors.Unsupported,
    "501": errors.Unsupported,
    "QuotaExceeded": errors.OutOfSpace,  # Ceph
    "XMinioStorageFull": errors.OutOfSpace,
    "TooManyBuckets": errors.OutOfSpace,
    "ObjectAlreadyInActiveTierError": errors.InvalidRequest,
    "ObjectNotInActiveTierError": errors.ObjectArchived,
    "RestoreAlreadyInProgress": errors.ObjectArchived,
    "InvalidWriteOffset": errors.InvalidRequest,
    "EncryptionTypeMismatch": errors.InvalidRequest,
    "TooManyParts": errors.InvalidRequest,
    "IdempotencyParameterMismatch": errors.InvalidRequest,
    "400": errors.InvalidRequest,
    "SlowDown": errors.Throttled,
    "Throttling": errors.Throttled,
    "ThrottlingException": errors.Throttled,
    "ServiceUnavailable": errors.Throttled,
    "OperationAborted": errors.Throttled,  # another one on the same thing is in progress
    "TooManyRequests": errors.Throttled,
    "429": errors.Throttled,
    "RequestLimitExceeded": errors.Throttled,
    "503": errors.Throttled,
}

_ADVICE = {
    "InvalidAccessKeyId": "check the access key, or choose a profile with --profile",
    "SignatureDoesNotMatch": "check the secret key, or choose a profile with --profile",
    "ExpiredToken": "renew the credentials (for SSO: aws sso login)",
    "500": "if the error persists, check --endpoint-url",  # S3 itself says InternalError
    "RequestTimeTooSkewed": "set the clock of this machine (timedatectl set-ntp true)",
    "AuthorizationHeaderMalformed": "check --region",
    "400": "check --region, and whether --endpoint-url is http:// or https://",
}
NO_CREDENTIALS = (
    "no credentials found: run `aws configure`, set AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, choose --profile, or give --no-sign-request for public buckets"
)

_KEYS_IN_FILE = (
    "{text}; it has sections like [default], and lines like aws_access_key_id = KEY and"
    " aws_secret_access_key = SECRET"
)


def from_code(code: str, status: int, message: str, about: str, date: str = "") -> S3Error:
    """Return the error that *code*, one of S3's, stands for. *date* is the Date of the answer. Some
    servers and proxies repeat the headers of the request in *message*: their secrets are masked."""
    wrong_clock = about_clock(date) if status in (400, 403) else ""
    if wrong_clock:
        said = f"{about}: {code or status}; {wrong_clock}"
        return errors.CredentialsError(said, status=status, code=code)
    found = _CODES.get(code) or _CODES.get(str(status), S3Error)
    if status >= 500 and found is S3Error:
        found = errors.S3Unavailable
    if found is errors.ObjectChanged:
        message = "the object was changed in S3; open it again"
    advice, message = _ADVICE.get(code), masked(message)
    text = f"{about}: {message or code or status}" + (f" ({code})" if code and message else "")
    return found(f"{text}; {advice}" if advice else text, status=status, code=code)


class ours:  # noqa: N801  reads as a statement; a generator costs each request four calls more
    """Within, errors of botocore and urllib3 become errors of ours about *about*."""

    __slots__ = ("_about",)

    def __init__(self, about: str) -> None:
        self._about = about

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        if exc is None:
            return
        if isinstance(exc, boto.ClientError | boto.BotoCoreError | web.HTTPError):
            error, said = translated(exc, self._about), str(exc)
            raise error from (exc if masked(said) == said else None)
        if isinstance(exc, ResponseParserError):
            text = f"the answer is not from S3; check --endpoint-url: {_one_line(exc)}"
            error = errors.S3Unavailable(f"{self._about}: {text}")
            raise error from (exc if masked(str(exc)) == str(exc) else None)
        if isinstance(exc, UnicodeEncodeError):  # a name that is no UTF-8 (a lone surrogate)
            text = f"{self._about}: S3 takes only UTF-8"
            raise errors.InvalidRequest(_printable(text)) from exc


def translated(exc: Exception, about: str) -> MimicError:
    """Return our error for *exc*, an error of botocore or urllib3."""
    if isinstance(exc, boto.ClientError):
        error = exc.response.get("Error", {})
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code, message = str(error.get("Code", "")), str(error.get("Message") or "")
        headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return from_code(code, status, message, about, headers.get("date", ""))
    if isinstance(exc, boto.HTTPClientError):
        # An error that a body raises while it is read comes wrapped.
        inner = exc.kwargs.get("error")
        if isinstance(inner, MimicError):
            return inner
    text = _one_line(exc)
    advice = _about_network(exc, text)
    if advice:
        return errors.S3Unavailable(f"{about}: {text}; {advice}")
    for classes, error_class, advice in _LOCAL:
        if isinstance(exc, classes):
            return error_class(advice.format(about=about, text=text))
    return errors.S3Unavailable(f"{about}: {text}")


def _about_network(exc: Exception, text: str) -> str:
    """Return what to do if *exc* says that S3 was not reached; "" if it says something else."""
    if isinstance(exc, boto.ProxyConnectionError):
        return "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    if isinstance(exc, boto.SSLError):
        return about_tls(text)
    if isinstance(exc, boto.EndpointConnectionError):
        return about_connection(text, str(exc.kwargs.get("error", "")))
    if isinstance(exc, boto.ConnectionClosedError):
        return about_closed(text)
    return ""


# Errors from before S3 is asked, or from where it is not reached. The first match decides.
_LOCAL: list[tuple[tuple[type[Exception], ...], type[MimicError], str]] = [
    ((boto.NoCredentialsError,), errors.CredentialsError, NO_CREDENTIALS),
    (
        (boto.PartialCredentialsError,),
        errors.CredentialsError,
        "{text}; a key has two parts, an id and a secret",
    ),
    (
        (boto.ConfigParseError,),
        errors.ConfigError,
        _KEYS_IN_FILE,
    ),
    ((boto.InvalidConfigError,), errors.CredentialsError, "{text}; look into ~/.aws/config"),
    (
        (
            boto.ProfileNotFound,
            boto.CredentialRetrievalError,
            boto.TokenRetrievalError,
            boto.SSOError,
        ),
        errors.CredentialsError,
        "{text}; choose --profile or log in again",
    ),
    (
        (boto.NoRegionError,),
        errors.ConfigError,
        "no usable region: give --region or set AWS_REGION",
    ),
    (
        (boto.InvalidRegionError,),  # given to us, or named by the server
        errors.ConfigError,
        "{about}: {text} check --region and --endpoint-url",
    ),
    ((boto.ParamValidationError,), errors.InvalidRequest, "{about}: {text}"),
    (
        (boto.ConnectTimeoutError,),
        errors.S3Unavailable,
        "{about}: {text}; check --endpoint-url and the network",
    ),
]

# In an address: a user's password, and a signed query (signature, session token).
_SECRET = re.compile(r"(?<=://)[^\s/@\"']*@|\?[^\s\"']*X-Amz-[^\s\"']*")


def _one_line(exc: Exception) -> str:
    """Return the text of *exc*, in one line and without secrets."""
    return masked(" ".join(_SECRET.sub("", str(exc)).split()))[:300]


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def refusal_as_error(
    operation: str, status: int, headers: Mapping[str, str], said: bytes
) -> boto.ClientError:
    """Return the error that botocore would raise after an answer with the body *said*."""
    error = error_of(said)
    answer: Any = {
        "Error": {"Code": str(status), "Message": responses.get(status, ""), **error},
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "HTTPHeaders": headers,
            "RequestId": headers.get("x-amz-request-id", ""),
        },
    }
    return boto.ClientError(answer, operation)


class EarlierRefusal(boto.ClientError):
    """*found*, which has come otherwise than by the call that it is raised to. The request for it
    was sent after change number *since* of the bucket became known (None: nobody knows which)."""

    def __init__(self, found: boto.ClientError, since: int | None) -> None:
        super().__init__(found.response, found.operation_name)
        self.since = since
