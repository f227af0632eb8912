"""The proxies that the environment names. Knows of no connection.

Threading: any thread; nothing changes.
"""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


class Proxies:
    """What the environment said when this object was made, as it counts for a client of boto3.

    It is read once: whoever goes through an environment that another thread changes gets a
    KeyError.
    """

    def __init__(self) -> None:
        self.by_scheme = getproxies()  # and at "no" the hosts without one

    def serve(self, url: str) -> bool:
        """Whether what is sent to *url* goes to a proxy."""
        parts = urlsplit(url)
        if parts.scheme not in self.by_scheme:
            return False
        return not proxy_bypass(parts.netloc, self.by_scheme)
