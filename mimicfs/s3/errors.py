"""From what botocore raises and S3 answers to the errors of mimicfs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto
from urllib3 import exceptions as web

from mimicfs import errors
from mimicfs.errors import S3Error

# By S3's error code (the API reference, "Error responses"); HEAD answers have the status.
_CODES: dict[str, type[S3Error]] = {
    "AccessDenied": errors.AccessDenied,
    "AllAccessDisabled": errors.AccessDenied,
    "AccountProblem": errors.AccessDenied,
    "Forbidden": errors.AccessDenied,
    "403": errors.AccessDenied,
    "401": errors.CredentialsError,
    "Unauthorized": errors.CredentialsError,
    "InvalidAccessKeyId": errors.CredentialsError,
    "SignatureDoesNotMatch": errors.CredentialsError,
    "ExpiredToken": errors.CredentialsError,
    "InvalidToken": errors.CredentialsError,
    "TokenRefreshRequired": errors.CredentialsError,
    "RequestTimeTooSkewed": errors.CredentialsError,
    "NoSuchBucket": errors.NoSuchBucket,
    "NoSuchKey": errors.KeyNotFound,
    "NoSuchVersion": errors.KeyNotFound,
    "NotFound": errors.KeyNotFound,
    "404": errors.KeyNotFound,
    "MethodNotAllowed": errors.InvalidRequest,
    "PreconditionFailed": errors.ObjectChanged,
    "412": errors.ObjectChanged,
    "ConditionalRequestConflict": errors.ObjectChanged,
    "InvalidObjectState": errors.ObjectArchived,
    "BucketNotEmpty": errors.BucketNotEmpty,
    "BucketAlreadyExists": errors.BucketExists,
    "BucketAlreadyOwnedByYou": errors.BucketExists,
    "InvalidBucketName": errors.InvalidRequest,
    "KeyTooLongError": errors.InvalidRequest,
    "InvalidArgument": errors.InvalidRequest,
    "InvalidRequest": errors.InvalidRequest,
    "InvalidURI": errors.InvalidRequest,
    "EntityTooLarge": errors.InvalidRequest,
    "400": errors.InvalidRequest,
    "SlowDown": errors.Throttled,
    "Throttling": errors.Throttled,
    "ThrottlingException": errors.Throttled,
    "RequestLimitExceeded": errors.Throttled,
    "503": errors.Throttled,
}

_ADVICE = {
    "InvalidAccessKeyId": "check the access key, or choose a profile with --profile",
    "SignatureDoesNotMatch": "check the secret key, or choose a profile with --profile",
    "ExpiredToken": "renew the credentials (for SSO: aws sso login)",
    "RequestTimeTooSkewed": "set the clock of this machine",
}
NO_CREDENTIALS = (
    "no credentials found: run `aws configure`, set AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, choose --profile, or give --no-sign-request for public buckets"
)


def from_code(code: str, status: int, message: str, about: str) -> S3Error:
    """Return the error that S3's *code* stands for."""
    found = _CODES.get(code) or _CODES.get(str(status), S3Error)
    if status >= 500 and found is S3Error:
        found = errors.S3Unavailable
    if found is errors.ObjectChanged:
        message = "the object was changed in S3; open it again"
    advice = _ADVICE.get(code)
    text = f"{about}: {message or code or status}" + (f" ({code})" if code and message else "")
    return found(f"{text}; {advice}" if advice else text, status=status, code=code)


@contextmanager
def ours(about: str) -> Iterator[None]:
    """Within, errors of botocore and urllib3 become ours, about *about*."""
    try:
        yield
    except boto.ClientError as exc:
        error = exc.response.get("Error", {})
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code, message = str(error.get("Code", "")), str(error.get("Message", ""))
        raise from_code(code, status, message, about) from exc
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as exc:
        raise errors.CredentialsError(NO_CREDENTIALS) from exc
    except (
        boto.ProfileNotFound,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.UnauthorizedSSOTokenError,
    ) as exc:
        raise errors.CredentialsError(f"{exc}; choose --profile or log in again") from exc
    except (boto.NoRegionError, boto.InvalidRegionError) as exc:
        raise errors.ConfigError("no usable region: give --region or set AWS_REGION") from exc
    except (boto.ParamValidationError, boto.InvalidEndpointDiscoveryConfigurationError) as exc:
        text = str(exc).replace("\n", " ")
        raise errors.InvalidRequest(f"{about}: {text}") from exc
    except (boto.EndpointConnectionError, boto.ConnectTimeoutError) as exc:
        text = f"{about}: {exc}; check --endpoint-url and the network"
        raise errors.S3Unavailable(text) from exc
    except (boto.BotoCoreError, web.HTTPError) as exc:
        raise errors.S3Unavailable(f"{about}: {_one_line(exc)}") from exc


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300]
