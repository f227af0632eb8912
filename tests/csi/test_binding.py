"""Bind mounts of the real kernel: a read-only one is never left writable."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from mimicfs.csi import binding
from mimicfs.fuse import mounting

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root mounts for others")


@pytest.fixture
def source(tmp_path: Path):
    """A mount without programs."""
    place = tmp_path / "source"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "x", str(place)], check=True)
    yield str(place)
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def target(tmp_path: Path):
    place = tmp_path / "target"
    yield str(place)
    while mounting.options_of(place):
        subprocess.run(["umount", str(place)], check=True)


def test_the_process_that_serves_is_not_asked_how_it_is_mounted(source, target, monkeypatch):
    def silent(path):
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(os, "statvfs", silent)
    binding.bind(source, target, read_only=True)
    assert mounting.options_of(Path(target)) >= {"ro", "nosuid", "nodev", "noexec"}
    assert binding.is_read_only(target)


@pytest.mark.parametrize("error", [OSError, MemoryError, KeyboardInterrupt])
def test_what_does_not_become_read_only_is_taken_away(source, target, monkeypatch, error):
    class Libc:
        """The real one, for whose second mount(2) there is no time."""

        umount2 = binding._libc.umount2

        def mount(self, *arguments):
            if arguments[3].value & binding._REMOUNT:
                raise error
            return real.mount(*arguments)

    real = ctypes.CDLL(None, use_errno=True)
    monkeypatch.setattr(binding, "_libc", Libc())
    with pytest.raises(error):
        binding.bind(source, target, read_only=True)
    assert mounting.options_of(Path(target)) == frozenset()
    assert os.listdir(target) == []
