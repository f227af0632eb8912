"""The settings that say where the requests of a bucket are logged, as boto has them."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from mimicfs.s3.acl import Grant
from mimicfs.s3.documents import tag


class BucketLogging:
    """Where requests are logged. *target* is the bucket that gets the logs; None: nothing is
    logged."""

    def __init__(
        self,
        target: str | None = None,
        prefix: str | None = None,
        grants: list[Grant] | None = None,
    ) -> None:
        self.target = target
        self.prefix = prefix
        self.grants = grants or []

    @classmethod
    def of(cls, root: Element) -> BucketLogging:
        grants = root.findall("LoggingEnabled/TargetGrants/Grant")
        return cls(
            root.findtext("LoggingEnabled/TargetBucket"),
            root.findtext("LoggingEnabled/TargetPrefix"),
            [Grant.of(it) for it in grants],
        )

    def __repr__(self) -> str:
        if self.target is None:
            return "<BucketLoggingStatus: Disabled>"
        grants = ", ".join(map(str, self.grants))
        return f"<BucketLoggingStatus: {self.target}/{self.prefix} ({grants})>"

    def add_grant(self, grant: Grant) -> None:
        self.grants.append(grant)

    def to_xml(self) -> str:
        if self.target is None:
            return "<BucketLoggingStatus/>"
        parts = [tag("TargetBucket", self.target), tag("TargetPrefix", self.prefix or "")]
        if self.grants:
            granted = "".join(it.to_xml() for it in self.grants)
            parts.append(f"<TargetGrants>{granted}</TargetGrants>")
        enabled = f"<LoggingEnabled>{''.join(parts)}</LoggingEnabled>"
        return f"<BucketLoggingStatus>{enabled}</BucketLoggingStatus>"
