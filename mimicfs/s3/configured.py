"""The part of a boto-shaped Bucket that is about its settings, and those of its keys: ACL, tags,
CORS, lifecycle, website, logging, who pays.

boto gives and takes these as XML documents, and as classes that write themselves as such documents.
Here they become parameters of boto3 (documents.py), so that the mirror learns from the calls.

Threading: as its connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from mimicfs.exception import S3PermissionsError
from mimicfs.s3.acl import Grant, Policy
from mimicfs.s3.boto2 import OLD_REGIONS, Headers, params_of
from mimicfs.s3.bucketlogging import BucketLogging
from mimicfs.s3.cors import CORSConfiguration
from mimicfs.s3.documents import parsed, to_document, to_params
from mimicfs.s3.lifecycle import Lifecycle
from mimicfs.s3.listed import Listed
from mimicfs.s3.tagging import Tags
from mimicfs.s3.website import RedirectLocation, RoutingRules, WebsiteConfiguration

_PERMISSIONS = ("READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL")


class _Subresource(NamedTuple):
    """A subresource: boto3's operation for a bucket, and the parameter that is the document."""

    operation: str  # behind Put and Get
    document: str


_KINDS = {
    "acl": _Subresource("BucketAcl", "AccessControlPolicy"),
    "cors": _Subresource("BucketCors", "CORSConfiguration"),
    "lifecycle": _Subresource("BucketLifecycleConfiguration", "LifecycleConfiguration"),
    "logging": _Subresource("BucketLogging", "BucketLoggingStatus"),
    "requestPayment": _Subresource("BucketRequestPayment", "RequestPaymentConfiguration"),
    "tagging": _Subresource("BucketTagging", "Tagging"),
    "versioning": _Subresource("BucketVersioning", "VersioningConfiguration"),
    "website": _Subresource("BucketWebsite", "WebsiteConfiguration"),
}
_OF_KEYS = frozenset({"acl", "tagging"})


