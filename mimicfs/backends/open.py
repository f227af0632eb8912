"""From the URL of a store to the store."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from mimicfs.backends import Backend
from mimicfs.config.values import redacted
from mimicfs.errors import ConfigError

FORMS = (
    "sqlite:///PATH, memory:, redis://HOST[:PORT][/DB], rediss://..., unix:///SOCKET[?db=N],"
    " redis+cluster://HOST[:PORT], redis+sentinel://HOST[:PORT]/SERVICE"
)


def open_store(
    url: str, namespace: str = "", password: str | None = None, *, create: bool = True
) -> Backend:
    """Open the store that *url* names. Raises ConfigError, StoreError.

    sqlite:///a/b is the absolute path /a/b; sqlite:a/b is relative. The directory of a file must
    be there. *namespace* keeps several mirrors apart in one store. *password* is for Redis, where
    the URL has none. Without *create*, a file that is not there is no store.
    """
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        from mimicfs.backends.memory import Memory

        return Memory()
    if scheme == "sqlite":
        from mimicfs.backends.sqlite import SQLite

        path = file_of(url)
        if path is None:
            raise ConfigError(f"{url}: has no path; write sqlite:///PATH")
        if not create and not _has_bytes(path):
            raise ConfigError(f"{url}: no such store")
        _check_above(url, path)
        return SQLite(str(path), namespace=namespace)
    if scheme.partition("+")[0] in ("redis", "rediss", "unix"):
        from mimicfs.backends.redis import RedisBackend

        _check_port(url)
        return RedisBackend.from_url(url, namespace=namespace, password=password)
    raise ConfigError(f"{redacted(url)}: not a store; write {FORMS}")


def file_of(url: str) -> Path | None:
    """Return the file that the store at *url* is; None if it is none."""
    if urlsplit(url).scheme != "sqlite":
        return None
    path = url.removeprefix("sqlite:").removeprefix("//")
    return Path(path) if path else None


def socket_of(url: str) -> Path | None:
    """Return the socket at which the store at *url* listens; None if it has none."""
    parts = urlsplit(url)
    return Path(parts.path) if parts.scheme == "unix" and parts.path else None


def _has_bytes(path: Path) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise ConfigError(f"sqlite:{path}: {exc.strerror}") from exc


def _check_above(url: str, path: Path) -> None:
    """Raise ConfigError where the directory of *path* is missing: a mistyped path would otherwise
    be a new, empty mirror that nobody looks for."""
    above = Path(os.path.abspath(path)).parent
    missing = [each for each in (above, *above.parents) if not os.path.lexists(each)]
    if missing:
        text = f"there is no directory {missing[-1]}; correct the path, or mkdir -p {above}"
        raise ConfigError(f"{url}: {text}")


def _check_port(url: str) -> None:
    """Raise ConfigError where a port is no number. The text in its place may be a password with a
    slash in it, which no other message may repeat."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        text = "its port is not a number; in a password, write / as %2F, @ as %40 and : as %3A"
        raise ConfigError(f"{redacted(url)}: {text}") from None
