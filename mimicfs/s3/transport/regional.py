"""Addresses that are presigned for requests of our own: those of botocore's own calls.

botocore presigns for AWS's global host, whatever the region of the client is, and always signs for
that region. Its calls go to the host of the region (of the bucket's, once S3 has said which that
is), and are signed for that.

Threading: any thread; no state.
"""

from __future__ import annotations

from typing import Any

_EVENT = "before-endpoint-resolution.s3"
_REGION = "AWS::Region"


def presign_as_called(events: Any) -> None:
    """Have the client of *events* presign addresses to which its calls would go, too. It is one of
    our own: what a program has its client presign is botocore's."""
    events.register_first(_EVENT, _not_global)
    events.register_last(_EVENT, _signed_there)


def _not_global(context: dict[str, Any], **_: Any) -> None:
    """Before botocore's handler looks."""
    if "use_global_endpoint" in context:
        context["use_global_endpoint"] = False


def _signed_there(builtins: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    """After botocore's handler has said where the bucket was found. The region of an access point
    comes later, and stays."""
    region = builtins.get(_REGION)
    if context.get("is_presign_request") and region != "aws-global":
        context["signing"] = {**context.get("signing", {}), "region": region}
