"""Advice about an error: an unknown name, a wrong clock, a server that speaks http. Pure functions,
but for the list of regions that botocore has."""

from __future__ import annotations

import difflib
import re
import time
from email.utils import parsedate_to_datetime

_SKEW_S = 300.0  # S3 refuses at 900; less is not worth a word
UNREADABLE = "cannot read the certificates in"
_NETWORK = "check --endpoint-url and the network"
_REGION_IN = re.compile(r"//(?:[^/]+\.)?s3[.-]([a-z0-9-]+)\.amazonaws\.com")


def about_clock(date: str) -> str:
    """Return what is wrong with the clock of this machine, by *date*, the header of an answer; ""
    if nothing is."""
    try:
        there = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return ""
    ahead = time.time() - there
    if abs(ahead) < _SKEW_S:
        return ""
    minutes = max(1, round(abs(ahead) / 60))
    wrong = f"{minutes} minutes {'fast' if ahead > 0 else 'slow'}"
    return f"the clock of this machine is {wrong}; set it (timedatectl set-ntp true)"


def about_connection(text: str, cause: str) -> str:
    """Return what to do where no connection was made. *text* names the address; *cause* is the
    error of the system."""
    found = _REGION_IN.search(text)
    if found is not None and _unresolved(cause):
        return _about_region(found[1])
    if _unresolved(cause):
        return f"no server has that name; {_NETWORK}"
    if "refused" in cause:
        return f"nothing listens there; {_NETWORK}"
    return _NETWORK


def about_tls(text: str) -> str:
    """Return what to do where TLS failed; *text* says how."""
    if UNREADABLE in text:
        return "check AWS_CA_BUNDLE, and ca_bundle in ~/.aws/config"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not trusted; set AWS_CA_BUNDLE to the file of its authority"
    if re.search("WRONG_VERSION_NUMBER|RECORD_LAYER|UNKNOWN_PROTOCOL|HTTP_REQUEST", text):
        return "the server does not speak https; write http:// in --endpoint-url"
    return _NETWORK


def about_closed(text: str) -> str:
    """Return what to do where the server closed the connection without an answer."""
    if '"http://' in text or " http://" in text:
        return "it may speak https; write https:// in --endpoint-url"
    return _NETWORK


def _unresolved(cause: str) -> bool:
    return re.search("resolve|resolution|Name or service|nodename", cause) is not None


def _about_region(region: str) -> str:
    from botocore.session import get_session

    session = get_session()
    known = [
        name
        for partition in session.get_available_partitions()
        for name in session.get_available_regions("s3", partition)
    ]
    if region in known:
        return _NETWORK
    near = difflib.get_close_matches(region, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"AWS has no region {region}; check --region{hint}"
