"""The meanings of the words after -o."""

import os
from typing import ClassVar

import pytest

from mimicfs.config import options
from mimicfs.config.given import from_words, words
from mimicfs.config.settled import Settled, settle
from mimicfs.config.values import Target, VFSOptions
from mimicfs.errors import ConfigError

TARGET = Target("photos", "a/")


def parsed(text):
    said = from_words(words([text]))
    return settle({}, {"HOME": os.devnull}, said).choices(TARGET)


def test_without_a_word_little_is_trusted_and_the_mirror_is_believed():
    choices = parsed("")
    assert (choices.read_only, choices.allow_other) == (False, False)
    assert choices.extra == ("nosuid", "nodev")
    assert choices.vfs == VFSOptions(TARGET)
    assert (choices.vfs.suid, choices.vfs.dev, choices.vfs.symlinks) == (False, False, True)
    assert (choices.vfs.buckets.of("photos").ttl_s, choices.vfs.ask_at_open) == (0, False)


class Asked(Settled):
    """Notes what holds for each option that nobody has set."""

    defaults: ClassVar[dict[str, object]] = {}

    def get(self, name, default=None):
        self.defaults[name] = default
        return Settled.get(self, name, default)


def test_the_help_says_of_each_flag_that_is_on_that_it_is():
    nothing = settle({}, {"HOME": os.devnull})
    asked = Asked({}, nothing.file, nothing.state, nothing.cache)
    asked.settings()
    asked.choices(TARGET)
    on = {name for name, default in Asked.defaults.items() if default is True}
    told = {option.name for option in options.OPTIONS if option.help.endswith("[default: yes]")}
    assert on == told == {
        *("atime", "clear-dead", "exec", "markers", "replica", "sign-request", "symlinks"),
    }  # fmt: skip


def test_owners_and_modes():
    vfs = parsed("uid=12,gid=34,umask=027").vfs
    assert (vfs.uid, vfs.gid, vfs.file_mode, vfs.dir_mode) == (12, 34, 0o640, 0o750)
    vfs = parsed("umask=027,file_mode=600,dir_mode=711").vfs
    assert (vfs.file_mode, vfs.dir_mode) == (0o600, 0o711)


def test_what_is_believed():
    vfs = parsed("nosymlinks,no_markers,ttl=60,consistency=open").vfs
    assert (vfs.symlinks, vfs.markers, vfs.ask_at_open) == (False, False, True)
    assert vfs.buckets.of("photos").ttl_s == 60
    assert not parsed("consistency=open,consistency=mirror").vfs.ask_at_open
    then = parsed("at=yesterday,ttl=60,consistency=open").vfs  # what was does not change
    assert (then.buckets.of("photos").ttl_s, then.ask_at_open) == (0, False)


def test_only_root_may_trust_what_a_bucket_says(monkeypatch):
    choices = parsed("suid,dev")
    assert choices.extra == ("suid", "dev")
    assert (choices.vfs.suid, choices.vfs.dev) == (True, True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="only root"):
        parsed("dev")


@pytest.mark.parametrize("word", ["ttl=x", "ttl=-1", "ttl", "consistency=close", "umask=9", "x"])
def test_what_makes_no_sense_is_refused(word):
    with pytest.raises(ConfigError, match=f"-o {word}"):
        parsed(word)
