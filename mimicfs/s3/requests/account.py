"""The account that settings mean, remembered: to find it out, boto3 has to be imported, which takes
longer than what the mirror then answers.

The memory is a file of the state directory, `{clues: account}`. Clues are all that boto3 goes by:
our options, the variables AWS_* (of secrets and tokens only whether they are there), and which
configuration files there are, with their times. As soon as one of them changes, boto3 is asked
again. An account that may change without a clue is not remembered (`Clients.account_stays`).

Threading: no state; any thread. If two processes write at once, one of the two accounts is
forgotten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mimicfs.config.values import S3Options, redacted

_MOST = 50  # accounts, the newest last
_HIDDEN = ("SECRET", "TOKEN")
_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("BOTO_CONFIG", "~/.boto"),
    ("", "/etc/boto.cfg"),
)


class Accounts:
    """The memory in the file at *path*, whose directory is ours alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, clues: str) -> str:
        """Return the account that *clues* led to; "" if that is not known."""
        return self._read().get(clues, "")

    def put(self, clues: str, account: str) -> None:
        """Remember *account*. A full disk keeps nobody from work."""
        known = {**{it: name for it, name in self._read().items() if it != clues}, clues: account}
        text = json.dumps(dict(list(known.items())[-_MOST:]))
        made = self._path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(text)
            os.replace(made, self._path)

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):  # none yet, or it was damaged: boto3 knows
            return {}
        return found if isinstance(found, dict) else {}

    @staticmethod
    def clues(options: S3Options, environ: Mapping[str, str]) -> str:
        """Return all that boto3 would go by, as text."""
        names = sorted(name for name in environ if name.startswith("AWS_"))
        said = [(name, _shown(name, environ[name])) for name in names]
        paths = [environ.get(name) or path for name, path in _FILES]
        if options.credentials_file is not None:
            paths.append(str(options.credentials_file))
        files = [(path, *_version(os.path.expanduser(path))) for path in paths]
        chosen = (options.region, options.profile, options.sign, options.credentials_first)
        ours = (redacted(options.endpoint_url or ""), *chosen)
        return json.dumps([ours, said, files])


def _shown(name: str, value: str) -> str:
    return "set" if any(word in name for word in _HIDDEN) else redacted(value)


def _version(path: str) -> tuple[int, ...]:
    """Return a mark that changes when somebody changes the file; () if there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
