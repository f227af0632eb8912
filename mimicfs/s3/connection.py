"""S3Connection, boto's way to S3, on a mimicking boto3 client.

    from mimicfs.s3.connection import S3Connection
    conn = S3Connection(KEY, SECRET)
    conn.sync()

Threading: any number of threads, like the MimicDB and the boto3 client beneath.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from botocore import UNSIGNED
from botocore.config import Config

from mimicfs import process
from mimicfs.entry import BucketEntry
from mimicfs.errors import NoSuchBucket, S3Error, Unlisted
from mimicfs.exception import S3CreateError, S3ResponseError
from mimicfs.s3.boto2 import (
    OLD_REGIONS,
    PROVIDER,
    Headers,
    ask,
    left_out,
    listed_time,
    mirrored_time,
    params_of,
)
from mimicfs.s3.bucket import Bucket
from mimicfs.s3.progress import tell_sending
from mimicfs.s3.resultset import ResultSet

if TYPE_CHECKING:
    from mimicfs.library import MimicDB


class SubdomainCallingFormat:
    """https://BUCKET.HOST/KEY"""

    addressing_style = "virtual"


class OrdinaryCallingFormat:
    """https://HOST/BUCKET/KEY"""

    addressing_style = "path"


class ProtocolIndependentOrdinaryCallingFormat(OrdinaryCallingFormat): ...


class Location:
    """The names of regions that `create_bucket` takes."""

    DEFAULT = ""
    EU = "EU"
    EUCentral1 = "eu-central-1"
    USWest = "us-west-1"
    USWest2 = "us-west-2"
    SAEast = "sa-east-1"
    APNortheast = "ap-northeast-1"
    APSoutheast = "ap-southeast-1"
    APSoutheast2 = "ap-southeast-2"
    CNNorth1 = "cn-north-1"


