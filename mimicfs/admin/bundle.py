"""A bundle for a bug report, in one file: `mimicfs doctor --bundle`.

No secret goes into it. The packed texts have none by their own rules (settings are redacted, the
log is written without secrets); anything that looks like one all the same is replaced.

Threading: none; one thread.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from mimicfs.config.masking import SHOWN, masked
from mimicfs.errors import ConfigError

_TAIL = 1 << 20  # bytes of a log
_SHORTEST = 6  # letters: to replace a shorter secret would take away ordinary words
_PASSWORD = re.compile(r"\w+://[^:/\s@]*:(\S+)@")


def passwords_in(texts: Iterable[str]) -> list[str]:
    """Return the passwords of URLs in *texts*."""
    return [password for text in texts for password in _PASSWORD.findall(text)]


def forms_of(secret: str) -> Iterator[str]:
    """Yield the forms of *secret*: as it is, encoded as in a URL, and decoded as from one."""
    yield secret
    yield quote(secret, safe="")
    yield unquote(secret)


def write_bundle(path: Path, texts: Mapping[str, str], secrets: Iterable[str]) -> None:
    """Pack *texts*, by the names of their files, into *path*, which must be new. Any of *secrets*
    that is in them is not packed. Raises ConfigError."""
    every = {form for it in secrets for form in forms_of(it)}
    hidden = sorted(every, key=len, reverse=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as exc:
        raise ConfigError(f"{path}: exists already; name another file") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as pack:
        for name, text in texts.items():
            data = without_secrets(text, hidden).encode("utf-8", "surrogateescape")
            member = tarfile.TarInfo(f"mimicfs-report/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            pack.addfile(member, io.BytesIO(data))


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """Return *text* without *secrets*, and without what looks like one."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, SHOWN)
    return masked(text)


def tail(path: Path) -> str:
    """Return the last lines of the file at *path*; why not, if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read().decode("utf-8", "surrogateescape")
    except OSError as exc:
        return f"{path}: {exc.strerror}\n"
