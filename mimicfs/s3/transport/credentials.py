"""The credentials that sign requests: those of a session of botocore, loaded anew when
S3 calls them expired.

botocore renews credentials that say when they expire. It never looks again at others, such as keys
in a file that another program writes, and a mount outlives many of those.

Threading: any number of threads. `_lock` is held while credentials are loaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any

from botocore import credentials
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError

# The codes of S3 for credentials that were good once.
EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken"}
    | {"RequestExpired", "TokenRefreshRequired"}
)
_SIGNED_WITH = "mimicfs.signed_with"
_PAUSE_S = 5.0  # between two loadings that brought nothing new


def credentials_of(session: Any) -> Any:
    """Return the credentials that *session*, one of botocore's, finds; None: it finds none. Raises
    BotoCoreError, also for errors that botocore lets through and keys that no header can carry."""
    with _retrieving():
        found = session.get_credentials()
    if type(found) is credentials.Credentials:  # nobody typed the others, which are renewed
        _check(found)
    return found


@contextmanager
def _retrieving() -> Iterator[None]:
    """Within, the errors of a source become errors of botocore: its program or the file of its
    token is not there, or its answer is malformed."""
    try:
        yield
    except JSONDecodeError as exc:
        raise CredentialRetrievalError(provider="their source", error_msg="no JSON") from exc
    except (OSError, ValueError, KeyError) as exc:
        raise CredentialRetrievalError(provider="their source", error_msg=str(exc)) from exc


def _check(found: Any) -> None:
    parts = {
        "access key id": found.access_key,
        "secret key": found.secret_key,
        "session token": found.token,
    }
    for name, text in parts.items():
        if text and (text != text.strip() or not (text.isascii() and text.isprintable())):
            told = f"the {name} has a blank at an end, a line feed, or a letter that no key has"
            raise CredentialRetrievalError(provider=found.method, error_msg=told)


class Credentials:
    """Stands for the credentials of botocore that a session has *found*. *load* finds them anew, at
    their source."""

    def __init__(self, found: Any, load: Callable[[], Any]) -> None:
        self._load = load
        self._lock = threading.Lock()  # protects the two below
        self._now = found
        self._not_before_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)

    def __bool__(self) -> bool:
        return self._now is not None

    def get_frozen_credentials(self) -> Any:
        """Return the keys to sign with, renewed if they say that they are about to expire."""
        if self._now is None:
            raise NoCredentialsError()
        with _retrieving():
            return self._now.get_frozen_credentials()

    @property
    def are_renewed_next(self) -> bool:
        """Whether whoever signs next asks their source for new ones, and may wait for it."""
        found = self._now
        return isinstance(found, credentials.RefreshableCredentials) and found.refresh_needed()

    def renew(self, refused: Any) -> bool:
        """Load anew. Return whether the credentials now differ from *refused*, which S3 has
        refused."""
        with self._lock:
            if self.get_frozen_credentials() != refused:
                return True
            if time.monotonic() < self._not_before_s:
                return False
            self._not_before_s = time.monotonic() + _PAUSE_S
            found = self._load()
            if found is None or found.get_frozen_credentials() == refused:
                return False
            self._now = found
            self._not_before_s = 0.0
            return True

    def renew_in(self, events: Any, attempts_max: int) -> None:
        """Have botocore ask again, up to *attempts_max* times, with credentials that are found
        anew. *events* are those of a client."""

        def signed(request: Any, **_: Any) -> None:
            if self:
                request.context[_SIGNED_WITH] = self.get_frozen_credentials()

        def refused(
            response: Any, request_dict: Any, attempts: int, operation: Any, **_: Any
        ) -> float | None:
            code = response[1].get("Error", {}).get("Code") if response else None
            # The answer to a HEAD has no body to say it in.
            told = code in EXPIRED or (code == "400" and operation.name.startswith("Head"))
            used = request_dict["context"].get(_SIGNED_WITH)
            again = told and used is not None and attempts < attempts_max and self.renew(used)
            return 0.0 if again else None

        events.register("before-sign.s3", signed)
        # Before botocore's own handler: where that says no, no other one is heard.
        events.register_first("needs-retry.s3", refused)
