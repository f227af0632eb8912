"""The way of a file's bytes to S3 and back: GetObject, PutObject and UploadPart over http.py,
signed by ourselves (signing.py); and HeadObject, of which a listing may need thousands.

botocore spends 1.9 ms of CPU on such a call, most of it on work that is the same for each. This
module takes a third of that, and a body goes into the buffer of the caller without a copy in
between (the figures are in docs/performance.md). It answers as botocore does, and repeats requests
that S3 throttles or loses as often, with backoff and jitter.

Requests that are out of the ordinary go through botocore instead: parameters that are not plain
headers, a proxy, another region (once: then botocore knows where the bucket is, and so does this
module), a refusal that may be about the signature.

Threading: any number of threads. `_lock` protects the addresses of buckets, and is held for a few
instructions.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as Unreached
from botocore.parsers import ResponseParserError
from botocore.utils import is_s3express_bucket, parse_timestamp

from mimicfs import __version__
from mimicfs.config.values import S3Options
from mimicfs.entry import EPOCH
from mimicfs.s3.transport.answers import decoded, error_of
from mimicfs.s3.transport.backoff import RETRIED, backoff_s
from mimicfs.s3.transport.calls import Ask
from mimicfs.s3.transport.credentials import EXPIRED, Credentials
from mimicfs.s3.transport.errors import refusal_as_error
from mimicfs.s3.transport.http import BROKEN, Transport, network_error
from mimicfs.s3.transport.plain import PlainAnswer, request_head
from mimicfs.s3.transport.signing import Signer

_METHODS = {"GetObject": "GET", "HeadObject": "HEAD", "PutObject": "PUT", "UploadPart": "PUT"}
# Without this header, or with "identity", servers that can decompress do so with an object that is
# stored with Content-Encoding: gzip. They send other bytes than are stored, in another number, and
# without its ETag.
_AS_STORED = {"Accept-Encoding": "gzip"}
# A body that only a proxy before the server compressed has no length: it is asked for once more,
# uncompressed.
_AS_IT_IS = {"Accept-Encoding": "identity"}
# Refusals that say all there is to say; about others, botocore may know more (regions, retries).
# botocore fails at 303 (urllib3 cannot make a GET of its headers), and leaves the socket open.
_PLAIN = frozenset({303, 404, 412, 416})
_ERROR_MAX = 64 << 10  # bytes of an error answer that are looked at
_EARLY = re.compile(r" 0\d{3} ").search
_UNRESERVED = "/-._~"  # the characters of a key that a signed path has unquoted (as in botocore)


class _BucketAddress(NamedTuple):
    """The address of a bucket's objects, and the region for which requests are signed."""

    secure: bool
    host: str  # with its port
    path: str  # ends with "/"
    region: str  # "": requests are not signed

    @property
    def named(self) -> str:
        """The value that http.client sends as Host: with the port, where it is not the usual
        one."""
        return self.host.removesuffix(":443" if self.secure else ":80")

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.host}{self.path}"


