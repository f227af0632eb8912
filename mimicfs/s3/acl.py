"""Access control lists, as boto has them."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

from mimicfs.s3.documents import tag
from mimicfs.s3.user import User

CannedACLStrings = [
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
    "log-delivery-write",
]
_XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


class Grant:
    """*permission* to a CanonicalUser, a Group (*uri*) or an AmazonCustomerByEmail (*type*)."""

    def __init__(
        self,
        permission: str | None = None,
        type: str | None = None,  # noqa: A002 - boto's name
        id: str | None = None,  # noqa: A002 - boto's name
        display_name: str | None = None,
        uri: str | None = None,
        email_address: str | None = None,
    ) -> None:
        self.permission = permission
        self.type = type
        self.id = id
        self.display_name = display_name
        self.uri = uri
        self.email_address = email_address

    @classmethod
    def of(cls, element: Element) -> Grant:
        grantee = element.find("Grantee")
        return cls(
            element.findtext("Permission"),
            grantee.get("type") if grantee is not None else None,
            element.findtext("Grantee/ID"),
            element.findtext("Grantee/DisplayName"),
            element.findtext("Grantee/URI"),
            element.findtext("Grantee/EmailAddress"),
        )

    def __str__(self) -> str:
        names = {"CanonicalUser": self.display_name, "Group": self.uri}
        return f"{names.get(self.type or '', self.email_address)} = {self.permission}"

    def to_xml(self) -> str:
        if self.type == "CanonicalUser":
            who = tag("ID", self.id) + tag("DisplayName", self.display_name)
        elif self.type == "Group":
            who = tag("URI", self.uri)
        else:
            who = tag("EmailAddress", self.email_address)
        grantee = f'<Grantee {_XSI} xsi:type="{self.type}">{who}</Grantee>'
        return f"<Grant>{grantee}{tag('Permission', self.permission)}</Grant>"


class ACL:
    def __init__(self, policy: Any = None) -> None:
        self.policy = policy
        self.grants: list[Grant] = []

    def add_grant(self, grant: Grant) -> None:
        self.grants.append(grant)

    def add_email_grant(self, permission: str, email_address: str) -> None:
        self.add_grant(Grant(permission, "AmazonCustomerByEmail", email_address=email_address))

    def add_user_grant(
        self, permission: str, user_id: str, display_name: str | None = None
    ) -> None:
        self.add_grant(Grant(permission, "CanonicalUser", user_id, display_name))

    def to_xml(self) -> str:
        granted = "".join(it.to_xml() for it in self.grants)
        return f"<AccessControlList>{granted}</AccessControlList>"


class Policy:
    """An owner, and the permissions of others."""

    def __init__(self, parent: Any = None) -> None:
        self.parent = parent
        self.owner = User(self)
        self.acl = ACL(self)

    @classmethod
    def of(cls, root: Element, parent: Any = None) -> Policy:
        policy = cls(parent)
        policy.owner.id = root.findtext("Owner/ID", "")
        policy.owner.display_name = root.findtext("Owner/DisplayName", "")
        grants = root.findall("AccessControlList/Grant")
        policy.acl.grants = [Grant.of(it) for it in grants]
        return policy

    def __repr__(self) -> str:
        return f"<Policy: {', '.join(map(str, self.acl.grants))}>"

    def to_xml(self) -> str:
        owner = tag("ID", self.owner.id) + tag("DisplayName", self.owner.display_name or None)
        xml = f"<Owner>{owner}</Owner>{self.acl.to_xml()}"
        return f"<AccessControlPolicy>{xml}</AccessControlPolicy>"
