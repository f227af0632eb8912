"""Completion in bash, zsh and fish themselves, as the shells load it."""

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
# Keys that a shell may take for something else, each in a directory of its own.
ODD = ["a b", "it's", 'say "hi"', "$(touch taken)", "`touch taken`", "a;touch taken", "trail,",
       "me@home", "a=b:c", "back\\slash", "é", "!bang", "#hash", "~tilde", "[a]*?{b,c}", "-n",
       "&& touch taken", "x>taken", "%s $HOME"]  # fmt: skip
# What is typed before Tab, by the number of the key; what is behind : and @ is a word of its own.
TYPED = [f"s3://photos/{number}/" for number in range(len(ODD))]
TYPED += [f'"s3://photos/{number}/' for number in range(5)]
TYPED += [f"'s3://photos/{number}/" for number in range(5)]
TYPED += ["s3://photos/7/me@h", "s3://photos/8/a=b:", "s3://photos/0/a\\ "]
# Ctrl-X has the line run, with `shown` for mimicfs, which prints its last word.
BASH = """
PS1='ready> '; bind 'set enable-bracketed-paste off'; set +H
shown() {
    eval "set -- $READLINE_LINE"; printf '\\n<%s>\\n' "${@: -1}"
    READLINE_LINE=; READLINE_POINT=0
}
bind -x '"\\C-x": shown'
"""
ZSH = """
PS1='ready> '; unsetopt zle_bracketed_paste; autoload -U compinit && compinit -D -u
shown() {
    zle -I; eval "set -- $BUFFER"; print -r -- "
<$argv[-1]>"
    BUFFER=''
}
zle -N shown; bindkey '^X' shown
"""


@pytest.fixture
def line(state, tmp_path, monkeypatch):
    store = SQLite(str(tmp_path / "store.db"))
    keys = ["2024/a,b", "2025/only", *(f"{at}/{key}" for at, key in enumerate(ODD))]
    store.apply("photos", [Entry(key, 1) for key in keys])
    store.apply("odd", [Entry(key, 1) for key in ODD])
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


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_fish_offers_each_key_as_it_is(line, tmp_path, quote):
    script = f'source {source("fish", tmp_path)}; complete -C "$argv[1]"'
    words = [there("fish"), "--no-config", "-c", script, f"mimicfs ls {quote}s3://odd/"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == sorted(f"s3://odd/{key}" for key in ODD)
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize(
    ("shell", "options", "setup"),
    [("bash", ["--norc", "--noprofile", "-i"], BASH), ("zsh", ["-f", "-i"], ZSH)],
    ids=["bash", "zsh"],
)
def test_tab_completes_a_key_however_it_is_written_and_runs_nothing(
    line, tmp_path, shell, options, setup
):
    """In a terminal, whatever it has for a quotation mark; what is in the line after Tab is run."""
    words = [there(shell), *options]
    script = tmp_path / "setup"
    script.write_text(f"{setup}\nsource {source(shell, tmp_path)}\n")
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execvpe(shell, words, {**os.environ, "TERM": "dumb", "HOME": str(tmp_path)})
    try:
        os.write(terminal, f"source {script}; echo set-'up'\n".encode())
        until(terminal, rb"set-up\r")
        found = {}
        for typed in TYPED:
            os.write(terminal, f"mimicfs ls {typed}\t\x18".encode())
            (found[typed],) = until(terminal, rb"\n<(.*)>\r").groups()
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)
    numbers = [int(typed.split("/")[3]) for typed in TYPED]
    expected = [f"s3://photos/{number}/{ODD[number]}".encode() for number in numbers]
    assert list(found.values()) == expected
    assert not (tmp_path / "taken").exists()


def test_bash_completes_for_a_program_that_is_named_by_its_path_at_home(line, tmp_path):
    """As README says, where there is no pipx."""
    (tmp_path / "bin").symlink_to(MIMICFS.parent)
    program = f"""
    source {source("bash", tmp_path)}
    compopt() {{ :; }}
    COMP_LINE='~/bin/{line}2025/' COMP_POINT={len(line) + 11}
    _mimicfs_completion '~/bin/mimicfs'
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("//photos/2025/only\n", "")


def until(terminal, pattern, timeout_s=30.0):
    """Return where *pattern* is in what *terminal* shows, once it is."""
    deadline, seen = time.monotonic() + timeout_s, b""
    while (found := re.search(pattern, seen)) is None:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([terminal], [], [], left)[0], seen
        seen += os.read(terminal, 4096)
    return found
