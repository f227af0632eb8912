"""The clients of one account: session, credentials, connections and counters. botocore is
imported when it is needed, since that takes 100 ms; boto3 would take 20 more, and adds nothing that
is used here.

Threading: any thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mimicfs import __version__
from mimicfs.baton import Baton
from mimicfs.config.sizes import SMALL
from mimicfs.config.values import S3Options, redacted
from mimicfs.entry import Entry
from mimicfs.errors import ConfigError, CredentialsError
from mimicfs.mimicdb import Mirror
from mimicfs.private import seen_by_others
from mimicfs.s3.requests.addressing import Addressing
from mimicfs.s3.requests.believing import Believer, must_be_a_delete_result
from mimicfs.s3.requests.capabilities import Capabilities
from mimicfs.s3.requests.layers import (
    GivenRefusals,
    Layer,
    do_not_ask_first,
    leave_sums_to_us,
    taught,
    through,
    with_md5,
    with_params,
)
from mimicfs.s3.requests.pool import RequestPool
from mimicfs.s3.requests.profiles import PROFILES

if TYPE_CHECKING:
    from mimicfs.config.limits import Prices
    from mimicfs.s3.requests.conditions import Conditions
    from mimicfs.s3.requests.queue import Queue
    from mimicfs.s3.requests.queues import Queues
    from mimicfs.s3.requests.together import Ways
    from mimicfs.s3.transport.calls import Ask
    from mimicfs.s3.transport.credentials import Credentials
    from mimicfs.s3.transport.http import Transport
    from mimicfs.s3.transport.limits import Limits
    from mimicfs.s3.transport.traffic import Traffic

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 64  # small requests: a listing or a deletion may need thousands
# The sources of credentials whose id stays (or, if they are temporary, whose profile stays).
_LASTING = frozenset(
    {"env", "shared-credentials-file", "config-file", "boto-config"}
    | {"assume-role", "assume-role-with-web-identity", "sso", "iam-role", "container-role"}
)
_KINDS = {
    "CopyObject": "COPY",
    "UploadPartCopy": "COPY",
    "ListBuckets": "LIST",
    "HeadObject": "HEAD",
    "HeadBucket": "HEAD",
}


class Clients:
    """The part of S3 (client.py) that uses the libraries of others."""

    def __init__(self, options: S3Options, mimicdb: Mirror) -> None:
        self.mimicdb = mimicdb
        # of the thread that gets small objects, and of those that close files
        self.baton = Baton(workers=not mimicdb.asks)
        self.pool = RequestPool(options.connections, self.baton)
        self.requests: Counter[str] = Counter()
        self.capabilities = Capabilities(
            mimicdb,
            redacted(options.endpoint_url or "aws"),
            options.capabilities,
            PROFILES.get(options.provider or ("" if options.endpoint_url else "aws"), {}),
        )
        self._options = options
        self._addressing = Addressing(options, self.capabilities)
        self._given = GivenRefusals()
        self.conditions: Conditions  # made by S3
        self._unlearned: Ask  # the client's calls, of which nobody learns; made with `_client`
        self._lock = threading.Lock()  # protects the counter, and the making of the clients

    @cached_property
    def wide(self) -> ThreadPoolExecutor:
        """The pool for small requests, many of which are under way at once."""
        return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="s3-each")

    def each(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Return what *work*, a small request, returns for each of *items*, in order; 64 at
        once, in threads of their own. Raises the first error of any."""
        return list(self.wide.map(work, items))

    def close(self) -> None:
        if "limits" in self.__dict__:
            self.limits.close()
        for together in ("putter", "getter"):
            if together in self.__dict__:
                self.__dict__[together].close()
        if "wide" in self.__dict__:
            self.wide.shutdown(wait=False, cancel_futures=True)
        self.pool.shutdown(wait=False, cancel_futures=True)
        if "_client" in self.__dict__:
            self._client.close()
        if "_transport" in self.__dict__:
            self._transport.close()

    @cached_property
    def limits(self) -> Limits:
        from mimicfs.s3.transport.limits import Limits

        return Limits(self._options)

    @cached_property
    def _traffic(self) -> Traffic:
        from mimicfs.s3.transport.traffic import Traffic

        return Traffic(self._options.slow_s)

    def figures(self) -> dict[str, Any]:
        """Return the figures of the requests to S3 so far, and their limits."""
        with self._lock:
            requests = dict(self.requests)
        return {
            "requests": requests,
            **self._traffic.figures(),
            "connections_max": self._options.connections,
            "waiting": self.waiting,
            "limits": self.limits.figures(),
        }

    @property
    def waiting(self) -> int:
        """Return how many requests wait for a thread of the pool."""
        return self.pool._work_queue.qsize()

    @property
    def prices(self) -> Prices | None:
        return self._options.prices

    def count(self, kind: str) -> None:
        self.limits.count()
        with self._lock:
            self.requests[kind] += 1

    # The clients

    @cached_property
    def _session(self) -> Any:
        from mimicfs.s3.transport.errors import ours

        with ours("S3"):
            return self._new_session()

    def _new_session(self) -> Any:
        import botocore.session

        from mimicfs.s3.requests.sparing import spare_looks
        from mimicfs.s3.transport.wire import time_in_xml

        core = botocore.session.get_session()
        core.get_component("response_parser_factory").set_parser_defaults(
            timestamp_parser=time_in_xml
        )
        if self._options.credentials_file is not None:  # before a profile is looked for
            core.set_config_variable("credentials_file", str(self._options.credentials_file))
        profile = self._options.profile
        if self._options.credentials_first and profile is None:
            # With a profile that is named, botocore does not look for keys in the environment.
            profile = core.get_config_variable("profile") or "default"
        for name, value in (("profile", profile), ("region", self._options.region)):
            if value is not None:
                core.set_config_variable(name, value)
        spare_looks(core)  # the loader reads the configuration: after it is named
        return core

    @cached_property
    def _credentials(self) -> Credentials:
        """Return the credentials that the clients sign with. There may be none: signing then
        raises."""
        from mimicfs.s3.transport.credentials import Credentials, credentials_of
        from mimicfs.s3.transport.errors import ours

        with ours("S3"):
            now = credentials_of(self._session)
        found = Credentials(now, lambda: credentials_of(self._new_session()))
        if found:
            self._session._credentials = found  # what its clients are made with
        return found

    @cached_property
    def _transport(self) -> Transport:
        from mimicfs.s3.transport.http import Transport

        bundle: str | None = self._session.get_config_variable("ca_bundle")
        transport = Transport(self._options, bundle, self.limits)
        transport.baton = self.baton
        return transport

    @cached_property
    def _client(self) -> Any:
        from botocore.handlers import validate_ascii_metadata

        from mimicfs.s3.mimicking.learning import Learner, taught
        from mimicfs.s3.mimicking.sent import doubt, note
        from mimicfs.s3.requests.hidden import seen_again
        from mimicfs.s3.requests.rules import Rules
        from mimicfs.s3.transport.verbatim import OPERATIONS, keep_expires
        from mimicfs.s3.transport.wire import Wire

        client = self._plain_client()
        events = client.meta.events
        # this may refuse a request, before it is noted
        events.register_first("before-send.s3", self._count_sent)
        with_what = (self._credentials, self._options, self._transport, self.count, note, doubt)
        self._wire = Wire(client, *with_what)
        rules = self._rules = Rules(client, self._options.buckets, self._options.bucket_owner)
        self._learner = Learner(self.mimicdb, heads=False)
        # A call goes down through these layers, and its answer comes back up: first through those
        # that learn from it, then through all the others.
        learning_layers: list[Layer] = [
            self.limits.in_time,  # before anybody is told that something will change
            # the rules for objects that are written: before the mirror learns of them
            with_params(rules.stored),
            lambda ask: taught(client, self._learner, ask),
        ]
        layers: list[Layer] = [
            seen_again(self.mimicdb, self.conditions.are_ignored),
            Believer,
            with_params(self.pinned),
            with_params(rules.sent),
            self._given.layer,
            self.limits.in_turn,
            self._traffic.observed,
            self._addressing.layer(self._moves_to_host),
        ]
        self._unlearned = through(layers, self._wire.ask)
        client._make_api_call = through(learning_layers, self._unlearned)
        keep_expires(events)
        for operation in OPERATIONS:
            # Otherwise an object whose metadata is not ASCII could neither be changed nor copied.
            events.unregister(f"before-parameter-build.s3.{operation}", validate_ascii_metadata)
        events.register("request-created.s3", do_not_ask_first)
        events.register("before-call.s3.GetObject", leave_sums_to_us)
        events.register("before-sign.s3.DeleteObjects", with_md5)
        events.register("before-parse.s3.DeleteObjects", must_be_a_delete_result)
        events.register_last("before-send.s3", self._transport.before_send)
        self._credentials.renew_in(events, self._options.attempts)
        return client

    def _plain_client(self, region: str | None = None) -> Any:
        from botocore import UNSIGNED
        from botocore.config import Config

        from mimicfs.s3.transport.errors import ours

        options = self._options
        config = Config(
            signature_version="s3v4" if options.sign else UNSIGNED,
            connect_timeout=options.connect_timeout_s,
            read_timeout=options.read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": options.attempts},
            max_pool_connections=options.connections,
            s3=self._addressing.config(),
            use_dualstack_endpoint=options.dualstack or None,
            use_fips_endpoint=options.fips or None,
            # No endpoint in our settings means AWS: config/aws.py has read the configuration.
            ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # the stubs lack it
            user_agent_extra=f"mimicfs/{__version__}",
            # Bodies are protected by the SHA-256 in their signature (botocore leaves that
            # out only where it sends a checksum instead). Checksums in trailers break
            # servers that do not know them; S3 verifies none of a ranged GET.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        region = region or self._session.get_config_variable("region") or "us-east-1"
        session, given = self._session, options.endpoint_url or ""
        not_a_url = (
            f"--endpoint-url {redacted(given)}: not a URL; write https://HOST or http://HOST:PORT"
        )
        if given and not given.lower().startswith(("http://", "https://")):
            raise ConfigError(not_a_url)
        if "?" in given or "#" in given:  # (the text behind may be a signature)
            shown = re.split("[?#]", redacted(given))[0]
            raise ConfigError(
                f"--endpoint-url {shown}?...: an endpoint has no query; write {shown}"
            )
        try:
            with self._lock, ours("S3"):
                self._credentials  # noqa: B018  before the session makes a client
                client = session.create_client(
                    "s3", endpoint_url=options.endpoint_url, region_name=region, config=config
                )
        except ValueError as exc:  # botocore's word on an address
            raise ConfigError(not_a_url) from exc
        return taught(client)

    def _one(self, name: str, make: Callable[[Ways], Result]) -> Result:
        """Return the part *name*, made by *make* if there is none: first callers may come
        together."""
        from mimicfs.s3.requests.together import Ways

        self._client  # noqa: B018  which makes the others
        made = (self._wire, self._rules, self._transport, self._traffic, self._learner)
        with self._lock:
            if name not in self.__dict__:
                self.__dict__[name] = make(Ways(*made, self.pool, self._options))
            found: Result = self.__dict__[name]
            return found

    def gets_together(self, bucket: str, entry: Entry) -> bool:
        """Whether S3.getter gets the version *entry* of an object in *bucket*."""
        if not 0 < entry.size <= SMALL or not entry.etag or self._options.connections < 2:
            return False
        # One thread learns from all of them: it must not wait for a server that has the store.
        return not self.mimicdb.asks and self.limits.none_of(bucket)

    def pinned(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return *params* as they are sent: the present asks for no version (see past.py)."""
        return params

    def version_shown(self, entry: Entry) -> str:
        """Return the version id that *entry* is read by; "": it is the present (see past.py)."""
        return ""

    def _moves_to_host(self, code: str) -> bool:
        """Whether *code* refused a bucket in the path, and buckets are named in the host from now
        on."""
        return self._addressing.moves(code, self._move_to_host)

    def _move_to_host(self) -> None:
        self._client._ruleset_resolver._builtins["AWS::S3::ForcePathStyle"] = False
        self._wire.forget_places()
        self.__dict__.pop("_lister", None)

    def _count_sent(self, request: Any, event_name: str = "", **_: Any) -> None:
        operation = event_name.rpartition(".")[2]
        self.count(_KINDS.get(operation, request.method))

    @cached_property
    def _lister(self) -> Any:
        from mimicfs.s3.requests.lister import Lister, encoding_as_asked

        return Lister(
            lambda region: encoding_as_asked(self._signer(region)),
            lambda: self._client,
            self._options,
            self._transport,
            self._credentials,
            self.count,
            self._traffic,
            self.limits.ask,
            self.capabilities,
        )

    def _signer(self, region: str | None) -> Any:
        """Return a client that signs addresses, and asks only for sessions of S3 Express itself."""
        signer = self._plain_client(region)
        signer.meta.events.register_first("before-send.s3", self._count_sent)
        signer.meta.events.register_last("before-send.s3", self._transport.before_send)
        return signer

    def check_credentials(self) -> None:
        """Raise CredentialsError if requests are to be signed and there is nothing to sign
        with. Makes no request (but to where credentials come from)."""
        from mimicfs.s3.transport.errors import NO_CREDENTIALS

        if self._options.sign and not self._credentials:
            raise CredentialsError(NO_CREDENTIALS)

    def _keys(self) -> Any:
        """Return the keys and the token that the credentials are now; None: there are none."""
        from mimicfs.s3.transport.errors import ours

        with ours("S3"):
            return self._credentials.get_frozen_credentials() if self._credentials else None

    def plain_client(self) -> Any:
        """Return a client of botocore that does not mimic: nobody learns from its answers."""
        from mimicfs.s3.requests.rules import obeying

        return obeying(self._plain_client(), self._options.buckets, self._options.bucket_owner)

    def queue(self, url: str) -> Queue:
        """Return the SQS queue at *url*, asked with the same credentials. Raises ConfigError."""
        from mimicfs.s3.requests.queue import Queue

        self._credentials  # noqa: B018  before the session makes a client
        timeouts_s = self._options.connect_timeout_s, self._options.read_timeout_s
        return Queue(self._session, url, *timeouts_s)

    def queues(self, bucket: str) -> Queues:
        """Return the SQS queues of the account, in the region of *bucket*: at the endpoint for SQS
        in boto3's configuration; without one, at the endpoint of S3 if that is not AWS's."""
        from mimicfs.s3.requests.queues import Queues

        self._credentials  # noqa: B018  before the session makes a client
        region = self._region_of(bucket) or self._options.region
        return Queues(self._session, self._options.endpoint_url, region)

    def _region_of(self, bucket: str) -> str:
        """Return the region of *bucket*; "": S3 does not say. S3 tells it even to an account that
        may not use the bucket."""
        from botocore.exceptions import ClientError

        from mimicfs.s3.transport.errors import ours

        with ours(f"s3://{bucket}"):
            try:
                answer = self._client.head_bucket(Bucket=bucket)
            except ClientError as exc:
                answer = exc.response
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return str(headers.get("x-amz-bucket-region", ""))

    def exposed_credentials(self) -> Path | None:
        """Return the file of AWS credentials that boto3 looks at, if others can read it."""
        from mimicfs.s3.transport.errors import ours

        with ours("S3"):
            name = self._session.get_config_variable("credentials_file")
        path = Path(os.path.expanduser(name or ""))
        return path if name and seen_by_others(path) else None

    def account(self) -> str:
        """Return a mark of this account at this endpoint, for a file name: 16 hex digits of a hash
        of endpoint, region and access key id. (The id of temporary credentials changes every few
        hours: there the profile takes its place.) Makes no request."""
        keys = self._keys() if self._options.sign else None
        if keys is not None and keys.token:
            key_id = f"profile {self._session.profile or 'default'}"
        else:
            key_id = keys.access_key if keys is not None else ""
        endpoint = self._options.endpoint_url or "aws"
        region = self._session.get_config_variable("region") or ""
        return hashlib.sha256(f"{endpoint}\n{region}\n{key_id}".encode()).hexdigest()[:16]

    def account_stays(self) -> bool:
        """Whether `account` says the same as long as options, environment and files do."""
        if not self._options.sign:
            return True
        return bool(self._credentials) and self._credentials.method in _LASTING

    def secrets(self) -> list[str]:
        """Return the secrets with which requests are or may be signed, of all profiles, so that
        nobody prints them."""
        from mimicfs.s3.transport.errors import ours

        with ours("S3"):
            profiles = self._session.full_config.get("profiles", {}).values()
        names = ("aws_secret_access_key", "aws_session_token", "aws_security_token")
        found = [str(profile.get(name, "")) for profile in profiles for name in names]
        keys = self._keys()
        found += [keys.secret_key, keys.token or ""] if keys is not None else []
        return [it for it in found if it]

    @cached_property  # it is in each record of a file that S3 does not have yet
    def endpoint(self) -> str:
        """Return the name that tells this endpoint from others: its URL without a password, or
        "aws"."""
        return redacted(self._options.endpoint_url or "aws")

    def origin(self) -> str:
        """Return a mark of the objects of this endpoint that stays as long as possible. It has the
        access key id, unless that is temporary. Makes no request."""
        keys = self._keys() if self._options.sign else None
        key_id = keys.access_key if keys is not None and not keys.token else ""
        return f"{self._options.endpoint_url or 'aws'}\n{key_id}"
