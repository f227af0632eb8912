"""Completion: the words that can follow on a command line, for a shell that asks.

They are values of options, words after -o, profiles, mount points, and s3:// URLs from the mirror.
No request goes to S3.

In bash a word ends at `:`, `=` and `@` (COMP_WORDBREAKS), so `s3://b` are three words. We go by the
line instead. The answer is the text behind the last of these characters (or with the @), or behind
a quotation mark that is still open, quoted as that mark wants it: bash puts it into the line as it
is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from configparser import Error, RawConfigParser
from contextlib import closing
from pathlib import Path
from string import ascii_letters, digits
from typing import TYPE_CHECKING, NamedTuple

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    add_completion_class,
)

from mimicfs.config.options import OPTIONS, Kind, Option, Values
from mimicfs.config.settled import settle
from mimicfs.errors import MimicError

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.mimicdb import Mirror

_MOST = 1000  # keys that are offered
_BREAKS = ":="
# The characters that bash takes as they are, in a word without quotation marks. It takes all
# characters beyond ASCII so, too.
_PLAIN = frozenset(f"{ascii_letters}{digits}_./:=,@%+-")
_IN_QUOTES = frozenset('$`"\\')  # the characters that a \ quotes between " and "
_BASH = """\
%(complete_func)s() {
    local answer value program=$1 line=${COMP_LINE:0:COMP_POINT}
    case $program in "~/"*) program=$HOME/${program:2} ;; esac
    COMPREPLY=()
    while IFS= read -r answer; do
        value=${answer#*,}
        case $answer in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*)
                case $value in */|*=) compopt -o nospace ;; esac
                COMPREPLY+=("$value") ;;
        esac
    done < <(
        COMP_LINE=$line COMP_BREAKS=$COMP_WORDBREAKS %(complete_var)s=bash_complete \\
            "$program" 2>/dev/null
    )
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class TypedLine(NamedTuple):
    """A line as far as it was typed. *behind* is the length of the part of the last word that bash
    leaves as it is; *quote* is the quotation mark that is open there, or ""."""

    words: list[str]
    last: str
    behind: int
    quote: str


def typed_line(line: str, breaks: str) -> TypedLine:
    """Return *line* as bash reads it; for completion, its words end also at *breaks*."""
    words, last, begun, behind, quote, opened = list[str](), "", False, 0, "", 0
    letters = iter(line)
    for letter in letters:
        if letter == "\\" and quote != "'":
            quoted = next(letters, "")
            last += quoted if not quote or quoted in _IN_QUOTES else letter + quoted
            begun = True
        elif letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote, begun, opened = letter, True, len(last)
        elif not quote and letter in " \t\n":
            words += [last] * begun
            last, begun, behind = "", False, 0
        else:
            last, begun = last + letter, True
            if letter in breaks and not quote:
                behind = len(last) - (letter == "@")  # a word begins with an @: that of a host
    return TypedLine(words, last, opened if quote else behind, quote)


def in_bash(text: str, quote: str) -> str:
    """Return *text* as it is written for bash, in a word or behind the quotation mark *quote*."""
    if not quote:
        return "".join(it if it in _PLAIN or not it.isascii() else f"\\{it}" for it in text)
    if quote == "'":
        found = text.replace("'", r"'\''")
    else:
        found = "".join(f"\\{it}" if it in _IN_QUOTES else it for it in text)
    # Readline closes the quotation, but not behind text that looks closed.
    return f"{found}{quote}" if found.endswith(quote) else found


