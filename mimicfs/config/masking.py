"""Takes everything that looks like a secret out of a text, whoever wrote it, before it is shown.
Pure; no state."""

from __future__ import annotations

import re

SHOWN = "***"
# The names of headers, fields, elements and words of a query that have a secret. Not among them: a
# file that has one, an error code of S3, and the place from which a listing goes on.
NAMES = (
    r"(?!signatureDoesNotMatch)(?:X-(?:Amz|Goog)-Credential|signature|(?<![a-z0-9])sig"
    r"|pas+w(?:or)?d|passphrase|(?<![a-z0-9])pwd|secret|cookie|authorization"
    r"|(?<!expired)(?<!invalid)(?<!continuation)(?<!continuation-)token"
    r"|(?<!invalid)access[-_]?key|(?:customer|private|api)[-_]?key)(?![\w-]{0,99}file)[\w-]{0,99}"
)
# The text between a name and its value: in a query, even an encoded one; in JSON, even within a
# text of JSON; in a dict or a tuple of Python.
_IS = r"(?:\\*[\"'])?\s*(?:[=:]|%(?:25)?3D)\s*"
_QUOTED = rf"(?:{_IS}|[\"'],\s*)b?(\\*[\"'])"
_FLAGS = re.IGNORECASE | re.DOTALL
# The last group is the secret; the text before it stays.
_LOOKS_SECRET = (
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(.*?)(?=-----END|\Z)",
    rf"(<[\w:.-]{{0,99}}{NAMES}>)([^<]+)",
    rf"({NAMES}{_QUOTED})((?:\\[^\r\n]|[^\\\r\n])*?)(?=\2)",
    rf"((?:Authorization|Cookie){_IS})((?![\s\"'\\]|b[\"'])[^\r\n]+)",
    rf"({NAMES}{_IS}(?:b?\\*[\"'])?)((?:\\*[^\\\s&\"',])+)",
    r"(\bBearer\s+)((?=\S*\d)[\w.~+/=-]{8,})",
)
# In a URL, the secret lies behind the scheme, up to the last @: a password may contain an @, and a
# slash. (A key may contain an @, too: so s3:// does not count.)
_SCHEME = r"\b(?!s3:)[\w+.-]{1,99}://"
_WORD = r"[^\s\"'<>]+"
_SHORTEST = 12  # letters; a shorter secret, or a word, may stand in a text for another reason


def masked(text: str) -> str:
    """Return *text* without passwords in URLs, and without signatures and tokens in queries,
    headers, JSON and XML; and without the places that repeat one of them."""
    found: set[str] = set()

    def found_out(secret: str) -> str:
        secret = secret.rstrip(".:;)]}")
        found.update((secret, secret.partition(":")[2]))
        return SHOWN

    def in_url(match: re.Match[str]) -> str:
        word, at = match[0], match[0].rfind("@")
        scheme = re.search(_SCHEME, word[:at], _FLAGS) if at > 0 else None
        if scheme is None:
            return word
        return word[: scheme.end()] + found_out(word[scheme.end() : at]) + word[at:]

    def hidden(match: re.Match[str]) -> str:
        return match[1] + found_out(match[match.lastindex or 0])

    text = re.sub(_WORD, in_url, text)
    for pattern in _LOOKS_SECRET:
        text = re.sub(pattern, hidden, text, flags=_FLAGS)
    for secret in sorted(filter(_is_no_word, found), key=len, reverse=True):
        text = text.replace(secret, SHOWN)
    return text


def _is_no_word(secret: str) -> bool:
    mixed = any(map(str.isdigit, secret)) and any(map(str.isalpha, secret))
    return mixed and len(secret) >= _SHORTEST
