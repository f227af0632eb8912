"""A bucket as a website, as boto has it."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from mimicfs.s3.documents import tag


class RedirectLocation:
    """The target to which each request is sent."""

    def __init__(self, hostname: str | None = None, protocol: str | None = None) -> None:
        self.hostname = hostname
        self.protocol = protocol

    def to_xml(self) -> str:
        parts = tag("HostName", self.hostname) + tag("Protocol", self.protocol)
        return f"<RedirectAllRequestsTo>{parts}</RedirectAllRequestsTo>"


class RoutingCondition:
    """The condition under which a rule holds."""

    def __init__(self, key_prefix: str | None = None, http_error_code: str | None = None) -> None:
        self.key_prefix = key_prefix
        self.http_error_code = http_error_code

    def to_xml(self) -> str:
        code = tag("HttpErrorCodeReturnedEquals", self.http_error_code)
        return f"<Condition>{tag('KeyPrefixEquals', self.key_prefix)}{code}</Condition>"


Condition = RoutingCondition  # boto's name


class Redirect:
    """The target to which a rule sends a request."""

    def __init__(
        self,
        hostname: str | None = None,
        protocol: str | None = None,
        replace_key: str | None = None,
        replace_key_prefix: str | None = None,
        http_redirect_code: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.protocol = protocol
        self.replace_key = replace_key
        self.replace_key_prefix = replace_key_prefix
        self.http_redirect_code = http_redirect_code

    def to_xml(self) -> str:
        parts = [
            tag("Protocol", self.protocol),
            tag("HostName", self.hostname),
            tag("ReplaceKeyWith", self.replace_key),
            tag("ReplaceKeyPrefixWith", self.replace_key_prefix),
            tag("HttpRedirectCode", self.http_redirect_code),
        ]
        return f"<Redirect>{''.join(parts)}</Redirect>"


class RoutingRule:
    """RoutingRule.when(key_prefix="old/").then_redirect(replace_key_prefix="new/")"""

    def __init__(
        self, condition: RoutingCondition | None = None, redirect: Redirect | None = None
    ) -> None:
        self.condition = condition
        self.redirect = redirect

    @classmethod
    def of(cls, element: Element) -> RoutingRule:
        return cls(
            RoutingCondition(
                element.findtext("Condition/KeyPrefixEquals"),
                element.findtext("Condition/HttpErrorCodeReturnedEquals"),
            ),
            Redirect(
                element.findtext("Redirect/HostName"),
                element.findtext("Redirect/Protocol"),
                element.findtext("Redirect/ReplaceKeyWith"),
                element.findtext("Redirect/ReplaceKeyPrefixWith"),
                element.findtext("Redirect/HttpRedirectCode"),
            ),
        )

    @classmethod
    def when(cls, key_prefix: str | None = None, http_error_code: str | None = None) -> RoutingRule:
        return cls(RoutingCondition(key_prefix, http_error_code))

    def then_redirect(
        self,
        hostname: str | None = None,
        protocol: str | None = None,
        replace_key: str | None = None,
        replace_key_prefix: str | None = None,
        http_redirect_code: str | None = None,
    ) -> RoutingRule:
        self.redirect = Redirect(
            hostname, protocol, replace_key, replace_key_prefix, http_redirect_code
        )
        return self

    def to_xml(self) -> str:
        parts = [it.to_xml() for it in (self.condition, self.redirect) if it is not None]
        return f"<RoutingRule>{''.join(parts)}</RoutingRule>"


class RoutingRules(list[RoutingRule]):
    def add_rule(self, rule: RoutingRule) -> RoutingRules:
        self.append(rule)
        return self

    def to_xml(self) -> str:
        return f"<RoutingRules>{''.join(it.to_xml() for it in self)}</RoutingRules>"


class WebsiteConfiguration:
    def __init__(
        self,
        suffix: str | None = None,
        error_key: str | None = None,
        redirect_all_requests_to: RedirectLocation | None = None,
        routing_rules: RoutingRules | None = None,
    ) -> None:
        self.suffix = suffix
        self.error_key = error_key
        self.redirect_all_requests_to = redirect_all_requests_to
        self.routing_rules = routing_rules if routing_rules is not None else RoutingRules()

    @classmethod
    def of(cls, root: Element) -> WebsiteConfiguration:
        redirect = root.find("RedirectAllRequestsTo")
        rules = root.findall("RoutingRules/RoutingRule")
        return cls(
            root.findtext("IndexDocument/Suffix"),
            root.findtext("ErrorDocument/Key"),
            RedirectLocation(redirect.findtext("HostName"), redirect.findtext("Protocol"))
            if redirect is not None
            else None,
            RoutingRules(RoutingRule.of(it) for it in rules),
        )

    def to_xml(self) -> str:
        parts = []
        if self.suffix is not None:
            parts.append(f"<IndexDocument>{tag('Suffix', self.suffix)}</IndexDocument>")
        if self.error_key is not None:
            parts.append(f"<ErrorDocument>{tag('Key', self.error_key)}</ErrorDocument>")
        if self.redirect_all_requests_to is not None:
            parts.append(self.redirect_all_requests_to.to_xml())
        if self.routing_rules:
            parts.append(self.routing_rules.to_xml())
        return f"<WebsiteConfiguration>{''.join(parts)}</WebsiteConfiguration>"