@add_completion_class
class Bash(BashComplete):
    """Completion in bash by the whole line, whatever bash takes for words."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        typed = self._typed()
        return typed.words[1:], typed.last

    def format_completion(self, item: CompletionItem) -> str:
        typed = self._typed()
        return f"{item.type},{in_bash(item.value[typed.behind :], typed.quote)}"

    @staticmethod
    def _typed() -> TypedLine:
        return typed_line(os.environ["COMP_LINE"], os.environ.get("COMP_BREAKS", _BREAKS))


_FISH = """\
function %(complete_func)s
    set -lx %(complete_var)s fish_complete
    set -lx COMP_WORDS (commandline -cp)
    set -lx COMP_CWORD (commandline -t)
    set -l response (%(prog_name)s)
    for completion in $response
        set -l metadata (string split -m 1 "," -- $completion)
        switch $metadata[1]
            case dir
                __fish_complete_directories $metadata[2]
            case file
                __fish_complete_path $metadata[2]
            case plain
                echo -- $metadata[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


@add_completion_class
class Fish(FishComplete):
    """Completion in fish as click has it, but right for values with a comma in them."""

    source_template = _FISH


def values_of(option: Option, incomplete: str) -> list[CompletionItem]:
    """Return the values of *option* that begin with *incomplete*."""
    if option.kind is Kind.PATH:
        return [CompletionItem(incomplete, type="file")]
    known: Iterable[str] = profiles() if option.name == "profile" else option.choices
    return [CompletionItem(it) for it in known if it.startswith(incomplete)]


def words_after_o(incomplete: str) -> list[CompletionItem]:
    """Return *incomplete* with each way in which its last word can go on."""
    before, comma, word = incomplete.rpartition(",")
    before += comma
    name, equals, value = word.partition("=")
    if equals:
        options = [option for option in OPTIONS if option.word == name]
        found = [it.value for option in options for it in values_of(option, value)]
        return [CompletionItem(f"{before}{name}={it}") for it in found]
    return [CompletionItem(before + it) for it in _words() if it.startswith(word)]


def _words() -> Iterator[str]:
    yield from ("ro", "rw")
    for option in OPTIONS:
        if option.flag and option.kind is Kind.FLAG:
            yield from (option.word, f"no_{option.word}")
        elif option.flag:
            yield f"{option.word}="


def profiles() -> list[str]:
    """Return the profiles of the AWS configuration."""
    found: dict[str, None] = {}
    for name, usual in (
        ("AWS_CONFIG_FILE", "~/.aws/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ):
        parser = RawConfigParser(strict=False)
        try:
            parser.read(os.path.expanduser(os.environ.get(name) or usual))
        except (Error, UnicodeDecodeError):
            continue  # boto3 will say what is wrong with it
        sections = (
            it for it in parser.sections() if not it.startswith(("sso-session", "services"))
        )
        found |= dict.fromkeys(it.removeprefix("profile ").strip('" ') for it in sections)
    return [it for it in found if it.isprintable()]


def mount_points(given: Values, incomplete: str) -> list[CompletionItem]:
    """Return the mount points of this user; if there are none, directories."""
    from mimicfs.mount.mounted import mounts

    found = [each.mountpoint for each in mounts(settle(given, os.environ).settings())]
    asked = os.path.abspath(incomplete) if incomplete else ""
    here = [it for it in found if it.startswith(asked) and it.isprintable()]
    return [CompletionItem(it) for it in here] or [CompletionItem(incomplete, type="dir")]


def urls(given: Values, incomplete: str) -> list[CompletionItem]:
    """Return the s3:// URLs that begin with *incomplete*, as far as the mirror knows them."""
    if not "s3://".startswith(incomplete[:5]):
        return []
    try:
        return [
            CompletionItem(it) for it in _urls(settle(given, os.environ).settings(), incomplete)
        ]
    except MimicError:  # not known, or there is no mirror: nothing is offered
        return []


def _urls(settings: Settings, incomplete: str) -> list[str]:
    from mimicfs.parts import assemble

    bucket, slash, key = incomplete.removeprefix("s3://").partition("/")
    with closing(assemble(settings)) as parts:
        if len(incomplete) < 5 or not slash:
            names = [each.name for each in parts.mimicdb.known_buckets()]
            return [f"s3://{it}/" for it in names if f"s3://{it}/".startswith(incomplete)]
        keys = _keys(parts.mimicdb, bucket, key)
        return [f"s3://{bucket}/{it}" for it in keys if it.isprintable()]


def _keys(mimicdb: Mirror, bucket: str, key: str) -> list[str]:
    """Return the known keys in the directory of *key* that begin with *key*; maybe not all are
    known."""
    directory = key[: key.rfind("/") + 1]
    # A key just before all that begin with it.
    after = "" if key == directory else f"{key[:-1]}{chr(ord(key[-1]) - 1)}\U0010ffff"
    store = mimicdb.backend
    found = [entry.key for entry in store.children(bucket, directory, after, _MOST)]
    return [it for it in found if it.startswith(key)]


def url_or_path(given: Values, incomplete: str) -> list[CompletionItem]:
    """Return URLs, or a word for the shell to complete a path."""
    if incomplete.startswith("s3:"):
        return urls(given, incomplete)
    return [CompletionItem(incomplete, type="file" if Path(incomplete).is_file() else "dir")]
