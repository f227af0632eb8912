"""Presigns addresses for requests of our own as botocore addresses its own calls.

botocore presigns for AWS's global host, whatever the region of the client is, and always signs for
that region. Its calls go to the host of the region (the bucket's, once S3 has named it), and are
signed for that region.

Threading: any thread; no state.
"""

from __future__ import annotations

from typing import Any

_EVENT = "before-endpoint-resolution.s3"
_REGION = "AWS::Region"


def presign_as_called(events: Any) -> None:
    """Have the client of *events* presign the addresses to which its calls would go. It is a client
    of our own: an address that a program has its client presign stays as botocore makes it."""
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