class Wire:
    """Answers the calls of *client*. *credentials* sign the requests. *count* is told the method of
    each request, and *note* the size of its body; *doubt* is told the status of one whose outcome
    nobody knows (0: it was not answered)."""

    def __init__(
        self,
        client: Any,
        credentials: Credentials,
        options: S3Options,
        transport: Transport,
        count: Callable[[str], None],
        note: Callable[[int], None],
        doubt: Callable[[int], None],
    ) -> None:
        self._client = client
        self._otherwise = _readable(client._make_api_call)
        self.credentials = credentials
        self._options = options
        self._transport = transport
        self._count = count
        self._note = note
        self._doubt = doubt
        s3_config = client.meta.config.s3 or {}
        self._signer = Signer(whole=s3_config.get("payload_signing_enabled") is not False)
        self._lock = threading.Lock()  # protects the next
        self._places: dict[str, _BucketAddress | None] = {}  # by bucket; None: left to botocore
        self._locations = {name: _locations(client, name) for name in _METHODS}
        self._told = {name: _told_by(client, name) for name in _METHODS}

    def ask(self, operation: str, params: dict[str, Any]) -> Any:
        """As `_make_api_call`: return the answer, or raise ClientError or BotoCoreError."""
        for attempt in range(self._options.attempts):
            request = self._prepared(operation, params)  # signed anew: the clock goes on
            if request is None:
                break
            if attempt:
                time.sleep(backoff_s(attempt - 1))
            try:
                return self._uncompressed(operation, params, self._sent(operation, request))
            except _Again as exc:
                failed: Exception = exc.error
                status = _status_of(failed) if isinstance(failed, ClientError) else 0
                if not status or status in RETRIED:
                    self._doubt(status)
            except _ForBotocore as exc:
                request.rewind()
                if exc.moved:
                    return self._asked_otherwise(operation, params)
                break
            request.rewind()
        else:
            raise failed
        return self._otherwise(operation, params)

    def _uncompressed(
        self, operation: str, params: dict[str, Any], answer: dict[str, Any]
    ) -> dict[str, Any]:
        """Return *answer*; if its bytes are other than those that are stored, ask anew."""
        if not _is_compressed_on_the_way(answer):
            return answer
        if "Body" in answer:
            answer["Body"].close()
        request = self._prepared(operation, params, as_stored=False)
        return answer if request is None else self._sent(operation, request)

    # Requests whose answers somebody else waits for (requests/together.py)

    def ready(self, operation: str, params: dict[str, Any]) -> ReadyRequest | None:
        """Return a request in the form in which it is sent; None: it cannot be sent plainly."""
        request = self._prepared(operation, params)
        if request is None or "[" in request.place.host or not isinstance(request.body, bytes):
            return None
        place = request.place
        head = request_head(place.named, request.method, request.target, request.headers)
        host = f"{'https' if place.secure else 'http'}://{place.host}"
        return None if head is None else ReadyRequest(host, head + request.body)

    def sending(self, method: str, size: int) -> None:
        """Count a request that is about to be sent, with a body of *size* bytes. Raises
        TooManyRequests."""
        self._count(method)
        self._note(size)

    def confirmed(self, found: PlainAnswer) -> dict[str, Any] | None:
        """Return *found* as the answer to a PutObject; None: it does not say, or not only, that the
        object is stored."""
        if found.status // 100 != 2:
            return None
        said = decoded(found.joined, found.read(_ERROR_MAX), _ERROR_MAX)
        answer = _answer(found.status, found.joined, self._told["PutObject"])
        return None if said and (error_of(said) or not answer.get("ETag")) else answer

    def shown(self, found: PlainAnswer) -> dict[str, Any] | None:
        """Return *found* as the answer to a GetObject of a whole object, without the body; None: it
        does not say, or not only, that it is that."""
        if found.status != 200:
            return None
        answer = _answer(found.status, found.joined, self._told["GetObject"])
        whole = answer.get("ContentLength") == found.length and "ContentRange" not in answer
        return answer if whole and answer.get("ETag") else None

    def forget_places(self) -> None:
        """Forget the addresses of all buckets: they may be elsewhere now."""
        with self._lock:
            self._places.clear()

    def _asked_otherwise(self, operation: str, params: dict[str, Any]) -> Any:
        """Ask botocore, which may find the bucket elsewhere. If S3 answers botocore at the same
        place, botocore knows better how to ask there: the bucket is left to it."""
        bucket, answered = params["Bucket"], False
        try:
            answer = self._otherwise(operation, params)
            answered = True
        finally:
            place = self._found(bucket)
            with self._lock:
                same = place == self._places.get(bucket)
                self._places[bucket] = None if same and answered else place
        return answer

    # Requests

    def _prepared(
        self, operation: str, params: dict[str, Any], *, as_stored: bool = True
    ) -> _Request | None:
        """Return the signed request; None: this class cannot make it. *as_stored*: with _AS_STORED
        rather than _AS_IT_IS."""
        locations = self._locations.get(operation)
        if locations is None or not params["Key"]:
            return None
        place = self._place(params["Bucket"])
        said = _said(params, locations)
        if place is None or said is None:
            return None
        headers, query = said
        if operation in ("GetObject", "HeadObject"):
            headers |= _AS_STORED if as_stored else _AS_IT_IS
        path = quote(params["Key"], safe=_UNRESERVED)
        body = params.get("Body", b"")
        start = 0 if isinstance(body, bytes) else body.tell()
        method, path = _METHODS[operation], place.path + path
        credentials = self.credentials.get_frozen_credentials() if place.region else None
        if credentials is not None:
            headers = self._signer.signed(
                credentials, place.region, method, place.named, path, query, headers, body
            )
        target = path + (f"?{query}" if query else "")
        return _Request(place, method, target, headers, body, start, credentials)

    def _sent(self, operation: str, request: _Request) -> dict[str, Any]:
        """Return the answer to *request*. Raises ClientError, _Again, _ForBotocore."""
        self._count(request.method)
        self._note(int(request.headers.get("Content-Length", 0)))
        try:
            found = self._transport.exchange(
                request.method, request.place.url, request.target, request.headers, request.body
            )
        except SSLError:
            raise  # a certificate that is not trusted will not be
        except (HTTPClientError, Unreached) as exc:
            raise _Again(exc) from exc
        try:
            if found.status // 100 != 2:
                said = decoded(found.headers, found.rest(_ERROR_MAX), _ERROR_MAX)
                error = refusal_as_error(operation, found.status, found.headers, said)
                raise self._refused(request, error)
            answer = _answer(found.status, found.headers, self._told[operation])
            if operation == "GetObject":
                return {**answer, "Body": found}
            said = decoded(found.headers, found.rest(_ERROR_MAX), _ERROR_MAX)
            # S3 answers with headers alone. An ETag confirms that the body is stored, unless there
            # is an error in XML.
            if said and (error_of(said) or not answer.get("ETag")):
                raise _ForBotocore
        except BROKEN as exc:
            raise _Again(network_error(exc, request.place.url)) from exc
        return answer

    def _refused(self, request: _Request, error: ClientError) -> Exception:
        """Return the exception to raise for a refusal."""
        status = _status_of(error)
        code = error.response["Error"]["Code"]
        if status in RETRIED or code == "RequestTimeout":
            return _Again(error)
        if code in EXPIRED and request.credentials is not None:
            return _Again(error) if self.credentials.renew(request.credentials) else error
        if status in _PLAIN:
            return error
        return _ForBotocore(moved=status in (301, 307, 400))

    # Where to

    def _place(self, bucket: str) -> _BucketAddress | None:
        if bucket in self._places:
            return self._places.get(bucket)
        place = self._found(bucket)
        with self._lock:
            self._places[bucket] = place
        return place

    def _found(self, bucket: str) -> _BucketAddress | None:
        """Return the address that botocore would ask, by its own rules; None: that takes more than
        this class has (proxies, access points that sign for all regions, directory buckets)."""
        if is_s3express_bucket(bucket):  # the address would be signed with a session of its own
            return None
        try:
            url = self._client.generate_presigned_url("head_bucket", {"Bucket": bucket})
        except BotoCoreError:
            return None  # botocore is asked then, and the caller is told why
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        signed = query.get("X-Amz-Algorithm") == ["AWS4-HMAC-SHA256"]
        if self._transport.proxies.serve(url) or signed != self._options.sign:
            return None
        scope = query["X-Amz-Credential"][0].split("/") if signed else []
        if signed and (len(scope) < 5 or scope[-2] != "s3"):
            return None
        path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
        # The name that the connection uses: in lower case, without the user of the endpoint URL.
        host = parts.netloc.rpartition("@")[2].lower()
        return _BucketAddress(parts.scheme == "https", host, path, scope[-3] if signed else "")


