"""Completion in zsh and fish themselves, as the shells load it. (bash: test_completing.py)"""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest
from support.mounts import MIMICFS

from mimicfs.backends.sqlite import SQLite
from mimicfs.entry import Entry

pytestmark = pytest.mark.slow

# Nothing listens there: S3 is asked nothing.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def line(state, tmp_path, monkeypatch):
    store = SQLite(str(tmp_path / "store.db"))
    store.apply("photos", [Entry(key, 1) for key in ("2024/a,b", "2025/only")])
    store.close()
    monkeypatch.setenv("MIMICFS_ENDPOINT_URL", NOWHERE)
    monkeypatch.setenv("MIMICFS_STORE", f"sqlite://{tmp_path}/store.db")
    return "mimicfs ls s3://photos/"


def there(shell):
    if shutil.which(shell) is None:
        assert not os.environ.get("CI"), f"{shell} is not installed"
        pytest.skip(f"{shell} is not installed")
    return shell


def source(shell, tmp_path):
    file = tmp_path / f"completion.{shell}"
    words = [str(MIMICFS), "completion", shell]
    file.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)
    return file


def test_fish_completes_keys_and_words(line, tmp_path):
    asked = f"complete -C '{line}2024/'; complete -C 'mimicfs completion '"
    script = f"source {source('fish', tmp_path)}; {asked}"
    done = subprocess.run(
        [there("fish"), "--no-config", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["s3://photos/2024/a,b", "bash", "fish", "zsh"]


def test_zsh_completes_a_key_when_tab_is_pressed(line, tmp_path):
    """In a terminal: what is in the line after Tab is shown by a widget on Ctrl-X."""
    shell = there("zsh")
    setup = (
        "PS1='ready> '; unsetopt zle_bracketed_paste; autoload -U compinit && compinit -D -u;"
        f" source {source('zsh', tmp_path)};"
        " shown() { print -r -- \"<$BUFFER>\" }; zle -N shown; bindkey '^X' shown; print set-'up'\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(shell, [shell, "-f", "-i"], {**os.environ, "TERM": "dumb"})
    try:
        os.write(terminal, setup.encode())
        until(terminal, rb"set-up\r")
        os.write(terminal, f"{line}2025/\t\x18".encode())
        (buffer,) = until(terminal, rb"<(mimicfs[^>]*)>").groups()
        assert buffer.strip() == b"mimicfs ls s3://photos/2025/only"
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)


def until(terminal, pattern, timeout_s=30.0):
    """Return where *pattern* is in what *terminal* shows, once it is."""
    deadline, seen = time.monotonic() + timeout_s, b""
    while (found := re.search(pattern, seen)) is None:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([terminal], [], [], left)[0], seen
        seen += os.read(terminal, 4096)
    return found