class Configured(Listed):
    """The settings of a bucket and of its keys. Without *key_name*, a method is about the bucket.
    A method that returns bool returns True, as in boto."""

    LoggingGroup = "http://acs.amazonaws.com/groups/s3/LogDelivery"

    # Any of them, as XML

    def set_subresource(
        self,
        subresource: str,
        value: str | bytes,
        key_name: str = "",
        headers: Headers | None = None,
        version_id: str | None = None,
    ) -> None:
        """Set *subresource* ("acl", "cors", "lifecycle", "logging", "requestPayment", "tagging",
        "versioning", "website"; of a key "acl", "tagging") to the document *value*, S3's XML."""
        kind = _kind(subresource, key_name)
        model = self._model("Put", kind)
        params = to_params(model.input_shape.members[kind.document], parsed(value))
        asked = _of_key(key_name, version_id) | {kind.document: params}
        self._call("put", kind, asked | params_of(headers))

    def get_subresource(
        self,
        subresource: str,
        key_name: str = "",
        headers: Headers | None = None,
        version_id: str | None = None,
    ) -> bytes:
        """Return the document of *subresource* as S3's XML."""
        kind = _kind(subresource, key_name)
        asked = _of_key(key_name, version_id) | params_of(headers)
        answer = self._call("get", kind, asked)
        return to_document(kind.document, self._model("Get", kind).output_shape, answer).encode()

    def _call(self, verb: str, kind: _Subresource, params: dict[str, Any]) -> Any:
        name = _snake(kind.operation)
        return self.ask(f"{verb}_{name}", **params)

    def _model(self, verb: str, kind: _Subresource) -> Any:
        return self.connection.client.meta.service_model.operation_model(verb + kind.operation)

    def _root(self, subresource: str, headers: Headers | None, **where: Any) -> Element:
        return parsed(self.get_subresource(subresource, headers=headers, **where))

    # ACL

    def set_acl(
        self,
        acl_or_str: Policy | str,
        key_name: str = "",
        headers: Headers | None = None,
        version_id: str | None = None,
    ) -> None:
        """Set the ACL of a key, or of the bucket, to a Policy, or to the canned ACL of a name."""
        if isinstance(acl_or_str, str):
            self.set_canned_acl(acl_or_str, key_name, headers, version_id)
        else:
            self.set_xml_acl(acl_or_str.to_xml(), key_name, headers, version_id)

    def set_canned_acl(
        self,
        acl_str: str,
        key_name: str = "",
        headers: Headers | None = None,
        version_id: str | None = None,
    ) -> None:
        """Set a canned ACL: "private", "public-read" ..."""
        params = params_of(headers) | _of_key(key_name, version_id) | {"ACL": acl_str}
        self.ask("put_object_acl" if key_name else "put_bucket_acl", **params)

    def set_xml_acl(
        self,
        acl_str: str | bytes,
        key_name: str = "",
        headers: Headers | None = None,
        version_id: str | None = None,
        query_args: str = "acl",
    ) -> None:
        """Set the ACL from S3's XML."""
        self.set_subresource("acl", acl_str, key_name, headers, version_id)

    def get_xml_acl(
        self, key_name: str = "", headers: Headers | None = None, version_id: str | None = None
    ) -> bytes:
        """Return the ACL as S3's XML."""
        return self.get_subresource("acl", key_name, headers, version_id)

    def get_acl(
        self, key_name: str = "", headers: Headers | None = None, version_id: str | None = None
    ) -> Policy:
        """Return the owner, and the permissions of others."""
        root = self._root("acl", headers, key_name=key_name, version_id=version_id)
        return Policy.of(root, self)

    def list_grants(self, headers: Headers | None = None) -> list[Grant]:
        """Return the permissions on the bucket."""
        return self.get_acl(headers=headers).acl.grants

    def add_email_grant(
        self,
        permission: str,
        email_address: str,
        recursive: bool = False,
        headers: Headers | None = None,
    ) -> None:
        """Give the account of *email_address* a permission (READ, WRITE, READ_ACP, WRITE_ACP,
        FULL_CONTROL) of the bucket, and if *recursive* of all its keys, at two requests each.
        Raises S3PermissionsError for another permission."""
        for name in self._granting(permission, recursive):
            policy = self.get_acl(name, headers)
            policy.acl.add_email_grant(permission, email_address)
            self.set_acl(policy, name, headers)

    def add_user_grant(
        self,
        permission: str,
        user_id: str,
        recursive: bool = False,
        headers: Headers | None = None,
        display_name: str | None = None,
    ) -> None:
        """Give the user of the canonical id *user_id* a permission, as add_email_grant does."""
        for name in self._granting(permission, recursive):
            policy = self.get_acl(name, headers)
            policy.acl.add_user_grant(permission, user_id, display_name)
            self.set_acl(policy, name, headers)

    def _granting(self, permission: str, recursive: bool) -> Iterator[str]:
        """Yield "", for the bucket, and if *recursive* the names of its keys."""
        if permission not in _PERMISSIONS:
            raise S3PermissionsError(f"Unknown Permission: {permission}")
        yield ""
        if recursive:
            for key in self.list():
                yield key.name

    def make_public(self, recursive: bool = False, headers: Headers | None = None) -> None:
        """Let everybody list the bucket, and if *recursive* read all its keys, at one request
        each."""
        self.set_canned_acl("public-read", headers=headers)
        if recursive:
            for key in self.list():
                self.set_canned_acl("public-read", key.name, headers)

    # Tags

    def set_xml_tags(
        self, tag_str: str | bytes, headers: Headers | None = None, query_args: str = "tagging"
    ) -> bool:
        """Set the tags of the bucket from S3's XML."""
        self.set_subresource("tagging", tag_str, headers=headers)
        return True

    def set_tags(self, tags: Tags, headers: Headers | None = None) -> bool:
        """Set the tags of the bucket."""
        return self.set_xml_tags(tags.to_xml(), headers)

    def get_xml_tags(self, headers: Headers | None = None) -> bytes:
        """Return the tags of the bucket as S3's XML. S3ResponseError 404 if it has none."""
        return self.get_subresource("tagging", headers=headers)

    def get_tags(self, headers: Headers | None = None) -> Tags:
        """Return the tags of the bucket. S3ResponseError 404 if it has none."""
        return Tags.of(self._root("tagging", headers))

    def delete_tags(self, headers: Headers | None = None) -> bool:
        """Remove the tags of the bucket."""
        self.ask("delete_bucket_tagging", **params_of(headers))
        return True

    # CORS

    def set_cors_xml(self, cors_xml: str | bytes, headers: Headers | None = None) -> bool:
        """Set the rules for other origins (CORS) from S3's XML."""
        self.set_subresource("cors", cors_xml, headers=headers)
        return True

    def set_cors(self, cors_config: CORSConfiguration, headers: Headers | None = None) -> bool:
        """Set the rules for other origins (CORS)."""
        return self.set_cors_xml(cors_config.to_xml(), headers)

    def get_cors_xml(self, headers: Headers | None = None) -> bytes:
        """Return the rules for other origins as S3's XML. S3ResponseError 404 if there are none."""
        return self.get_subresource("cors", headers=headers)

    def get_cors(self, headers: Headers | None = None) -> CORSConfiguration:
        """Return the rules for other origins. S3ResponseError 404 if there are none."""
        return CORSConfiguration.of(self._root("cors", headers))

    def delete_cors(self, headers: Headers | None = None) -> bool:
        """Remove the rules for other origins."""
        self.ask("delete_bucket_cors", **params_of(headers))
        return True

    # Lifecycle

    def configure_lifecycle(
        self, lifecycle_config: Lifecycle, headers: Headers | None = None
    ) -> bool:
        """Set the rules by which S3 moves and deletes objects."""
        self.set_subresource("lifecycle", lifecycle_config.to_xml(), headers=headers)
        return True

    def get_lifecycle_config(self, headers: Headers | None = None) -> Lifecycle:
        """Return the rules by which S3 moves and deletes objects. S3ResponseError 404 if there are
        none."""
        return Lifecycle.of(self._root("lifecycle", headers))

    def delete_lifecycle_configuration(self, headers: Headers | None = None) -> bool:
        """Remove the rules by which S3 moves and deletes objects."""
        self.ask("delete_bucket_lifecycle", **params_of(headers))
        return True

    # Website

    def configure_website(
        self,
        suffix: str | None = None,
        error_key: str | None = None,
        redirect_all_requests_to: RedirectLocation | None = None,
        routing_rules: RoutingRules | None = None,
        headers: Headers | None = None,
    ) -> bool:
        """Show the bucket as a website: *suffix* is the name of an index ("index.html"),
        *error_key* the key of the page for errors."""
        config = WebsiteConfiguration(suffix, error_key, redirect_all_requests_to, routing_rules)
        return self.set_website_configuration(config, headers)

    def set_website_configuration(
        self, config: WebsiteConfiguration, headers: Headers | None = None
    ) -> bool:
        """Show the bucket as a website, as *config* says."""
        return self.set_website_configuration_xml(config.to_xml(), headers)

    def set_website_configuration_xml(
        self, xml: str | bytes, headers: Headers | None = None
    ) -> bool:
        """Show the bucket as a website, as S3's XML says."""
        self.set_subresource("website", xml, headers=headers)
        return True

    def get_website_configuration_xml(self, headers: Headers | None = None) -> str:
        """Return, as S3's XML, how the bucket is shown as a website. S3ResponseError 404 if it is
        not."""
        return self.get_subresource("website", headers=headers).decode()

    def get_website_configuration_with_xml(
        self, headers: Headers | None = None
    ) -> tuple[dict[str, Any], str]:
        """Return the configuration as a dict, and as XML."""
        xml = self.get_website_configuration_xml(headers)
        return {"WebsiteConfiguration": _as_dict(parsed(xml))}, xml

    def get_website_configuration(self, headers: Headers | None = None) -> dict[str, Any]:
        """Return, as a dict, how the bucket is shown as a website."""
        configuration, _ = self.get_website_configuration_with_xml(headers)
        return configuration

    def get_website_configuration_obj(self, headers: Headers | None = None) -> WebsiteConfiguration:
        """Return how the bucket is shown as a website."""
        return WebsiteConfiguration.of(self._root("website", headers))

    def delete_website_configuration(self, headers: Headers | None = None) -> bool:
        """Stop showing the bucket as a website."""
        self.ask("delete_bucket_website", **params_of(headers))
        return True

    def get_location(self, headers: Headers | None = None) -> str:
        """Return the region of the bucket; "" is us-east-1."""
        return self.ask("get_bucket_location", **params_of(headers)).get("LocationConstraint") or ""

    def get_website_endpoint(self) -> str:
        """Return the host that shows the bucket as a website (AWS's)."""
        region = self.get_location() or "us-east-1"
        dot = "-" if region in OLD_REGIONS else "."
        host = ".".join(self.connection.host.split(".")[-2:])
        return f"{self.name}.s3-website{dot}{region}.{host}"

    # Logging, and who pays

    def set_xml_logging(self, logging_str: str | bytes, headers: Headers | None = None) -> bool:
        """Say by S3's XML where requests are logged."""
        self.set_subresource("logging", logging_str, headers=headers)
        return True

    def enable_logging(
        self,
        target_bucket: Any,
        target_prefix: str = "",
        grants: list[Grant] | None = None,
        headers: Headers | None = None,
    ) -> bool:
        """Have S3 log the requests to this bucket into *target_bucket* (a Bucket or its name), as
        keys that begin with *target_prefix*."""
        target = getattr(target_bucket, "name", target_bucket)
        return self.set_xml_logging(BucketLogging(target, target_prefix, grants).to_xml(), headers)

    def disable_logging(self, headers: Headers | None = None) -> bool:
        """Have S3 stop logging the requests to this bucket."""
        return self.set_xml_logging(BucketLogging().to_xml(), headers)

    def get_logging_status(self, headers: Headers | None = None) -> BucketLogging:
        """Return where S3 logs the requests to this bucket."""
        return BucketLogging.of(self._root("logging", headers))

    def set_as_logging_target(self, headers: Headers | None = None) -> None:
        """Let S3 write logs into this bucket."""
        policy = self.get_acl(headers=headers)
        for permission in ("WRITE", "READ_ACP"):
            policy.acl.add_grant(Grant(permission, "Group", uri=self.LoggingGroup))
        self.set_acl(policy, headers=headers)

    def get_request_payment(self, headers: Headers | None = None) -> bytes:
        """Return who pays for requests, as S3's XML."""
        return self.get_subresource("requestPayment", headers=headers)

    def set_request_payment(
        self, payer: str = "BucketOwner", headers: Headers | None = None
    ) -> bool:
        """Say who pays for requests: "BucketOwner" or "Requester"."""
        params = {"RequestPaymentConfiguration": {"Payer": payer}, **params_of(headers)}
        self.ask("put_bucket_request_payment", **params)
        return True


def _kind(subresource: str, key_name: str) -> _Subresource:
    if not subresource:
        raise TypeError("the name of a subresource is needed")
    kind = _KINDS.get(subresource)
    if kind is None or (key_name and subresource not in _OF_KEYS):
        raise NotImplementedError(f"{subresource}: use connection.client.<the operation>")
    if key_name:
        return kind._replace(operation=kind.operation.replace("Bucket", "Object"))
    return kind


def _of_key(key_name: str, version_id: str | None) -> dict[str, Any]:
    if not key_name:
        return {}
    return {"Key": key_name} | ({"VersionId": version_id} if version_id else {})


def _snake(name: str) -> str:
    """Return *name* in the form of a method: bucket_acl for BucketAcl."""
    return "".join(f"_{it.lower()}" if it.isupper() else it for it in name).removeprefix("_")


def _as_dict(element: Element) -> Any:
    """Return a document as nested dicts; elements that occur more than once become a list."""
    if not len(element):
        return element.text or ""
    found: dict[str, Any] = {}
    for child in element:
        value = _as_dict(child)
        if child.tag in found:
            many = found[child.tag]
            found[child.tag] = [*(many if isinstance(many, list) else [many]), value]
        else:
            found[child.tag] = value
    return found