class S3Connection:
    """One account of S3, as boto 2.49 has it, on a mimicking boto3 client (`client`). *mimicdb* is
    the mirror; without it, that of the process. The parameters *endpoint_url* and *region_name* are
    boto3's; the others are boto's. Those that boto needs for its own HTTP (debug, the connection
    factory, suppress_consec_slashes) are taken and not used.

    In this class, Bucket and Key: a method raises S3ResponseError if S3 refuses (`status`,
    `error_code`, `message`). *headers* are HTTP headers by name; a header for which boto3 has no
    parameter raises NotImplementedError. *force* asks S3, and corrects the mirror by the answer.
    Sizes are in bytes.
    """

    DefaultHost = "s3.amazonaws.com"
    provider = PROVIDER

    def __init__(
        self,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        is_secure: bool = True,
        port: int | None = None,
        proxy: str | None = None,
        proxy_port: int | None = None,
        proxy_user: str | None = None,
        proxy_pass: str | None = None,
        host: str | None = None,
        debug: int = 0,
        https_connection_factory: Any = None,
        calling_format: Any = None,
        path: str = "/",
        provider: str = "aws",
        bucket_class: Any = None,
        security_token: str | None = None,
        suppress_consec_slashes: bool = True,
        anon: bool = False,
        validate_certs: bool | None = None,
        profile_name: str | None = None,
        *,
        endpoint_url: str | None = None,
        region_name: str | None = None,
        mimicdb: MimicDB | None = None,
    ) -> None:
        self.mimicdb = mimicdb if mimicdb is not None else process.current()
        self.host = host or self.DefaultHost
        self.aws_access_key_id = aws_access_key_id
        self.bucket_class = bucket_class or Bucket
        endpoint_url = endpoint_url or _endpoint(host, port, is_secure, path)
        style = getattr(calling_format, "addressing_style", "path" if endpoint_url else "auto")
        proxies = _proxies(proxy, proxy_port, proxy_user, proxy_pass)
        session = self.mimicdb.session(profile_name=profile_name)
        self.client = session.client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=region_name or _region(self.host) or session.region_name or "us-east-1",
            aws_access_key_id=aws_access_key_id,
            aws_secret_access_key=aws_secret_access_key,
            aws_session_token=security_token,
            verify=validate_certs,
            config=_config(style, proxies, anon=anon),
        )
        self.client.meta.events.register("before-send.s3", tell_sending)

    def __iter__(self) -> Iterator[Bucket]:
        return iter(self.get_all_buckets())

    def __contains__(self, bucket_name: str) -> bool:
        return self.lookup(bucket_name) is not None

    def close(self) -> None:
        """Close the connections to S3; the mirror stays open."""
        self.client.close()

    def set_bucket_class(self, bucket_class: Any) -> None:
        """Make the buckets that this connection returns from now on objects of *bucket_class*."""
        self.bucket_class = bucket_class

    # Buckets

    def get_all_buckets(
        self, headers: Headers | None = None, force: bool | None = None
    ) -> ResultSet:
        """Return the Buckets of the account in the order of their names, from the mirror if that
        knows their list. `creation_date` is a time of ISO 8601 (2026-11-23T22:15:00.000Z); None if
        it is not known."""
        params_of(headers)
        if not force:
            try:
                return ResultSet(self._known_bucket(known) for known in self.mimicdb.buckets())
            except Unlisted:
                pass
        found = ask(self.client, "list_buckets", force)["Buckets"]
        buckets = ResultSet()
        for item in sorted(found, key=lambda item: str(item["Name"])):
            bucket = self.bucket_class(self, item["Name"])
            bucket.creation_date = listed_time(item["CreationDate"])
            buckets.append(bucket)
        return buckets

    def _known_bucket(self, known: BucketEntry) -> Bucket:
        bucket: Bucket = self.bucket_class(self, known.name)
        if known.created_ns:
            bucket.creation_date = mirrored_time(known.created_ns)
        return bucket

    def get_bucket(
        self,
        bucket_name: str,
        validate: bool = True,
        headers: Headers | None = None,
        force: bool | None = None,
    ) -> Bucket:
        """Return the Bucket *bucket_name*. With *validate*, S3 is asked whether it exists (a HEAD),
        unless the mirror knows it; S3ResponseError 404 NoSuchBucket if it does not."""
        if validate:
            return self.head_bucket(bucket_name, headers, force)
        bucket: Bucket = self.bucket_class(self, bucket_name)
        return bucket

    def head_bucket(
        self, bucket_name: str, headers: Headers | None = None, force: bool | None = None
    ) -> Bucket:
        """Return the Bucket, as get_bucket does with *validate*."""
        if force or not self._known(bucket_name):
            since = self.mimicdb.seq("")
            try:
                ask(self.client, "head_bucket", force, Bucket=bucket_name, **params_of(headers))
                self.mimicdb.add_bucket(bucket_name, 0)
            except S3ResponseError as exc:
                if exc.status == 404:
                    self.mimicdb.drop_bucket(bucket_name, since)
                    exc.error_code, exc.message = (
                        "NoSuchBucket",
                        "The specified bucket does not exist",
                    )
                    exc.error_message = exc.message
                raise
        bucket: Bucket = self.bucket_class(self, bucket_name)
        return bucket

    def _known(self, name: str) -> bool:
        try:
            return bool(self.mimicdb.bucket(name))
        except (NoSuchBucket, Unlisted):
            return False  # it may belong to others who let us in

    def lookup(
        self,
        bucket_name: str,
        validate: bool = True,
        headers: Headers | None = None,
        force: bool | None = None,
    ) -> Bucket | None:
        """Return the Bucket as get_bucket does; None where that raises S3ResponseError."""
        try:
            return self.get_bucket(bucket_name, validate, headers, force)
        except S3ResponseError:
            return None

    def create_bucket(
        self,
        bucket_name: str,
        headers: Headers | None = None,
        location: str = Location.DEFAULT,
        policy: str | None = None,
    ) -> Bucket:
        """Make a bucket and return it. *location* is a region (Location), *policy* a canned ACL.
        Raises S3CreateError if there is one of that name."""
        params = params_of(headers)
        if policy:
            params["ACL"] = policy
        if location:
            params["CreateBucketConfiguration"] = {"LocationConstraint": location}
        try:
            ask(self.client, "create_bucket", Bucket=bucket_name, **params)
        except S3ResponseError as exc:
            if exc.status == 409:
                raise S3CreateError(exc.status, exc.reason, exc.body) from exc
            raise
        bucket: Bucket = self.bucket_class(self, bucket_name)
        return bucket

    def delete_bucket(self, bucket: str | Bucket, headers: Headers | None = None) -> None:
        """Remove *bucket*, a Bucket or its name. S3 refuses one that is not empty (409)."""
        name = bucket if isinstance(bucket, str) else bucket.name
        ask(self.client, "delete_bucket", Bucket=name, **params_of(headers))

    # The mirror

    def sync(self, *buckets: str | Bucket) -> None:
        """Make the mirror equal to S3: for *buckets* (Buckets or names), or for everything. All are
        tried; then an S3ResponseError names those that S3 did not list, and why."""
        names = [bucket if isinstance(bucket, str) else bucket.name for bucket in buckets]
        failed: list[str] = []
        first: S3Error | None = None
        for where in [[name] for name in names] or [[]]:
            try:
                reports = self.mimicdb.sync(*where, client=self.client)
                failed += [report.error for report in reports if report.error]
            except S3Error as exc:
                first = first or exc
                failed.append(str(exc))
        if failed:
            raise _unsynced(failed, first) from first

    # More

    def get_canonical_user_id(self, headers: Headers | None = None) -> str:
        """Return the canonical id (64 hex digits) of the owner of this account's buckets."""
        params_of(headers)
        return str(ask(self.client, "list_buckets", force=True)["Owner"]["ID"])

    def generate_url(
        self,
        expires_in: int,
        method: str,
        bucket: str = "",
        key: str = "",
        headers: Headers | None = None,
        query_auth: bool = True,
        force_http: bool = False,
        response_headers: Headers | None = None,
        expires_in_absolute: bool = False,
        version_id: str | None = None,
    ) -> str:
        """Return an address at which anybody may do *method* (GET, PUT, HEAD, DELETE) with *key* of
        *bucket*, or with the bucket, for *expires_in* seconds; with *expires_in_absolute*, until
        that second since 1970. Without *query_auth* it is not signed. S3 answers with
        *response_headers* ("response-content-type" ...). Asks nobody."""
        return self.get_bucket(bucket, validate=False).signed_url(
            method,
            key,
            expires_in,
            headers,
            query_auth,
            force_http,
            response_headers,
            expires_in_absolute,
            version_id,
        )

    generate_url_sigv4 = left_out("generate_url_sigv4", "generate_presigned_url")
    build_post_form_args = left_out("build_post_form_args", "generate_presigned_post")
    build_post_policy = left_out("build_post_policy", "generate_presigned_post")
    make_request = left_out("make_request", "<the operation>")


