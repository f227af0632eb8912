"""A change of which nobody knows whether S3 made it is asked for until S3 says so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mimicfs import intent
from mimicfs.backends.memory import Memory
from mimicfs.mimicdb import Mirror


def test_what_s3_does_not_tell_for_an_hour_is_asked_for_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(intent, "time", SimpleNamespace(monotonic=lambda: now_s))
    mirror, asked = Mirror(Memory()), list[float]()
    mirror.intents.resolve = lambda _bucket, _key: asked.append(now_s - 1_000)
    begun = mirror.intents.begin("b", ["k"])
    mirror.intents.end(begun, unsure=True)
    for _ in range(1_801):
        mirror.intents.look_after()
        now_s += 2
    assert asked == [0, 2, 6, 14, 30, 62, 126, 254, 510, *range(810, 3600, 300)]
    now_s += 7_200  # for so long the store did not answer
    mirror.intents.look_after()
    assert len(asked) == 20


def test_a_bucket_in_which_nothing_is_left_is_looked_at_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(intent, "time", SimpleNamespace(monotonic=lambda: now_s))
    mirror = Mirror(Memory())
    mirror.intents.end(mirror.intents.begin("b", ["k"]), unsure=False)
    mirror.intents.look_after()
    assert mirror.intents._ours() == {"b"}
    now_s += 601
    mirror.intents.look_after()
    assert mirror.intents._ours() == set()
