"""`mimicfs warmup` says what had no room for all. S3 is a stand-in, the cache is real."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mimicfs.cli import warmingup
from mimicfs.cli.progress import Interruptible
from mimicfs.config.settled import settle
from mimicfs.entry import Entry
from mimicfs.files.cache import CachedObject
from mimicfs.index.find import Start

MIB = 1 << 20


@pytest.mark.parametrize(
    ("limit", "cache_size", "written", "said"),
    [
        (MIB, None, True, "--limit is reached"),
        (9 * MIB, MIB, True, "the cache is full"),
        (9 * MIB, None, False, "the disk is full"),
        (9 * MIB, None, True, None),
    ],
)
def test_what_was_short_is_said(
    state, tmp_path, monkeypatch, capsys, limit, cache_size, written, said
):
    if not written:
        monkeypatch.setattr(CachedObject, "write", lambda *_: None)
    monkeypatch.setattr(warmingup, "_objects", lambda *_: iter([Entry("k", 2 * MIB, etag="e")]))
    settings = settle({}, os.environ).settings()
    settings = replace(settings, cache_dir=tmp_path / "cache", cache_size=cache_size)
    with ThreadPoolExecutor(1) as pool:
        s3 = SimpleNamespace(wide=pool, read_into=lambda *_: None, origin=lambda: "aws")
        parts, place = SimpleNamespace(s3=s3), warmingup.WarmedPlace("s3://b/k", settings)
        work = warmingup._Work(parts, place, Interruptible(), True)
        warmed = work.warm(Start("b", "k"), limit, pin=False)
    lines = [] if said is None else [f"mimicfs: s3://b/k: incomplete: {said}"]
    assert (warmed.full, capsys.readouterr().err.splitlines()) == (said is not None, lines)