def _unsynced(errors: list[str], first: S3Error | None) -> S3ResponseError:
    """Return an error that says that syncs ended with *errors*; *first* is the first exception."""
    text = "; ".join(errors)
    status, code = (first.status, first.code) if first else (0, "")
    body = f"<Error><Code>{code}</Code><Message>{escape(text)}</Message></Error>"
    return S3ResponseError(status, f"not synced: {text}", body)


def host_of(region: str) -> str:
    """Return the host of AWS that boto asks in *region*."""
    if region == "us-east-1":
        return S3Connection.DefaultHost
    dot = "-" if region in OLD_REGIONS else "."
    return f"s3{dot}{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def _region(host: str) -> str | None:
    """Return the region in the name of a host of AWS (s3.eu-west-1.amazonaws.com); None: there is
    none."""
    found = re.fullmatch(r"s3[.-]([a-z]+(?:-[a-z]+)+-\d)\.amazonaws\.com(?:\.cn)?", host)
    return found.group(1) if found else None


def _config(style: Any, proxies: Any, *, anon: bool) -> Config:
    return Config(
        s3={"addressing_style": style},
        signature_version=UNSIGNED if anon else None,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies=proxies,
    )


def _proxies(
    host: str | None, port: int | None, user: str | None, password: str | None
) -> dict[str, str] | None:
    """Return a proxy as botocore takes it; None: the environment decides."""
    if not host:
        return None
    login = f"{quote(user, safe='')}:{quote(password or '', safe='')}@" if user else ""
    url = f"http://{login}{host}{f':{port}' if port else ''}"
    return {"http": url, "https": url}


def _endpoint(host: str | None, port: int | None, is_secure: bool, path: str) -> str | None:
    if (host is None or host == S3Connection.DefaultHost) and port is None and is_secure:
        return None
    place = f"{host or S3Connection.DefaultHost}{f':{port}' if port else ''}"
    return f"http{'s' if is_secure else ''}://{place}{path.rstrip('/')}"
