"""What looks like a secret in a text, whoever wrote it: taken out before it is shown. Pure; no
state."""

from __future__ import annotations

import re

SHOWN = "***"
# What a header, a field or a word of a query is called that has a secret; not a file that has one.
NAMES = (
    r"(?:X-(?:Amz|Goog)-Credential|signature|(?<![a-z0-9])sig|pas+w(?:or)?d|token"
    r"|secret|customer-key|access[-_]?key)(?![\w-]*file)[\w-]*"
)
_LOOKS_SECRET = (
    # Up to the last @: a password may have one, and a slash. (A key may have one, too: not in s3://.)
    (re.compile(r"\b((?!s3:)[\w+.-]+://)[^\s\"'<>]*@"), rf"\1{SHOWN}@"),
    (re.compile(rf"({NAMES}[\"']?\s*[=:]\s*[\"']?)[^\s&\"',]+", re.IGNORECASE), rf"\1{SHOWN}"),
    (re.compile(r"(Authorization:\s*)[^\r\n]+", re.IGNORECASE), rf"\1{SHOWN}"),
)


def masked(text: str) -> str:
    """Return *text* without passwords in URLs, and without signatures and tokens in queries and
    headers."""
    for pattern, shown in _LOOKS_SECRET:
        text = pattern.sub(shown, text)
    return text