def time_in_xml(text: Any) -> datetime:
    """Return the time that botocore reads in an answer; 1970 where it reads none: an unknown time
    is no reason to take a success for an error."""
    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError, RuntimeError):
        return EPOCH


def _readable(ask: Ask) -> Ask:
    """Return *ask*, botocore's, with calls that raise ResponseParserError for an answer that nobody
    can read: botocore lets through the errors of its parsers."""

    def call(operation: str, params: dict[str, Any]) -> Any:
        try:
            return ask(operation, params)
        except (BotoCoreError, UnicodeError):  # some of these are ValueErrors, too
            raise
        except (ValueError, OverflowError) as exc:
            text = f"the answer to {operation} has what nobody can read: {exc}"
            raise ResponseParserError(text) from exc

    return call


class _Again(Exception):
    """A request failed in a way that may pass. *error* is raised if it does not."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _ForBotocore(Exception):
    """A request was refused, and botocore may know what to do about it, above all if the bucket may
    be elsewhere (*moved*)."""

    def __init__(self, *, moved: bool = False) -> None:
        super().__init__()
        self.moved = moved


class ReadyRequest(NamedTuple):
    """A request, and where it goes ("https://HOST:PORT")."""

    host: str
    data: bytes


class _Request(NamedTuple):
    place: _BucketAddress
    method: str
    target: str
    headers: dict[str, str]
    body: Any  # bytes, or a file
    start: int  # the place in the file at which the body begins
    credentials: Any  # with which it is signed

    def rewind(self) -> None:
        if not isinstance(self.body, bytes):
            self.body.seek(self.start)


def _locations(client: Any, operation: str) -> dict[str, tuple[str, str, str]]:
    """Return the places of the parameters of *operation*, by the service model: (location, name,
    type)."""
    shape = client.meta.service_model.operation_model(operation).input_shape
    return {
        name: (
            member.serialization.get("location", ""),
            member.serialization.get("name", name),
            member.type_name,
        )
        for name, member in shape.members.items()
    }


def _said(
    params: dict[str, Any], locations: dict[str, tuple[str, str, str]]
) -> tuple[dict[str, str], str] | None:
    """Return the headers and the query that *params* make; None: only botocore knows how."""
    headers: dict[str, str] = {"User-Agent": f"mimicfs/{__version__}"}
    query: list[str] = []
    for name, value in params.items():
        location, header, kind = locations.get(name, ("", "", ""))
        if location == "header" and kind in ("string", "integer", "long"):
            headers[header] = str(value)
        elif location == "headers":
            headers |= {header + key: text for key, text in value.items()}
        elif location == "querystring" and kind in ("string", "integer"):
            query.append(f"{header}={quote(str(value), safe='-._~')}")
        elif name not in ("Bucket", "Key", "Body"):
            return None
    if not _are_plain(headers.values()):
        return None
    return headers, "&".join(sorted(query))


def _are_plain(texts: Collection[str]) -> bool:
    """Whether headers can carry *texts* as they are: no line breaks, only ASCII, and no blanks that
    a signature counts as fewer."""
    whole = "".join(texts)
    if not (whole.isascii() and whole.isprintable()):
        return False
    apart = "\n{}\n".format("\n".join(texts))
    return not ("  " in apart or "\n " in apart or " \n" in apart)


# By the name of a header of an answer: the parameter of the answer that it is, and its type.
_HeaderParameters = dict[str, tuple[str, str]]


def _told_by(client: Any, operation: str) -> _HeaderParameters:
    """Return the meaning of the headers of an answer to *operation*, by the service model."""
    shape = client.meta.service_model.operation_model(operation).output_shape
    return {
        member.serialization.get("name", name).lower(): (name, member.type_name)
        for name, member in shape.members.items()
        if member.serialization.get("location") == "header"
    }


def _answer(status: int, headers: dict[str, str], told_by: _HeaderParameters) -> dict[str, Any]:
    """Return the answer that botocore makes of the headers of a success. A header that cannot be
    read is left out: the caller finds out."""
    told: dict[str, Any] = {
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "HTTPHeaders": headers,
            "RequestId": headers.get("x-amz-request-id", ""),
        },
        "Metadata": {
            name.removeprefix("x-amz-meta-"): value
            for name, value in headers.items()
            if name.startswith("x-amz-meta-")
        },
    }
    if "expires" in headers:  # as it was written, as botocore has it: it may be no date
        told["ExpiresString"] = headers["expires"]
    for header, value in headers.items():
        name, kind = told_by.get(header, ("", ""))
        if name:
            with suppress(ValueError, OverflowError):
                told[name] = _READ[kind](value)
    return told


def _is_compressed_on_the_way(answer: dict[str, Any]) -> bool:
    """Whether *answer* to a GET or HEAD has other bytes than are stored: then it does not say how
    many."""
    return answer.get("ContentEncoding") == "gzip" and "ContentLength" not in answer


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


@functools.lru_cache(maxsize=1024)  # many objects are written in one second
def _time(text: str) -> datetime:
    """Return the time in a header, in the form of HTTP or of XML."""
    if _EARLY(text):  # such as the year 1, which the next function takes for 2001
        return datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=at.tzinfo or UTC)


_READ: dict[str, Callable[[str], Any]] = {
    "string": str,
    "integer": _number,
    "long": _number,
    "boolean": lambda text: text.lower() == "true",
    "timestamp": _time,
}


def _status_of(error: ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]
